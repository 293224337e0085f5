"""Texts from outside, made fit to be kept."""

from __future__ import annotations

import re
from typing import Any

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


def without_terminal_codes(text: str) -> str:
    """The same text with nothing in it that moves a cursor, changes a title or rings a bell where it is printed."""
    return _TERMINAL.sub("", text)
