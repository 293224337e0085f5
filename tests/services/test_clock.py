"""The schedule on the command line: what runs, running it now, and whether it is well."""

from __future__ import annotations

from datetime import timedelta

from flask import Flask
from flask.testing import FlaskCliRunner

from models.accounts import User
from models.admin import ClockRun
from models.base import db, now, transaction
from models.subscriptions import CreditPeriod, Subscription
from services import clock, subscriptions


def said(app: Flask, *words: str) -> tuple[int, str]:
    db.session.rollback()  # what this test has read is stale now
    result = FlaskCliRunner(app).invoke(args=["clock", *words])
    return result.exit_code, result.output


def test_the_list_names_every_entry_and_the_next_renewals(app: Flask, alice: User) -> None:
    code, output = said(app, "list")
    assert code == 0
    for entry in clock.SCHEDULE:
        assert entry.name in output
    assert f"credit_reset_{subscriptions.current(alice).id}" in output


def test_an_entry_run_by_hand_is_noted(app: Flask) -> None:
    assert said(app, "force", "expire_uploads") == (0, "expire_uploads: 0 done.\n")
    assert db.session.get(ClockRun, "expire_uploads") is not None


def test_a_forced_renewal_opens_only_what_is_due(app: Flask, alice: User) -> None:
    name = f"credit_reset_{subscriptions.current(alice).id}"
    assert said(app, "force", name) == (0, f"{name}: 0 done.\n")
    assert db.session.query(CreditPeriod).filter_by(subscription_id=subscriptions.current(alice).id).count() == 1


def test_a_name_that_is_not_there_is_refused_with_those_that_are(app: Flask) -> None:
    code, output = said(app, "force", "tidy")
    assert code == 1 and "There is no entry tidy" in output and "renew_overdue" in output
    assert said(app, "force", "credit_reset_999")[0] == 1


def test_health_says_what_does_not_run_and_what_is_overdue(app: Flask, alice: User) -> None:
    code, output = said(app, "health")
    assert code == 1 and "entries of the clock do not run" in output and "renew_overdue" in output
    for entry in clock.SCHEDULE:
        clock.run_entry(app, entry)
    code, output = said(app, "health")
    assert (code, output) == (0, "Every entry runs and no renewal is overdue.\n"), output
    with transaction():
        db.session.get_one(Subscription, subscriptions.current(alice).id).next_reset_at = now() - timedelta(hours=1)
    code, output = said(app, "health")
    assert code == 1 and "1 renewal is more than ten minutes overdue." in output


def test_an_entry_that_fails_is_noted_and_does_not_stop_the_clock(app: Flask) -> None:
    def fail() -> int:
        raise ValueError("not today")

    clock.run_entry(app, clock.Entry("expire_uploads", 600, fail, "a test"))
    run = db.session.get_one(ClockRun, "expire_uploads")
    assert run.error == "ValueError: not today" and run.failed_at is not None
    assert any("expire_uploads failed: ValueError" in fault.what for fault in clock.faults())
