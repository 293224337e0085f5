"""Reads one stream forward, record by record, from segment to segment."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from ..protocol import STREAMS
from .records import BODY, HEAD, MAX_ITEM_BYTES, OVERHEAD
from .segments import first_numbers, segment_path

READ_BYTES = 64 << 10


class Cursor:
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
        firsts = first_numbers(self.folder, self.stream)
        earlier = [first for first in firsts if first <= number]
        return earlier[-1] if earlier else (firsts[0] if firsts else None)

    def _open(self, first: int | None) -> bool:
        if first is None:
            return False
        try:
            descriptor = os.open(segment_path(self.folder, self.stream, first), os.O_RDONLY)
        except FileNotFoundError:
            return False
        self.close()
        self._descriptor, self.segment, self.offset = descriptor, first, 0
        return True

    def _take_from_later_segment(self) -> tuple[int, bytes] | None:
        later = [first for first in first_numbers(self.folder, self.stream) if first > self.segment]
        for first in later:
            # The writer may have finished this segment between the last look and the listing.
            record = self._take()
            if record is not None or not self._open(first):
                return record
        return self._take() if later else None

    def _take(self) -> tuple[int, bytes] | None:
        if not self._fill(OVERHEAD):
            return None
        length, checksum = HEAD.unpack_from(self._buffer)
        if length > MAX_ITEM_BYTES or not self._fill(OVERHEAD + length):
            return None
        body = self._buffer[HEAD.size : OVERHEAD + length]
        stream, number = BODY.unpack_from(body)
        if zlib.crc32(body) != checksum or stream != STREAMS.index(self.stream):
            self._buffer = b""  # perhaps half written: read it afresh next time
            return None
        self._buffer = self._buffer[OVERHEAD + length :]
        self.offset += OVERHEAD + length
        return number, body[BODY.size :]

    def _fill(self, wanted: int) -> bool:
        missing = wanted - len(self._buffer)
        if missing > 0:
            start = self.offset + len(self._buffer)
            self._buffer += os.pread(self._descriptor, max(missing, READ_BYTES), start)
        return len(self._buffer) >= wanted
