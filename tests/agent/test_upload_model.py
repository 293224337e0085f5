"""A folder with a trained model is brought to the platform: safetensors and what belongs to them, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.upload import NotUploaded
from agent.upload_model import is_model, look


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model.safetensors", "config.json", "tokenizer.json", "merged/model.safetensors"):
        file = tmp_path / "model" / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text("{}")
    return tmp_path / "model"


def test_a_folder_gives_its_files_by_their_names_inside(folder: Path) -> None:
    found = look(folder)
    assert list(found.files) == ["config.json", "merged/model.safetensors", "model.safetensors", "tokenizer.json"]
    assert found.left_out == []


def test_what_can_run_code_stays_here_and_is_named(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_text("x")
    (folder / "empty.txt").touch()
    (folder / "with space.txt").write_text("x")
    (folder / "with colon: 1.txt").write_text("x")
    found = look(folder)
    assert "pytorch_model.bin" not in found.files and "with space.txt" in found.files
    assert found.left_out == [
        "empty.txt (it is empty)", "pytorch_model.bin (can run code when it is loaded)",
        "with colon: 1.txt (the server does not take this name)",
    ]  # fmt: skip


def test_what_training_left_and_what_is_hidden_or_linked_stays_here(folder: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-500/optimizer.json", "runs/events", ".git/config", ".DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.json").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "private")
    assert set(look(folder).files) == {"config.json", "merged/model.safetensors", "model.safetensors", "tokenizer.json"}


def test_a_folder_of_pickles_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_text("x")
    with pytest.raises(NotUploaded, match=r"pytorch_model\.bin .*safe_serialization=True"):
        look(tmp_path)
    with pytest.raises(NotUploaded, match="can run code when it is loaded"):
        look(tmp_path / "pytorch_model.bin")


def test_a_folder_without_weights_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotUploaded, match="no weights in safetensors"):
        look(tmp_path)
    with pytest.raises(NotUploaded, match="There is no file or folder"):
        look(tmp_path / "absent")


def test_one_file_of_weights_is_a_model_and_other_files_are_data(tmp_path: Path) -> None:
    for name in ("my löra.safetensors", "tiny.safetensors", "rows.jsonl", "a.ckpt"):
        (tmp_path / name).write_text("x")
    assert list(look(tmp_path / "my löra.safetensors").files) == ["model.safetensors"]
    assert list(look(tmp_path / "tiny.safetensors").files) == ["tiny.safetensors"]
    assert [is_model(tmp_path / name) for name in ("tiny.safetensors", "a.ckpt", "rows.jsonl", "absent")] == [
        True,
        True,
        False,
        False,
    ]
    assert is_model(tmp_path)
