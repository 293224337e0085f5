"""Texts from outside, made fit to be kept."""

from __future__ import annotations

from typing import Any


def clean(given: Any, most: int) -> str | None:
    """A text from outside that any database keeps: no NUL, no lone surrogates, not endless."""
    if not isinstance(given, str):
        return None
    return given.replace("\0", "").encode("utf-8", "replace").decode()[:most]
