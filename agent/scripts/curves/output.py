"""Follows what a training script prints and finds the points of its curves in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ...words import beginning
from .bars import Bar, Bars, KerasBars, bar_in
from .dictionaries import read_dictionary
from .lines import Reading, read_line
from .names import IN_SUMMARY
from .points import MAX_STEP, RULES, Point
from .steps import Counting, Steps
from .tables import Tables
from .units import SampleCounts

LONGEST_LINE = 4096  # bytes; longer ones are data, not reports
MAX_NAMES = 500  # of one script; further ones are left out
_SHOWN_LINE = 160
_LONGEST_HEADING = 120  # a line that names an epoch and holds nothing else

_STEP_ALONE = re.compile(
    r"[\s=#*\-\[]*+(?:(?:global|train|training)[_ ])?(?:step|iteration|iter)\s*+[:=]"
    r"\s*+[0-9,]++(?:\s*+/\s*+[0-9,]++)?[\s=#*\-\]]*+",
    re.IGNORECASE,
)
_TERMINAL = re.compile(
    r"\x1b\[[0-?]*+[ -/]*+[@-~]?|\x1b\][^\x07\x1b]*+(?:\x07|\x1b\\)?|\x1b[PX^_][^\x1b]*+(?:\x1b\\)?|\x1b[ -/]*+[0-~]?"
)
_CONTROL = bytes(set(range(32)) - {9, 10, 13, 27}) + b"\x7f"
_WORTH_A_LOOK = re.compile(r"[0-9]|[=:\s](?:nan|inf)", re.IGNORECASE)


@dataclass(slots=True)
class _Rule:
    example: str
    points: int = 0
    names: set[str] = field(default_factory=set)


class Curves:
    """Reads the output of one script, in pieces of any size; each line belongs to one rule, the most specific.

    `off` names rules that give no points; their lines are read all the same, because other rules need their steps.
    `counting` is what an earlier attempt has found out.
    """

    def __init__(self, off: Collection[str] = (), counting: Counting | None = None) -> None:
        self._off = frozenset(off)
        self._rest = b""
        self._is_skipping = False  # inside a line that is too long
        self._steps = Steps(counting)
        self._bars = Bars(self._steps)
        self._keras = KerasBars(self._steps)
        self._tables = Tables()
        self._rules: dict[str, _Rule] = {}
        self._names: set[str] = set()
        self._left_out: set[str] = set()
        self._samples = SampleCounts()
        self._is_in_summary = False  # below the heading of what the Trainer logs at the end
        self._held: tuple[Reading, str] | None = None
        self._trainer: tuple[float, int] | None = None  # epochs and step of its newest dictionary

    @property
    def counting(self) -> Counting:
        """What was found out so far about how the script counts."""
        return self._steps.counting

    def leave_out(self, names: Iterable[str]) -> None:
        """Give no values of these names from now on: they are told another way."""
        self._left_out.update(names)

    def feed(self, data: bytes) -> list[Point]:
        """The points in the lines that these bytes complete."""
        data = data.replace(b"\r", b"\n").translate(None, _CONTROL)
        *lines, rest = data.split(b"\n")
        points: list[Point] = []
        if lines:
            first, self._rest = self._rest + lines[0], b""
            if not self._is_skipping:
                self._read(first, points)
            self._is_skipping = False
            for line in lines[1:]:
                self._read(line, points)
        if not self._is_skipping:
            self._rest += rest
            if len(self._rest) > LONGEST_LINE:
                self._rest, self._is_skipping = b"", True
        return points

    def close(self) -> list[Point]:
        """The points in what was printed without an end of the line; nothing is fed afterwards."""
        points: list[Point] = []
        if not self._is_skipping:
            self._read(self._rest, points)
        self._release(points)
        self._rest = b""
        return points

    def rules(self) -> list[dict[str, object]]:
        """The rules seen so far, in the order of RULES: rule, label, example, names (sorted), points; and
        `unit` where the steps are certainly something else than steps: samples."""
        return [
            {
                "rule": rule,
                "label": RULES[rule],
                "example": self._rules[rule].example,
                "names": sorted(self._rules[rule].names),
                "points": self._rules[rule].points,
            }
            | ({"unit": "samples"} if rule == "epochs" and self._samples.is_certain else {})
            for rule in RULES
            if rule in self._rules
        ]

    def _read(self, raw: bytes, points: list[Point]) -> None:
        if len(raw) > LONGEST_LINE:
            return
        line = raw.decode("utf-8", "replace")
        if "\x1b" in line:
            line = _TERMINAL.sub("", line)
        while line:
            line = self._read_first(line, points)

    def _read_first(self, line: str, points: list[Point]) -> str:
        """Reads a line up to the end of the bar that it shows; answers what was printed behind that."""
        if line.startswith("*****"):
            self._is_in_summary = line.startswith("***** train metrics")
        if self._tables.take_header(line) or _WORTH_A_LOOK.search(line) is None:
            return ""
        bar = bar_in(line)
        if bar is None:
            self._release(points)
            self._take(self._point(line), line, points)
            return ""
        self._read_bar(bar, line[: bar.end], points)
        return line[bar.end :]

    def _read_bar(self, bar: Bar, line: str, points: list[Point]) -> None:
        found = self._bars.read(bar)
        self._release(points)
        self._take(_as_point(found), line, points)
        if not self._tables.take_header(bar.label) and bar.is_done:
            self._take(self._of_table(bar.label, in_bar=True), line, points)

    def _take(self, point: Point | None, line: str, points: list[Point]) -> None:
        if point is not None and self._is_taken(point, line):
            points.append(point)

    def _of_table(self, line: str, in_bar: bool = False) -> Point | None:
        row = self._tables.read(line)
        if row is None:
            return None
        if in_bar and row.epoch is not None:  # the bar has told the step
            self._steps.at_epoch(row.epoch, row.epochs)
            row.epoch = None
        return Point("tables", *_between(self._steps.place("tables", row), row))

    def _point(self, line: str) -> Point | None:
        if "/" in line and (keras := self._keras.read(line)) is not None:
            return _as_point(keras)
        if "{" in line and (dictionary := read_dictionary(line)) is not None:
            return self._of_dictionary(dictionary, line) if dictionary.values else None
        if (row := self._of_table(line)) is not None:
            return row
        reading = read_line(line)
        if reading is None:
            return None
        if not reading.values:
            if len(line) < _LONGEST_HEADING:
                self._take_heading(reading, line)
            return None
        if self._is_in_summary:
            reading.values = {IN_SUMMARY.get(name, name): value for name, value in reading.values.items()}
        self._samples.take(reading, line)
        return Point(reading.rule, *_between(self._steps.place(reading.rule, reading), reading))

    def _take_heading(self, reading: Reading, line: str) -> None:
        if reading.epoch is not None:
            self._steps.at_epoch(reading.epoch, reading.epochs)
        elif reading.step is not None and _STEP_ALONE.fullmatch(line):
            self._steps.stands_at(reading)

    def _of_dictionary(self, reading: Reading, line: str) -> Point | None:
        """One of the Trainer waits for the next line: behind each it draws its bar anew, with the exact step."""
        if reading.step is None and reading.part_of_epochs is not None and self._steps.is_told_by_bars:
            self._held = (reading, line)
            return None
        return self._of_trainer(reading)

    def _release(self, points: list[Point]) -> None:
        """Gives the dictionary that has waited."""
        if self._held is None:
            return
        (reading, line), self._held = self._held, None
        self._take(self._of_trainer(reading), line, points)

    def _of_trainer(self, reading: Reading) -> Point:
        """Evaluations are printed at the epoch of the step before, while a bar of their own is the newest."""
        step, total = self._steps.place("trainer", reading)
        epochs = reading.part_of_epochs
        if reading.step is None and epochs is not None:
            if self._trainer is not None and step < self._trainer[1] and epochs >= self._trainer[0]:
                step, total = self._trainer[1], None
            self._trainer = (epochs, step)
        return Point("trainer", *_between((step, total), reading))

    def _is_taken(self, point: Point, line: str) -> bool:
        """Keeps count of the rule; whether its points are wanted."""
        for name in self._left_out & point.values.keys():
            del point.values[name]
        new = point.values.keys() - self._names
        if new:
            for name in [name for name in point.values if name in new][max(0, MAX_NAMES - len(self._names)) :]:
                del point.values[name]
            if not point.values:
                return False
            self._names.update(point.values)
        if point.values:
            rule = self._rules.setdefault(point.rule, _Rule(beginning(line.strip(), _SHOWN_LINE)))
            rule.names.update(point.values)
            rule.points += point.rule not in self._off
        return point.rule not in self._off


def _as_point(found: tuple[str, int, Reading, int | None] | None) -> Point | None:
    return Point(found[0], *_between((found[1], found[3]), found[2])) if found is not None else None


def _between(place: tuple[int, int | None], reading: Reading) -> tuple[int, dict[str, float | None], int | None]:
    return min(max(place[0], 0), MAX_STEP - 1), reading.values, place[1]
