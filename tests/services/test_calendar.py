"""Periods counted from the anchor."""

from __future__ import annotations

import calendar as standard
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services import calendar

ANCHORS = st.datetimes(datetime(2020, 1, 1), datetime(2035, 12, 31), timezones=st.just(UTC))


def test_a_subscription_of_the_31st_keeps_its_day_after_short_months() -> None:
    anchor = datetime(2026, 1, 31, 15, 30, tzinfo=UTC)
    days = [calendar.start(anchor, k).strftime("%m-%d") for k in range(5)]
    assert days == ["01-31", "02-28", "03-31", "04-30", "05-31"]


def test_a_leap_day_is_kept() -> None:
    anchor = datetime(2024, 1, 30, tzinfo=UTC)
    assert calendar.start(anchor, 1) == datetime(2024, 2, 29, tzinfo=UTC)


@given(ANCHORS, st.integers(0, 600))
def test_periods_are_contiguous_and_28_to_31_days_long(anchor: datetime, k: int) -> None:
    start, end = calendar.start(anchor, k), calendar.start(anchor, k + 1)
    assert timedelta(days=28) <= end - start <= timedelta(days=31)
    assert start.day == min(anchor.day, standard.monthrange(start.year, start.month)[1])


@given(ANCHORS, st.integers(0, 600), st.integers(0, 28 * 86400 - 1))
def test_the_index_inverts_the_start(anchor: datetime, k: int, seconds: int) -> None:
    assert calendar.index_at(anchor, calendar.start(anchor, k) + timedelta(seconds=seconds)) == k


@given(ANCHORS, st.integers(1, 600))
def test_at_the_boundary_the_old_period_is_over(anchor: datetime, k: int) -> None:
    boundary = calendar.start(anchor, k)
    assert calendar.index_at(anchor, boundary) == k
    assert calendar.index_at(anchor, boundary - timedelta(microseconds=1)) == k - 1


def test_a_started_day_counts_as_one_and_the_past_as_none() -> None:
    at = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert calendar.days_between(at, at + timedelta(hours=1)) == 1
    assert calendar.days_between(at, at + timedelta(days=30)) == 30
    assert calendar.days_between(at, at - timedelta(days=3)) == 0
