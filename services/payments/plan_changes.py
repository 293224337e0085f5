"""From plan to plan: what it would cost, now or at the end of the term, by card or on the gateway's page; and out of it.

Each verb stores the intent with its key, lets go of the database, calls the gateway, and brings over what it says.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from models.accounts import User
from models.base import db, end_read, now
from models.payments import Checkout
from models.plans import Plan
from models.subscriptions import Subscription
from services import notices, price_list, subscriptions
from services.errors import Conflict, Invalid, PaymentNeeded
from services.gateways import gateways
from services.gateways.payments import CardRefused, Object
from services.payments import checkouts, customers, prices
from services.payments.shapes import id_of
from services.payments.sync import close_checkout, sync_invoice, sync_subscription
from services.subscriptions.periods import share


@dataclass(frozen=True)
class Change:
    """What asking for another plan led to: done, waiting at a checkout page, or put off to a date."""

    subscription: Subscription
    checkout_url: str | None = None
    scheduled_for: datetime | None = None


@dataclass(frozen=True)
class Offer:
    """What changing to a plan would mean: cents due now, credits that come now, or the date on which it holds. With
    `restarts` a new series of periods begins, and what is left of the present one's monthly credits ends."""

    plan: Plan
    interval: str
    cents: int
    credits: int
    scheduled_for: datetime | None
    restarts: bool


def preview(actor: User, plan_id: int, interval: str = "month") -> Offer:
    """What a change would cost and bring now. Raises as `upgrade` does."""
    subscription, wanted = _wanted(actor, plan_id, interval)
    if _is_later(subscription, wanted, interval):
        return Offer(wanted, interval, 0, 0, subscriptions.term_end(subscription), False)
    customers.of(actor)  # so that the card that would be charged is known and can be named
    if subscription.source != "gateway":
        return Offer(wanted, interval, wanted.cents(interval) or 0, wanted.monthly_credits, None, True)
    start, end = subscriptions.period(subscription, now())
    gateway_id, restart = _gateway_id(subscription), interval != subscription.interval
    more = wanted.monthly_credits
    if not restart:
        more = share(max(0, wanted.monthly_credits - subscription.plan.monthly_credits), start, end)
    price = prices.plan_price(wanted, interval)
    end_read()
    item = _item(gateway_id)
    cents = gateways().payments.preview(gateway_id, str(item["id"]), price, int(now().timestamp()), restart)
    return Offer(wanted, interval, cents, more, None, restart)


def upgrade(actor: User, plan_id: int, interval: str = "month") -> Change:
    """Move to another plan: a dearer one now and paid, a cheaper one at the end of what is paid for.

    Raises NotFound, Conflict for the present or an archived plan, PaymentNeeded when the card is declined, Forbidden
    when payments are off.
    """
    subscription, wanted = _wanted(actor, plan_id, interval)
    if _is_later(subscription, wanted, interval):
        return _put_off(subscription, wanted, interval)
    customer = customers.of(actor)
    end_read()
    card = gateways().payments.card(customer)
    if card is None:
        return Change(subscription, checkout_url=checkout_plan(actor, wanted, interval).url)
    try:
        if subscription.source == "gateway":
            _change_price(subscription, wanted, interval)
        else:
            _subscribe(actor, customer, wanted, interval)
    except CardRefused as refusal:
        raise customers.declined(refusal) from None
    return Change(subscriptions.current(actor))


def checkout_plan(actor: User, wanted: Plan, interval: str) -> Checkout:
    """The hosted page on which a plan is bought; asking twice gives the same page."""
    subscription = subscriptions.current(actor)
    if subscription.source == "gateway":
        raise PaymentNeeded(
            "You have no card on file. Add one under Payment method on the billing page, then change the plan.",
            code="no_card", ways=customers.WAYS_TO_PAY,
        )  # fmt: skip
    checkout = checkouts.opened(subscription, wanted, interval)
    metadata = checkouts.metadata_of(checkout)
    given = {"mode": "subscription", "subscription_data": {"metadata": metadata}}
    return checkouts.hosted(actor, checkout, prices.plan_price(wanted, interval), given)


def plan_page(actor: User, plan_id: int, interval: str) -> str:
    """The hosted page on which a plan is bought, for somebody who does not pay for one yet. Raises as `upgrade` does."""
    subscription, wanted = _wanted(actor, plan_id, interval)
    customers.require_on()
    if subscription.source == "gateway" or not wanted.is_paid:
        raise Conflict("You pay for a plan already. Change it with POST /api/subscription/upgrade.", code="pays")
    url = checkout_plan(actor, wanted, interval).url
    assert url is not None
    return url


def cancel(actor: User) -> Subscription:
    """Let a paid plan end with what is paid for. Raises Conflict when there is nothing to cancel."""
    subscription = subscriptions.current(actor)
    if subscription.source == "free":
        raise Conflict("You are on the free plan; there is nothing to cancel.", code="nothing_to_cancel")
    if not subscription.cancel_at_period_end:
        _at_end(subscription, True)
        subscriptions.cancel_at_end(subscription)
    return subscriptions.current(actor)


def resume(actor: User) -> Subscription:
    """Undo a cancellation or a change that waits for the end of the term. Raises Conflict when there is none."""
    subscription = subscriptions.current(actor)
    if not subscription.cancel_at_period_end and subscription.pending_plan_id is None:
        raise Conflict("Nothing was cancelled and no change is waiting.", code="nothing_to_resume")
    if subscription.cancel_at_period_end:
        _at_end(subscription, False)
    elif subscription.source == "gateway":
        _set_next_price(subscription, subscription.plan, subscription.interval)
    subscriptions.keep(subscription)
    return subscriptions.current(actor)


def go_on() -> int:
    """Buy the plans that wait behind one that has ended, with the card on file. Answers how many began."""
    if not gateways().payments.is_on:
        return 0
    waiting = select(Subscription).where(
        Subscription.ended_at.is_(None), Subscription.source == "free", Subscription.pending_plan_id.is_not(None)
    )  # fmt: skip
    return sum(_goes_on(subscription) for subscription in db.session.scalars(waiting).all())


def end_plan_now(user_id: int) -> None:
    """End a plan at once, at the gateway too: what an admin may do."""
    subscription = subscriptions.live(user_id)
    if subscription.source == "gateway":
        gateway_id = _gateway_id(subscription)
        end_read()
        gateways().payments.cancel_now(gateway_id)
        sync_subscription(gateway_id)
    elif subscription.source == "given":
        subscriptions.end_given(subscription)


def assign(user_id: int, plan_id: int, ends_at: datetime | None) -> Subscription:
    """Put somebody on a plan without payment. Raises Conflict while they pay for one."""
    wanted = price_list.plan(plan_id)
    if wanted.archived_at is not None:
        raise Conflict(f"The plan {wanted.display_name} is not offered any more.", code="plan_archived")
    return subscriptions.give(user_id, wanted, ends_at)


def _goes_on(subscription: Subscription) -> bool:
    actor = db.session.get_one(User, subscription.user_id)
    wanted, interval = subscription.pending_plan, subscription.pending_interval or "month"
    assert wanted is not None
    customer = customers.of(actor)
    end_read()
    try:
        if gateways().payments.card(customer) is None:
            raise CardRefused("there is no card on file")
        _subscribe(actor, customer, wanted, interval)
    except CardRefused as refusal:
        subscriptions.keep(subscriptions.live(actor.id))
        notices.tell(
            actor.id, "plan_not_begun", f"{subscription.id}:{subscription.next_period}", "Your plan did not begin",
            f"the plan {wanted.display_name} could not begin, because your bank refused the payment ({refusal}). You are on "
            "the free plan now; choose the plan again with another card:",
        )  # fmt: skip
        return False
    return True


def _wanted(actor: User, plan_id: int, interval: str) -> tuple[Subscription, Plan]:
    subscription, wanted = subscriptions.current(actor), price_list.plan(plan_id)
    if wanted.archived_at is not None:
        raise Conflict(f"The plan {wanted.display_name} is not offered any more.", code="plan_archived")
    if wanted.cents(interval) is None and wanted.is_paid:
        raise Invalid.of(interval=f"The plan {wanted.display_name} is sold by the month only.")
    if wanted.id == subscription.plan_id and (interval == subscription.interval or not wanted.is_paid):
        raise Conflict(f"You are on the plan {wanted.display_name} already.", code="present_plan")
    if not _is_later(subscription, wanted, interval):
        customers.require_on()
    return subscription, wanted


def _is_later(subscription: Subscription, wanted: Plan, interval: str) -> bool:
    """Whether a change waits for the end of the term: anything that is not dearer (billing H2)."""
    if subscription.source == "free":
        return False
    if wanted.rank != subscription.plan.rank:
        return wanted.rank < subscription.plan.rank
    return (subscription.interval, interval) != ("month", "year")


def _put_off(subscription: Subscription, wanted: Plan, interval: str) -> Change:
    if subscription.source == "gateway" and wanted.is_paid and interval == subscription.interval:
        if subscription.cancel_at_period_end:
            _at_end(subscription, False)
        subscriptions.plan_later(subscription, wanted, interval)  # first: what the gateway says must find it waiting
        _set_next_price(subscription, wanted, interval)
    else:
        subscriptions.plan_later(subscription, wanted, interval)
        _at_end(subscription, True)
    return Change(subscription, scheduled_for=subscriptions.term_end(subscription))


def _subscribe(actor: User, customer: str, wanted: Plan, interval: str) -> None:
    checkout = checkouts.opened(subscriptions.current(actor), wanted, interval, by_card=True)
    price = prices.plan_price(wanted, interval)
    metadata = checkouts.metadata_of(checkout)
    end_read()
    try:
        made = gateways().payments.subscribe(customer, price, metadata, f"subscribe:{checkout.id}")
    except CardRefused:
        close_checkout(checkout.id, "declined")
        raise
    sync_subscription(str(made["id"]))
    _bring_invoice(made)


def _change_price(subscription: Subscription, wanted: Plan, interval: str) -> None:
    gateway_id, restart = _gateway_id(subscription), interval != subscription.interval
    checkout = checkouts.opened(subscription, wanted, interval, by_card=True)
    price = prices.plan_price(wanted, interval)
    end_read()
    item = _item(gateway_id)
    try:
        at = int(checkout.created_at.timestamp())
        made = gateways().payments.change_price(
            gateway_id, str(item["id"]), price, at, restart, f"change:{checkout.id}"
        )
    except CardRefused:
        close_checkout(checkout.id, "declined")
        raise
    sync_subscription(gateway_id)
    _bring_invoice(made)
    close_checkout(checkout.id, "paid")


def _set_next_price(subscription: Subscription, plan: Plan, interval: str) -> None:
    gateway_id, price = _gateway_id(subscription), prices.plan_price(plan, interval)
    end_read()
    item = _item(gateway_id)
    gateways().payments.change_price_later(gateway_id, str(item["id"]), price, f"next:{uuid.uuid4()}")


def _at_end(subscription: Subscription, wanted: bool) -> None:
    if subscription.source == "gateway":
        gateway_id = _gateway_id(subscription)
        end_read()
        gateways().payments.cancel_at_end(gateway_id, wanted, f"cancel:{uuid.uuid4()}")


def _bring_invoice(made: Object) -> None:
    invoice = id_of(made.get("latest_invoice"))
    if invoice:
        sync_invoice(invoice)


def _item(gateway_id: str) -> Object:
    found = gateways().payments.retrieve("subscription", gateway_id)
    if found is None:
        raise Conflict("The payment service does not know this subscription. Tell the operator.", code="unknown_there")
    item: Object = found["items"]["data"][0]
    return item


def _gateway_id(subscription: Subscription) -> str:
    assert subscription.gateway_id is not None
    return subscription.gateway_id
