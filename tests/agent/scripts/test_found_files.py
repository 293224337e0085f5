"""What of a folder belongs to a job: patterns, dates, links, and the newest checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.scripts.found_files import Folder, matching, newest_checkpoint

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
