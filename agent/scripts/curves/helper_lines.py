"""Reads what the helper `trainyard.py` writes: one JSON object a line, `{"step": 10, "values": {"loss": 0.5}}`."""

from __future__ import annotations

import json
import math
from typing import Any

from .points import Point, normalised, valid_step

LONGEST_LINE = 4096  # the helper never writes a longer one: a pipe takes that much at once or not at all
MAX_NAMES = 500


class HelperLines:
    """Cuts the bytes of the pipe into points. `lost` counts what did not fit into the pipe, as the helper says itself;
    `unreadable` the lines that it cannot have written."""

    def __init__(self) -> None:
        self.lost = 0
        self.unreadable = 0
        self._rest = b""
        self._is_skipping = False
        self._names: set[str] = set()

    def feed(self, data: bytes) -> list[Point]:
        """The points in the lines that these bytes complete."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0], self._rest = self._rest + lines[0], b""
            if self._is_skipping:
                lines, self._is_skipping = lines[1:], False
        if not self._is_skipping:
            self._rest += rest
            if len(self._rest) > LONGEST_LINE:
                self._rest, self._is_skipping = b"", True
                self.unreadable += 1
        return [point for line in lines if line and (point := self._point(line)) is not None]

    def _point(self, line: bytes) -> Point | None:
        try:
            said = json.loads(line) if len(line) <= LONGEST_LINE else None
        except (ValueError, RecursionError):
            said = None
        step = valid_step(said.get("step")) if isinstance(said, dict) else None
        if not isinstance(said, dict) or step is None or not isinstance(said.get("values"), dict):
            self.unreadable += 1
            return None
        self.lost += valid_step(said.get("lost")) or 0
        values = {}
        for given, value in said["values"].items():
            name = normalised(given)
            if name and _is_number(value) and (name in self._names or len(self._names) < MAX_NAMES):
                self._names.add(name)
                values[name] = float(value) if value is not None else None
        return Point("helper", step, values, None) if values else None


def _is_number(value: Any) -> bool:
    """A finite number, or None: what the helper writes for one that is not finite."""
    if value is None:
        return True
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False
