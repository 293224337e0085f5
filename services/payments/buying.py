"""What members ask of the till: plans, packs, the way to the gateway's own pages.

Each verb stores the intent with its key, lets go of the database, calls the gateway, and brings over what it says.
Payment by the card on file is done before the verb answers; without one the answer is a checkout page.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update

from models.accounts import User
from models.base import add, changed, db, end_read, now, transaction
from models.payments import Checkout, Payment
from models.plans import Plan
from models.subscriptions import Subscription
from services import credits, notices, price_list, subscriptions
from services.errors import Conflict, Forbidden, Invalid, NotFound, PaymentNeeded
from services.gateways import gateways
from services.gateways.payments import CardRefused, Object
from services.payments import prices
from services.payments.sync import id_of, sync_checkout, sync_intent, sync_invoice, sync_subscription
from services.subscriptions.periods import share

TEST_CARDS = ("working", "declined", "needs_authentication", "none")
WAYS_TO_PAY = [
    {"label": "Choose another card", "url": "/billing",
     "explanation": "The billing page shows the card on file and leads to where you change it."},
    {"label": "See plans and packs", "url": "/pricing",
     "explanation": "Nothing has changed: your plan and your credits are as they were."},
]  # fmt: skip
CHECKOUT_LASTS = timedelta(hours=1)


@dataclass(frozen=True)
class Change:
    """What asking for another plan led to: done, waiting at a checkout page, or put off to a date."""

    subscription: Subscription
    checkout_url: str | None = None
    scheduled_for: datetime | None = None


@dataclass(frozen=True)
class Purchase:
    """What asking for a pack led to: bought, or waiting at a checkout page."""

    checkout: Checkout
    checkout_url: str | None = None


@dataclass(frozen=True)
class Offer:
    """What changing to a plan would mean: cents due now, credits that come now, or the date on which it holds."""

    plan: Plan
    interval: str
    cents: int
    credits: int
    scheduled_for: datetime | None


def preview(actor: User, plan_id: int, interval: str = "month") -> Offer:
    """What a change would cost and bring now. Raises as `upgrade` does."""
    subscription, wanted = _wanted(actor, plan_id, interval)
    if _is_later(subscription, wanted, interval):
        return Offer(wanted, interval, 0, 0, subscriptions.term_end(subscription))
    if subscription.source != "gateway":
        return Offer(wanted, interval, wanted.cents(interval) or 0, wanted.monthly_credits, None)
    start, end = subscriptions.period(subscription, now())
    gateway_id, restart = _gateway_id(subscription), interval != subscription.interval
    more = wanted.monthly_credits
    if not restart:
        more = share(max(0, wanted.monthly_credits - subscription.plan.monthly_credits), start, end)
    price = prices.plan_price(wanted, interval)
    end_read()
    item = _item(gateway_id)
    cents = gateways().payments.preview(gateway_id, str(item["id"]), price, int(now().timestamp()), restart)
    return Offer(wanted, interval, cents, more, None)


def upgrade(actor: User, plan_id: int, interval: str = "month") -> Change:
    """Move to another plan: a dearer one now and paid, a cheaper one at the end of what is paid for.

    Raises NotFound, Conflict for the present or an archived plan, PaymentNeeded when the card is declined, Forbidden
    when payments are off.
    """
    subscription, wanted = _wanted(actor, plan_id, interval)
    if _is_later(subscription, wanted, interval):
        return _put_off(subscription, wanted, interval)
    customer = _customer(actor)
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
        raise _declined(refusal) from None
    return Change(subscriptions.current(actor))


def checkout_plan(actor: User, wanted: Plan, interval: str) -> Checkout:
    """The hosted page on which a plan is bought; asking twice gives the same page."""
    subscription = subscriptions.current(actor)
    if subscription.source == "gateway":
        raise PaymentNeeded("Add a card on the billing page first, then change the plan.", code="no_card")
    checkout = _open_checkout(subscription, wanted=wanted, interval=interval)
    if checkout.url:
        return checkout
    line = {"price": prices.plan_price(wanted, interval), "quantity": 1}
    metadata = {"user_id": str(actor.id), "checkout_id": checkout.id}
    return _hosted(actor, checkout, {
        "mode": "subscription", "line_items": [line], "subscription_data": {"metadata": metadata}, "metadata": metadata,
    })  # fmt: skip


def buy_pack(actor: User, size: int) -> Purchase:
    """Buy a pack with the card on file, granted before this answers, or get the page on which it is paid.

    Raises Invalid for a size that is not sold, PaymentNeeded when the card is declined, Forbidden when payments are off.
    """
    _require_payments()
    pack = price_list.pack(size)
    customer = _customer(actor)
    end_read()
    card = gateways().payments.card(customer)
    subscription = subscriptions.current(actor)
    if card is None:
        checkout = _open_checkout(subscription, pack_id=pack.id, credits_=pack.credits, cents=pack.price_cents)
        if not checkout.url:
            metadata = {"user_id": str(actor.id), "checkout_id": checkout.id}
            line = {"price": prices.pack_price(pack), "quantity": 1}
            checkout = _hosted(actor, checkout, {
                "mode": "payment", "line_items": [line], "payment_intent_data": {"metadata": metadata}, "metadata": metadata,
            })  # fmt: skip
        return Purchase(checkout, checkout.url)
    with transaction():
        checkout = _new_checkout(subscription, pack_id=pack.id, credits_=pack.credits, cents=pack.price_cents)
    end_read()
    try:
        intent = gateways().payments.charge(
            customer, str(card["id"]), pack.price_cents, {"user_id": str(actor.id), "checkout_id": checkout.id},
            f"{pack.credits:,} credits", checkout.id,
        )  # fmt: skip
    except CardRefused as refusal:
        _declined_checkout(checkout.id)
        raise _declined(refusal) from None
    sync_intent(str(intent["id"]))
    return Purchase(get_for(actor, checkout.id))


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


def _goes_on(subscription: Subscription) -> bool:
    actor = db.session.get_one(User, subscription.user_id)
    wanted, interval = subscription.pending_plan, subscription.pending_interval or "month"
    assert wanted is not None
    customer = _customer(actor)
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


def portal_url(actor: User) -> str:
    """The gateway's page for the card and the invoices. Raises Forbidden when payments are off."""
    _require_payments()
    customer = _customer(actor)
    end_read()
    return gateways().payments.portal_url(customer, f"{gateways().settings.public_url}/billing?from=portal")


def choose_test_card(actor: User, kind: str) -> None:
    """Pay with another of the simulated gateway's cards from now on. Raises NotFound where payments are real."""
    simulator = gateways().payments.simulator
    if simulator is None:
        raise NotFound("There are no test cards on this server. Choose your card on the billing page.")
    if kind not in TEST_CARDS:
        raise Invalid.of(card=f"Choose one of the test cards: {', '.join(TEST_CARDS)}.")
    customer = _customer(actor)
    end_read()
    simulator.choose_card(customer, kind)


def plan_page(actor: User, plan_id: int, interval: str) -> str:
    """The hosted page on which a plan is bought, for somebody who does not pay for one yet. Raises as `upgrade` does."""
    subscription, wanted = _wanted(actor, plan_id, interval)
    _require_payments()
    if subscription.source == "gateway" or not wanted.is_paid:
        raise Conflict("You pay for a plan already. Change it with POST /api/subscription/upgrade.", code="pays")
    url = checkout_plan(actor, wanted, interval).url
    assert url is not None
    return url


def card_of(actor: User) -> dict[str, str] | None:
    """The card on file, in words, or None; nobody is asked who is not known to the gateway."""
    if actor.customer_id is None or not gateways().payments.is_on:
        return None
    customer = actor.customer_id
    end_read()
    card = (gateways().payments.card(customer) or {}).get("card")
    if not card:
        return None
    return {
        "brand": str(card["brand"]),
        "last4": str(card["last4"]),
        "until": f"{card['exp_month']:02}/{card['exp_year']}",
    }


def settle_checkout(actor: User, checkout_id: str) -> Checkout:
    """Bring over how a hosted page ended; the success page calls this, and so may the webhook at the same time."""
    checkout = get_for(actor, checkout_id)
    if checkout.state == "open" and checkout.session_id:
        session_id = checkout.session_id
        end_read()
        sync_checkout(session_id)
        db.session.refresh(checkout)
    return checkout


def get_for(actor: User, checkout_id: str) -> Checkout:
    """One checkout of this member. Raises NotFound."""
    checkout = db.session.get(Checkout, checkout_id)
    if checkout is None or checkout.user_id != actor.id:
        raise NotFound("There is no such checkout.")
    return checkout


def payments_of(user_id: int, limit: int = 24) -> list[Payment]:
    """Invoices and pack payments of a member, the newest first."""
    query = select(Payment).where(Payment.user_id == user_id).order_by(Payment.id.desc()).limit(limit)
    return list(db.session.scalars(query))


# --- plans ----------------------------------------------------------------------------------------------------------------


def _wanted(actor: User, plan_id: int, interval: str) -> tuple[Subscription, Plan]:
    subscription, wanted = subscriptions.current(actor), price_list.plan(plan_id)
    if wanted.archived_at is not None:
        raise Conflict(f"The plan {wanted.display_name} is not offered any more.", code="plan_archived")
    if wanted.cents(interval) is None and wanted.is_paid:
        raise Invalid.of(interval=f"The plan {wanted.display_name} is sold by the month only.")
    if wanted.id == subscription.plan_id and (interval == subscription.interval or not wanted.is_paid):
        raise Conflict(f"You are on the plan {wanted.display_name} already.", code="present_plan")
    if not _is_later(subscription, wanted, interval):
        _require_payments()
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
    checkout = _open_checkout(subscriptions.current(actor), wanted=wanted, interval=interval)
    price = prices.plan_price(wanted, interval)
    metadata = {"user_id": str(actor.id), "checkout_id": checkout.id}
    end_read()
    try:
        made = gateways().payments.subscribe(customer, price, metadata, f"subscribe:{checkout.id}")
    except CardRefused:
        _declined_checkout(checkout.id)
        raise
    sync_subscription(str(made["id"]))
    _bring_invoice(made)


def _change_price(subscription: Subscription, wanted: Plan, interval: str) -> None:
    gateway_id, restart = _gateway_id(subscription), interval != subscription.interval
    checkout = _open_checkout(subscription, wanted=wanted, interval=interval)
    price = prices.plan_price(wanted, interval)
    end_read()
    item = _item(gateway_id)
    try:
        at = int(checkout.created_at.timestamp())
        made = gateways().payments.change_price(
            gateway_id, str(item["id"]), price, at, restart, f"change:{checkout.id}"
        )
    except CardRefused:
        _declined_checkout(checkout.id)
        raise
    sync_subscription(gateway_id)
    _bring_invoice(made)
    with transaction():
        changed(update(Checkout).where(Checkout.id == checkout.id).values(state="paid", settled_at=now()))


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


# --- the intent, the customer, the page -------------------------------------------------------------------------------


def _open_checkout(
    subscription: Subscription, *, wanted: Plan | None = None, interval: str | None = None, pack_id: int | None = None,
    credits_: int = 0, cents: int = 0,
) -> Checkout:  # fmt: skip
    """The open intent for this, or a new one: two tabs that ask for the same are one purchase."""
    with transaction():
        credits.lock(subscription.user_id)
        query = select(Checkout).where(
            Checkout.user_id == subscription.user_id, Checkout.state == "open", Checkout.pack_id == pack_id,
            Checkout.plan_id == (wanted.id if wanted else None), Checkout.interval == interval,
            Checkout.subscription_id == subscription.id, Checkout.from_plan_id == subscription.plan_id,
            Checkout.created_at >= max(now() - CHECKOUT_LASTS, subscriptions.period(subscription, now())[0]),
        )  # fmt: skip
        known = db.session.scalar(query.order_by(Checkout.created_at.desc()).limit(1))
        return known or _new_checkout(
            subscription, wanted=wanted, interval=interval, pack_id=pack_id, credits_=credits_, cents=cents
        )


def _new_checkout(
    subscription: Subscription, *, wanted: Plan | None = None, interval: str | None = None, pack_id: int | None = None,
    credits_: int = 0, cents: int = 0,
) -> Checkout:  # fmt: skip
    return add(
        Checkout(
            id=str(uuid.uuid4()), user_id=subscription.user_id, kind="plan" if wanted else "pack",
            plan_id=wanted.id if wanted else None, interval=interval, pack_id=pack_id,
            credits=wanted.monthly_credits if wanted else credits_,
            amount_cents=(wanted.cents(interval or "month") or 0) if wanted else cents,
            subscription_id=subscription.id, from_plan_id=subscription.plan_id,
        )
    )  # fmt: skip


def _hosted(actor: User, checkout: Checkout, given: Object) -> Checkout:
    url, customer = gateways().settings.public_url, _customer(actor)
    given |= {
        "customer": customer, "client_reference_id": checkout.id,
        "success_url": f"{url}/checkout/{checkout.id}/done", "cancel_url": f"{url}/checkout/{checkout.id}/left",
    }  # fmt: skip
    end_read()
    session = gateways().payments.open_checkout(given, f"page:{checkout.id}")
    with transaction():
        changed(
            update(Checkout)
            .where(Checkout.id == checkout.id)
            .values(session_id=str(session["id"]), url=str(session["url"]))
        )
    db.session.refresh(checkout)
    return checkout


def _customer(actor: User) -> str:
    """The gateway's id for a member, made there when it is missing; two at once get the same by the key."""
    if actor.customer_id is None:
        end_read()
        made = gateways().payments.create_customer(actor.id, actor.email, f"customer:{actor.id}:{actor.created_at:%s}")
        with transaction():
            changed(update(User).where(User.id == actor.id, User.customer_id.is_(None)).values(customer_id=made))
        db.session.refresh(actor)
    assert actor.customer_id is not None
    return actor.customer_id


def _require_payments() -> None:
    if not gateways().payments.is_on:
        whom = gateways().settings.support_email
        asks = f"Write to {whom}." if whom else "Ask whoever runs this server."
        raise Forbidden(f"Nothing is sold on this server; its admins assign plans. {asks}", code="payments_off")


def _declined_checkout(checkout_id: str) -> None:
    with transaction():
        open_one = update(Checkout).where(Checkout.id == checkout_id, Checkout.state == "open")
        changed(open_one.values(state="declined", settled_at=now()))


def _declined(refusal: CardRefused) -> PaymentNeeded:
    if refusal.needs_person:
        return PaymentNeeded(
            "Your bank asks you to confirm this payment. Nothing was charged. Open the billing page and pay there, or use "
            "another card.", code="authentication_required", ways=WAYS_TO_PAY,
        )  # fmt: skip
    return PaymentNeeded(
        "Your card was declined and nothing was charged. Use another card and try again.", code="card_declined",
        ways=WAYS_TO_PAY,
    )  # fmt: skip
