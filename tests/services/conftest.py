"""A clock that tests move, the till of the simulated gateway, and a member who signs up by that clock."""

from __future__ import annotations

import pytest

from models.accounts import User
from tests.till import Clock, Till, moved_clock, new_member, utc


@pytest.fixture
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock, standing at noon of the last day of January 2027."""
    request.getfixturevalue("app" if "app" in request.fixturenames else "sqlite_app")
    return moved_clock(monkeypatch, utc(2027, 1, 31))


@pytest.fixture
def till(request: pytest.FixtureRequest, clock: Clock) -> Till:
    return Till(request.getfixturevalue("app" if "app" in request.fixturenames else "sqlite_app"), clock)


@pytest.fixture
def carol(clock: Clock) -> User:
    """Somebody on the Free plan since just now."""
    return new_member("carol")
