"""What is kept of a script is kept whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from agent.scripts.found_files import Folder
from agent.scripts.outputs import collect


@pytest.fixture
def setup(tmp_path: Path) -> Any:
    (tmp_path / "script" / "out").mkdir(parents=True)
    for name in ("a.pt", "b.pt", "c.pt"):
        (tmp_path / "script" / "out" / name).write_text(name * 10)
    return SimpleNamespace(folder=Folder(tmp_path / "script"), outputs=["out/**"], since=0.0)


def breaking(number: int, at: str) -> Callable[[BinaryIO, BinaryIO, int], None]:
    """A copying that ends with an error in the middle of one file."""
    copy = shutil.copyfileobj

    def copied(source: BinaryIO, target: BinaryIO, size: int) -> None:
        if at in str(target.name):
            target.write(source.read(5))
            raise OSError(number, os.strerror(number))
        copy(source, target, size)

    return copied


def test_of_a_file_that_cannot_be_read_to_its_end_nothing_stays(
    setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfileobj", breaking(errno.EIO, "b.pt"))
    kept, notes = collect(setup, tmp_path / "output", {})
    assert notes == ["out/b.pt was not kept: Input/output error."]
    assert [file["name"] for file in kept] == ["out/a.pt", "out/c.pt"]
    assert sorted(path.name for path in tmp_path.glob("output/out/*")) == ["a.pt", "c.pt"]
    assert json.loads((tmp_path / "output" / "run.json").read_text())["outputs"] == kept


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_matter_of_one_file(
    setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(shutil, "copyfileobj", breaking(number, "b.pt"))
    with pytest.raises(OSError) as failure:
        collect(setup, tmp_path / "output", {})
    assert failure.value.errno == number
    assert sorted(path.name for path in tmp_path.glob("output/out/*")) == ["a.pt"]
