"""Tables in the log: a line of column names, then lines with as many numbers (fastai, spaCy, YOLO)."""

from __future__ import annotations

import re

from .lines import Reading
from .names import Kind, kind_of
from .points import normalised, number_in, step_in

LONGEST_HEADER = 400
FEWEST_COLUMNS = 3
MAX_COLUMNS = 40
_LINES_BETWEEN = 20  # other lines after which a header counts no more

_HINT = re.compile(r"loss|acc|score|map50|error|f1|perplexity|reward", re.IGNORECASE)
_APART = re.compile(r"\s{2,}|\t")
_NAME = re.compile(r"[A-Za-z_#](?:[\w#()%@/.-]| (?![0-9])){0,40}")
_RULER = re.compile(r"[\s\-=+|─]+")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|nan|inf)", re.IGNORECASE)
_STEPS = {"e": Kind.EPOCH, "#": Kind.STEP}  # spaCy's


class Tables:
    """Remembers the newest header and reads the rows below it."""

    def __init__(self) -> None:
        self._columns: list[tuple[str, Kind]] = []
        self._patience = 0
        self._newest_row = ""

    def take_header(self, line: str) -> bool:
        """Whether the line (or the label of a bar) names columns, one of which is a metric."""
        if len(line) > LONGEST_HEADER or "  " not in line or "=" in line or "|" in line or ":" in line.rstrip()[:-1]:
            return False
        if _HINT.search(line) is None:
            return False
        names = [name.rpartition("(")[2].strip(" :)") for name in _APART.split(line.strip())]  # `Box(P` is P
        if not FEWEST_COLUMNS <= len(names) <= MAX_COLUMNS or not all(map(_NAME.fullmatch, names)):
            return False
        columns = [(name, _STEPS.get(name.lower()) or kind_of(name)) for name in names]
        if not any(kind in (Kind.METRIC, Kind.WEAK) for _, kind in columns):
            return False
        self._columns, self._patience, self._newest_row = columns, _LINES_BETWEEN, ""
        return True

    def read(self, line: str) -> Reading | None:
        """A row of the newest table; None for any other line, and for a row that is only drawn again."""
        if not self._columns or line == self._newest_row or _RULER.fullmatch(line):
            return None
        cells = line.rstrip(" :").split(maxsplit=MAX_COLUMNS)
        reading = self._row(cells) if len(cells) == len(self._columns) else None
        if reading is not None:
            self._patience, self._newest_row = _LINES_BETWEEN, line
            return reading
        self._patience -= 1
        if not self._patience:
            self._columns = []
        return None

    def _row(self, cells: list[str]) -> Reading | None:
        reading = Reading()
        for (name, kind), cell in zip(self._columns, cells, strict=True):
            if kind in (Kind.EPOCH, Kind.STEP):
                count, _, of = cell.partition("/")
                if step_in(count) is None:
                    return None
                if kind is Kind.EPOCH:
                    reading.epoch, reading.epochs, reading.epoch_first = step_in(count), step_in(of), True
                else:
                    reading.step, reading.steps = step_in(count), step_in(of)
            elif _NUMBER.fullmatch(cell):
                if kind not in (Kind.NEVER, Kind.BATCH):
                    reading.values[normalised(name)] = number_in(cell)
            elif kind in (Kind.METRIC, Kind.WEAK):
                return None
        return reading if reading.values else None
