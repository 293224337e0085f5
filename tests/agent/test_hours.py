"""Windows of local time in which new jobs are taken."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hours import DAY, BadHours, Hours, Window, parsed

NIGHT = parsed(["20:00-08:00"])


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-21T{clock}")


@pytest.mark.parametrize(
    ("clock", "is_open", "opens_at"),
    [
        ("19:59", False, "20:00"), ("20:00", True, None), ("23:59", True, None), ("00:00", True, None),
        ("07:59:59", True, None), ("08:00", False, "20:00"), ("12:00", False, "20:00"),
    ],
)  # fmt: skip
def test_a_night_goes_past_midnight(clock: str, is_open: bool, opens_at: str | None) -> None:
    assert NIGHT.is_open(at(clock)) is is_open
    assert NIGHT.opens_at(at(clock)) == opens_at


def test_of_several_windows_the_next_one_is_named() -> None:
    hours = parsed(["12:00-13:00, 18:30-24:00", "02:00-03:00"])
    assert [hours.opens_at(at(clock)) for clock in ("11:00", "13:00", "23:59", "00:00", "03:00")] == [
        "12:00", "18:30", None, "02:00", "12:00",
    ]  # fmt: skip
    assert hours.told(at("13:00")) == {
        "windows": ["12:00-13:00", "18:30-24:00", "02:00-03:00"], "open": False, "opens_at": "18:30",
    }  # fmt: skip


def test_without_windows_jobs_are_always_taken() -> None:
    assert Hours().is_open(at("03:00")) and Hours().told(at("03:00")) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "looks like 20:00-08:00"), ("20:00", "looks like"), ("8-20", "looks like"), ("20:00-08:00-09:00", "looks like"),
        ("25:00-08:00", "no time of the day"), ("20:60-08:00", "no time of the day"), ("24:01-08:00", "no time of the day"),
        ("24:00-08:00", "begins at 00:00"), ("08:00-08:00", "at the same time"), ("-1:00-08:00", "looks like"),
        ("٢٠:00-08:00", "looks like"), (",", "looks like"),
    ],
)  # fmt: skip
def test_what_is_no_window_is_refused_with_how_one_is_written(text: str, said: str) -> None:
    with pytest.raises(BadHours, match=said):
        parsed([text])


def test_too_many_windows_are_refused() -> None:
    with pytest.raises(BadHours, match="at most 10"):
        parsed(["01:00-02:00"] * 11)


minutes = st.integers(0, DAY - 1)


@given(minutes, minutes)
def test_a_window_and_what_is_outside_it_share_no_minute(begins: int, ends: int) -> None:
    if begins == ends:
        return
    inside, outside = Window(begins, ends), Window(ends, begins)
    assert all(inside.holds(minute) != outside.holds(minute) for minute in range(DAY))
    assert sum(map(inside.holds, range(DAY))) == (ends - begins) % DAY


@given(st.lists(st.tuples(minutes, minutes).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=4), minutes)
def test_when_it_is_said_to_open_it_opens_and_not_before(pairs: list[tuple[int, int]], minute: int) -> None:
    hours = Hours(tuple(Window(*pair) for pair in pairs))
    assert parsed([str(window) for window in hours.windows]) == hours
    moment = at("00:00") + timedelta(minutes=minute)
    said = hours.opens_at(moment)
    if said is None:
        assert hours.is_open(moment)
        return
    while moment.strftime("%H:%M") != said:
        assert not hours.is_open(moment)
        moment += timedelta(minutes=1)
    assert hours.is_open(moment)


@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24"])  # the clocks change in the night after
def test_on_the_days_the_clocks_change_the_clock_on_the_wall_counts(day: str) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    moment = datetime.fromisoformat(f"{day}T18:00").replace(tzinfo=berlin).astimezone(ZoneInfo("UTC"))
    for quarter in range(4 * 18):
        local = (moment + timedelta(minutes=15 * quarter)).astimezone(berlin)
        assert NIGHT.is_open(local) is (local.hour >= 20 or local.hour < 8)
