"""What is kept of a finished script: the files its patterns name, copied to `output/` from where the runner delivers."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

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
# As the server takes names of artifacts: plain parts, at most four of them.
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}(/[A-Za-z0-9_][\w.-]{0,99}){0,3}", re.ASCII)


def collect(setup: Setup, output: Path, record: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Copy what is kept to `output`, with `record` as `run.json` beside it; nothing at all when no file is kept.

    Answers what was copied, as name and bytes, and a sentence for each file that could not be. Raises OSError when the disk
    is full. Files are opened without following links: a script may exchange one for a link while it is being copied.
    """
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    kept, notes = list[dict[str, Any]](), list[str]()
    for name in matching(setup.folder, setup.outputs, setup.since, notes):
        if len(kept) == MOST_FILES:
            notes.append(f"Only the first {MOST_FILES} files were kept.")
            break
        if not _NAME.fullmatch(name) or name == RECORD:
            notes.append(f"{name!r} was not kept: names are letters, digits, dot, - and _, in at most four parts.")
            continue
        try:
            size = _copy(setup.folder, name, output / name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            notes.append(f"{name} was not kept: {error.strerror or error}.")
            continue
        kept.append({"name": name, "bytes": size})
    if kept:
        (output / RECORD).write_text(json.dumps({**record, "outputs": kept}, indent=2) + "\n", "utf-8")
    return kept, notes


def forgotten(setup: Setup) -> list[str]:
    """New files that look like a model's, for a script of which nothing is kept: most save beside themselves."""
    return matching(setup.folder, _LIKE_A_MODEL, setup.since)[:MOST_NAMED]


def _copy(folder: Folder, name: str, target: Path) -> int:
    """Copy a file whole or not at all; answers its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with folder.open(name) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            return copy.tell()
    except BaseException:
        target.unlink(missing_ok=True)
        raise
