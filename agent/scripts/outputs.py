"""What is kept of a finished script: the files its patterns name, copied to `output/` from where the runner delivers."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from .. import sandbox
from ..artifact_names import LONGEST_NAME, name_fault
from ..errors import JobFailed
from ..sandbox.limits import amount
from .found_files import Folder, matching
from .setup import Setup

MOST_FILES = 499
RECORD = "run.json"
MOST_NAMED = 20
_LIKE_A_MODEL = [
    f"**/*.{ending}"
    for ending in (
        "pt",
        "pth",
        "tar",
        "ckpt",
        "safetensors",
        "bin",
        "onnx",
        "h5",
        "keras",
        "pkl",
        "joblib",
        "npz",
        "gguf",
    )
]


def collect(setup: Setup, output: Path, record: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Copy what is kept to `output`, with `record` as `run.json` beside it; nothing at all when no file is kept.

    Answers what was copied, as name and bytes, and a sentence for each file that could not be. Files are opened without
    following links: a script may exchange one for a link while it is being copied. Raises JobFailed when it is too much,
    and OSError when the disk is full.
    """
    sandbox.remove(output)  # everything in it is delivered
    output.mkdir(parents=True)
    kept, notes = list[dict[str, Any]](), list[str]()
    wanted = matching(setup.folder, setup.outputs, setup.since, notes)
    left = _room(setup, wanted)
    for name in wanted:
        if len(kept) == MOST_FILES:
            notes.append(f"Only the first {MOST_FILES} files were kept.")
            break
        if fault := _fault(name):
            notes.append(f"{name[:LONGEST_NAME]!r} was not kept: {fault}.")
            continue
        try:
            size = _copy(setup.folder, name, output / name, left)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            notes.append(f"{name} was not kept: {error.strerror or error}.")
            continue
        left -= size
        kept.append({"name": name, "bytes": size})
    if kept:
        (output / RECORD).write_text(json.dumps({**record, "outputs": kept}, indent=2) + "\n", "utf-8")
    return kept, notes


def forgotten(setup: Setup) -> list[str]:
    """New files that look like a model's, for a script of which nothing is kept: most save beside themselves."""
    return matching(setup.folder, _LIKE_A_MODEL, setup.since)[:MOST_NAMED]


def _fault(name: str) -> str | None:
    """Why a file of this name cannot be kept; None when it can."""
    if name.partition("/")[0] == RECORD:
        return f"{RECORD} is where the job notes what it was"
    return name_fault(name)


def _room(setup: Setup, wanted: list[str]) -> float:
    """How many bytes may be copied. On the server no more than the script could have written: a file with holes takes
    no room in the box and all that it claims outside of it. Raises JobFailed."""
    if setup.limits is None:
        return math.inf
    most = setup.limits.work_bytes
    asked = sum(_size(setup.folder, name) for name in [name for name in wanted if not _fault(name)][:MOST_FILES])
    if asked > most:
        raise JobFailed(
            "member_code",
            f"The files to keep have {amount(asked)} together; at most {amount(most)} can be kept.",
            "Name fewer under Files to keep, or write smaller ones, then press Try again.",
        )
    return most


def _size(folder: Folder, name: str) -> int:
    try:
        with folder.open(name) as file:
            return os.fstat(file.fileno()).st_size
    except OSError:
        return 0  # it cannot be copied either


def _copy(folder: Folder, name: str, target: Path, most: float) -> int:
    """Copy a file and answer its bytes. Raises OSError, for one that has grown beyond `most` as well; then nothing of it
    is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with folder.open(name) as source, target.open("wb") as copy:
            while piece := source.read(1 << 20):
                if copy.tell() + len(piece) > most:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
                copy.write(piece)
            return copy.tell()
    except BaseException:
        target.unlink(missing_ok=True)
        raise
