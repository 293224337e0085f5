"""Periods are counted from the anchor; whoever opens them, whenever, however often, ends in the same ledger."""

from __future__ import annotations

import calendar as standard
import random
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask
from sqlalchemy import select, update

from models.accounts import User
from models.base import db, transaction
from models.credits import LedgerAccount
from models.notices import Notice, OutgoingMail
from models.subscriptions import CreditPeriod, Subscription
from services import clock as schedule
from services import credits, payments, price_list, subscriptions
from services.subscriptions import periods
from tests.conftest import Yard
from tests.factories import on_plan, plan_id
from tests.till import Clock, Till, at_once, faults, ledger, live, moved_clock, new_member, standing, utc

USAGE = credits.Usage("message")
Lines = list[tuple[str, str, int, int, int, datetime]]


def literal(anchor: datetime, months: int) -> datetime:
    """The rule in words: so many months on, the same day or the last of a shorter month, the same time of day."""
    year, month = divmod(anchor.month - 1 + months, 12)
    year, month = anchor.year + year, month + 1
    return anchor.replace(year=year, month=month, day=min(anchor.day, standard.monthrange(year, month)[1]))


# The calendar, in the ledger


@pytest.mark.parametrize("year", [2027, 2028])
@pytest.mark.parametrize("day", [28, 29, 30, 31])
def test_four_years_of_renewals_fall_on_the_days_of_the_rule(
    sqlite_app: Flask, clock: Clock, year: int, day: int
) -> None:
    anchor = clock.at = datetime(year, 1, day, 23, 59, 59, tzinfo=UTC)
    member = new_member("carol")
    clock.at = literal(anchor, 47)
    assert subscriptions.renew_due(member.id, clock.at, "clock") == 47
    found = db.session.scalars(
        select(CreditPeriod).join(Subscription).where(Subscription.user_id == member.id).order_by(CreditPeriod.k)
    )
    assert [(one.k, one.starts_at, one.ends_at) for one in found] == [
        (k, literal(anchor, k), literal(anchor, k + 1)) for k in range(48)
    ]
    assert {literal(anchor, k).day for k in range(48)} >= ({28, 29} if day > 28 else {28})
    assert credits.spendable(member.id) == 20
    assert faults() == []


def test_at_the_boundary_the_old_credits_are_dead_and_the_new_ones_there(app: Flask, clock: Clock, carol: User) -> None:
    assert not credits.spend(carol.id, 5, key="five", reason="test", usage=USAGE).refused
    clock.at = utc(2027, 2, 28) - timedelta(microseconds=1)
    assert subscriptions.current(carol).next_period == 1 and credits.spendable(carol.id) == 15
    clock.at = utc(2027, 2, 28)
    assert subscriptions.current(carol).next_period == 2 and credits.spendable(carol.id) == 20
    assert faults() == []


def test_a_renewal_touches_no_pack_and_no_gift(app: Flask, clock: Clock, carol: User) -> None:
    credits.grant(carol.id, 7, key="pack", priority=50, reason="pack", expires_at=None)
    credits.adjust(carol.id, 5, key="gift", reason="gift")
    clock.at = utc(2027, 12, 31)
    subscriptions.current(carol)
    assert credits.spendable(carol.id) == 32
    assert faults() == []


# The clock was away


def quarter(yard: Yard, monkeypatch: pytest.MonkeyPatch, stops: list[datetime], by: str) -> dict[str, Lines]:
    """A quarter in the life of four members whose renewals are done at `stops` alone."""
    yard.reset()
    with yard.app.app_context():
        clock = moved_clock(monkeypatch, utc(2027, 1, 29, 9))
        members = []
        for name, plan in (("carol", "free"), ("dave", "basic"), ("erin", "pro"), ("frank", "basic")):
            clock.advance(days=1 if name != "frank" else 0, minutes=7)
            members.append(new_member(name) if plan == "free" else on_plan(new_member(name), plan))
        credits.hold(members[1].id, 1, 1, 150, key="hold", reason="job")
        credits.grant(members[2].id, 30, key="pack", priority=50, reason="pack", expires_at=None)
        credits.grant(members[2].id, 9, key="gift", priority=20, reason="gift", expires_at=utc(2027, 3, 15))
        credits.spend(members[3].id, 44, key="spent", reason="test", usage=USAGE)
        for stop in stops:
            clock.at = stop
            if by == "member":
                for member in members:
                    subscriptions.current(member)
            else:
                with yard.app.app_context():
                    subscriptions.renew_overdue()
                    db.session.remove()
        db.session.rollback()
        assert faults() == []
        found = {name: ledger(user_id) for name, user_id in db.session.execute(select(User.username, User.id))}
        db.session.remove()
    return {name: found[name] for name in ("carol", "dave", "erin", "frank")}


END = utc(2027, 5, 1)


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe"])
def test_a_machine_whose_clocks_go_forward_and_back_renews_at_the_same_instants(
    sqlite_yard: Yard, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """The quarter holds the change of each zone's summer time; Lord Howe's is half an hour."""
    stops = [END - timedelta(days=day) for day in range(100, -1, -1)]
    expected = quarter(sqlite_yard, monkeypatch, stops, "sweep")
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert quarter(sqlite_yard, monkeypatch, stops, "sweep") == expected
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


HOURLY = [utc(2027, 2, 1) + timedelta(hours=6) * n for n in range(4 * 89)] + [END]


@pytest.mark.parametrize("yard_of", ["sqlite_yard", pytest.param("postgres_yard", marks=pytest.mark.postgres)])
def test_three_months_without_a_clock_end_in_the_ledger_of_one_that_never_stopped(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, yard_of: str
) -> None:
    yard = request.getfixturevalue(yard_of)
    never_stopped = quarter(yard, monkeypatch, HOURLY if yard_of == "sqlite_yard" else HOURLY[::8] + [END], "sweep")
    assert quarter(yard, monkeypatch, [END], "sweep") == never_stopped
    assert quarter(yard, monkeypatch, [END], "member") == never_stopped
    assert [len([line for line in lines if line[0].startswith("period")]) for lines in never_stopped.values()] == [
        4,
        5,
        5,
        5,
    ]


@pytest.mark.parametrize("seed", range(4))
def test_one_big_jump_is_as_many_small_ones(sqlite_yard: Yard, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    stops = sorted(
        utc(2027, 2, 1) + timedelta(seconds=chance.randrange(89 * 86400)) for _ in range(chance.randrange(1, 12))
    )
    ways = [quarter(sqlite_yard, monkeypatch, [*stops, END], by) for by in ("sweep", "member")]
    assert ways[0] == ways[1] == quarter(sqlite_yard, monkeypatch, [END], "sweep")


def test_two_clocks_two_readers_and_a_spender_at_once_open_each_period_once(app: Flask, clock: Clock) -> None:
    members = [on_plan(new_member(f"member{n}"), "basic").id for n in range(8)]
    alone = [ledger(number) for number in members]
    assert all(len(lines) == 3 for lines in alone)  # the Free lot, its end, and the lot of the plan
    clock.at = utc(2027, 4, 30)

    def read() -> None:
        for number in members:
            subscriptions.live(number)
            db.session.rollback()

    def spend() -> None:
        for number in reversed(members):
            subscriptions.renew_due(number, clock.at, "member")
            credits.spend(number, 3, key=f"spent:{number}", reason="test", usage=USAGE)

    answers = at_once(app, subscriptions.renew_overdue, subscriptions.renew_overdue, read, read, spend)
    assert [one for one in answers if isinstance(one, Exception)] == []
    for number in members:
        found = [line[0].split(":")[2] for line in ledger(number) if line[0].startswith("period") and line[2] == 200]
        assert found == ["0", "1", "2", "3"]
        assert credits.spendable(number) == 197
    assert faults() == []


def test_a_sweep_works_through_more_than_one_batch(app: Flask, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periods, "BATCH", 3)
    members = [new_member(f"member{n}").id for n in range(8)]
    clock.at = utc(2027, 4, 30)
    assert subscriptions.renew_overdue() >= 24
    assert subscriptions.renew_overdue() == 0
    assert [credits.spendable(number) for number in members] == [20] * 8
    assert faults() == []


def test_what_somebody_has_claimed_is_left_until_their_lease_is_over(app: Flask, clock: Clock, carol: User) -> None:
    number = carol.id
    subscriptions.renew_overdue()
    clock.at = utc(2027, 2, 28)
    assert live_id(number) in periods._claim(clock.at)
    assert subscriptions.renew_overdue() == 0
    clock.advance(minutes=6)
    assert subscriptions.renew_overdue() >= 1
    assert subscriptions.live(number).next_period == 2


def test_a_member_does_not_wait_for_a_claim_that_nobody_finishes(app: Flask, clock: Clock, carol: User) -> None:
    clock.at = utc(2027, 2, 28)
    periods._claim(clock.at)
    assert subscriptions.current(carol).next_period == 2
    assert live(carol).lease_until is None
    clock.advance(minutes=6)
    assert faults() == []


def live_id(user_id: int) -> int:
    return db.session.scalars(
        select(Subscription.id).where(Subscription.user_id == user_id, Subscription.ended_at.is_(None))
    ).one()


def test_each_renewal_is_told_once_and_a_quarter_in_one_mail(app: Flask, clock: Clock, carol: User) -> None:
    told = select(Notice).where(Notice.user_id == carol.id, Notice.kind == "renewal")
    clock.at = utc(2027, 2, 28)
    subscriptions.renew_due(carol.id, clock.at, "clock")
    subscriptions.renew_due(carol.id, clock.at, "clock")
    assert len(db.session.scalars(told).all()) == 1
    clock.at = utc(2027, 5, 31)
    subscriptions.renew_due(carol.id, clock.at, "clock")
    assert len(db.session.scalars(told).all()) == 2
    assert (
        db.session.query(OutgoingMail).filter_by(to="carol@example.com", subject="Your credits were renewed").count()
        == 2
    )


# Renewals meet trainings


def test_a_renewal_during_a_hold_leaves_it_alone(app: Flask, clock: Clock, carol: User) -> None:
    credits.hold(carol.id, 1, 1, 15, key="hold", reason="job")
    clock.at = utc(2027, 2, 28)
    subscriptions.current(carol)
    assert (credits.spendable(carol.id), credits.held(carol.id)) == (20, 15)
    credits.tick(carol.id, 1, 1, 1, 4, USAGE)  # held before it expired, so it may be charged after
    credits.settle(carol.id, 1, 1)
    assert (credits.spendable(carol.id), credits.held(carol.id)) == (20, 0)  # 11 of the dead lot expired
    assert faults() == []


# Plans


def test_a_year_that_was_given_brings_its_credits_month_by_month(app: Flask, clock: Clock, carol: User) -> None:
    on_plan(carol, "pro")
    amounts = []
    for month in range(1, 13):
        clock.at = literal(utc(2027, 1, 31), month)
        subscriptions.current(carol)
        amounts.append(credits.spendable(carol.id))
    assert amounts == [1000] * 12
    assert faults() == []


def test_unpaid_months_open_when_the_plan_is_paid_again(app: Flask, till: Till, carol: User) -> None:
    """The gateway gave up without ending the plan: nothing opens meanwhile, and one allotment is there afterwards."""
    payments.upgrade(carol, plan_id("basic"))
    with transaction():
        db.session.execute(update(Subscription).where(Subscription.id == live_id(carol.id)).values(status="unpaid"))
    till.clock.at = utc(2027, 4, 30)
    subscriptions.renew_due(carol.id, till.clock.at, "clock")
    assert live(carol).next_reset_at is None and credits.spendable(carol.id) == 0
    till.simulator.advance(till.clock.at)
    till.deliver()
    assert (standing(carol).status, standing(carol).available, live(carol).next_period) == ("active", 200, 4)
    assert [sentence for sentence in faults() if "Plan change" not in sentence] == []  # the step to unpaid was left out


def test_the_allotment_is_that_of_the_version_somebody_has(app: Flask, clock: Clock, carol: User) -> None:
    on_plan(carol, "basic")
    price_list.edit(plan_id("basic"), {"monthly_credits": 500})
    clock.at = utc(2027, 2, 28)
    assert subscriptions.current(carol).plan.monthly_credits == credits.spendable(carol.id) == 200


# The job store


@pytest.fixture
def store(request: pytest.FixtureRequest, clock: Clock) -> schedule.Renewals:
    app = request.getfixturevalue("app" if "app" in request.fixturenames else "sqlite_app")
    with transaction():  # alice and bob signed up by another clock
        db.session.execute(update(Subscription).values(next_reset_at=None))
    made = schedule.Renewals(app)
    made.start(BackgroundScheduler(), "renewals")
    return made


def test_each_subscription_is_a_job_at_its_exact_time(app: Flask, store: schedule.Renewals, clock: Clock) -> None:
    carol, number = new_member("carol"), 0
    number = live_id(carol.id)
    name = f"credit_reset_{number}"
    assert store.get_next_run_time() == utc(2027, 2, 28)
    assert [(job.id, job.next_run_time) for job in store.get_all_jobs()] == [(name, utc(2027, 2, 28))]
    assert store.get_due_jobs(utc(2027, 2, 28) - timedelta(seconds=1)) == []
    assert [job.id for job in store.get_due_jobs(utc(2027, 2, 28))] == [name]
    job = store.lookup_job(name)
    assert job is not None and (job.id, job.next_run_time) == (name, utc(2027, 2, 28))
    assert store.lookup_job("credit_reset_999999") is None
    assert store.lookup_job("something_else") is None


def test_a_submitted_job_is_not_due_again_here_or_in_another_clock(
    app: Flask, store: schedule.Renewals, clock: Clock
) -> None:
    carol = new_member("carol")
    other = schedule.Renewals(app)
    other.start(BackgroundScheduler(), "renewals")
    clock.at = utc(2027, 2, 28)
    (job,) = store.get_due_jobs(clock.at)
    store.remove_job(job.id)
    assert other.get_due_jobs(clock.at) == store.get_due_jobs(clock.at) == []
    assert other.get_next_run_time() is None
    with pytest.raises(JobLookupError):
        other.remove_job(job.id)
    assert job.func(*job.args) == 1
    db.session.rollback()
    assert store.get_next_run_time() == utc(2027, 3, 31)
    assert credits.spendable(carol.id) == 20


def test_a_job_whose_clock_died_is_due_again_when_its_lease_is_over(
    app: Flask, store: schedule.Renewals, clock: Clock
) -> None:
    new_member("carol")
    clock.at = utc(2027, 2, 28)
    (job,) = store.get_due_jobs(clock.at)
    store.remove_job(job.id)
    clock.advance(minutes=5, seconds=1)
    assert [one.id for one in store.get_due_jobs(clock.at)] == [job.id]


def test_the_scheduler_itself_renews_what_is_due(app: Flask, clock: Clock) -> None:
    """APScheduler's own loop over our store, with its own idea of the time, which is past every renewal of this test."""
    clock.at = datetime.now(UTC) - timedelta(days=40)
    carol = new_member("carol")
    done = threading.Event()
    with transaction():
        db.session.execute(update(Subscription).where(Subscription.user_id != carol.id).values(next_reset_at=None))
    clock.at = datetime.now(UTC)
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.add_jobstore(schedule.Renewals(app), "renewals")
    scheduler.add_listener(lambda _event: done.set(), 4096)  # a job was executed
    db.session.rollback()
    scheduler.start()
    try:
        assert done.wait(20)
    finally:
        scheduler.shutdown()
    db.session.rollback()
    assert live(carol).next_period == 2
    lots = db.session.scalars(
        select(LedgerAccount).where(LedgerAccount.user_id == carol.id, LedgerAccount.closed_at.is_(None))
    )
    assert [lot.balance for lot in lots] == [20]


def test_forcing_a_renewal_that_is_not_due_opens_nothing(app: Flask, clock: Clock, carol: User) -> None:
    name = f"credit_reset_{live_id(carol.id)}"
    assert schedule.force(name) == 0
    clock.at = utc(2027, 2, 28)
    assert (schedule.force(name), schedule.force(name)) == (1, 0)
    assert faults() == []
