"""Running jobs as lines of a terminal: what fits into its width, in letters it can show. Pure text; colours come later."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from .progress import STAGES, Progress
from .words import duration

_BAR = 16
_NAME_MOST = 28
_GAP = 2
# What may be cut shorter, in this order, and how far.
_LEAST = {"bar": 8, "name": 8, "detail": 14}
# The order in which columns are given up where there is no room for all of them; number, name and percent always stay.
_GIVEN_UP = ("speed", "bar", "detail", "left")


@dataclass
class Line:
    """A running job as it is shown; `url` is the address of its page."""

    job: int
    name: str
    progress: Progress
    url: str | None = None


class Part(NamedTuple):
    """A piece of a line and what it is: number, name, done, rest, percent, left, detail or speed."""

    text: str
    role: str


def job_rows(lines: Sequence[Line], width: int, is_ascii: bool = False) -> list[list[Part]]:
    """One row for each job, none wider than `width` cells; columns stand under each other."""
    columns = {
        "number": [str(line.job) for line in lines],
        "name": [printable(line.name, is_ascii) for line in lines],
        "bar": [" " * _BAR if line.progress.total_steps else "" for line in lines],
        "percent": [_percent(line.progress) for line in lines],
        "left": [_left(line.progress) for line in lines],
        "detail": [printable(_detail(line.progress), is_ascii) for line in lines],
        "speed": [_speed(line.progress) for line in lines],
    }
    widths = _fitted({name: max(map(cells, texts), default=0) for name, texts in columns.items()}, width)
    rows = []
    for index, line in enumerate(lines):
        row: list[Part] = []
        for name, size in widths.items():
            row += _cell(name, columns[name][index], size, line.progress, is_ascii)
        rows.append(row)
    return rows


def printable(text: str, is_ascii: bool = False) -> str:
    """The text without what would steer a terminal: names and messages come from the server."""
    shown = "".join(
        " " if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Cs") else letter for letter in text
    )
    return shown.encode("ascii", "replace").decode() if is_ascii else shown


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: wide letters two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def clipped(text: str, size: int, is_ascii: bool = False) -> str:
    """The text in at most `size` cells; what was cut off leaves a mark."""
    if cells(text) <= size:
        return text
    mark = ".." if is_ascii else "…"
    ends = accumulate(map(cells, text))  # how many cells the text takes up to each letter
    kept = "".join(letter for letter, end in zip(text, ends, strict=True) if end + len(mark) <= size)
    return (kept.rstrip() + mark)[:size]


def _fitted(needed: dict[str, int], width: int) -> dict[str, int]:
    """The columns that are shown, with their widths. First they are cut shorter, then one after another is given up."""
    shown = {name: size for name, size in needed.items() if size}
    shown["name"] = min(max(shown.get("name", 0), 1), _NAME_MOST)
    for given_up in ("", *_GIVEN_UP):
        shown.pop(given_up, None)
        fitted = dict(shown)
        for name, least in _LEAST.items() if given_up else ():
            if name in fitted:
                fitted[name] -= max(0, min(_excess(fitted, width), fitted[name] - least))
        if _excess(fitted, width) <= 0:
            return fitted
    return {**fitted, "name": max(1, fitted["name"] - _excess(fitted, width))}


def _excess(widths: dict[str, int], width: int) -> int:
    return sum(widths.values()) + _GAP * len(widths) - width


def _cell(name: str, text: str, size: int, progress: Progress, is_ascii: bool) -> list[Part]:
    gap = " " * _GAP
    if name == "bar" and text:
        done = round(size * progress.percent / 100)
        full, rest = ("#", "-") if is_ascii else ("━", "━")
        return [Part(gap + full * done, "done"), Part(rest * (size - done), "rest")]
    text = clipped(text, size, is_ascii)
    padding = " " * (size - cells(text))
    if name in ("number", "percent", "speed"):
        return [Part(gap + padding, "space"), Part(text, name)]
    return [Part(gap, "space"), Part(text, name), Part(padding, "space")]


def _percent(progress: Progress) -> str:
    if progress.stage != "train":
        return STAGES.get(progress.stage, progress.stage)
    return f"{progress.percent} %" if progress.total_steps else "Train"


def _left(progress: Progress) -> str:
    return "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"


def _detail(progress: Progress) -> str:
    return progress.detail() if progress.stage == "train" else progress.message


def _speed(progress: Progress) -> str:
    speed = progress.steps_per_second
    if speed is None or progress.stage != "train":
        return ""
    if speed >= 1:
        return f"{speed:,.1f} steps/s"
    return f"{1 / speed:,.1f} s/step" if speed > 0 else ""
