"""Periods counted from an anchor: period k runs from start(k) to start(k + 1), in UTC.

start(k) = anchor + k calendar months with the day clamped to the month's end, always computed from the anchor, so a
subscription of the 31st has Feb 28 and then Mar 31 again (research: billing rules I1 to I4).
"""

from __future__ import annotations

from datetime import datetime

from dateutil.relativedelta import relativedelta


def start(anchor: datetime, k: int) -> datetime:
    """The instant at which period `k` (from 0) begins."""
    return anchor + relativedelta(months=k)


def index_at(anchor: datetime, at: datetime) -> int:
    """Which period holds the instant `at`; the half-open interval [start(k), start(k + 1)). `at` is not before anchor."""
    k = (at.year - anchor.year) * 12 + at.month - anchor.month
    return k if start(anchor, k) <= at else k - 1


def days_between(at: datetime, later: datetime) -> int:
    """Whole days from `at` to `later`, a started day counting as one, never below 0."""
    seconds = (later - at).total_seconds()
    return max(0, -int(-seconds // 86400))
