"""When this machine takes new jobs: windows of its own local time, such as `20:00-08:00`.

Only the clock on the wall counts, so a window begins and ends when that clock says so, also on the days on which it is put
forward or back. A running job is never touched by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

DAY = 24 * 60
MOST_WINDOWS = 10
_WINDOW = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})", re.ASCII)


class BadHours(Exception):
    """This is no window of time; `str()` says how one is written."""


@dataclass(frozen=True)
class Window:
    """From `begins` up to, not including, `ends`: minutes of the day. One that ends before it begins goes past midnight."""

    begins: int
    ends: int

    def holds(self, minute: int) -> bool:
        """Whether this minute of the day, 0 to 1439, lies in it."""
        if self.begins < self.ends:
            return self.begins <= minute < self.ends
        return minute >= self.begins or minute < self.ends

    def __str__(self) -> str:
        return f"{_clock(self.begins)}-{_clock(self.ends)}"


@dataclass(frozen=True)
class Hours:
    """The windows in which new jobs are taken; without any, always."""

    windows: tuple[Window, ...] = ()

    def is_open(self, local: datetime) -> bool:
        """Whether a new job is taken when the clock on the wall says `local`."""
        minute = local.hour * 60 + local.minute
        return not self.windows or any(window.holds(minute) for window in self.windows)

    def opens_at(self, local: datetime) -> str | None:
        """The next beginning of a window, such as `20:00`; None while one is open."""
        if self.is_open(local):
            return None
        minute = local.hour * 60 + local.minute
        return _clock(min((window.begins for window in self.windows), key=lambda begins: (begins - minute) % DAY))

    def told(self, local: datetime) -> dict[str, Any] | None:
        """What the server is told: `windows`, whether one is open, and when the next one opens; None without windows."""
        if not self.windows:
            return None
        windows = [str(window) for window in self.windows]
        return {"windows": windows, "open": self.is_open(local), "opens_at": self.opens_at(local)}


def parsed(texts: Iterable[str]) -> Hours:
    """Read what was given with `--hours`; one text may hold several windows with commas between. Raises BadHours."""
    pieces = [piece.strip() for text in texts for piece in text.split(",")]
    if len(pieces) > MOST_WINDOWS:
        raise BadHours(f"--hours takes at most {MOST_WINDOWS} windows.")
    return Hours(tuple(_window(piece) for piece in pieces))


def _window(text: str) -> Window:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise BadHours(f"--hours {text!r} is no window of time. It looks like 20:00-08:00.")
    begins, ends = _minute(found[1], found[2], text), _minute(found[3], found[4], text)
    if begins == DAY:
        raise BadHours(f"--hours {text!r}: a window may end at 24:00 and begins at 00:00 at the earliest.")
    if begins == ends:
        raise BadHours(f"--hours {text!r} begins and ends at the same time. Leave --hours out to take jobs always.")
    return Window(begins, ends)


def _minute(hour: str, minute: str, text: str) -> int:
    number = int(hour) * 60 + int(minute)
    if int(minute) > 59 or number > DAY:
        raise BadHours(f"--hours {text!r}: {hour}:{minute} is no time of the day.")
    return number


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
