"""Unpacking an uploaded archive behind the same walls as the script that is in it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from ..scripts import archive
from ..scripts.archive import BadArchive, Bounds, Entry
from .box import Box
from .limits import Limits, Unavailable
from .outputs import remove

_INSIDE_ZIP, _INSIDE_PROGRAM = "/given/archive.zip", "/given/archive.py"
_LOOK_SECONDS = 0.5
_MEMORY = 1 << 30
_SPARE = 1 << 20  # a folder takes blocks of its own


def unpack(
    archive_path: Path, folder: Path, lane: int, bounds: Bounds | None = None, wall_seconds: float = 1_800
) -> list[Entry]:
    """Unpack a zip into `folder`, which must be empty or not be there yet.

    Raises BadArchive (what is wrong with it) and Unavailable (no box); then nothing is left in `folder`. The files
    belong to a box's user afterwards; another box takes them over.
    """
    bounds = bounds or Bounds()
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _unpack(archive_path, folder, lane, bounds, wall_seconds)
    except BaseException:
        remove(folder)
        raise


def _unpack(archive_path: Path, folder: Path, lane: int, bounds: Bounds, wall_seconds: float) -> list[Entry]:
    blocks = (1 << 12) * 2 * bounds.entries
    limits = Limits(
        memory_bytes=_MEMORY, processes=8, wall_seconds=wall_seconds, work_bytes=bounds.total_bytes + blocks + _SPARE,
        work_files=bounds.entries * (bounds.depth + 1), file_bytes=bounds.total_bytes + 1, tmp_bytes=_SPARE, shm_bytes=_SPARE,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="trainyard-zip-") as name:
        program = Path(name) / "archive.py"  # a copy: the packed agent has no file of its own to show
        program.write_bytes(_source())
        box = Box(folder, limits, lane, pass_paths={_INSIDE_ZIP: archive_path, _INSIDE_PROGRAM: program})
        options = [f"--{key.replace('_', '-')}={value}" for key, value in asdict(bounds).items()]
        argv = [sys.executable, "-I", box.inside(program), "--json", *options, box.inside(archive_path), box.work]
        return _judged(*_run(box, argv))


def _run(box: Box, argv: list[str]) -> tuple[str, str, str]:
    """The status, the sentence to it, and what was printed."""
    with tempfile.TemporaryFile() as printed:
        with box.start(argv, printed.fileno()) as running:
            while True:
                try:
                    code = running.wait(_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    running.look()
            verdict = running.verdict(code)
        printed.seek(0)
        text = printed.read(16 << 20).decode("utf-8", "replace")
    status = "refused" if verdict.status == "exit" and code == archive.REFUSED else verdict.status
    return status, verdict.message, text


def _judged(status: str, message: str, text: str) -> list[Entry]:
    if status in ("memory_limit", "disk_limit", "time_limit", "output_limit"):
        raise BadArchive("size", f"The archive could not be unpacked within its bounds. {message}")
    try:
        told = json.loads(text.strip().rpartition("\n")[2] or "null")
    except ValueError:
        told = None
    if status == "ok" and isinstance(told, dict):
        return [Entry(**entry) for entry in told["entries"]]
    if status == "refused" and isinstance(told, dict):
        raise BadArchive(told["kind"], told["message"], told["entry"])
    raise Unavailable(f"The archive could not be unpacked in the sandbox: {message} {text.strip()[-300:]}")


def _source() -> bytes:
    text = inspect.getsource(archive)  # from the packed agent as well
    return text.encode()
