"""A member at the till of the simulated gateway, with a clock that tests move and webhooks that come when tests say so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from flask import Flask, current_app
from sqlalchemy import select

from models import base
from models.accounts import User
from models.base import db
from models.credits import LedgerAccount, LedgerOperation
from models.payments import Checkout, Payment
from models.simulated_payments import SimulatedEvent
from models.subscriptions import Subscription
from services import accounts, credits, payments, reconcile, subscriptions
from services.gateways import gateways
from services.gateways.simulated_stripe import SimulatedStripe, hosted

Object = dict[str, Any]
PASSWORD = "correct horse battery"


class Clock:
    """What time it is for everything that asks `models.base.now`, defaults of columns and the gateway included."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def advance(self, **later: float) -> datetime:
        """Move on by so much."""
        self.at += timedelta(**later)
        return self.at


def moved_clock(monkeypatch: pytest.MonkeyPatch, at: datetime) -> Clock:
    """Let the clock stand still at an instant until it is moved."""
    clock = Clock(at)

    class Moved(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return clock.at

    monkeypatch.setattr(base, "datetime", Moved)
    return clock


@dataclass
class Till:
    """What a member does with money, and what the gateway makes of it. Events are delivered by `deliver` alone."""

    app: Flask
    clock: Clock
    dropped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        simulator = gateways().payments.simulator
        assert simulator is not None
        simulator.deliver = False
        self.simulator: SimulatedStripe = simulator
        self.stripe = stripe.StripeClient("sk_test_simulated", http_client=simulator).v1

    # --- the member ---------------------------------------------------------------------------------------------------

    def use_card(self, user: User, kind: str) -> None:
        payments.choose_test_card(user, kind)

    def pay_page(self, url: str, card: str = "working") -> None:
        """Press the button of a hosted page."""
        hosted.pay(self.simulator, url.rsplit("/", 1)[1], card)

    def charges(self, user: User) -> list[Object]:
        """Every charge that succeeded, the oldest first."""
        db.session.refresh(user)
        found = self.stripe.charges.list({"customer": str(user.customer_id), "limit": 100}).data
        return [one.to_dict() for one in reversed(found) if one.status == "succeeded"]

    def paid_cents(self, user: User) -> int:
        """What left the member's card and did not come back."""
        return sum(charge["amount"] - charge["amount_refunded"] for charge in self.charges(user))

    # --- time and events ----------------------------------------------------------------------------------------------

    def wait(self, **later: float) -> None:
        """Let time pass, and the gateway do what is due by then."""
        self.simulator.advance(self.clock.advance(**later))

    def wait_until(self, at: datetime) -> None:
        self.clock.at = at
        self.simulator.advance(at)

    def events(self, *types: str) -> list[Object]:
        """What the gateway has to tell, the oldest first; of these types, or all."""
        rows = db.session.scalars(select(SimulatedEvent).order_by(SimulatedEvent.sequence)).all()
        return [row.data for row in rows if not types or row.type.startswith(types)]

    def send(self, events: Iterable[Object]) -> None:
        """Deliver events as the gateway does, signed, to the webhook."""
        for event in events:
            assert self.post(json.dumps(bare(event)).encode()).status_code == 200

    def post(self, body: bytes, signature: str | None = None) -> Any:
        secret = gateways().payments.webhook_secrets[0]
        header = signature or stripe.WebhookSignature.generate_signature_header(body.decode(), secret)
        return self.app.test_client().post("/api/stripe/webhook", data=body, headers={"Stripe-Signature": header})

    def deliver(self) -> None:
        """Let every event there is come to the webhook and be handled."""
        self.send(self.events())
        self.handle()

    def handle(self) -> None:
        """Handle the inbox until nothing is due."""
        while payments.handle_due():
            pass


def bare(event: Object) -> Object:
    """An event that says what happened to which object and nothing else of it, since whoever handles it looks again."""
    kept = {name: event["data"]["object"].get(name) for name in ("id", "object", "charge")}
    return {**event, "data": {"object": kept}}


@dataclass(frozen=True)
class Standing:
    """All that is known of a member here: two that are equal are the same to them."""

    plan: str
    interval: str
    status: str
    source: str
    available: int
    balance: int
    debt: int
    operations: tuple[tuple[str, int, int], ...]
    paid: tuple[tuple[str, str, int, int, str | None], ...]
    checkouts: tuple[tuple[str, str], ...]


def standing(user: User) -> Standing:
    """How a member stands."""
    db.session.rollback()
    subscription, wallet = subscriptions.current(user), credits.wallet_of(user.id)
    db.session.refresh(wallet)
    operations = db.session.scalars(select(LedgerOperation).where(LedgerOperation.user_id == user.id))
    paid = db.session.scalars(select(Payment).where(Payment.user_id == user.id))
    checkouts = db.session.scalars(select(Checkout).where(Checkout.user_id == user.id))
    return Standing(
        subscription.plan.name, subscription.interval, subscription.status, subscription.source,
        credits.spendable(user.id), wallet.balance, wallet.debt,
        tuple(sorted((one.kind, one.amount, one.change) for one in operations)),
        tuple(sorted((one.kind, one.status, one.amount_cents, one.refunded_cents, one.dispute_status) for one in paid)),
        tuple(sorted((one.kind, one.state) for one in checkouts)),
    )  # fmt: skip


def ledger(user_id: int) -> list[tuple[str, str, int, int, int, datetime]]:
    """A member's whole ledger in the order of its writing: (key, kind, amount, change, balance, when it happened).

    An operation on a lot is named by what the lot came from, since numbers of lots differ from run to run.
    """
    lots = select(LedgerAccount.id, LedgerAccount.source).where(LedgerAccount.user_id == user_id)
    sources = {f"expire:{number}": f"expire:{source}" for number, source in db.session.execute(lots)}
    rows = db.session.scalars(
        select(LedgerOperation).where(LedgerOperation.user_id == user_id).order_by(LedgerOperation.id)
    )
    return [
        (sources.get(row.key, row.key), row.kind, row.amount, row.change, row.balance_after, row.event_at)
        for row in rows
    ]


def new_member(name: str) -> User:
    """Somebody who signs up now."""
    return accounts.sign_up(f"{name}@example.com", name, PASSWORD)


def live(user: User) -> Subscription:
    """A member's live subscription as it is stored, nothing opened."""
    query = select(Subscription).where(Subscription.user_id == user.id, Subscription.ended_at.is_(None))
    return db.session.scalars(query, execution_options={"populate_existing": True}).one()


def faults() -> list[str]:
    """What the books say is wrong once everybody's renewals are done; jobs are left out, since ledger tests have none."""
    with current_app.app_context():  # a session of its own: the sweep lets go of all it has loaded
        subscriptions.renew_overdue()
        db.session.remove()
    db.session.rollback()
    return [sentence for sentence in reconcile.reconcile() if "The ledger charges job" not in sentence]


def utc(year: int, month: int, day: int, hour: int = 12, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


def at_once(app: Flask, *acts: Callable[[], Any]) -> list[Any]:
    """Carry out several acts at the same moment, each in a thread of its own: what each answered or raised."""
    answers: list[Any] = [None] * len(acts)
    barrier = threading.Barrier(len(acts))
    db.session.rollback()

    def run(number: int) -> None:
        with app.app_context():
            barrier.wait()
            try:
                answers[number] = acts[number]()
            except Exception as error:
                answers[number] = error
            finally:
                db.session.remove()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    db.session.rollback()
    return answers
