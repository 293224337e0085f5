"""Where the time of a verb goes, as shares of whose code it is spent in."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parent.parent.parent)
TOP = 12


def shares(verb: Callable[[], object], count: int) -> dict[str, Any]:
    """Call `verb` so many times under cProfile: milliseconds of one call, the share of each group, and the top functions.

    What is built in is counted to the group of its caller; waiting for what PostgreSQL answers is "server".
    """
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(count):
        verb()
    profile.disable()
    table: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    groups: dict[str, float] = {}
    for place, (_, _, own, _, callers) in table.items():
        if place[0] == "~" and callers:
            for caller, (_, _, part, _) in callers.items():
                _add(groups, _group(place) or _group(caller) or "Python", part)
        else:
            _add(groups, _group(place) or "Python", own)
    whole = sum(groups.values())
    slowest = sorted(table.items(), key=lambda item: -item[1][2])[:TOP]
    return {
        "milliseconds": 1000 * whole / count,
        "shares": {name: 100 * seconds / whole for name, seconds in sorted(groups.items(), key=lambda item: -item[1])},
        "top": [f"{place[0].removeprefix(ROOT)}:{place[1]} {place[2]}: {1e6 * found[2] / count:.0f} µs" for place, found in slowest],
    }  # fmt: skip


def _add(groups: dict[str, float], name: str, seconds: float) -> None:
    groups[name] = groups.get(name, 0.0) + seconds


def _group(place: tuple[str, int, str]) -> str | None:
    file, _, name = place
    if "psycopg" in file and name == "wait":
        return "server"
    for part, group in (("sqlalchemy", "SQLAlchemy"), ("psycopg", "driver")):
        if part in file or part in name:
            return group
    return "ours" if file.startswith(ROOT) else None
