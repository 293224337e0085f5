"""The ledger against a plain model of a wallet, step by step, whatever comes in whatever order.

LEDGER_MACHINE_EXAMPLES=400 makes it a long run; the suite does 600 steps on SQLite and 200 on Postgres.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from models.accounts import User
from models.base import db
from models.credits import GRANTED, MONTHLY, PACK, LedgerAccount
from services import calendar, credits, price_list, reconcile, subscriptions
from services.errors import Conflict, Invalid
from tests.conftest import Yard
from tests.factories import plan_id
from tests.till import Clock, faults, moved_clock, new_member, utc

EXAMPLES = int(os.environ.get("LEDGER_MACHINE_EXAMPLES", "15"))
STEPS = 40
USAGE = credits.Usage("message")
BEGIN = utc(2027, 1, 31)
NO_JOBS = "The ledger charges job"  # there is only the ledger here
EXPECTED = "has a renewal that is more than an hour overdue."  # until somebody looks
PRIORITIES = (MONTHLY, GRANTED, PACK)


# The model: a wallet as one would keep it on paper


@dataclass
class PaperLot:
    name: str
    number: int
    priority: int
    expires: datetime | None
    granted: int
    left: int = 0
    frozen: bool = False
    closed: bool = False
    taken: int = 0  # by claw-backs, in all
    taken_from: int = 0  # of that, from the lot itself
    times: int = 0

    def is_dead(self, at: datetime) -> bool:
        return self.closed or (self.expires is not None and self.expires <= at)


@dataclass
class PaperHold:
    left: int = 0
    charged: int = 0
    refunded: bool = False
    open: bool = True
    drawn: list[tuple[PaperLot, int]] = field(default_factory=list)  # what did not go back, in the order it was drawn


@dataclass
class PaperWallet:
    at: datetime
    allotment: int
    lots: dict[str, PaperLot] = field(default_factory=dict)
    holds: dict[int, PaperHold] = field(default_factory=dict)
    debt: int = 0
    gate: datetime | None = None
    period: int = 0

    def live(self) -> list[PaperLot]:
        gated = self.gate is not None and self.gate <= self.at
        found = [
            lot for lot in self.lots.values()
            if not lot.is_dead(self.at) and not lot.frozen and lot.left and not (gated and lot.priority == MONTHLY)
        ]  # fmt: skip
        never = utc(9999, 1, 1)
        return [] if self.debt else sorted(found, key=lambda lot: (lot.priority, lot.expires or never, lot.number))

    @property
    def available(self) -> int:
        return sum(lot.left for lot in self.live())

    @property
    def held(self) -> int:
        return sum(hold.left for hold in self.holds.values())

    @property
    def balance(self) -> int:
        return sum(lot.left for lot in self.lots.values() if not lot.closed) - self.debt

    def grant(self, name: str, amount: int, priority: int, expires: datetime | None) -> None:
        lot = self.lots[name] = PaperLot(name, len(self.lots), priority, expires, amount, amount)
        paid = min(self.debt, amount)
        self.debt, lot.left = self.debt - paid, amount - paid

    def draw(self, amount: int) -> list[tuple[PaperLot, int]] | None:
        if amount > self.available:
            return None
        drawn = []
        for lot in self.live():
            part = min(amount, lot.left)
            if part:
                drawn.append((lot, part))
                lot.left, amount = lot.left - part, amount - part
        return drawn

    def give_back(self, hold: PaperHold, amount: int) -> None:
        while amount:
            lot, part = hold.drawn.pop()
            back = min(part, amount)
            if back < part:
                hold.drawn.append((lot, part - back))
            if not lot.is_dead(self.at):
                paid = min(self.debt, back)
                self.debt, lot.left = self.debt - paid, lot.left + back - paid
            amount -= back

    def expire(self, at: datetime, priority: int | None = None) -> None:
        for lot in self.lots.values():
            if not lot.closed and ((lot.expires is not None and lot.expires <= at) or lot.priority == priority):
                lot.left, lot.closed = 0, True

    def claw_back(self, lot: PaperLot, part: int, whole: int) -> int:
        change = lot.granted * part // whole - lot.taken
        lot.taken += change
        lot.times += change != 0
        if change > 0:
            of_lot = min(change, lot.left)
            lot.left, self.debt = lot.left - of_lot, self.debt + change - of_lot
            lot.taken_from += of_lot
        else:
            paid = min(self.debt, -change)
            to_lot = min(-change - paid, lot.taken_from)
            self.debt, lot.left, lot.taken_from = self.debt - paid, lot.left + to_lot, lot.taken_from - to_lot
            if rest := -change - paid - to_lot:
                name = f"clawback of {lot.name}:{lot.times}"
                self.lots[name] = PaperLot(name, len(self.lots), GRANTED, None, rest, rest)
        return change

    def renew(self) -> None:
        while (start := calendar.start(BEGIN, self.period)) <= self.at:
            self.expire(start)
            self.grant(f"period {self.period}", self.allotment, MONTHLY, calendar.start(BEGIN, self.period + 1))
            self.period += 1


# The machine


class Ledger(RuleBasedStateMachine):
    yard: Yard
    clock: Clock

    def __init__(self) -> None:
        super().__init__()
        self.clock.at = BEGIN
        self.yard.reset()  # always: a wallet of the run before would see time go back
        self.context = self.yard.app.app_context()
        self.context.push()
        self.user_id = new_member("carol").id
        self.paper = PaperWallet(BEGIN, 20)
        self.paper.renew()
        self.number = 0
        self.again: list[Callable[[], Any]] = []  # everything done so far, to be done once more with its key

    def teardown(self) -> None:
        self._renew()
        assert faults() == []
        db.session.remove()
        self.context.pop()

    @rule(amount=st.integers(0, 60), priority=st.sampled_from(PRIORITIES), days=st.sampled_from([None, -1, 1, 5, 40]))
    def grant(self, amount: int, priority: int, days: int | None) -> None:
        name, expires = self._name("grant"), None if days is None else self.clock.at + timedelta(days=days)
        self._do(
            lambda: (
                credits.grant(self.user_id, amount, key=name, priority=priority, reason="test", expires_at=expires).id
            )
        )
        self.paper.grant(name, amount, priority, expires)

    @rule(amount=st.integers(1, 60))
    def spend(self, amount: int) -> None:
        name = self._name("spend")
        refused = self._do(lambda: credits.spend(self.user_id, amount, key=name, reason="test", usage=USAGE).refused)
        assert refused == (self.paper.draw(amount) is None)

    @rule(amount=st.integers(1, 60), job=st.integers(1, 4))
    def hold_or_extend(self, amount: int, job: int) -> None:
        name, hold = self._name("hold"), self.paper.holds.get(job)
        if hold is not None and not hold.open:
            with pytest.raises(Conflict):
                credits.hold(self.user_id, job, 1, amount, key=name, reason="test")
            return
        refused = self._do(lambda: credits.hold(self.user_id, job, 1, amount, key=name, reason="test").refused)
        drawn = self.paper.draw(amount)
        assert refused == (drawn is None)
        if drawn is not None:
            hold = self.paper.holds.setdefault(job, PaperHold())
            hold.left += amount
            hold.drawn += drawn

    @rule(job=st.integers(1, 4), amount=st.integers(0, 20))
    def tick(self, job: int, amount: int) -> None:
        hold, number = self.paper.holds.get(job), self._number()
        if hold is None or not hold.open:
            with pytest.raises(Conflict):
                credits.tick(self.user_id, job, 1, number, amount, USAGE)
        elif amount <= hold.left:
            self._do(lambda: credits.tick(self.user_id, job, 1, number, amount, USAGE).id)
            hold.left, hold.charged = hold.left - amount, hold.charged + amount

    @rule(job=st.integers(1, 4))
    def settle(self, job: int) -> None:
        hold = self.paper.holds.get(job)
        expected = hold.left if hold is not None and hold.open else None
        answer = self._do(lambda: credits.settle(self.user_id, job, 1)) if expected is not None else None
        assert answer == expected
        if hold is not None and hold.open:
            self.paper.give_back(hold, hold.left)
            hold.left, hold.open = 0, False

    @rule(job=st.integers(1, 4))
    def refund(self, job: int) -> None:
        hold = self.paper.holds.get(job)
        back = credits.refund(self.user_id, job, 1, reason="test")
        assert back == (hold.charged if hold is not None and not hold.refunded else 0)
        if hold is not None and back:
            hold.refunded = True
            if hold.open:
                hold.left += back
            else:
                self.paper.give_back(hold, back)

    @rule(part=st.sampled_from([0, 250, 333, 500, 999, 1000]), data=st.data())
    @precondition(lambda self: any(name.startswith("pack") for name in self.paper.lots))
    def claw_back(self, part: int, data: st.DataObject) -> None:
        lot = data.draw(st.sampled_from([lot for name, lot in self.paper.lots.items() if name.startswith("pack")]))
        answer = credits.claw_back(self.user_id, lot.name, (part, 1000), key=f"clawback of {lot.name}", reason="test")
        assert answer == self.paper.claw_back(lot, part, 1000)

    @rule(amount=st.integers(1, 60))
    def buy_pack(self, amount: int) -> None:
        name = self._name("pack")
        self._do(
            lambda: credits.grant(self.user_id, amount, key=name, priority=PACK, reason="test", expires_at=None).id
        )
        self.paper.grant(name, amount, PACK, None)

    @rule(data=st.data(), frozen=st.booleans())
    def freeze(self, data: st.DataObject, frozen: bool) -> None:
        lot, name = data.draw(st.sampled_from(list(self.paper.lots.values()))), self._name("freeze")
        if lot.name.startswith("period"):
            return
        verb = credits.freeze if frozen else credits.unfreeze
        self._do(lambda: verb(self.user_id, lot.name, key=name, reason="test"))
        lot.frozen = lot.frozen if lot.closed else frozen

    @rule(days=st.sampled_from([None, -1, 0, 7]))
    def gate(self, days: int | None) -> None:
        self.paper.gate = None if days is None else self.clock.at + timedelta(days=days)
        credits.gate_monthly(self.user_id, self.paper.gate)

    @rule(change=st.integers(-40, 40))
    def adjust(self, change: int) -> None:
        name = self._name("adjust")
        if change < 0 and -change > self.paper.available:
            with pytest.raises(Invalid):
                credits.adjust(self.user_id, change, key=name, reason="test")
            return
        self._do(lambda: credits.adjust(self.user_id, change, key=name, reason="test").id)
        if change < 0:
            self.paper.draw(-change)
        else:
            self.paper.grant(name, change, GRANTED, None)

    @rule(priority=st.sampled_from([None, GRANTED]))
    def expire(self, priority: int | None) -> None:
        credits.expire_lots(self.user_id, priority=priority, reason="test")
        self.paper.expire(self.clock.at, priority)

    @rule()
    @precondition(lambda self: self.paper.allotment < 5000)
    def upgrade(self) -> None:
        self._renew()
        name, plans = self._name("up"), {20: "basic", 200: "pro", 1000: "enterprise"}
        plan = price_list.plan(plan_id(plans[self.paper.allotment]))
        subscriptions.move_up(subscriptions.live(self.user_id), plan, "month", name)
        start, end = (calendar.start(BEGIN, self.paper.period - back) for back in (1, 0))
        more = plan.monthly_credits - self.paper.allotment
        share = more * int((end - self.clock.at).total_seconds()) // int((end - start).total_seconds())
        if share:
            self.paper.grant(f"upgrade:{name}", share, MONTHLY, end)
        self.paper.allotment = plan.monthly_credits

    @rule(hours=st.sampled_from([1, 24, 24 * 6, 24 * 31, 24 * 70]))
    def time_passes(self, hours: int) -> None:
        self.paper.at = self.clock.advance(hours=hours)

    @rule(by=st.sampled_from(["renew_due", "renew_overdue", "live"]))
    def renew(self, by: str) -> None:
        if by == "renew_overdue":
            subscriptions.renew_overdue()
        elif by == "live":
            subscriptions.live(self.user_id)
        else:
            subscriptions.renew_due(self.user_id, self.clock.at, "clock")
        self.paper.renew()

    @rule(data=st.data())
    @precondition(lambda self: self.again)
    def retry_everything_so_far(self, data: st.DataObject) -> None:
        for act in data.draw(st.lists(st.sampled_from(self.again), min_size=1, max_size=5)):
            act()

    @invariant()
    def the_books_are_right(self) -> None:
        db.session.rollback()
        found = [sentence for sentence in reconcile.reconcile() if not sentence.endswith(EXPECTED)]
        assert [sentence for sentence in found if not sentence.startswith(NO_JOBS)] == []

    @invariant()
    def the_wallet_is_the_one_on_paper(self) -> None:
        db.session.rollback()
        wallet = credits.wallet_of(self.user_id)
        found = (credits.spendable(self.user_id), wallet.held, -wallet.debt, wallet.balance)
        assert found == (self.paper.available, self.paper.held, self.paper.debt, self.paper.balance)

    @invariant()
    def every_lot_is_the_one_on_paper(self) -> None:
        query = db.select(LedgerAccount).where(LedgerAccount.user_id == self.user_id, LedgerAccount.kind == "lot")
        found = [
            (lot.priority, lot.granted, lot.balance) for lot in db.session.scalars(query.order_by(LedgerAccount.id))
        ]
        assert found == [(lot.priority, lot.granted, lot.left) for lot in self.paper.lots.values()]

    def _renew(self) -> None:
        subscriptions.renew_due(self.user_id, self.clock.at, "clock")
        self.paper.renew()

    def _do(self, act: Callable[[], Any]) -> Any:
        """Carry something out, and remember it with its answer."""
        answer = act()

        def once_more() -> None:
            assert act() == answer

        self.again.append(once_more)
        return answer

    def _number(self) -> int:
        self.number += 1
        return self.number

    def _name(self, what: str) -> str:
        return f"{what} {self.user_id} {self._number()}"


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_the_ledger_is_the_one_on_paper_after_every_step(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    of_kind = {"yard": request.getfixturevalue(f"{kind}_yard"), "clock": moved_clock(monkeypatch, BEGIN)}
    machine = type("LedgerOf" + kind.title(), (Ledger,), of_kind)
    examples = EXAMPLES if kind == "sqlite" else max(1, EXAMPLES // 3)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine, settings=settings(max_examples=examples, stateful_step_count=STEPS, deadline=None, derandomize=True,
                                   suppress_health_check=list(HealthCheck)),
    )  # fmt: skip


# What the machine found, each as its shortest story


def test_a_hold_that_is_settled_cannot_be_extended(app: Flask, clock: Clock, carol: User) -> None:
    credits.hold(carol.id, 1, 1, 5, key="first", reason="test")
    credits.settle(carol.id, 1, 1)
    for amount in (5, 5000):  # also when there would not be so many
        with pytest.raises(Conflict):
            credits.hold(carol.id, 1, 1, amount, key=f"late {amount}", reason="test")
    assert (credits.spendable(carol.id), credits.held(carol.id)) == (20, 0)
    assert faults() == []


def test_a_refund_after_settling_expires_no_more_than_what_came_from_the_dead_lot(
    app: Flask, clock: Clock, carol: User
) -> None:
    """5 of the 15 held come from a lot that dies: they expire at the settling, and no more when the job is refunded."""
    credits.spend(carol.id, 10, key="spent", reason="test", usage=USAGE)
    credits.grant(carol.id, 5, key="dies", priority=GRANTED, reason="test", expires_at=clock.at + timedelta(days=1))
    credits.hold(carol.id, 1, 1, 15, key="hold", reason="test")
    credits.tick(carol.id, 1, 1, 1, 8, USAGE)
    clock.advance(days=2)
    credits.settle(carol.id, 1, 1)
    assert credits.spendable(carol.id) == 2
    credits.refund(carol.id, 1, 1, reason="ours")
    assert credits.spendable(carol.id) == 10
    assert faults() == []


def test_what_is_restored_to_a_pack_never_exceeds_it(app: Flask, clock: Clock, carol: User) -> None:
    """A refund while credits of the pack are held; others pay the debt, the hold gives back, and the refund fails."""
    credits.spend(carol.id, 20, key="spent", reason="test", usage=USAGE)
    credits.grant(carol.id, 100, key="pack", priority=PACK, reason="test", expires_at=None)
    credits.hold(carol.id, 1, 1, 60, key="hold", reason="test")
    credits.claw_back(carol.id, "pack", (1, 1), key="clawback", reason="test")
    credits.adjust(carol.id, 60, key="gift", reason="test")
    credits.settle(carol.id, 1, 1)
    credits.claw_back(carol.id, "pack", (0, 1), key="clawback", reason="test")
    assert credits.spendable(carol.id) == 160
    assert faults() == []


def test_credits_that_come_back_from_a_hold_pay_a_debt(app: Flask, clock: Clock, carol: User) -> None:
    """Otherwise somebody who owes 10 and gets 60 back cannot spend the 50 that are theirs."""
    credits.spend(carol.id, 20, key="spent", reason="test", usage=USAGE)
    credits.grant(carol.id, 100, key="pack", priority=PACK, reason="test", expires_at=None)
    credits.hold(carol.id, 1, 1, 60, key="hold", reason="test")
    credits.claw_back(carol.id, "pack", (1, 2), key="clawback", reason="test")
    credits.settle(carol.id, 1, 1)
    wallet = credits.wallet_of(carol.id)
    assert (wallet.balance, credits.spendable(carol.id)) == (50, 50)


def test_an_unfreezing_that_found_nothing_frozen_does_not_unfreeze_later(app: Flask, clock: Clock, carol: User) -> None:
    credits.grant(carol.id, 100, key="pack", priority=PACK, reason="test", expires_at=None)
    credits.unfreeze(carol.id, "pack", key="decided", reason="test")
    credits.freeze(carol.id, "pack", key="opened", reason="test")
    credits.unfreeze(carol.id, "pack", key="decided", reason="test")
    assert credits.spendable(carol.id) == 20


# Many at once


def together(app: Flask, count: int, act: Callable[[int], Any]) -> list[Any]:
    """Carry out `act(0)` to `act(count - 1)` in threads that begin at the same moment."""
    answers: list[Any] = [None] * count
    barrier = threading.Barrier(count)
    db.session.rollback()

    def run(number: int) -> None:
        with app.app_context():
            barrier.wait()
            try:
                answers[number] = act(number)
            except Exception as error:
                answers[number] = error
            finally:
                db.session.remove()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    db.session.rollback()
    raised = [one for one in answers if isinstance(one, Exception)]
    assert raised == []
    return answers


@pytest.mark.parametrize("app", ["postgres"], indirect=True)
def test_32_threads_spend_from_one_wallet_to_the_last_credit_and_never_below(app: Flask, carol: User) -> None:
    user_id, each = carol.id, 10
    credits.adjust(user_id, 480, key="gift", reason="test")  # 500 with the 20 of the month

    def spend(thread: int) -> int:
        keys = [f"{thread}:{number}" for number in range(each)]
        paid = [not credits.spend(user_id, 3, key=key, reason="test", usage=USAGE).refused for key in keys]
        again = [not credits.spend(user_id, 3, key=key, reason="test", usage=USAGE).refused for key in keys[::4]]
        assert again == paid[::4]
        return sum(paid)

    paid = sum(together(app, 32, spend))
    assert (paid, credits.spendable(user_id)) == (166, 2)  # 166 times 3 are 498; all other attempts are refused
    assert faults() == []


@pytest.mark.parametrize("app", ["postgres"], indirect=True)
def test_a_thousand_purchases_asked_for_again_and_again_are_each_granted_once(app: Flask, clock: Clock) -> None:
    members = [new_member(f"member{number}").id for number in range(10)]

    def buy(thread: int) -> int:
        done = 0
        for number in range(thread % 4, 1000, 4):  # each purchase in two of the eight threads
            for _ in range(2 if number % 10 == 0 else 1):
                credits.grant(
                    members[number % 10], 5, key=f"pack {number}", priority=PACK, reason="test", expires_at=None
                )
                done += 1
        return done

    assert sum(together(app, 8, buy)) >= 2000
    assert [credits.spendable(member) for member in members] == [520] * 10
    assert faults() == []
