"""How fast a training goes of late, by what it reported in the last half minute or so."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from statistics import median

from models.training_jobs import Attempt

SPEED_OVER = 30.0  # seconds
A_FEW = 8  # moments that are kept however old they are: a slow training has no more of them
SILENCE = 3.0  # seconds, and times what is usual; after so long without a word something may be caught up with
APART = 1.0  # seconds; moments closer to each other say more about the network than about the training
MOST_KNOWN = 2_000  # attempts


class Pace:
    """The moments in which steps were reported, and the speed they tell.

    The speed is the middle one of those from moment to moment, not the mean: a machine that slept makes one of them too
    low, what it sends in a lump makes some too high, and the middle stays where the training is. What was trained during
    a silence and is told after it, however long that takes, belongs to the silence: both are one stretch of time.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()  # seconds, step

    def go_on(self, at: float, step: int, rate: float) -> None:
        """Somebody else has taken in what came before: this step at this moment, at this speed of late."""
        self._marks.extend([(at - APART, step - APART * rate), (at, step)])

    def mark(self, at: float, step: int) -> None:
        """This step was reported at this moment."""
        marks = self._marks
        if marks and (step < marks[-1][1] or at < marks[-1][0]):
            marks.clear()  # it goes on from a checkpoint, or the time of day was set
        if marks and step == marks[-1][1]:
            return
        if len(marks) > 1 and (marks[-1][0] - marks[-2][0] < APART or self._catches_up(at, step)):
            marks.pop()
        marks.append((at, step))
        while len(marks) > A_FEW and marks[1][0] <= at - SPEED_OVER:
            marks.popleft()

    def rate(self) -> float | None:
        """Steps a second; None while too little is known."""
        return _usual(self._marks)[1]

    def _catches_up(self, at: float, step: int) -> bool:
        """Whether this was trained during the silence before it: it comes faster than what was told before that, and
        together they are no faster."""
        *before, (ended, last) = self._marks
        began, first = before[-1]
        seconds, rate = _usual(before)
        if seconds is None or rate is None or ended - began < SILENCE * max(1.0, seconds):
            return False
        return step - last > 1.5 * rate * (at - ended) and step - first <= 1.2 * rate * (at - began)


def _usual(marks: Iterable[tuple[float, float]]) -> tuple[float | None, float | None]:
    """The seconds from mark to mark and the steps a second, the middle one of each; None while too little is known."""
    between = [(ended - began, last - first) for (began, first), (ended, last) in pairwise(marks)]
    apart = [(seconds, steps / seconds) for seconds, steps in between if seconds >= APART]
    return (median(seconds for seconds, _ in apart), median(rate for _, rate in apart)) if apart else (None, None)


# One process takes in what an attempt reports. After a restart, or in another process, it goes on from what is stored.
_paces: OrderedDict[tuple[int, datetime], Pace] = OrderedDict()


def of_late(
    attempt: Attempt, at: datetime, step: int, before: tuple[datetime | None, int, float | None]
) -> float | None:
    """The speed of an attempt that has just reported this step; `before` is what was stored: when, which step, how fast."""
    key = (attempt.id, attempt.created_at)
    pace = _paces.get(key)
    if pace is None:
        pace = _paces[key] = Pace()
        last_at, last_step, rate = before
        if last_at and rate:
            pace.go_on(last_at.timestamp(), last_step, rate)
    _paces.move_to_end(key)
    if len(_paces) > MOST_KNOWN:
        _paces.popitem(last=False)
    pace.mark(at.timestamp(), step)
    return pace.rate()
