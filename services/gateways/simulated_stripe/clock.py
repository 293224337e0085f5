"""What time alone does: renewals, retries of failed ones, ends, expiries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, select

from models.base import db, end_read
from models.simulated_payments import SimulatedObject, SimulatedRequest
from services.gateways.simulated_stripe import changes, checkout, collection, invoices, subscription_ends, subscriptions
from services.gateways.simulated_stripe.books import Books, Thing

KEYS_KEPT = timedelta(hours=24)  # idempotency keys, as long as Stripe promises
RETRY_GAPS = (1, 2, 2)  # days from one try to the next: 1, 3 and 5 days after the first
DAY = 86400
AT_ONCE = 200
log = structlog.get_logger()


def advance(work: Callable[[datetime], AbstractContextManager[Books]], now: datetime) -> int:
    """Do everything that is due by `now`, in the order it fell due, each in a piece of work of its own.

    Months that were missed are billed one after the other. Retries count from when they were tried, so a clock that was
    away costs nobody their days of grace.
    """
    done, broken = 0, set[str]()
    while due := _due(now, broken):
        for id in due:
            try:
                with work(now) as books:
                    done += _when_due(books, id)
            except Exception:  # one that is broken must not keep the others from their turn
                log.exception("simulated_payment_stuck", id=id)
                broken.add(id)
    with work(now):
        db.session.execute(delete(SimulatedRequest).where(SimulatedRequest.created_at < now - KEYS_KEPT))
    return done


def _due(now: datetime, broken: set[str]) -> list[str]:
    query = select(SimulatedObject.id).where(SimulatedObject.due_at <= now, SimulatedObject.id.not_in(broken))
    found = list(db.session.scalars(query.order_by(SimulatedObject.due_at, SimulatedObject.sequence).limit(AT_ONCE)))
    end_read()
    return found


def _when_due(books: Books, id: str) -> int:
    """Look at one object again, now that nobody else writes, and do what is due of it."""
    row = db.session.get(SimulatedObject, id)
    thing = books.any(id)
    if row is None or thing is None or row.due_at is None or row.due_at > books.at:
        return 0
    match thing["object"], thing["status"]:
        case "checkout.session", _:
            checkout.end(books, thing)
        case "invoice", _:
            _retry(books, thing)
        case "subscription", "incomplete":
            subscription_ends.expire_incomplete(books, thing)
        case "subscription", _:
            _end_period(books, thing)
    return 1


def _end_period(books: Books, subscription: Thing) -> None:
    pending = subscription["pending_update"]
    if pending and pending["expires_at"] <= books.second:
        subscription_ends.drop_pending_update(books, subscription)
        books.revise(subscription, "customer.subscription.updated")
        books.tell("customer.subscription.pending_update_expired", subscription)
    elif subscription["cancel_at_period_end"]:
        subscription_ends.cancel(books, subscription, "cancellation_requested")
    else:
        _renew(books, subscription)


def _renew(books: Books, subscription: Thing) -> None:
    item = subscription["items"]["data"][0]
    start, end = changes.period_after(subscription["billing_cycle_anchor"], item["price"], item["current_period_end"])
    item["current_period_start"], item["current_period_end"], item["billed_until"] = start, end, end
    whole = invoices.line(books, subscription, item["price"], item["quantity"], (start, end))
    lines = [*subscriptions.pending_lines(books, subscription), whole]
    draft = invoices.draft(books, subscription, lines, "subscription_cycle")
    subscriptions.pending_lines(books, subscription, take=draft["id"])
    subscription["latest_invoice"] = draft["id"]
    books.revise(subscription, "customer.subscription.updated")
    invoice = invoices.issue(books, draft)
    method = collection.method_of(books, subscription)
    if collection.collect(books, invoice, method, retry_at=_retry_at(books, invoice)):
        subscription["status"] = "past_due"
        books.revise(subscription, "customer.subscription.updated")


def _retry(books: Books, invoice: Thing) -> None:
    subscription = books.get("subscription", collection.subscription_id(invoice))
    method, retry_at = collection.method_of(books, subscription), _retry_at(books, invoice)
    failure = collection.collect(books, invoice, method, retry_at=retry_at)
    if failure and retry_at is None and subscription["status"] not in subscription_ends.OVER:
        subscription_ends.cancel(books, subscription, "payment_failed")


def _retry_at(books: Books, invoice: Thing) -> int | None:
    """When a try made now is followed by another; None when it is the last."""
    tries = invoice["attempt_count"]
    return books.second + RETRY_GAPS[tries] * DAY if tries < len(RETRY_GAPS) else None
