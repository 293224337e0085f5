"""Where the training is, as far as the lines so far have told: every point gets a step on one axis.

The finest count wins. Batches within an epoch are laid end to end; an epoch itself is a step only while nothing finer was
seen; a line that is silent belongs to the newest step; where there never was one, each rule counts its own points.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .lines import Reading
from .points import MAX_STEP, RULES, valid_step

_MAX_COUNTED_NAMES = 500


class Counting(NamedTuple):
    """How a script counts, as far as it was found out. An attempt that goes on in a later epoch cannot see it, so it is
    told by the one before."""

    first_epoch: int | None = None  # 0 or 1
    longest: int = 0  # the largest batch seen, where nobody says how many there are
    restarts: bool | None = None  # whether `step` begins again with each epoch that stands beside it
    restarts_below: bool | None = None  # the same of an epoch that only a line above has named
    counted: tuple[tuple[str, int], ...] = ()  # how many steps each rule has counted whose lines tell none

    @classmethod
    def from_json(cls, said: Any) -> Counting:
        """What a note says, where it is well formed; the rest is not known."""
        known = said if isinstance(said, dict) else {}
        first = valid_step(known.get("first_epoch"))
        return cls(
            first if first in (0, 1) else None,
            valid_step(known.get("longest")) or 0,
            _truth(known.get("restarts")),
            _truth(known.get("restarts_below")),
            tuple(_counted(known.get("counted"))),
        )


def _truth(said: Any) -> bool | None:
    return said if isinstance(said, bool) else None


def _counted(said: Any) -> Iterator[tuple[str, int]]:
    for each in said if isinstance(said, list) else ():
        match each:
            case [str(rule), int(count)] if rule in RULES and valid_step(count) is not None:
                yield rule, count


@dataclass(slots=True)
class _Restarts:
    """Whether `step` begins again with each epoch, as far as lines have shown (`again`)."""

    again: bool | None
    _last: tuple[int, int] | None = None  # epoch and step of the newest line

    def take(self, epoch: int, step: int) -> None:
        if self._last is not None and epoch > self._last[0] and self.again is None:
            self.again = step <= self._last[1]
        self._last = (epoch, step)


class Steps:
    """The newest step and epoch, and what is needed to go on from them."""

    def __init__(self, counting: Counting | None = None) -> None:
        self.epoch: int | None = None
        self.epochs: int | None = None
        self.total: int | None = None
        self.serves = False  # whether values were given the newest step of the bar that leads
        self.is_told_by_bars = False
        self._fine: int | None = None
        self._fine_is_certain = True
        known = counting or Counting()
        self._first_epoch, self._longest = known.first_epoch, known.longest
        self._beside, self._above = _Restarts(known.restarts), _Restarts(known.restarts_below)  # where the epoch stands
        self._below: set[str] | None = None  # the names that came below a line of the newest step alone
        # A script without steps cannot tell which lines it repeats, so its points go on behind those that are there.
        self._counters: dict[str, tuple[int, set[str]]] = {rule: (count, set()) for rule, count in known.counted}

    @property
    def counting(self) -> Counting:
        counted = tuple((rule, count + bool(seen)) for rule, (count, seen) in sorted(self._counters.items()))
        return Counting(self._first_epoch, self._longest, self._beside.again, self._above.again, counted)

    def place(self, rule: str, reading: Reading) -> tuple[int, int | None]:
        """The step of a reading and the total it tells of, if any."""
        if reading.epoch is not None:
            self.at_epoch(reading.epoch, reading.epochs)
        if reading.batch is not None and (reading.epoch is not None or self.epoch is not None):
            return self._moved(self.laid_out(reading.batch, reading.batches), self._laid_total(reading.batches))
        if reading.step is not None:
            return self._at_step(reading)
        if reading.batch is not None:
            return self._moved(reading.batch, reading.batches)
        if reading.epoch is not None and not (self._fine is not None and self._fine_is_certain):
            return reading.epoch, reading.epochs
        return self.newest(rule, () if reading.of_validation else reading.values)

    def at_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """The training is in this epoch."""
        if self._first_epoch is None or epoch == 0:
            self._first_epoch = min(epoch, 1)
        self.epoch, self.epochs = epoch, epochs if epochs is not None else self.epochs

    def laid_out(self, batch: int, batches: int | None) -> int:
        """The step of a batch of the epoch we are in, with the epochs before it in front."""
        before = (self.epoch or 0) - (self._first_epoch or 0)
        step = before * (batches or self._longest) + batch
        if not batches:
            self._longest = max(self._longest, batch)
        return step

    def newest(self, rule: str, names: Iterable[str]) -> tuple[int, int | None]:
        """The step of a line that is silent about it."""
        if self._fine is not None:
            self.serves = True
            if self._below is not None:
                self._go_on_below(self._below, names)
            return self._fine, self.total
        if self.epoch is not None:
            return self.epoch, self.epochs
        return self._counted(rule, names), None

    def moved_to(self, step: int, total: int | None, certain: bool = True, by_bar: bool = False) -> None:
        """A bar or a line has told the newest step. One that is not `certain` does not serve lines with an epoch."""
        if not 0 <= step < MAX_STEP:
            return
        self.is_told_by_bars = by_bar
        self._below = None
        self._fine, self._fine_is_certain = step, certain
        self.total = total if total is not None and step <= total < MAX_STEP else None

    def stands_at(self, reading: Reading) -> None:
        """A line has told a step and nothing else: the lines below are about it."""
        self.place("iterations", reading)
        self._below = set()

    def _go_on_below(self, seen: set[str], names: Iterable[str]) -> None:
        """One step further whenever a name comes again below a step that was told once."""
        if _are_full(seen, names) and self._fine is not None:
            self.moved_to(self._fine + 1, self.total)
            self._below = seen = set()
        seen.update(names)

    def _moved(self, step: int, total: int | None) -> tuple[int, int | None]:
        if not 0 <= step < MAX_STEP:
            return self._fine or 0, self.total
        self.moved_to(step, total)
        return step, self.total

    def _laid_total(self, batches: int | None) -> int | None:
        return batches * self.epochs if batches and self.epochs else None

    def _at_step(self, reading: Reading) -> tuple[int, int | None]:
        """`step` counts from the start or, where an epoch stands beside it or above, may begin again with each."""
        assert reading.step is not None
        epoch = self.epoch if reading.epoch is None else reading.epoch
        if epoch is None:
            return self._moved(reading.step, reading.steps)
        is_beside = reading.epoch is not None
        restarts = self._beside if is_beside else self._above
        restarts.take(epoch, reading.step)
        begins_again = restarts.again if restarts.again is not None else is_beside and bool(reading.steps)
        if not begins_again:
            self._longest = max(self._longest, reading.step)
            return self._moved(reading.step, None if is_beside else reading.steps)
        return self._moved(self.laid_out(reading.step, reading.steps), self._laid_total(reading.steps))

    def _counted(self, rule: str, names: Iterable[str]) -> int:
        """The rule's own count: one further whenever a name comes again, so that lines about one step share it."""
        count, seen = self._counters.get(rule, (0, set()))
        if _are_full(seen, names):
            count, seen = min(count + 1, MAX_STEP - 1), set()
        seen.update(names)
        self._counters[rule] = (count, seen)
        return count


def _are_full(seen: set[str], names: Iterable[str]) -> bool:
    """Whether a step that has these names cannot take the further ones: one of them has come before."""
    return not seen.isdisjoint(names) or len(seen) > _MAX_COUNTED_NAMES
