"""How fast a training goes of late, by what it reported in the last half minute or so."""

from __future__ import annotations

from collections import OrderedDict, deque
from datetime import datetime
from itertools import pairwise
from statistics import median

from models.training_jobs import Attempt

SPEED_OVER = 30.0  # seconds
A_FEW = 8  # moments that are kept however old they are: a slow training has no more of them
APART = 1.0  # seconds; moments closer to each other say more about the network than about the training
MOST_KNOWN = 2_000  # attempts


class Pace:
    """The moments in which steps were reported, and the speed they tell.

    The speed is the middle one of those from moment to moment, not the mean: a machine that slept makes one of them too
    low, what it sends in a lump makes some too high, and the middle stays where the training is.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # seconds, step

    def mark(self, at: float, step: int) -> None:
        """This step was reported at this moment."""
        marks = self._marks
        if marks and (step < marks[-1][1] or at < marks[-1][0]):
            marks.clear()  # it goes on from a checkpoint, or the time of day was set
        if marks and step == marks[-1][1]:
            return
        if len(marks) > 1 and marks[-1][0] - marks[-2][0] < APART:
            marks.pop()
        marks.append((at, step))
        while len(marks) > A_FEW and marks[1][0] <= at - SPEED_OVER:
            marks.popleft()

    def rate(self) -> float | None:
        """Steps a second; None while too little is known."""
        between = [(ended - began, last - first) for (began, first), (ended, last) in pairwise(self._marks)]
        speeds = [steps / seconds for seconds, steps in between if seconds >= APART]
        return median(speeds) if speeds else None


# One process takes in what an attempt reports. After a restart, or in another process, it begins anew.
_paces: OrderedDict[tuple[int, datetime], Pace] = OrderedDict()


def of_late(attempt: Attempt, at: datetime, step: int) -> float | None:
    """The speed of an attempt that has just reported this step."""
    key = (attempt.id, attempt.created_at)
    pace = _paces.setdefault(key, Pace())
    _paces.move_to_end(key)
    if len(_paces) > MOST_KNOWN:
        _paces.popitem(last=False)
    pace.mark(at.timestamp(), step)
    return pace.rate()
