"""What is under way to the server and not acknowledged: never more than it has room for."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from ..protocol import ProtocolError
from ..spool import MAX_ITEM_BYTES

FRAME_MARGIN = 512
Key = tuple[int, int, str]


class Window:
    """What was sent over this connection and is not acknowledged: never more than the server has room for."""

    def __init__(self, max_bytes: int, max_records: int) -> None:
        self.max_bytes, self.max_records = max_bytes, max_records
        self.bytes = self.records = 0
        self._sent: dict[Key, int] = {}
        self._furthest: dict[Key, int] = {}  # the last number ever sent over this connection, before any going back
        self._moved_at: dict[Key, float] = {}  # when an acknowledgement last covered something new
        self._acknowledged: dict[Key, int] = {}
        self._flying: dict[Key, deque[_Batch]] = {}

    @property
    def is_empty(self) -> bool:
        return self.records == 0

    def room(self) -> tuple[int, int]:
        """Bytes and records that may be sent now. With nothing under way one batch may go, however small the window is:
        otherwise a window smaller than a record would stop everything for ever."""
        if self.is_empty:
            return max(self.max_bytes, 1), max(self.max_records, 1)
        room = self.max_bytes - self.bytes
        return (room if room >= MAX_ITEM_BYTES + FRAME_MARGIN else 0), self.max_records - self.records

    def position(self, key: Key) -> int:
        """The number of the last record sent."""
        return self._sent.get(key, 0)

    def acknowledged(self, key: Key) -> int:
        return self._acknowledged.get(key, 0)

    def begin(self, key: Key, after: int) -> None:
        """The server has everything up to `after`, from whatever connection."""
        self._sent[key] = self._acknowledged[key] = self._furthest[key] = after

    def sent(self, key: Key, last: int, size: int) -> None:
        batch = _Batch(last, last - self.position(key), size, time.monotonic())
        self._flying.setdefault(key, deque()).append(batch)
        self._sent[key] = last
        self._furthest[key] = max(self._furthest.get(key, 0), last)
        self.bytes += batch.size
        self.records += batch.records

    def acknowledge(self, key: Key, through: int) -> None:
        """Take an acknowledgement. Raises ProtocolError when it is for something that was never sent.

        It may be for records that this side had begun to send again in the meantime: then they need not go. One that is
        lower than an earlier one says nothing new; a server that has lost what it had says so with `resend_from`.
        """
        self._check(key, through, "was acknowledged")
        if through <= self.acknowledged(key):
            return
        self._moved_at[key] = time.monotonic()
        self._acknowledged[key] = through
        self._sent[key] = max(self.position(key), through)
        flying = self._flying.get(key, deque())
        while flying and flying[0].last <= through:
            self._landed(flying.popleft())

    def rewind(self, key: Key, after: int) -> None:
        """The server has everything up to `after` and nothing behind it: go on from there."""
        self._check(key, after, "is said to be there")
        flying = self._flying.get(key, deque())
        while flying and flying[-1].last > after:
            self._landed(flying.pop())
        self._sent[key] = after
        self._acknowledged[key] = min(self.acknowledged(key), after)

    def forget(self, job: int, attempt: int) -> None:
        for key in [key for key in self._sent if key[:2] == (job, attempt)]:
            for batch in self._flying.pop(key, ()):
                self._landed(batch)
            for known in (self._sent, self._furthest, self._acknowledged, self._moved_at):
                known.pop(key, None)  # type: ignore[attr-defined]

    def resend_older_than(self, seconds: float) -> None:
        """What nobody has acknowledged for so long is sent again: the server stores each record once anyway.

        While acknowledgements of the stream come in, it is only slow: sending again would make it slower.
        """
        for key, flying in self._flying.items():
            if flying and time.monotonic() - max(flying[0].at, self._moved_at.get(key, 0.0)) > seconds:
                self.rewind(key, self.acknowledged(key))

    def _check(self, key: Key, number: int, what: str) -> None:
        furthest = self._furthest.get(key, 0)
        if number > furthest:
            raise ProtocolError(f"record {number} of {key[2]} {what}, but only {furthest} were sent")

    def _landed(self, batch: _Batch) -> None:
        self.bytes -= batch.size
        self.records -= batch.records


@dataclass(frozen=True)
class _Batch:
    last: int
    records: int
    size: int
    at: float
