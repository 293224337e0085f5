"""Texts from outside, alone or in JSON, made fit to be kept."""

from __future__ import annotations

import re
from typing import Any

LARGEST = 1e300  # beyond it a number cannot be reckoned with
DEEPEST = 16  # objects and lists inside one another; an honest runner sends no deeper ones
# What a terminal would obey: control sequences, titles and every control character but tab, line feed and carriage
# return (ECMA-48). An honest runner has taken them out already, by the same rule.
_TERMINAL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b]*\x1b\\|\x1b[ -/]*[0-~]"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)


def clean(given: Any, most: int) -> str | None:
    """A text from outside that any database keeps: no NUL, no lone surrogates, not endless."""
    if not isinstance(given, str):
        return None
    return given.replace("\0", "").encode("utf-8", "replace").decode()[:most]


def clean_all(given: Any, most: int, depth: int = DEEPEST) -> Any:
    """JSON from outside that any database keeps and any page shows: its texts are clean, its numbers finite."""
    if isinstance(given, str):
        return clean(given, most)
    if isinstance(given, dict):
        return (
            {clean(name, most): clean_all(value, most, depth - 1) for name, value in given.items()} if depth else None
        )
    if isinstance(given, list):
        return [clean_all(value, most, depth - 1) for value in given] if depth else None
    return given if isinstance(given, bool) else finite(given)


def finite(given: Any) -> int | float | None:
    """A number; None for whatever is none. NaN and infinities have no place in JSON, nor on a page."""
    if not isinstance(given, (int, float)) or isinstance(given, bool) or not abs(given) < LARGEST:
        return None
    return given


def without_terminal_codes(text: str) -> str:
    """The same text with nothing in it that moves a cursor, changes a title or rings a bell where it is printed."""
    return _TERMINAL.sub("", text)
