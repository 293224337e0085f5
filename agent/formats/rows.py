"""What reading a data file yields: rows, bad rows, and the errors that concern a file as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FORMATS = ("chat", "prompt_completion", "alpaca", "sharegpt", "text")
"""The formats a data set can have, in the order in which they are recognised."""

ROW_BYTES = 16 * 2**20
"""Largest size of one row. A longer one is reported as a bad row and never held in memory."""

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One usable row in the one form that training knows. Exactly one of `messages` and `text` is set.

    `line` is the line of the file, counted from 1, on which the row begins. A message is
    `{"role": "system" | "user" | "assistant" | "tool", "content": str}`; one of the assistant may
    carry `"weight": 0 | 1`, and is learned from unless its weight is 0.
    """

    line: int
    messages: list[Message] | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: the line on which it begins, and why, with what to do about it."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """One object as a container holds it (a line of JSONL, a row of CSV), before its format is applied."""

    line: int
    value: dict[str, Any]


class RowProblem(ValueError):
    """The row being read is bad. The message becomes the reason of a `BadRow`."""


class DataError(Exception):
    """The file as a whole cannot be used. The message is a sentence that says what to do.

    `line` is the line at fault, where there is one; `bad_rows` are the first bad rows when no row is usable.
    """

    def __init__(self, message: str, line: int | None = None, bad_rows: Iterable[BadRow] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.bad_rows = list(bad_rows)


class MappingNeeded(DataError):
    """The file can be read, but its columns are not those of a known format: a mapping has to be given.

    `columns` are the columns there are, `sample` the first five rows with long values cut, `formats` says
    for each format which targets a mapping must and may name, `suggestion` is a mapping that looks right
    by the names of the columns (or empty).
    """

    def __init__(
        self,
        message: str,
        columns: Iterable[str] = (),
        sample: Iterable[dict[str, str]] = (),
        formats: Mapping[str, Mapping[str, list[str]]] | None = None,
        suggestion: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.columns = list(columns)
        self.sample = list(sample)
        self.formats = dict(formats or {})
        self.suggestion = dict(suggestion or {})


def shown(value: str, limit: int = 60) -> str:
    """`value` in double quotes, fit for a sentence: cut when long, characters that do not print escaped."""
    cut = value if len(value) <= limit else value[:limit] + "…"
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut) + '"'


def listed(values: Iterable[str], limit: int = 20) -> str:
    """Names for a sentence: `"a", "b", "c" and 4 more`."""
    names = list(values)
    text = ", ".join(shown(name) for name in names[:limit])
    return text + (f" and {len(names) - limit} more" if len(names) > limit else "")
