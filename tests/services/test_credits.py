"""The ledger: lots, holds, ticks, refunds. Every balance adds up, every operation happens once."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from models.accounts import User
from models.base import db, now, transaction
from models.credits import GRANTED, MONTHLY, PACK, LedgerAccount, LedgerOperation, LedgerTransfer, Wallet
from services import credits
from services.errors import Conflict, PaymentNeeded
from services.reconcile import reconcile
from tests.till import moved_clock, utc

USAGE = credits.Usage("training_minute:cpu", "language", "yard-tiny")


def grant(
    user: User, amount: int, priority: int = GRANTED, days: float | None = None, key: str = ""
) -> LedgerOperation:
    expires = None if days is None else now() + timedelta(days=days)
    key = key or f"test:{user.id}:{amount}:{priority}:{days}"
    return credits.grant(user.id, amount, key=key, priority=priority, reason="for the test", expires_at=expires)


def lots(user: User) -> list[tuple[int | None, int | None]]:
    query = select(LedgerAccount).where(LedgerAccount.user_id == user.id, LedgerAccount.kind == "lot")
    return [(lot.priority, lot.balance) for lot in db.session.scalars(query.order_by(LedgerAccount.id))]


def test_a_new_member_has_the_free_plans_twenty_credits(app: Flask, alice: User) -> None:
    assert credits.spendable(alice.id) == 20
    assert reconcile() == []


def test_monthly_credits_burn_before_granted_before_packs(app: Flask, alice: User) -> None:
    grant(alice, 10, PACK)
    grant(alice, 10, GRANTED)
    credits.hold(alice.id, 1, 1, 25, key="h", reason="job")
    assert lots(alice) == [(MONTHLY, 0), (PACK, 10), (GRANTED, 5)]


def test_within_a_priority_what_expires_first_burns_first_and_what_never_expires_last(app: Flask, alice: User) -> None:
    grant(alice, 10, GRANTED)
    grant(alice, 10, GRANTED, days=9)
    grant(alice, 10, GRANTED, days=3)
    credits.hold(alice.id, 1, 1, 35, key="h", reason="job")
    assert lots(alice) == [(MONTHLY, 0), (GRANTED, 10), (GRANTED, 5), (GRANTED, 0)]


def test_what_was_not_used_returns_to_the_lots_it_came_from(app: Flask, alice: User) -> None:
    grant(alice, 10, PACK)
    credits.hold(alice.id, 1, 1, 26, key="h", reason="job")
    for minute in (1, 2, 3):
        credits.tick(alice.id, 1, 1, minute, 2, USAGE)
    assert credits.settle(alice.id, 1, 1) == 20
    assert lots(alice) == [(MONTHLY, 14), (PACK, 10)]
    assert credits.held(alice.id) == 0
    assert reconcile_ledger() == []


def test_settling_twice_gives_the_first_answer_and_moves_nothing(app: Flask, alice: User) -> None:
    credits.hold(alice.id, 1, 1, 5, key="h", reason="job")
    assert credits.settle(alice.id, 1, 1) == 5
    assert credits.settle(alice.id, 1, 1) == 5
    assert credits.spendable(alice.id) == 20


def test_a_minute_is_charged_once_however_often_it_is_delivered(app: Flask, alice: User) -> None:
    credits.hold(alice.id, 1, 1, 5, key="h", reason="job")
    first = credits.tick(alice.id, 1, 1, 1, 1, USAGE)
    assert credits.tick(alice.id, 1, 1, 1, 1, USAGE).id == first.id
    assert credits.held(alice.id) == 4


def test_a_refund_brings_back_what_was_charged_once(app: Flask, alice: User) -> None:
    credits.hold(alice.id, 1, 1, 5, key="h", reason="job")
    credits.tick(alice.id, 1, 1, 1, 3, USAGE)
    assert credits.refund(alice.id, 1, 1, reason="ours") == 3
    assert credits.refund(alice.id, 1, 1, reason="ours") == 0
    credits.settle(alice.id, 1, 1)
    assert credits.spendable(alice.id) == 20


def test_a_refund_after_settling_goes_back_to_the_lots(app: Flask, alice: User) -> None:
    credits.hold(alice.id, 1, 1, 5, key="h", reason="job")
    credits.tick(alice.id, 1, 1, 1, 3, USAGE)
    credits.settle(alice.id, 1, 1)
    assert credits.refund(alice.id, 1, 1, reason="ours") == 3
    assert credits.spendable(alice.id) == 20
    assert reconcile_ledger() == []


def test_a_lot_is_dead_at_the_instant_it_expires_even_if_nothing_swept_it(app: Flask, alice: User) -> None:
    grant(alice, 7, GRANTED, days=-0.001)
    assert credits.spendable(alice.id) == 20


def test_credits_of_a_lot_that_died_during_the_hold_expire_instead_of_returning(app: Flask, alice: User) -> None:
    credits.hold(alice.id, 1, 1, 8, key="h", reason="job")
    credits.expire_lots(alice.id, priority=MONTHLY, reason="plan changed")
    credits.settle(alice.id, 1, 1)
    assert credits.spendable(alice.id) == 0
    assert reconcile_ledger() == []


def test_too_few_credits_are_refused_and_the_refusal_is_kept(app: Flask, alice: User) -> None:
    refused = credits.hold(alice.id, 1, 1, 21, key="h", reason="job")
    assert refused.refused
    grant(alice, 100)
    assert credits.hold(alice.id, 1, 1, 21, key="h", reason="job").refused
    assert not credits.hold(alice.id, 1, 1, 21, key="h2", reason="job").refused
    with pytest.raises(PaymentNeeded, match="21 credits and 20 are available"):
        credits.require(refused)


def test_the_same_key_with_other_values_is_a_conflict(app: Flask, alice: User) -> None:
    grant(alice, 5, key="same")
    with pytest.raises(Conflict):
        grant(alice, 6, key="same")
    assert credits.spendable(alice.id) == 25


@pytest.mark.parametrize("statement", [
    "UPDATE ledger_operations SET amount = 1000", "DELETE FROM ledger_operations",
    "UPDATE ledger_transfers SET amount = 1000", "DELETE FROM ledger_transfers",
])  # fmt: skip
def test_the_database_itself_refuses_to_rewrite_the_ledger(app: Flask, alice: User, statement: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"), transaction():
        db.session.execute(text(statement))


def test_two_holds_at_the_same_moment_cannot_both_have_the_last_credits(app: Flask, alice: User) -> None:
    outcomes: list[bool] = []
    barrier = threading.Barrier(2)

    def take(job: int) -> None:
        with app.app_context():
            barrier.wait()
            outcomes.append(credits.hold(user_id, job, 1, 15, key=f"h{job}", reason="job").refused)
            db.session.remove()

    user_id = alice.id
    db.session.rollback()
    threads = [threading.Thread(target=take, args=(job,)) for job in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False, True]
    assert credits.spendable(user_id) == 5


def test_the_same_operation_from_ten_places_at_once_happens_once(app: Flask, alice: User) -> None:
    ids: list[int] = []
    user_id = alice.id
    db.session.rollback()

    def give() -> None:
        with app.app_context():
            ids.append(credits.grant(user_id, 9, key="once", priority=PACK, reason="pack", expires_at=None).id)
            db.session.remove()

    threads = [threading.Thread(target=give) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1 and len(ids) == 10
    assert credits.spendable(user_id) == 29


def test_the_statement_explains_every_change_of_the_balance(app: Flask, alice: User) -> None:
    credits.hold(alice.id, 1, 1, 5, key="h", reason="Held for first")
    credits.tick(alice.id, 1, 1, 1, 1, USAGE)
    credits.settle(alice.id, 1, 1)
    lines = credits.statement(alice.id)
    assert sum(line["change"] for line in lines) == credits.spendable(alice.id) == 19
    assert lines[0]["balance_after"] == 19


def test_reconcile_names_a_cached_balance_that_is_wrong(app: Flask, alice: User) -> None:
    with transaction():
        wallet = db.session.get_one(Wallet, alice.id)
        wallet.available = 999
    assert any(f"Wallet {alice.id}" in sentence for sentence in reconcile())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(1, 30), st.sampled_from([MONTHLY, GRANTED, PACK])),
        st.tuples(st.just("hold"), st.integers(1, 40), st.integers(1, 4)),
        st.tuples(st.just("tick"), st.integers(1, 3), st.integers(1, 4)),
        st.tuples(st.just("refund"), st.just(0), st.integers(1, 4)),
        st.tuples(st.just("settle"), st.just(0), st.integers(1, 4)),
        st.tuples(st.just("expire"), st.just(0), st.sampled_from([MONTHLY, GRANTED, PACK])),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps=STEPS, repeat=st.booleans())
def test_whatever_happens_credits_are_neither_made_nor_lost(sqlite_yard, steps, repeat) -> None:  # type: ignore[no-untyped-def]
    sqlite_yard.reset()
    with sqlite_yard.app.app_context():
        user = db.session.scalars(select(User).where(User.username == "alice")).one()
        for number, step in enumerate(steps):
            for _ in range(2 if repeat else 1):
                carry_out(user, number, *step)
            assert reconcile_ledger() == []
        moved = db.session.scalars(select(LedgerTransfer.amount)).all()
        assert all(amount > 0 for amount in moved)
        db.session.remove()


def carry_out(user: User, number: int, verb: str, amount: int, what: int) -> None:
    try:
        if verb == "grant":
            credits.grant(user.id, amount, key=f"g{number}", priority=what, reason="grant", expires_at=None)
        elif verb == "hold":
            credits.hold(user.id, what, 1, amount, key=f"h{number}", reason="hold")
        elif verb == "tick" and credits.held_for(what, 1) >= amount:
            credits.tick(user.id, what, 1, number, amount, USAGE)
        elif verb == "refund":
            credits.refund(user.id, what, 1, reason="refund")
        elif verb == "settle":
            credits.settle(user.id, what, 1)
        elif verb == "expire":
            credits.expire_lots(user.id, priority=what, reason="expire")
    except Conflict:
        pass  # the hold of this job is closed


def reconcile_ledger() -> list[str]:
    """The checks that need no job rows: these tests use the ledger alone."""
    return [sentence for sentence in reconcile() if "The ledger charges job" not in sentence]


@pytest.mark.parametrize("hours", [1, 30, 49, 24 * 40])
def test_what_was_used_between_two_instants_is_the_same_by_days_and_by_charges(
    app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    clock = moved_clock(monkeypatch, utc(2027, 3, 1, 20, 30))
    begun, charges = clock.at, []
    grant(alice, 1000)
    for number in range(1, 41):
        at = clock.advance(hours=7, minutes=11 * number)
        credits.spend(alice.id, number, key=f"spent {number}", reason="test", usage=USAGE)
        charges.append((at, number))
    for begin in (begun, utc(2027, 3, 1, 0), charges[5][0], utc(2027, 3, 9, 0)):
        end = begin + timedelta(hours=hours)
        expected = sum(amount for at, amount in charges if begin <= at < end)
        assert credits.used_between(alice.id, begin, end) == expected
