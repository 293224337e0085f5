"""What is kept of a script is kept whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.scripts.found_files import Folder
from agent.scripts.outputs import collect


@pytest.fixture
def setup(tmp_path: Path) -> Any:
    (tmp_path / "script" / "out").mkdir(parents=True)
    for name in ("a.pt", "b.pt", "c.pt"):
        (tmp_path / "script" / "out" / name).write_text(name * 10)
    return SimpleNamespace(folder=Folder(tmp_path / "script"), outputs=["out/**"], since=0.0, limits=None)


class Breaking(io.BytesIO):
    """A file that breaks off behind its first bytes."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number, self._is_begun = number, False

    def read(self, size: int | None = -1, /) -> bytes:
        if self._is_begun:
            raise OSError(self._number, os.strerror(self._number))
        self._is_begun = True
        return b"begun"


def break_off(monkeypatch: pytest.MonkeyPatch, number: int, name: str) -> None:
    """Let the copying of one file end in its middle."""
    open_ = Folder.open
    monkeypatch.setattr(
        Folder, "open", lambda folder, asked: Breaking(number) if name in asked else open_(folder, asked)
    )


def test_of_a_file_that_cannot_be_read_to_its_end_nothing_stays(
    setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(monkeypatch, errno.EIO, "b.pt")
    kept, notes = collect(setup, tmp_path / "output", {})
    assert notes == ["out/b.pt was not kept: Input/output error."]
    assert [file["name"] for file in kept] == ["out/a.pt", "out/c.pt"]
    assert sorted(path.name for path in tmp_path.glob("output/out/*")) == ["a.pt", "c.pt"]
    assert json.loads((tmp_path / "output" / "run.json").read_text())["outputs"] == kept


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_matter_of_one_file(
    setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    break_off(monkeypatch, number, "b.pt")
    with pytest.raises(OSError) as failure:
        collect(setup, tmp_path / "output", {})
    assert failure.value.errno == number
    assert sorted(path.name for path in tmp_path.glob("output/out/*")) == ["a.pt"]


@pytest.mark.parametrize(
    "name",
    [
        "epoch=3-step=400.ckpt",
        "outputs/2026-05-01/12-00-00/checkpoints/best.pt",
        "my model.pt",
        "model+ema.pt",
        "run (2)/weights[0],final@fp16~1.pt",
        "a/b/c/d/e/f/g/h.pt",
    ],
)
def test_names_that_trainers_give_are_kept(setup: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "script" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("weights")
    setup.outputs = ["**/*.pt", "**/*.ckpt"]
    kept, notes = collect(setup, tmp_path / "output", {})
    assert notes == [] and {"name": name, "bytes": 7} in kept
    assert (tmp_path / "output" / name).read_text() == "weights"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("out/.hidden.pt", "begins with a letter"),
        ("out/ model.pt", "begins with a letter"),
        ("out/-rf.pt", "begins with a letter"),
        ("out/model.pt ", "end with a dot or a space"),
        ("out/model.pt.", "end with a dot or a space"),
        ("out/a\\b.pt", "letters of a-z"),
        ("out/a:b.pt", "letters of a-z"),
        ("out/a%2Fb.pt", "letters of a-z"),
        ("out/a\nb.pt", "letters of a-z"),
        ("out/b/c/d/e/f/g/h/i.pt", "9 names deep, at most 8"),
        (f"out/{'a' * 101}", "at most 100 letters"),
    ],
)
def test_names_that_are_not_safe_everywhere_are_not_kept_and_the_log_says_why(
    setup: Any, tmp_path: Path, name: str, why: str
) -> None:
    path = tmp_path / "script" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("weights")
    kept, notes = collect(setup, tmp_path / "output", {})
    assert [file["name"] for file in kept] == ["out/a.pt", "out/b.pt", "out/c.pt"]
    assert len(notes) == 1 and why in notes[0]
