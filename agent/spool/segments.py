"""The segment files of a stream: their names, and the one that is being written."""

from __future__ import annotations

import os
from pathlib import Path


def segment_path(folder: Path, stream: str, first: int) -> Path:
    """Where the segment lies whose first record has the number `first`."""
    return folder / f"{stream}-{first:012}.spool"


def first_numbers(folder: Path, stream: str) -> list[int]:
    """The first numbers of a stream's segments, ascending."""
    prefix = f"{stream}-"
    try:
        names = os.listdir(folder)  # noqa: PTH208  (several times a second: no need for an object each)
    except FileNotFoundError:
        return []
    return sorted(int(n[len(prefix) : -6]) for n in names if n.startswith(prefix) and n.endswith(".spool"))


class Segment:
    """One open segment; `last` is the number of its last record."""

    def __init__(self, path: Path, last: int) -> None:
        self.last = last
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self._descriptor).st_size
        self._dirty = False

    def append(self, number: int, record: bytes) -> None:
        written = 0
        try:
            while written < len(record):
                written += os.write(self._descriptor, record[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(record)
        self.last, self._dirty = number, True

    def sync(self) -> None:
        if self._dirty:
            os.fsync(self._descriptor)
            self._dirty = False

    def close(self) -> None:
        os.close(self._descriptor)
