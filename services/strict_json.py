"""JSON as two readers cannot disagree about it: every field once, and no NaN or Infinity, which JSON does not have."""

from __future__ import annotations

import json
from typing import Any


def loads(given: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError with what is wrong, also for a text that is nested too deep."""
    try:
        return json.loads(given, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names the same field twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
