"""Curves out of TensorBoard's event files, without TensorBoard: the scalars of `events.out.tfevents.*`.

The container is TFRecord: length (u64, little endian), masked CRC-32C of those eight bytes, data, CRC of the data. Inside
lies a protobuf `Event` {wall_time = 1, step = 2, summary = 5} with `Summary.Value` {tag = 1, simple_value = 2, tensor = 8}
(tensorflow/core/util/event.proto, framework/summary.proto, framework/tensor.proto).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .curves.points import MAX_STEP, Point, normalised
from .found_files import Folder
from .protobuf import fields, number, scalar_of_tensor

MAX_RECORD = 1 << 20  # longer ones hold images or graphs
MAX_READ = 8 << 20  # bytes a poll
MAX_FILES = 200
MAX_TAGS = 500
MAX_DEPTH = 6

_BEGINNING = "events.out.tfevents."
_LENGTH = struct.Struct("<QI")
_CRC_BYTES = 4


@dataclass(slots=True)
class _File:
    place: int = 0
    is_broken: bool = False


@dataclass
class EventFiles:
    """Reads on in the event files below `folder` that were changed at or after `since` (unix seconds).

    Of `before`, the `sizes` of the files when the attempt began, only what was added is read: the rest was told by an
    earlier attempt, whose folders (`version_0`) must not keep the names of the curves from those of this one (`version_1`).
    """

    folder: Folder
    since: float
    before: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # sentences for the log; whoever shows them empties the list
    _files: dict[str, _File] = field(default_factory=dict)
    _tags: dict[str, str] = field(default_factory=dict)  # which folder's a name is
    _is_full: bool = False

    def poll(self) -> list[Point]:
        """The points written since the last call, 8 MiB of records at most; the rest comes with the next one."""
        points: list[Point] = []
        left = MAX_READ
        for name, size in self._found():
            file = self._files[name]
            if not file.is_broken and left > 0 and size > file.place:
                left -= self._read(name, file, size, left, points)
        return points

    def _found(self) -> Iterator[tuple[str, int]]:
        """The files to read, with their sizes, in the order of their names."""
        for name, facts in sorted(_event_files(self.folder, self.notes)):
            told = self.before.get(name, 0)
            if name not in self._files and facts.st_mtime >= self.since and facts.st_size > told:
                if len(self._files) >= MAX_FILES:
                    self._note_the_rest()
                    continue
                self._files[name] = _File(told)
            if name in self._files:
                yield name, facts.st_size

    def _read(self, name: str, file: _File, size: int, most: int, points: list[Point]) -> int:
        """Reads the whole records from where the file was left; how many bytes were looked at."""
        try:
            with self.folder.open(name) as opened:
                opened.seek(file.place)
                data = opened.read(min(most, size - file.place))
        except OSError as error:
            self._give_up(name, file, f"it cannot be read ({error.strerror})")
            return 0
        file.place += self._whole_records(name, file, data, size, points)
        return len(data)

    def _whole_records(self, name: str, file: _File, data: bytes, size: int, points: list[Point]) -> int:
        """Takes the points out of the records; where the first one begins that is not whole yet."""
        place = 0
        while place + _LENGTH.size <= len(data):
            length, crc = _LENGTH.unpack_from(data, place)
            if masked_crc(data[place : place + 8]) != crc:
                self._give_up(name, file, f"the record at byte {file.place + place} has a wrong checksum")
                break
            end = place + _LENGTH.size + length + _CRC_BYTES
            if length > MAX_RECORD:
                if file.place + end > size:
                    break
                place = end  # skipped, may lie beyond what was read
                continue
            if end > len(data):
                break
            self._take(name.rpartition("/")[0], data[place + _LENGTH.size : end - _CRC_BYTES], points)
            place = end
        return place

    def _take(self, folder: str, record: bytes, points: list[Point]) -> None:
        try:
            step, values = scalars(record)
        except ValueError:
            return  # no event; the record's frame is whole, so the next one may be
        known = {self._name_in(folder, normalised(tag)): value for tag, value in values}
        known.pop("", None)
        if known and 0 <= step < MAX_STEP:
            points.append(Point("tensorboard", step, known, None))

    def _name_in(self, folder: str, name: str) -> str:
        """The first folder with a tag has its bare name, another one puts its own in front: `validation/epoch_loss`."""
        if name and self._tags.setdefault(name, folder) != folder:
            name = normalised(f"{folder.rpartition('/')[2]}/{name}")
            self._tags.setdefault(name, folder)
        if len(self._tags) > MAX_TAGS:
            del self._tags[name]
            return ""
        return name

    def _give_up(self, name: str, file: _File, why: str) -> None:
        file.is_broken = True
        self.notes.append(f"{name} is not read any further: {why}.")

    def _note_the_rest(self) -> None:
        if not self._is_full:
            self.notes.append(
                f"More than {MAX_FILES} TensorBoard event files lie in the folder; the others are left out."
            )
        self._is_full = True


def sizes(folder: Folder) -> dict[str, int]:
    """The event files below `folder` and how long they are."""
    return {name: facts.st_size for name, facts in _event_files(folder)}


def _event_files(folder: Folder, notes: list[str] | None = None) -> Iterator[tuple[str, os.stat_result]]:
    for name, facts in folder.files((f"**/{_BEGINNING}*",), MAX_DEPTH, notes):
        if name.rpartition("/")[2].startswith(_BEGINNING):
            yield name, facts


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
