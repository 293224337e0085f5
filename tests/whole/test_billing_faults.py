"""A renewal whose process is killed in the middle, at one statement after the other: the ledger of an undisturbed run.

BILLING_KILL_EVERY=1 kills at every single statement, which takes minutes; the suite takes every ninth.
"""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from models.base import db
from services import credits, subscriptions
from services.subscriptions import periods
from tests.conftest import Yard
from tests.factories import on_plan
from tests.till import Clock, faults, ledger, moved_clock, new_member, utc

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]
DUE = utc(2027, 3, 31)
MOST = 300
EVERY = int(os.environ.get("BILLING_KILL_EVERY", "9"))


def begin(yard: Yard, clock: Clock) -> list[int]:
    """Three members with two months due, one with a hold and one with a pack."""
    yard.reset()
    clock.at = utc(2027, 1, 31)
    with yard.app.app_context():
        members = [
            new_member("carol").id,
            on_plan(new_member("dave"), "basic").id,
            on_plan(new_member("erin"), "pro").id,
        ]
        credits.hold(members[1], 1, 1, 150, key="hold", reason="job")
        credits.grant(members[2], 30, key="pack", priority=50, reason="pack", expires_at=None)
        db.session.remove()
    clock.at = DUE
    return members


def renew_in_a_process(yard: Yard, dies_before: int | None) -> bool:
    """Renew everything in a process of its own that is killed before its n-th statement; whether it came to the end."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFEXITED(status)
    try:
        with yard.app.app_context():
            db.engine.dispose(close=False)  # those connections belong to the parent
            seen = 0

            def count(*_given: object) -> None:
                nonlocal seen
                seen += 1
                if seen == dies_before:
                    os.kill(os.getpid(), signal.SIGKILL)

            event.listen(Engine, "before_cursor_execute", count)
            event.listen(Engine, "commit", count)
            subscriptions.renew_overdue()
        os._exit(0)
    except BaseException:
        os._exit(1)


def whole(yard: Yard, members: list[int]) -> list[object]:
    with yard.app.app_context():
        assert faults() == []
        found: list[object] = [ledger(number) for number in members]
        found += [credits.spendable(number) for number in members]
        db.session.remove()
        return found


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_renewal_killed_at_any_statement_ends_in_the_same_ledger(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    yard: Yard = request.getfixturevalue(f"{kind}_yard")
    clock = moved_clock(monkeypatch, utc(2027, 1, 31))
    monkeypatch.setattr(periods, "BATCH", 2)
    members = begin(yard, clock)
    assert renew_in_a_process(yard, None)
    undisturbed = whole(yard, members)
    killed = 0
    for statement in range(1, MOST, EVERY):
        members = begin(yard, clock)
        if renew_in_a_process(yard, statement):
            break
        killed += 1
        clock.at += timedelta(minutes=6)  # by when the lease of the dead process is over
        assert renew_in_a_process(yard, None)
        clock.at = DUE + timedelta(minutes=12)
        assert whole(yard, members) == undisturbed, f"killed before statement {statement}"
    assert 3 < killed < MOST // EVERY
