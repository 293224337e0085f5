"""The writing side of a spool: numbers records, makes them durable, and gives up log when there is no room."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..protocol import STREAMS
from .cursor import Cursor
from .reader import SpoolReader
from .records import MAX_ITEM_BYTES, OVERHEAD, Item, pack
from .room import BUDGET_BYTES, Reserve, is_full, is_over_budget
from .segments import Segment, first_numbers, segment_path

SEGMENT_BYTES = 8 << 20
SYNC_BYTES = 256 << 10
Span = tuple[int, int]  # the first and the last number of records in a row


@dataclass(frozen=True)
class Final:
    """How an attempt ended: an outcome of `protocol.OUTCOMES`; when it failed, a cause, a sentence and what to do."""

    outcome: str
    cause: str | None = None
    message: str | None = None
    advice: str | None = None


class LogSum:
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
        self._files: dict[str, Segment] = {}
        self._waiting: deque[tuple[str, int, bytes]] = deque()
        self._hole: tuple[int, int, int] | None = None  # log given up since the last that was written
        self._log = LogSum()
        self._unsynced = 0
        self._synced_at = time.monotonic()
        self._lost, self._declared = list[Span](), list[Span]()  # of the log: what is not there, and what is said of it
        for stream in STREAMS:
            self._recover(stream)
        self._reserve = Reserve(folder / "reserve", is_wanted=self.final is None)
        if self.final is None:
            self._declare_what_is_lost()

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
                self._sync_if_there_is_room()

    def sync(self) -> None:
        """Make durable everything that was appended."""
        with self._lock:
            for segment in self._files.values():
                segment.sync()
            self._unsynced, self._synced_at = 0, time.monotonic()

    def _sync_if_there_is_room(self) -> None:
        """Some disks say only now that they are full. What was written stays readable, and is tried again in a while."""
        try:
            self.sync()
        except OSError as error:
            if not is_full(error):
                raise
            self._synced_at = time.monotonic()
            if not self._drop_oldest_log():
                self._reserve.give_up()

    def finish(self, final: Final) -> Item:
        """Write how it ended and what the log adds up to; nothing can be appended afterwards. The first end stands.

        Raises OSError when there is no room for it, or for what waits before it; it can be tried again then.
        """
        with self._lock:
            if self._final is not None:
                return self._final
            self._close_hole()
            self._write_waiting(self._reserve.give_up, self._drop_oldest_log)
            if self._waiting:
                raise OSError(errno.ENOSPC, f"There is no room for {len(self._waiting)} records before the end")
            self.sync()
            sums = {"last": self.last, "log_bytes": self._log.bytes, "log_sha256": self._log.sha256}
            told = asdict(final) | sums
            self._reserve.give_up()
            write_atomically(self.folder / "final.json", json.dumps(told))
            self._final = told
            self._close_segments()
            return told

    def close(self) -> None:
        super().close()
        with self._lock:
            self._close_segments()

    def _close_segments(self) -> None:
        for segment in self._files.values():
            segment.close()
        self._files.clear()

    def _recover(self, stream: str) -> None:
        """Find the last whole record, cut off what is behind it, and sum up the log again."""
        cursor = Cursor(self.folder, stream)
        expected = 1
        while (record := cursor.next()) is not None:
            if stream == "log":
                if record[0] != expected:
                    self._log.forget()
                    self._lost.append((expected, record[0] - 1))
                self._log.add(json.loads(record[1]).get("text", ""))
            elif stream == "event" and b'"gap"' in record[1]:
                self._note_declared(json.loads(record[1]))
            expected = record[0] + 1
        if cursor.segment:
            os.truncate(segment_path(self.folder, stream, cursor.segment), cursor.offset)
        cursor.close()
        if self.final is not None:
            self._numbers[stream] = int(self.final["last"][stream])
            return
        # What a power cut took was perhaps committed by the server already: another record under its number would be lost.
        self._numbers[stream] = max(cursor.number, self.acknowledged[stream])
        if stream == "log" and self._numbers[stream] > cursor.number:
            self._log.forget()

    def _note_declared(self, event: Item) -> None:
        if event.get("kind") == "gap" and event.get("stream") == "log":
            self._declared.append((event["first"], event["last"]))

    def _declare_what_is_lost(self) -> None:
        """Note the gaps whose events are lost: a crash came between giving up log and saying so."""
        for first, last in self._lost:
            for begin, end in _uncovered((max(first, self.acknowledged["log"] + 1), last), self._declared):
                self._note_gap(begin, end, 0)

    def _write(self, stream: str, number: int, payload: bytes) -> None:
        if self._waiting and stream != "log":
            self._waiting.append((stream, number, payload))  # behind those that wait for room
            return
        try:
            self._write_now(stream, number, payload)
        except OSError as error:
            if not is_full(error):
                raise
            self._write_without_room(stream, number, payload)

    def _write_now(self, stream: str, number: int, payload: bytes) -> None:
        segment = self._files.get(stream)
        if segment is None or segment.size >= self.segment_bytes or segment.last != number - 1:
            segment = self._roll(stream, number)
        try:
            segment.append(number, pack(stream, number, payload))
        except OSError:
            if segment.size == 0:  # an empty segment would count as one that can be given up
                self._files.pop(stream).close()
                segment_path(self.folder, stream, number).unlink()
            raise
        self._unsynced += len(payload) + OVERHEAD
        if stream == "log":
            self._close_hole()

    def _roll(self, stream: str, number: int) -> Segment:
        """Close the present segment and open one that begins with `number`."""
        old = self._files.get(stream)
        if old is not None:
            old.sync()
            self._files.pop(stream).close()
        if stream == "log":
            self._keep_within_budget()
        self._files[stream] = Segment(segment_path(self.folder, stream, number), number - 1)
        return self._files[stream]

    def _write_without_room(self, stream: str, number: int, payload: bytes) -> None:
        """The disk is full: make room with old log, then with the reserve; else the log is given up, the rest waits."""
        if stream != "log":
            self._waiting.append((stream, number, payload))  # first: what the room costs is told behind it
            self._write_waiting(self._drop_oldest_log, self._reserve.give_up)
            return
        for give_up in (self._drop_oldest_log, self._reserve.give_up):
            if not give_up():
                continue
            try:
                self._write_now(stream, number, payload)
                return
            except OSError as error:
                if not is_full(error):
                    raise
        self._log.forget()
        first, _, size = self._hole or (number, number, 0)
        self._hole = (first, number, size + len(payload))

    def _write_waiting(self, *ways: Callable[[], bool]) -> None:
        """Write what waits, in its order, with whatever room these ways make; stop when there is none."""
        while self._waiting:
            stream, number, payload = self._waiting[0]
            try:
                self._write_now(stream, number, payload)
            except OSError as error:
                if not is_full(error):
                    raise
                if not any(give_up() for give_up in ways):
                    return
                continue
            self._waiting.popleft()

    def _keep_within_budget(self) -> None:
        while is_over_budget(self.folder, self.budget_bytes) and self._drop_oldest_log():
            pass

    def _drop_oldest_log(self) -> bool:
        """Delete the oldest log segment but the last; what of it the server does not have becomes a gap event."""
        firsts = first_numbers(self.folder, "log")
        if len(firsts) < 2:
            return False
        first, through = firsts[0], firsts[1] - 1
        path = segment_path(self.folder, "log", first)
        size = path.stat().st_size
        path.unlink()
        self._note_acknowledged(self._load_acknowledged())
        missing_from = max(first, self.acknowledged["log"] + 1)
        if missing_from <= through:
            self._log.forget()
            self._note_gap(missing_from, through, size * (through - missing_from + 1) // (through - first + 1))
        return True

    def _close_hole(self) -> None:
        """Note the log that was given up since the last that was written."""
        if self._hole is not None:
            hole, self._hole = self._hole, None
            self._note_gap(*hole)

    def _note_gap(self, first: int, last: int, size: int) -> None:
        self._numbers["event"] += 1
        gap = {"kind": "gap", "stream": "log", "first": first, "last": last, "bytes": size}
        self._write("event", self._numbers["event"], json.dumps(gap, separators=(",", ":")).encode())


def _uncovered(span: Span, covers: list[Span]) -> Iterator[Span]:
    """The parts of a span, first and last included, that none of these covers."""
    first, last = span
    for begin, end in sorted(covers):
        if first < begin:
            yield first, min(begin - 1, last)
        first = max(first, end + 1)
        if first > last:
            return
    if first <= last:
        yield first, last
