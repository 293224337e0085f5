"""What a training says, brought into the records of a spool: log text, metric columns, events."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from ..masking import SecretMasker
from ..spool import MAX_ITEM_BYTES, Item

CHUNK_CHARACTERS = 7_000  # four bytes a character at most, so a chunk fits a record
SAMPLE_CHARACTERS = 4_000
LONGEST_LINE = 65_536
MAX_METRIC_STEPS = 256
MAX_METRIC_NAMES = 500
NAMES_IN_ONE_ITEM = 100
MAX_NAME = 60
MAX_REPORT = 1 << 20

# Colours, cursor movements and titles (ECMA-48 control sequences and OSC strings), then every other control character.
_TERMINAL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b]*\x1b\\|\x1b[ -/]*[0-~]"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)


class LogText:
    """Turns the bytes a process prints into chunks of clean text.

    Bytes that are not UTF-8 are replaced and counted, terminal codes removed, secrets masked. Lines are kept whole up
    to 64 KiB and broken with an ellipsis beyond, after masking: no secret is cut in two. Of a progress bar that rewrites
    its line, only the newest state is kept each time `take` is called.
    """

    def __init__(self, masker: SecretMasker) -> None:
        self.replaced = 0
        self._masker = masker
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""  # without its end yet
        self._column = 0  # how far the last line has come that was taken without its end
        self._ready: list[str] = []
        self.waiting = 0  # characters ready to be taken

    def feed(self, data: bytes, end: bool = False) -> None:
        text = self._decoder.decode(data, end)
        self.replaced += text.count("\ufffd")
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._add(_rewritten(line) + "\n")
        if len(self._line) > LONGEST_LINE:
            self._shorten()
        if end and self._line:
            self._add(_rewritten(self._line))
            self._line = ""

    def take(self, end: bool = False) -> Iterator[str]:
        """The chunks that have come together, each small enough for a record."""
        bar, separator, begun = self._line.rpartition("\r")
        if separator and bar:
            self._line = begun
            if _rewritten(bar).strip():
                self._add(_rewritten(bar) + "\n")
        text = self._masker.feed(_TERMINAL.sub("", "".join(self._ready)))
        self._ready, self.waiting = [], 0
        if end:
            text += self._masker.flush()
        yield from _chunks(self._broken(text))

    def _shorten(self) -> None:
        """Of a bar keep its newest state, and of anything else nothing: it is ready though its end has not come."""
        shown, rewritten, begun = self._line.rpartition("\r")
        if rewritten and not begun.strip():
            self._line = _rewritten(shown)[:LONGEST_LINE] + "\r"
        else:
            self._add(begun)
            self._line = ""

    def _broken(self, text: str) -> str:
        lines = text.split("\n")
        for number, line in enumerate(lines):
            room = LONGEST_LINE - (self._column if number == 0 else 0)
            pieces = [line[:room], *(line[at : at + LONGEST_LINE] for at in range(room, len(line), LONGEST_LINE))]
            lines[number] = "…\n".join(pieces)
        self._column = len(pieces[-1]) + (self._column if len(lines) == len(pieces) == 1 else 0)
        return "\n".join(lines)

    def _add(self, text: str) -> None:
        self._ready.append(text)
        self.waiting += len(text)


def _rewritten(line: str) -> str:
    """What a terminal shows in the end of a line in which carriage returns go back to its beginning."""
    if "\r" not in line:
        return line
    states = [state for state in line.split("\r") if state.strip()]
    return states[-1] if states else ""


def _chunks(text: str) -> Iterator[str]:
    """Cut text into pieces of whole lines where that is possible."""
    start = 0
    while start < len(text):
        end = start + CHUNK_CHARACTERS
        if end < len(text):
            newline = text.rfind("\n", start, end)
            end = newline + 1 if newline >= 0 else end
        yield text[start:end]
        start = end


class MetricColumns:
    """Gathers `step, {name: value}` into columnar items; a change of names begins a new one."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._items: list[Item] = []
        self.refused = 0

    @property
    def waiting(self) -> bool:
        return bool(self._items)

    def add(self, step: int, values: dict[str, Any]) -> None:
        point = {name[:MAX_NAME]: _number(value) for name, value in values.items() if self._known(name[:MAX_NAME])}
        names = list(point)
        for start in range(0, len(names), NAMES_IN_ONE_ITEM):
            together = names[start : start + NAMES_IN_ONE_ITEM]
            item = self._item(together)
            item["steps"].append(step)
            for name in together:
                item["values"][name].append(point[name])

    def take(self) -> list[Item]:
        items, self._items = self._items, []
        return items

    def _item(self, names: list[str]) -> Item:
        item = self._items[-1] if self._items else None
        if item is None or list(item["values"]) != names or not self._has_room(item):
            item = {"steps": [], "values": {name: [] for name in names}}
            self._items.append(item)
        return item

    def _known(self, name: str) -> bool:
        if name not in self._names and len(self._names) >= MAX_METRIC_NAMES:
            self.refused += 1
            return False
        self._names[name] = None
        return True

    @staticmethod
    def _has_room(item: Item) -> bool:
        # A number takes up to 25 characters, a name up to four bytes for each of its own.
        names = len(item["values"])
        return (
            len(item["steps"]) < MAX_METRIC_STEPS and (len(item["steps"]) + 1) * (names + 1) * 25 < MAX_ITEM_BYTES // 2
        )


def _number(value: Any) -> float | int | None:
    """A number that JSON and every database can hold; None for what is not one (NaN and infinities included)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


class ReportLines:
    """Cuts the bytes of the events pipe into the JSON objects a child reports, one a line."""

    def __init__(self) -> None:
        self._rest = b""
        self.unreadable = 0

    def feed(self, data: bytes) -> Iterator[Item]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_REPORT:
            self._rest = b""
            self.unreadable += 1
        for line in lines:
            try:
                report = json.loads(line)
            except (ValueError, RecursionError):
                self.unreadable += 1
                continue
            if isinstance(report, dict) and isinstance(report.get("kind"), str):
                yield report
            else:
                self.unreadable += 1


def in_pieces(sample: Item) -> Iterator[Item]:
    """A sample of text in records of their size; an image comes in its pieces already."""
    text = sample.get("text")
    if not isinstance(text, str):
        yield sample
        return
    parts = [text[start : start + SAMPLE_CHARACTERS] for start in range(0, len(text), SAMPLE_CHARACTERS)] or [""]
    for piece, part in enumerate(parts):
        yield {**sample, "piece": piece, "pieces": len(parts), "text": part}


def fitting(item: Item) -> Item:
    """The same event, clean JSON and small enough for a record: long texts and lists are cut, or all left out."""
    for most in (8_000, 1_000, 100):
        cut = _cut(item, most, 0)
        if len(json.dumps(cut, ensure_ascii=False).encode("utf-8", "replace")) <= MAX_ITEM_BYTES:
            return cut  # type: ignore[no-any-return]
    return {"kind": item["kind"], "message": "Left out: larger than a record may be."}


def _cut(value: Any, most: int, depth: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= most else value[:most] + "…"
    if isinstance(value, dict):
        return (
            {str(k)[:MAX_NAME]: _cut(v, most, depth + 1) for k, v in list(value.items())[:most]} if depth < 16 else None
        )
    if isinstance(value, list | tuple):
        return [_cut(v, most, depth + 1) for v in value[:most]] if depth < 16 else None
    if value is None or isinstance(value, bool):
        return value
    return _number(value)
