"""What of a folder belongs to a job: patterns, dates, links, and the newest checkpoint."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.scripts import found_files
from agent.scripts.found_files import DEFAULT_CHECKPOINTS, Folder, matching, newest_checkpoint

THEN, NOW = 1_000_000_000.0, 1_700_000_000.0


def put(folder: Path, name: str, at: float = NOW) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (at, at))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("out/*.safetensors", ["out/a.safetensors"]),
        ("./out/*.safetensors", ["out/a.safetensors"]),
        ("out", ["out/a.safetensors", "out/deep/b.txt"]),
        ("out/**", ["out/a.safetensors", "out/deep/b.txt"]),
        ("**/*.txt", ["notes.txt", "out/deep/b.txt"]),
        ("*.txt", ["notes.txt"]),
        ("*", ["notes.txt", "out/a.safetensors", "out/deep/b.txt"]),
        ("nothing/*", []),
    ],
)
def test_patterns_name_files_and_folders(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("out/a.safetensors", "out/deep/b.txt", "notes.txt", ".git/config", "venv/lib/x.txt"):
        put(tmp_path, name)
    assert sorted(matching(Folder(tmp_path), [pattern], THEN)) == found


def test_what_was_there_before_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, "out/old.txt", THEN)
    put(tmp_path, "out/new.txt", NOW)
    assert matching(Folder(tmp_path), ["out/*"], NOW) == ["out/new.txt"]


def test_links_are_no_files_and_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside, "secret.txt")
    inside = tmp_path / "inside"
    put(inside, "mine.txt")
    (inside / "linked.txt").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to(outside)
    os.mkfifo(inside / "pipe.txt")
    assert [name for name, _ in Folder(inside).files()] == ["mine.txt"]


def test_the_newest_checkpoint_may_be_a_file_or_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "ckpt/100/model.pt", NOW)
    put(tmp_path, "ckpt/100/optimizer.pt", NOW + 2)
    put(tmp_path, "ckpt/200/model.pt", NOW + 1)
    assert newest_checkpoint(Folder(tmp_path), ["ckpt/*"], THEN) == ("ckpt/100", NOW + 2)
    put(tmp_path, "last.ckpt", NOW + 5)
    assert newest_checkpoint(Folder(tmp_path), ["ckpt/*", "*.ckpt"], THEN) == ("last.ckpt", NOW + 5)
    assert newest_checkpoint(Folder(tmp_path), ["ckpt/*"], NOW + 100) is None


def test_what_was_written_before_the_job_was_seen_last_comes_before_anything_newer(tmp_path: Path) -> None:
    put(tmp_path, "ckpt/100/model.pt", NOW)
    put(tmp_path, "ckpt/150/model.pt", NOW + 1)
    put(tmp_path, "ckpt/150/optimizer.pt", NOW + 50)  # another job has changed it
    put(tmp_path, "ckpt/200/model.pt", NOW + 60)
    assert newest_checkpoint(Folder(tmp_path), ["ckpt/*"], THEN, until=NOW + 10) == ("ckpt/100", NOW)
    assert newest_checkpoint(Folder(tmp_path), ["ckpt/*"], THEN) == ("ckpt/200", NOW + 60)
    # The clock may have been set back, or the machine lost its last seconds: better this one than none.
    assert newest_checkpoint(Folder(tmp_path), ["ckpt/*"], THEN, until=NOW - 10) == ("ckpt/200", NOW + 60)


@pytest.mark.parametrize("ending", ["csv", "json", "txt", "log", "yaml"])
def test_a_lone_table_or_text_is_a_checkpoint_only_where_a_pattern_was_given(tmp_path: Path, ending: str) -> None:
    put(tmp_path, "checkpoints/1.pt", NOW)
    put(tmp_path, "checkpoint-5/weights.pt", NOW + 1)
    put(tmp_path, f"checkpoint-5/state.{ending}", NOW + 2)
    put(tmp_path, f"checkpoints/metrics.{ending}", NOW + 3)
    put(tmp_path, f"checkpoint-notes.{ending}", NOW + 4)
    assert newest_checkpoint(Folder(tmp_path), DEFAULT_CHECKPOINTS, THEN) == ("checkpoint-5", NOW + 2)
    assert newest_checkpoint(Folder(tmp_path), ["checkpoints/*"], THEN) == (f"checkpoints/metrics.{ending}", NOW + 3)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*.ckpt", "lightning_logs/version_0/checkpoints/last.ckpt"),
        ("lightning_logs/**/*.ckpt", "lightning_logs/version_0/checkpoints/last.ckpt"),
        ("**/checkpoints/*", "lightning_logs/version_0/checkpoints/last.ckpt"),
        ("**/checkpoints", "lightning_logs/version_0/checkpoints"),
        ("**/version_*/checkpoints/**", "lightning_logs/version_0/checkpoints/last.ckpt"),
        ("lightning_logs/**", "lightning_logs/version_0/checkpoints/last.ckpt"),
        ("lightning_logs/**/*", "lightning_logs/version_0/checkpoints/last.ckpt"),
        ("**/**/*.ckpt", "lightning_logs/version_0/checkpoints/last.ckpt"),
        ("lightning_logs/*", "lightning_logs/version_0"),
        ("**/*.pt", None),
    ],
)
def test_a_checkpoint_may_lie_at_any_depth(tmp_path: Path, pattern: str, found: str | None) -> None:
    put(tmp_path, "lightning_logs/version_0/hparams.yaml", NOW)
    put(tmp_path, "lightning_logs/version_0/checkpoints/last.ckpt", NOW + 1)
    newest = newest_checkpoint(Folder(tmp_path), [pattern], THEN)
    assert newest == (found and (found, NOW + 1))


def test_a_checkpoint_that_is_a_folder_is_the_folder_at_any_depth(tmp_path: Path) -> None:
    put(tmp_path, "runs/1/step-5.ckpt/part/weights.pt")
    assert newest_checkpoint(Folder(tmp_path), ["**/*.ckpt"], THEN) == ("runs/1/step-5.ckpt", NOW)


def test_many_parts_of_any_depth_cost_little(tmp_path: Path) -> None:
    put(tmp_path, "a/a/a/a/a/a/a/a/a")
    begun = time.process_time()
    assert matching(Folder(tmp_path), ["**/" * 20 + "b", "**/a/" * 20 + "b"], THEN) == []
    assert newest_checkpoint(Folder(tmp_path), ["**/" * 20 + "b"], THEN) is None
    assert time.process_time() - begun < 1


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder with more data than is looked at, and the work of a script behind it."""
    monkeypatch.setattr(found_files, "MOST_ENTRIES", 60)
    for number in range(100):
        put(tmp_path, f"data/{number}.png")
        put(tmp_path, f"data/train/{number % 20}/{number}.png")
    put(tmp_path, "output/model.pt")
    put(tmp_path, "runs/1/checkpoint-5/model.pt")
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("output/**", ["output/model.pt"]),
        ("output", ["output/model.pt"]),
        ("out*/*.pt", ["output/model.pt"]),
        ("runs/*/checkpoint-*", ["runs/1/checkpoint-5/model.pt"]),
    ],
)
def test_what_no_pattern_can_reach_is_not_looked_into(crowded: Folder, pattern: str, found: list[str]) -> None:
    notes: list[str] = []
    assert matching(crowded, [pattern], THEN, notes) == found
    assert notes == []


def test_a_crowded_folder_hides_none_beside_it_and_what_was_not_seen_is_said(crowded: Folder) -> None:
    notes: list[str] = []
    assert matching(crowded, ["output/*", "**/*.pt"], THEN, notes) == [
        "output/model.pt",
        "runs/1/checkpoint-5/model.pt",
    ]
    assert newest_checkpoint(crowded, ["*/*/checkpoint-*"], THEN, notes) == ("runs/1/checkpoint-5", NOW)
    assert notes == [
        f"Some files were not looked at for {pattern}: there are too many, at most 60 files and folders are looked at."
        for pattern in ("**/*.pt", "*/*/checkpoint-*")
    ]


def test_a_pattern_that_begins_with_a_link_leads_nowhere(tmp_path: Path) -> None:
    put(tmp_path / "outside", "deep/secret.txt")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "output").symlink_to(tmp_path / "outside")
    (inside / "real").mkdir()
    (inside / "real" / "deep").symlink_to(tmp_path / "outside" / "deep")
    for pattern in ("output/**", "output/deep/*", "real/deep/*", "*/deep/*", "../outside/**", "**"):
        assert matching(Folder(inside), [pattern], THEN) == []
