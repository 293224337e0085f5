"""One line of the benchmark's table, and the few statistics it needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """`value` is what is compared with `at_most` or `at_least`, all in `unit`; `raw` is everything that was measured."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    details: str = ""
    raw: dict[str, Any] = field(default_factory=dict)
    at_least: float | None = None

    @property
    def is_met(self) -> bool | None:
        """None where there is no target."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def shown(self) -> str:
        return _with_unit(self.value, self.unit)

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {_with_unit(self.at_least, self.unit, places=False)}"
        return "" if self.at_most is None else f"≤ {_with_unit(self.at_most, self.unit, places=False)}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "value": self.value, "unit": self.unit, "at_most": self.at_most, "at_least": self.at_least,
            "met": self.is_met, "details": self.details, **self.raw,
        }  # fmt: skip


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _with_unit(value: float, unit: str, places: bool = True) -> str:
    if not places:
        return f"{value:g} {unit}"
    return f"{value:.2f} {unit}" if unit in ("s", "%") else f"{value:.1f} {unit}"
