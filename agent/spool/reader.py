"""The reading side of a spool: records in order, how the attempt ended, and what the server has committed."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from ..protocol import STREAMS
from .cursor import Cursor
from .records import Item, empty_item
from .segments import first_numbers


class SpoolReader:
    """Reads a spool, also while another process writes it. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acknowledged = dict.fromkeys(STREAMS, 0)
        self._lock = threading.RLock()
        self._cursors: dict[str, Cursor] = {}
        self._held: dict[str, tuple[int, bytes]] = {}  # read from the file, not handed out yet
        self._given: dict[str, int] = {}
        self._tails = {stream: Cursor(folder, stream) for stream in STREAMS}
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
                    tail.number = max(0, (first_numbers(self.folder, stream) or [1])[-1] - 1)
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
        self._cursors[stream] = Cursor(self.folder, stream, after)
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
