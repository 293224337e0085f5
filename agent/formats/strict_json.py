"""JSON as data files need it: strict, with the place of an error, and never failing in any other way."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from agent.formats.rows import ROW_BYTES, BadRow, DataError, Record, RowProblem, shown

DEPTH = 64
"""Deepest nesting of lists and objects in one row."""

_SPACE = re.compile(r"[ \t\n\r]*")
_HINTS = {
    "Unterminated string": "the text opened there is never closed; the file may be cut off",
    "Invalid control character": r"write line breaks and tabs inside a string as \n and \t",
    "Invalid \\": r"write a backslash inside a string as \\",
    "Expecting property name": "a key in double quotes belongs there (single quotes are not JSON, nor is a "
    "comma before a closing bracket)",
    "Illegal trailing comma": "remove the comma before the closing bracket",
    "Expecting value": 'a value belongs there, such as "text", 1, true, null, [ or {',
    "Expecting ',' delimiter": "a comma or a closing bracket is missing, or a quotation mark inside the text "
    r"is not written as \"",
    "Expecting ':' delimiter": "a colon belongs between a key and its value",
}


class StrictDecoder:
    """Decodes one JSON value at a time and refuses what JSON readers disagree on.

    A value that is well formed but not acceptable (a key given twice, NaN, an infinite number, nesting
    deeper than `DEPTH`) raises `RowProblem` with `end` set behind it, so that reading can go on there.
    A syntax error raises `json.JSONDecodeError`.
    """

    def __init__(self) -> None:
        self.end = 0
        self._problem: str | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=self._float,
            parse_int=self._int,
        )

    def decode(self, text: str, start: int = 0) -> Any:
        """The value that begins at `start` (no white space before it); `end` is then the place behind it."""
        self._problem = None
        try:
            value, self.end = self._decoder.raw_decode(text, start)
        except RecursionError:
            raise json.JSONDecodeError("Nested too deep", text, start) from None
        if self._problem is not None:
            raise RowProblem(self._problem)
        brackets = text.count("[", start, self.end) + text.count("{", start, self.end)
        if brackets > DEPTH and _depth(value) > DEPTH:
            raise RowProblem(f"Lists and objects are nested more than {DEPTH} deep. Flatten the row.")
        return value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            self._problem = f"The key {shown(twice)} is given twice in one object. Keep one of them."
        return value

    def _constant(self, name: str) -> None:
        self._problem = f"{name} is not a JSON value. Write null or leave the field out."

    def _float(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self._problem = f"The number {digits[:40]} is too large. Write it as text, in quotes."
        return number

    def _int(self, digits: str) -> int:
        if len(digits) > 1000:
            self._problem = "A number has more than 1,000 digits. Write it as text, in quotes."
            return 0
        return int(digits)


def parse_value(text: str, decoder: StrictDecoder) -> Any:
    """The single JSON value that `text` holds, or `RowProblem` naming the column at fault."""
    start = _skip_space(text, 0)
    try:
        value = decoder.decode(text, start)
        if _skip_space(text, decoder.end) < len(text):
            raise json.JSONDecodeError("Extra data", text, _skip_space(text, decoder.end))
    except json.JSONDecodeError as error:
        raise RowProblem(f"Not JSON at column {error.pos + 1}: {explain(error)}.") from None
    return value


def explain(error: json.JSONDecodeError) -> str:
    """What a syntax error means and what to do, as the second half of a sentence."""
    if error.msg == "Extra data":
        return "there is more after the end of the value; write one object on each line"
    if error.msg == "Nested too deep":
        return "lists and objects are nested too deep; flatten the row"
    if error.pos >= len(error.doc.rstrip()):
        return "it breaks off there; the file may be cut off"
    for start, hint in _HINTS.items():
        if error.msg.startswith(start):
            return hint
    return error.msg[0].lower() + error.msg[1:]


def as_record(line: int, value: Any) -> Record | BadRow:
    """A record, or the bad row that a JSON value other than an object makes."""
    if isinstance(value, dict):
        return Record(line, value)
    return BadRow(line, f"The row is {kind(value)}, not an object. Write it as {{...}} with named fields.")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "text" if isinstance(value, str) else "a number"


class ArrayReader:
    """Walks the rows of a JSON text: an array of objects, `{"data": [...]}`, or objects one after another.

    Line numbers are those of the file. A row that is well formed but unacceptable is a `BadRow`; a syntax
    error makes the rest unreadable and raises `DataError` with line and column.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = StrictDecoder()
        self._line = 1
        self._counted = 0

    def __iter__(self) -> Iterator[Record | BadRow]:
        text, at = self._text, _skip_space(self._text, 0)
        try:
            while at < len(text):
                rows = self._find_rows(at)
                if rows is None:
                    yield self._element(at)
                    at = _skip_space(text, self._decoder.end)
                    continue
                yield from self._elements(rows)
                at = self._close(self._decoder.end, at == rows)
        except json.JSONDecodeError as error:
            raise self._broken(error) from None

    def _find_rows(self, at: int) -> int | None:
        """Where the array of rows begins in the value at `at`; None when that value is itself a row."""
        if self._text[at] == "[":
            return at
        if self._text[at] != "{":
            raise json.JSONDecodeError("An array of objects belongs there: [{...}, {...}]", self._text, at)
        at = self._next(at + 1)
        while self._text[at : at + 1] == '"':
            key = self._skip(at)
            at = self._expect(":", self._decoder.end)
            if key == "data" and self._text[at : at + 1] == "[":
                return at
            self._skip(at)
            at = self._next(self._decoder.end)
            if self._text[at : at + 1] != ",":
                break
            at = self._next(at + 1)
        return None

    def _elements(self, at: int) -> Iterator[Record | BadRow]:
        at = self._next(at + 1)
        if self._text[at : at + 1] == "]":
            self._decoder.end = at + 1
            return
        while True:
            yield self._element(at)
            at = self._next(self._decoder.end)
            if self._text[at : at + 1] == "]":
                self._decoder.end = at + 1
                return
            at = self._expect(",", at)

    def _element(self, at: int) -> Record | BadRow:
        line = self._line_of(at)
        try:
            value = self._decoder.decode(self._text, at)
        except RowProblem as problem:
            return BadRow(line, str(problem))
        if self._decoder.end - at > ROW_BYTES:
            return BadRow(line, too_long())
        return as_record(line, value)

    def _close(self, at: int, bare: bool) -> int:
        """Skips what follows the array of rows: nothing, or the other keys of the object around it."""
        at = self._next(at)
        while not bare and self._text[at : at + 1] == ",":
            self._skip(self._next(at + 1))
            self._skip(self._expect(":", self._decoder.end))
            at = self._next(self._decoder.end)
        if not bare:
            at = self._expect("}", at)
        if at < len(self._text):
            raise json.JSONDecodeError("There is more after the end of the array", self._text, at)
        return at

    def _skip(self, at: int) -> Any:
        try:
            return self._decoder.decode(self._text, at)
        except RowProblem:
            return None

    def _next(self, at: int) -> int:
        return _skip_space(self._text, at)

    def _expect(self, mark: str, at: int) -> int:
        at = self._next(at)
        if self._text[at : at + 1] != mark:
            raise json.JSONDecodeError(f"Expecting '{mark}' delimiter", self._text, at)
        return self._next(at + 1)

    def _line_of(self, at: int) -> int:
        self._line += self._text.count("\n", self._counted, at)
        self._counted = at
        return self._line

    def _broken(self, error: json.JSONDecodeError) -> DataError:
        return DataError(
            f"This is not valid JSON: line {error.lineno}, column {error.colno}: {explain(error)}. "
            "Mend that place, or save the data as JSONL (one object on each line), where one bad line "
            "does not spoil the others.",
            line=error.lineno,
        )


def too_long() -> str:
    """The reason of a row above `ROW_BYTES`."""
    return f"The row is longer than {ROW_BYTES // 2**20} MiB. Split it into several rows."


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _depth(value: Any) -> int:
    """Deepest nesting, found level by level so that no depth can exhaust the stack."""
    level, depth = [value], 0
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
    return depth - 1
