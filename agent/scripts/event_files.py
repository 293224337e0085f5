"""Curves out of TensorBoard's event files, without TensorBoard: the scalars of `events.out.tfevents.*`.

The container is TFRecord: length (u64, little endian), masked CRC-32C of those eight bytes, data, CRC of the data. Inside
lies a protobuf `Event` {wall_time = 1, step = 2, summary = 5} with `Summary.Value` {tag = 1, simple_value = 2, tensor = 8}
(tensorflow/core/util/event.proto, framework/summary.proto, framework/tensor.proto).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .curves.points import MAX_STEP, Point, normalised
from .protobuf import fields, number, scalar_of_tensor

MAX_RECORD = 1 << 20  # longer ones hold images or graphs
MAX_READ = 8 << 20  # bytes a poll
MAX_FILES = 200
MAX_TAGS = 500
MAX_DEPTH = 6
MAX_ENTRIES = 20_000

_SKIPPED_FOLDERS = {".git", "venv", ".venv", "node_modules", "site-packages", "__pycache__"}
_LENGTH = struct.Struct("<QI")
_CRC_BYTES = 4


@dataclass(slots=True)
class _File:
    place: int = 0
    is_broken: bool = False


@dataclass
class EventFiles:
    """Reads on in the event files below `folder` that were changed at or after `since` (unix seconds)."""

    folder: Path
    since: float
    notes: list[str] = field(default_factory=list)  # sentences for the log; whoever shows them empties the list
    _files: dict[Path, _File] = field(default_factory=dict)
    _tags: dict[str, Path] = field(default_factory=dict)
    _is_full: bool = False

    def poll(self) -> list[Point]:
        """The points written since the last call, 8 MiB of records at most; the rest comes with the next one."""
        self._find()
        points: list[Point] = []
        left = MAX_READ
        for path, file in self._files.items():
            if not file.is_broken and left > 0:
                left -= self._read(path, file, left, points)
        return points

    def _find(self) -> None:
        for path in sorted(event_files_below(self.folder)):
            if path in self._files:
                continue
            try:
                changed = path.stat().st_mtime
            except OSError:
                continue
            if changed < self.since:
                continue
            if len(self._files) >= MAX_FILES:
                self._note_the_rest()
                return
            self._files[path] = _File()

    def _read(self, path: Path, file: _File, most: int, points: list[Point]) -> int:
        """Reads the whole records from where the file was left; how many bytes were looked at."""
        try:
            size = path.stat().st_size
            if size <= file.place:
                return 0
            with _opened(path) as opened:
                opened.seek(file.place)
                data = opened.read(min(most, size - file.place))
        except OSError as error:
            self._give_up(path, file, f"it cannot be read ({error.strerror})")
            return 0
        file.place += self._whole_records(path, file, data, size, points)
        return len(data)

    def _whole_records(self, path: Path, file: _File, data: bytes, size: int, points: list[Point]) -> int:
        """Takes the points out of the records; where the first one begins that is not whole yet."""
        place = 0
        while place + _LENGTH.size <= len(data):
            length, crc = _LENGTH.unpack_from(data, place)
            if masked_crc(data[place : place + 8]) != crc:
                self._give_up(path, file, f"the record at byte {file.place + place} has a wrong checksum")
                break
            end = place + _LENGTH.size + length + _CRC_BYTES
            if length > MAX_RECORD:
                if file.place + end > size:
                    break
                place = end  # skipped, may lie beyond what was read
                continue
            if end > len(data):
                break
            self._take(path.parent, data[place + _LENGTH.size : end - _CRC_BYTES], points)
            place = end
        return place

    def _take(self, folder: Path, record: bytes, points: list[Point]) -> None:
        try:
            step, values = scalars(record)
        except ValueError:
            return  # no event; the record's frame is whole, so the next one may be
        known = {self._name_in(folder, normalised(tag)): value for tag, value in values}
        known.pop("", None)
        if known and 0 <= step < MAX_STEP:
            points.append(Point("tensorboard", step, known, None))

    def _name_in(self, folder: Path, name: str) -> str:
        """The first folder with a tag has its bare name, another one puts its own in front: `validation/epoch_loss`."""
        if name and self._tags.setdefault(name, folder) != folder:
            name = normalised(f"{folder.name}/{name}")
            self._tags.setdefault(name, folder)
        if len(self._tags) > MAX_TAGS:
            del self._tags[name]
            return ""
        return name

    def _give_up(self, path: Path, file: _File, why: str) -> None:
        file.is_broken = True
        shown = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        self.notes.append(f"{shown} is not read any further: {why}.")

    def _note_the_rest(self) -> None:
        if not self._is_full:
            self.notes.append(
                f"More than {MAX_FILES} TensorBoard event files lie in the folder; the others are left out."
            )
        self._is_full = True


def _opened(path: Path) -> BinaryIO:
    """A regular file, opened for reading; what a script has put in its place (a link, a pipe) raises OSError."""
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def event_files_below(folder: Path) -> Iterator[Path]:
    """Regular files of that name, links not followed, to a depth of 6 folders and 20,000 entries."""
    entries = 0
    waiting = [(folder, 0)]
    while waiting:
        here, depth = waiting.pop()
        try:
            with os.scandir(here) as found:
                for entry in found:
                    entries += 1
                    if entries > MAX_ENTRIES:
                        return
                    if entry.is_dir(follow_symlinks=False):
                        if depth < MAX_DEPTH and entry.name not in _SKIPPED_FOLDERS:
                            waiting.append((Path(entry.path), depth + 1))
                    elif entry.name.startswith("events.out.tfevents.") and entry.is_file(follow_symlinks=False):
                        yield Path(entry.path)
        except OSError:
            continue


def scalars(record: bytes) -> tuple[int, list[tuple[str, float | None]]]:
    """Step and (tag, value) of an event's scalars, None for what is not finite. Raises ValueError for a broken one."""
    step = 0
    values: list[tuple[str, float | None]] = []
    for part, value in fields(record):
        if part == 2 and isinstance(value, int):
            step = value
        elif part == 5 and isinstance(value, bytes):
            values += _scalars(value)
    return step, values


def _scalars(summary: bytes) -> list[tuple[str, float | None]]:
    found = [_scalar(each) for part, each in fields(summary) if part == 1 and isinstance(each, bytes)]
    return [scalar for scalar in found if scalar is not None]


def _scalar(value: bytes) -> tuple[str, float | None] | None:
    """Tag and number of a Summary.Value; None when it is a picture, a histogram or a text."""
    tag, found, tensor = "", [], b""
    for part, each in fields(value):
        if part == 1 and isinstance(each, bytes):
            tag = each.decode("utf-8", "replace")
        elif part == 2 and isinstance(each, bytes):
            found.append(number("<f", each))
        elif part == 8 and isinstance(each, bytes):
            tensor = each
    if tensor and not found:
        try:
            found.append(scalar_of_tensor(tensor))
        except ValueError:
            return None
    return (tag, found[0]) if tag and found else None


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli) rotated and shifted as TFRecord does it (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ 0x82F63B78 if byte & 1 else byte >> 1
        table.append(byte)
    return table


_TABLE = _table()
