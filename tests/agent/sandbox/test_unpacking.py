"""Archives unpacked in a box: the same refusals as without one, and what breaks the unpacking itself stays inside."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from agent.sandbox import Unavailable, unpack
from agent.sandbox import unpacking as module
from agent.scripts.archive import BadArchive, Bounds, Entry
from tests.agent.sandbox.conftest import MIB, groups

pytestmark = pytest.mark.timeout(120)


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_folder_comes_out_as_it_went_in(lane: int, tmp_path: Path) -> None:
    archive = packed(
        tmp_path / "a.zip", {"project-main/train.py": b"print(1)\n", "project-main/data/rows.txt": b"rows"}
    )
    found = unpack(archive, tmp_path / "out", lane)
    assert found == [Entry("project-main/train.py", 9), Entry("project-main/data/rows.txt", 4)]
    assert (tmp_path / "out" / "project-main" / "data" / "rows.txt").read_bytes() == b"rows"
    assert groups() == set()


def test_a_bomb_and_a_name_that_leads_out_are_refused_and_leave_nothing(lane: int, tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.zip", {"zeros": bytes(64 * MIB)})
    with pytest.raises(BadArchive, match="200 times") as refused:
        unpack(bomb, tmp_path / "out", lane)
    assert refused.value.kind == "size" and not (tmp_path / "out").exists()
    slip = packed(tmp_path / "slip.zip", {"fine.txt": b"x", "../slip.txt": b"x"})
    with pytest.raises(BadArchive, match="leads out") as refused:
        unpack(slip, tmp_path / "out", lane)
    assert (
        refused.value.entry == "../slip.txt"
        and not (tmp_path / "slip.txt").exists()
        and not (tmp_path / "out").exists()
    )


def test_an_unpacker_that_was_taken_over_is_still_in_its_box(
    lane: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if an archive had found a hole in the unpacker: what it writes without end is stopped by the bounds of the box."""
    hostile = b"import sys, time\nfor n in range(10000):\n    open(f'{sys.argv[-1]}/{n}', 'wb').write(b'x' * (1 << 20)); time.sleep(0.01)\n"
    monkeypatch.setattr(module, "_source", lambda: hostile)
    archive = packed(tmp_path / "a.zip", {"train.py": b"x"})
    with pytest.raises(BadArchive, match="bounds"):
        unpack(archive, tmp_path / "out", lane, Bounds(entries=4, total_bytes=MIB, depth=2))
    assert not (tmp_path / "out").exists() and groups() == set()


def test_what_is_no_fault_of_the_archive_says_so(lane: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_source", lambda: b"raise SystemExit('broken')")
    with pytest.raises(Unavailable, match="broken"):
        unpack(packed(tmp_path / "a.zip", {"train.py": b"x"}), tmp_path / "out", lane)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(lane: int, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        unpack(packed(tmp_path / "a.zip", {"train.py": b"x"}), tmp_path / "out", lane)
    assert os.listdir(tmp_path / "out") == ["mine"]
