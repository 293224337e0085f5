"""Rule 12: a checkpoint is whole or not there, and the newest whole one wins."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from agent.errors import AgentFailed
from agent.files import file_sha256
from agent.training import checkpoint, files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log.jsonl").write_text('{"current_steps": 1}\n')
    return tmp_path / "checkpoints"


def write(folder: Path, step: int) -> checkpoint.Checkpoint:
    return checkpoint.write(
        folder,
        step,
        ("model.safetensors", {"w": torch.full((4,), float(step))}),
        {"w|exp_avg": torch.zeros(4)},
        {"step": step},
        folder.parent / "log.jsonl",
    )


def test_what_was_written_is_read_back(folder: Path) -> None:
    written = write(folder, 3)
    found = checkpoint.latest(folder)
    assert found == written and found is not None
    assert found.weights()["w"].tolist() == [3.0] * 4
    assert found.optimizer()["w|exp_avg"].tolist() == [0.0] * 4
    assert found.position() == {"step": 3}


def test_the_manifest_names_every_file_with_its_hash(folder: Path) -> None:
    written = write(folder, 3)
    entries = json.loads((written.folder / "manifest.json").read_text())["files"]
    assert set(entries) == {"model.safetensors", "optimizer.safetensors", "state.json", "trainer_log.jsonl"}
    assert all(entry["sha256"] == file_sha256(written.folder / name) for name, entry in entries.items())
    assert written.sha256 == file_sha256(written.folder / "manifest.json")


def test_the_last_two_are_kept(folder: Path) -> None:
    for step in (2, 9, 10):
        write(folder, step)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "trainer_log.jsonl"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    folder: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, 1)
    damaged = write(folder, 2).folder / file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    found = checkpoint.latest(folder)
    assert found is not None and found.step == 1
    assert f"checkpoint-2 is damaged ({file} is not what was written)" in capsys.readouterr().out


def test_a_checkpoint_without_its_last_file_is_passed_over(folder: Path) -> None:
    write(folder, 1)
    (write(folder, 2).folder / "manifest.json").unlink()
    (write(folder, 3).folder / "model.safetensors").unlink()
    found = checkpoint.latest(folder)
    assert found is None or found.step == 1


def test_a_write_that_was_interrupted_is_not_a_checkpoint(folder: Path) -> None:
    write(folder, 1)
    (folder / "checkpoint-2.partial").mkdir()
    (folder / "checkpoint-2.partial" / "manifest.json").write_text('{"step": 2, "files": {}}')
    found = checkpoint.latest(folder)
    assert found is not None and found.step == 1


def test_no_checkpoint_is_none(folder: Path) -> None:
    assert checkpoint.latest(folder) is None


def test_a_full_disk_keeps_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(AgentFailed, match="disk is full"):
        write(folder, 2)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]


def test_publishing_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with files.published(tmp_path / "output") as aside:
            (aside / "file").write_text(text)
    assert (tmp_path / "output" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_publishing_is_one_rename_of_a_folder_that_is_complete(tmp_path: Path) -> None:
    with files.published(tmp_path / "output") as aside:
        (aside / "file").write_text("all of it")
        assert not (tmp_path / "output").exists()
        identity = aside.stat().st_ino
    assert (tmp_path / "output").stat().st_ino == identity


def test_publishing_that_fails_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), files.published(tmp_path / "output") as aside:
        (aside / "file").write_text("half")
        raise ValueError("boom")
    assert list(tmp_path.iterdir()) == []


def test_newer_ones_that_cannot_be_used_give_way_to_what_is_written_now(folder: Path) -> None:
    for step in (100, 110):
        (write(folder, step).folder / "model.safetensors").unlink()
    assert checkpoint.latest(folder) is None
    write(folder, 10)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-10"]
    assert write(folder, 20) == checkpoint.latest(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-10", "checkpoint-20"]
