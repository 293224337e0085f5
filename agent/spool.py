"""The durable record of one attempt: what was said is on disk first, and on the wire only afterwards.

A spool is a folder of append-only segments, one row of them for each stream. The name of a segment carries the number
of its first record (`log-000000000017.spool`), so a record is found without an index. A record is

    length of the payload (u32) | CRC-32 of what follows (u32) | stream (u8) | number (u64) | payload (JSON, UTF-8)

in little endian. One process writes (`Spool`), any other may read at the same time (`SpoolReader`): a record whose
checksum does not hold yet is simply not there yet. After a crash the writer cuts the torn tail off.

When the budget is used up, the oldest log segments go: those the server has committed without a trace, others leave a
`gap` event. Metrics and events are never dropped. A number that is missing is read as an empty record, so the server's
count has no hole. On a full disk log records are given up in the same way and everything else waits in memory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import threading
import time
import zlib
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .protocol import STREAMS

Item = dict[str, Any]


@dataclass(frozen=True)
class Final:
    """How an attempt ended: an outcome of `protocol.OUTCOMES`; when it failed, a cause, a sentence and what to do."""

    outcome: str
    cause: str | None = None
    message: str | None = None
    advice: str | None = None


MAX_ITEM_BYTES = 32_768
SEGMENT_BYTES = 8 << 20
BUDGET_BYTES = 1 << 30
KEEP_FREE_BYTES = 2 << 30
LEAST_BUDGET_BYTES = 64 << 20
RESERVE_BYTES = 4 << 20
SYNC_BYTES = 256 << 10
READ_BYTES = 64 << 10

_HEAD = struct.Struct("<II")
_BODY = struct.Struct("<BQ")
_OVERHEAD = _HEAD.size + _BODY.size
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` so that a reader, or the machine after a power cut, sees the old text or the new one, whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def empty_item(stream: str) -> Item:
    """What is read in place of a record that no longer exists; the server stores it like any other."""
    if stream == "log":
        return {"text": ""}
    return {"steps": [], "values": {}} if stream == "metrics" else {"kind": "gap"}


def _segment_name(stream: str, first: int) -> str:
    return f"{stream}-{first:012}.spool"


def _segments(folder: Path, stream: str) -> list[int]:
    """The first numbers of a stream's segments, ascending."""
    prefix = f"{stream}-"
    try:
        names = os.listdir(folder)  # noqa: PTH208  (several times a second: no need for an object each)
    except FileNotFoundError:
        return []
    return sorted(int(n[len(prefix) : -6]) for n in names if n.startswith(prefix) and n.endswith(".spool"))


def _pack(stream: str, number: int, payload: bytes) -> bytes:
    body = _BODY.pack(STREAMS.index(stream), number) + payload
    return _HEAD.pack(len(payload), zlib.crc32(body)) + body


class _Cursor:
    """A place in one stream, just behind record `number`; moves forward only."""

    def __init__(self, folder: Path, stream: str, number: int = 0) -> None:
        self.folder, self.stream, self.number = folder, stream, number
        self.segment = 0
        self.offset = 0  # where the record behind `number` begins, once a segment is open
        self._descriptor = -1
        self._buffer = b""

    def next(self) -> tuple[int, bytes] | None:
        """The next record as (number, payload), or None when it is not written yet.

        A number above `self.number + 1` says that the ones between are lost.
        """
        while self._descriptor >= 0 or self._open(self._segment_holding(self.number + 1)):
            record = self._take() or self._take_from_later_segment()
            if record is None:
                return None
            if record[0] > self.number:
                self.number = record[0]
                return record
        return None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._buffer = -1, b""

    def _segment_holding(self, number: int) -> int | None:
        firsts = _segments(self.folder, self.stream)
        earlier = [first for first in firsts if first <= number]
        return earlier[-1] if earlier else (firsts[0] if firsts else None)

    def _open(self, first: int | None) -> bool:
        if first is None:
            return False
        try:
            descriptor = os.open(self.folder / _segment_name(self.stream, first), os.O_RDONLY)
        except FileNotFoundError:
            return False
        self.close()
        self._descriptor, self.segment, self.offset = descriptor, first, 0
        return True

    def _take_from_later_segment(self) -> tuple[int, bytes] | None:
        later = [first for first in _segments(self.folder, self.stream) if first > self.segment]
        for first in later:
            # The writer may have finished this segment between the last look and the listing.
            record = self._take()
            if record is not None or not self._open(first):
                return record
        return self._take() if later else None

    def _take(self) -> tuple[int, bytes] | None:
        if not self._fill(_OVERHEAD):
            return None
        length, checksum = _HEAD.unpack_from(self._buffer)
        if length > MAX_ITEM_BYTES or not self._fill(_OVERHEAD + length):
            return None
        body = self._buffer[_HEAD.size : _OVERHEAD + length]
        stream, number = _BODY.unpack_from(body)
        if zlib.crc32(body) != checksum or stream != STREAMS.index(self.stream):
            self._buffer = b""  # perhaps half written: read it afresh next time
            return None
        self._buffer = self._buffer[_OVERHEAD + length :]
        self.offset += _OVERHEAD + length
        return number, body[_BODY.size :]

    def _fill(self, wanted: int) -> bool:
        missing = wanted - len(self._buffer)
        if missing > 0:
            start = self.offset + len(self._buffer)
            self._buffer += os.pread(self._descriptor, max(missing, READ_BYTES), start)
        return len(self._buffer) >= wanted


class SpoolReader:
    """Reads a spool, also while another process writes it. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acknowledged = dict.fromkeys(STREAMS, 0)
        self._lock = threading.RLock()
        self._cursors: dict[str, _Cursor] = {}
        self._held: dict[str, tuple[int, bytes]] = {}  # read from the file, not handed out yet
        self._given: dict[str, int] = {}
        self._tails = {stream: _Cursor(folder, stream) for stream in STREAMS}
        self._final: Item | None = None
        self._noted = 0.0
        self._note_acknowledged(self._load_acknowledged())

    @property
    def final(self) -> Item | None:
        """What `finish` wrote: outcome, cause, message, advice, last, log_bytes, log_sha256. None while it goes on."""
        if self._final is None:
            try:
                self._final = json.loads((self.folder / "final.json").read_text("utf-8"))
            except (FileNotFoundError, ValueError):
                return None
        return self._final

    @property
    def last(self) -> dict[str, int]:
        """The number of the last record of each stream."""
        final = self.final
        if final is not None:
            return dict(final["last"])
        with self._lock:
            for stream, tail in self._tails.items():
                if tail.number == 0:
                    tail.number = max(0, (_segments(self.folder, stream) or [1])[-1] - 1)
                while tail.next() is not None:
                    pass
            return {stream: tail.number for stream, tail in self._tails.items()}

    def read(self, stream: str, after: int, max_bytes: int, max_records: int = 2_000) -> tuple[int, list[Item]]:
        """The records behind number `after` as (first number, items); ([] when there is none yet).

        At least one record is given however small `max_bytes` is; reading on where the last call ended is cheap.
        """
        with self._lock:
            if self._given.get(stream) != after or stream not in self._cursors:
                self._seek(stream, after)
            items: list[Item] = []
            size = 0
            while len(items) < max_records:
                item, bytes_ = self._peek(stream, after + len(items) + 1)
                if item is None or (items and size + bytes_ > max_bytes):
                    break
                self._held_used(stream, after + len(items) + 1)
                items.append(item)
                size += bytes_
            self._given[stream] = after + len(items)
            return after + 1, items

    def acknowledge(self, stream: str, through: int) -> None:
        """Note that the server has committed everything up to `through`; lower numbers than before change nothing."""
        with self._lock:
            if through <= self.acknowledged[stream]:
                return
            self.acknowledged[stream] = through
            if time.monotonic() - self._noted >= 1.0:
                self._noted = time.monotonic()
                self._save_acknowledged()

    def close(self) -> None:
        with self._lock:
            for cursor in (*self._cursors.values(), *self._tails.values()):
                cursor.close()
            self._cursors.clear()
            self._given.clear()
            self._held.clear()

    def _seek(self, stream: str, after: int) -> None:
        if stream in self._cursors:
            self._cursors[stream].close()
        self._cursors[stream] = _Cursor(self.folder, stream, after)
        self._held.pop(stream, None)

    def _peek(self, stream: str, number: int) -> tuple[Item | None, int]:
        final = self.final  # looked at first: once it is there, what cannot be read will never come
        record = self._held.get(stream) or self._cursors[stream].next()
        if record is None:
            lost = final is not None and number <= int(final["last"].get(stream, 0))
            return (empty_item(stream), 16) if lost else (None, 0)
        self._held[stream] = record
        if record[0] > number:
            return empty_item(stream), 16
        return json.loads(record[1]), len(record[1]) + 1

    def _held_used(self, stream: str, number: int) -> None:
        if stream in self._held and self._held[stream][0] == number:
            del self._held[stream]

    def _load_acknowledged(self) -> dict[str, int]:
        try:
            noted = json.loads((self.folder / "acknowledged.json").read_text("utf-8"))
            return {stream: int(noted.get(stream, 0)) for stream in STREAMS}
        except (OSError, ValueError, AttributeError):
            return {}

    def _note_acknowledged(self, noted: dict[str, int]) -> None:
        for stream, through in noted.items():
            self.acknowledged[stream] = max(self.acknowledged[stream], through)

    def _save_acknowledged(self) -> None:
        # Only a hint for making room, so it is not synced: an old one costs a gap event, never data.
        aside = self.folder / f".acknowledged.{os.getpid()}"
        try:
            aside.write_text(json.dumps(self.acknowledged), "utf-8")
            aside.replace(self.folder / "acknowledged.json")
        except OSError:
            aside.unlink(missing_ok=True)


class _Log:
    """What the whole log adds up to, for the comparison at the end."""

    def __init__(self) -> None:
        self.bytes = 0
        self.digest: Any = hashlib.sha256()

    def add(self, text: str) -> None:
        encoded = text.encode("utf-8", "replace")
        self.bytes += len(encoded)
        if self.digest is not None:
            self.digest.update(encoded)

    def forget(self) -> None:
        """From here on the sum cannot be known: part of the log is gone."""
        self.digest = None

    @property
    def sha256(self) -> str:
        return "" if self.digest is None else str(self.digest.hexdigest())


class Spool(SpoolReader):
    """The writing side. There is one writer for a folder at any time; opening mends what a crash left behind.

    `append` numbers a record and hands it to the operating system; a group of them is made durable by `sync_when_due`
    (every second or 256 KiB) and by `finish`. Raises OSError only when nothing can be written at the very end.
    """

    def __init__(
        self,
        folder: Path,
        budget_bytes: int = BUDGET_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        sync_seconds: float = 1.0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(folder)
        self.budget_bytes, self.segment_bytes, self.sync_seconds = budget_bytes, segment_bytes, sync_seconds
        self._numbers = dict.fromkeys(STREAMS, 0)
        self._files: dict[str, _Segment] = {}
        self._waiting: deque[tuple[str, int, bytes]] = deque()
        self._hole: tuple[int, int, int] | None = None  # log given up since the last that was written
        self._log = _Log()
        self._unsynced = 0
        self._synced_at = time.monotonic()
        for stream in STREAMS:
            self._recover(stream)
        self._reserve = folder / "reserve"
        _set_aside(self._reserve)

    @property
    def last(self) -> dict[str, int]:
        return dict(self._numbers)

    def append(self, stream: str, item: Item) -> int:
        """Write one record behind the others and return its number. ValueError: too large, or the end is told."""
        payload = json.dumps(item, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        encoded = payload.encode("utf-8", "replace")
        if len(encoded) > MAX_ITEM_BYTES:
            raise ValueError(f"a record of {len(encoded)} bytes is larger than {MAX_ITEM_BYTES}")
        with self._lock:
            if self._final is not None:
                raise ValueError("the attempt has ended, nothing can be added to its spool")
            self._numbers[stream] += 1
            number = self._numbers[stream]
            if stream == "log":
                self._log.add(item.get("text", ""))
            self._write(stream, number, encoded)
            return number

    def sync_when_due(self) -> None:
        """Make durable what was appended, once a second has passed or 256 KiB have come together."""
        with self._lock:
            self._write_waiting()
            due = time.monotonic() - self._synced_at >= self.sync_seconds
            if self._unsynced and (due or self._unsynced >= SYNC_BYTES):
                self.sync()

    def sync(self) -> None:
        """Make durable everything that was appended."""
        with self._lock:
            for segment in self._files.values():
                segment.sync()
            self._unsynced, self._synced_at = 0, time.monotonic()

    def finish(self, final: Final) -> Item:
        """Write how it ended and what the log adds up to; nothing can be appended afterwards. The first end stands."""
        with self._lock:
            if self._final is not None:
                return self._final
            if self._hole is not None:
                self._note_gap(*self._hole)
            self._write_waiting(make_room=True)
            self.sync()
            sums = {"last": self.last, "log_bytes": self._log.bytes, "log_sha256": self._log.sha256}
            told = asdict(final) | sums
            self._reserve.unlink(missing_ok=True)
            write_atomically(self.folder / "final.json", json.dumps(told))
            self._final = told
            for segment in self._files.values():
                segment.close()
            self._files.clear()
            return told

    def close(self) -> None:
        super().close()
        with self._lock:
            for segment in self._files.values():
                segment.close()
            self._files.clear()

    def _recover(self, stream: str) -> None:
        """Find the last whole record, cut off what is behind it, and sum up the log again."""
        cursor = _Cursor(self.folder, stream)
        expected = 1
        while (record := cursor.next()) is not None:
            if stream == "log":
                if record[0] != expected:
                    self._log.forget()
                self._log.add(json.loads(record[1]).get("text", ""))
            expected = record[0] + 1
        if cursor.segment:
            os.truncate(self.folder / _segment_name(stream, cursor.segment), cursor.offset)
        cursor.close()
        self._numbers[stream] = cursor.number if self.final is None else int(self.final["last"][stream])

    def _write(self, stream: str, number: int, payload: bytes) -> None:
        if self._waiting and stream != "log":
            self._waiting.append((stream, number, payload))  # behind those that wait for room
            return
        try:
            self._write_now(stream, number, payload)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._write_without_room(stream, number, payload)

    def _write_now(self, stream: str, number: int, payload: bytes) -> None:
        segment = self._files.get(stream)
        if segment is None or segment.size >= self.segment_bytes or segment.last != number - 1:
            segment = self._roll(stream, number)
        try:
            segment.append(number, _pack(stream, number, payload))
        except OSError:
            if segment.size == 0:  # an empty segment would count as one that can be given up
                self._files.pop(stream).close()
                (self.folder / _segment_name(stream, number)).unlink()
            raise
        self._unsynced += len(payload) + _OVERHEAD
        if stream == "log" and self._hole is not None:
            first, last, size = self._hole
            self._hole = None
            self._note_gap(first, last, size)

    def _roll(self, stream: str, number: int) -> _Segment:
        """Close the present segment and open one that begins with `number`."""
        old = self._files.pop(stream, None)
        if old is not None:
            old.sync()
            old.close()
        if stream == "log":
            self._keep_within_budget()
        self._files[stream] = _Segment(self.folder / _segment_name(stream, number), number - 1)
        return self._files[stream]

    def _write_without_room(self, stream: str, number: int, payload: bytes) -> None:
        """The disk is full: make room with old log, then with the reserve; else the log is given up, the rest waits."""
        for give_up in (self._drop_oldest_log, self._give_up_reserve):
            if not give_up():
                continue
            try:
                self._write_now(stream, number, payload)
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
        if stream == "log":
            self._log.forget()
            first, _, size = self._hole or (number, number, 0)
            self._hole = (first, number, size + len(payload))
        else:
            self._waiting.append((stream, number, payload))

    def _write_waiting(self, make_room: bool = False) -> None:
        while self._waiting:
            stream, number, payload = self._waiting[0]
            try:
                self._write_now(stream, number, payload)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                if not (make_room and (self._give_up_reserve() or self._drop_oldest_log())):
                    return
                continue
            self._waiting.popleft()

    def _give_up_reserve(self) -> bool:
        if not self._reserve.exists():
            return False
        self._reserve.unlink(missing_ok=True)
        return True

    def _keep_within_budget(self) -> None:
        while self._used() > self._allowed() and self._drop_oldest_log():
            pass

    def _used(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*.spool"))

    def _allowed(self) -> int:
        """The budget, less when the disk itself is nearly full."""
        spare = self._used() + shutil.disk_usage(self.folder).free - KEEP_FREE_BYTES
        return min(self.budget_bytes, max(spare, LEAST_BUDGET_BYTES))

    def _drop_oldest_log(self) -> bool:
        """Delete the oldest log segment but the last; what of it the server does not have becomes a gap event."""
        firsts = _segments(self.folder, "log")
        if len(firsts) < 2:
            return False
        first, through = firsts[0], firsts[1] - 1
        path = self.folder / _segment_name("log", first)
        size = path.stat().st_size
        path.unlink()
        self._note_acknowledged(self._load_acknowledged())
        missing_from = max(first, self.acknowledged["log"] + 1)
        if missing_from <= through:
            self._log.forget()
            self._note_gap(missing_from, through, size * (through - missing_from + 1) // (through - first + 1))
        return True

    def _note_gap(self, first: int, last: int, size: int) -> None:
        self._numbers["event"] += 1
        gap = {"kind": "gap", "stream": "log", "first": first, "last": last, "bytes": size}
        self._write("event", self._numbers["event"], json.dumps(gap, separators=(",", ":")).encode())


class _Segment:
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


def _set_aside(reserve: Path) -> None:
    """Occupy a little disk now, to be given back when it is full: the end of a job must still fit."""
    if reserve.exists() or not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(reserve, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
    except OSError:
        reserve.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
