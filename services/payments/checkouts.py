"""What a member is about to buy, stored before the gateway hears of it, and the hosted page on which it is paid."""

from __future__ import annotations

import uuid
from datetime import timedelta

from sqlalchemy import select, update

from models.accounts import User
from models.base import add, changed, db, end_read, now, transaction
from models.payments import Checkout
from models.plans import Pack, Plan
from models.subscriptions import Subscription
from services import credits, subscriptions
from services.errors import NotFound
from services.gateways import gateways
from services.gateways.payments import Object
from services.payments import customers
from services.payments.sync import sync_checkout

LASTS = timedelta(hours=1)


def get_for(actor: User, checkout_id: str) -> Checkout:
    """One checkout of this member. Raises NotFound."""
    checkout = db.session.get(Checkout, checkout_id)
    if checkout is None or checkout.user_id != actor.id:
        raise NotFound("There is no such checkout.")
    return checkout


def settle_checkout(actor: User, checkout_id: str) -> Checkout:
    """Bring over how a hosted page ended; the success page calls this, and so may the webhook at the same time."""
    checkout = get_for(actor, checkout_id)
    if checkout.state == "open" and checkout.session_id:
        session_id = checkout.session_id
        end_read()
        sync_checkout(session_id)
        db.session.refresh(checkout)
    return checkout


def opened(
    subscription: Subscription, wanted: Plan | Pack, interval: str | None = None, *, by_card: bool = False
) -> Checkout:
    """The open intent for this, or a new one: two tabs that ask for the same are one purchase, and whoever asks again
    after a silence of the gateway asks under the same key. What is to be paid by card shares nothing with a page."""
    with transaction():
        credits.lock(subscription.user_id)
        query = select(Checkout).where(
            Checkout.user_id == subscription.user_id, Checkout.state == "open", Checkout.interval == interval,
            Checkout.by_card == by_card,
            Checkout.pack_id == (wanted.id if isinstance(wanted, Pack) else None),
            Checkout.plan_id == (wanted.id if isinstance(wanted, Plan) else None),
            Checkout.subscription_id == subscription.id, Checkout.from_plan_id == subscription.plan_id,
            Checkout.created_at >= max(now() - LASTS, subscriptions.period(subscription, now())[0]),
        )  # fmt: skip
        known = db.session.scalar(query.order_by(Checkout.created_at.desc()).limit(1))
        return known or _new(subscription, wanted, interval, by_card)


def metadata_of(checkout: Checkout) -> dict[str, str]:
    """What the gateway is to keep beside what is bought, and hands back with every event about it."""
    return {"user_id": str(checkout.user_id), "checkout_id": checkout.id}


def hosted(actor: User, checkout: Checkout, price: str, given: Object) -> Checkout:
    """The intent with its page at the gateway, which sells one of `price`; `given` is what this kind of page needs."""
    if checkout.url:
        return checkout
    url, customer = gateways().settings.public_url, customers.of(actor)
    given |= {
        "line_items": [{"price": price, "quantity": 1}], "metadata": metadata_of(checkout),
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


def _new(subscription: Subscription, wanted: Plan | Pack, interval: str | None, by_card: bool) -> Checkout:
    if isinstance(wanted, Plan):
        cents = wanted.cents(interval or "month") or 0
        goods = {"kind": "plan", "plan_id": wanted.id, "credits": wanted.monthly_credits, "amount_cents": cents}
    else:
        goods = {"kind": "pack", "pack_id": wanted.id, "credits": wanted.credits, "amount_cents": wanted.price_cents}
    checkout = Checkout(
        id=str(uuid.uuid4()), user_id=subscription.user_id, interval=interval, subscription_id=subscription.id,
        from_plan_id=subscription.plan_id, by_card=by_card, **goods,
    )  # fmt: skip
    return add(checkout)
