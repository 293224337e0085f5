"""Packs: bought with the card on file, or on the gateway's page."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from models.accounts import User
from models.base import db, end_read
from models.payments import Checkout, Payment
from models.plans import Pack
from services import price_list, subscriptions
from services.gateways import gateways
from services.gateways.payments import CardRefused
from services.payments import checkouts, customers, prices
from services.payments.sync import close_checkout, sync_intent


@dataclass(frozen=True)
class Purchase:
    """What asking for a pack led to: bought, or waiting at a checkout page."""

    checkout: Checkout
    checkout_url: str | None = None


def buy_pack(actor: User, size: int) -> Purchase:
    """Buy a pack with the card on file, granted before this answers, or get the page on which it is paid.

    Raises Invalid for a size that is not sold, PaymentNeeded when the card is declined, Forbidden when payments are off.
    """
    customers.require_on()
    pack, customer = price_list.pack(size), customers.of(actor)
    end_read()
    card = gateways().payments.card(customer)
    return _by_page(actor, pack) if card is None else _by_card(actor, pack, customer, str(card["id"]))


def payments_of(user_id: int, limit: int = 24) -> list[Payment]:
    """Invoices and pack payments of a member, the newest first."""
    query = select(Payment).where(Payment.user_id == user_id).order_by(Payment.id.desc()).limit(limit)
    return list(db.session.scalars(query))


def _by_page(actor: User, pack: Pack) -> Purchase:
    checkout = checkouts.opened(subscriptions.current(actor), pack)
    given = {"mode": "payment", "payment_intent_data": {"metadata": checkouts.metadata_of(checkout)}}
    checkout = checkouts.hosted(actor, checkout, prices.pack_price(pack), given)
    return Purchase(checkout, checkout.url)


def _by_card(actor: User, pack: Pack, customer: str, card: str) -> Purchase:
    checkout = checkouts.opened(subscriptions.current(actor), pack, by_card=True)
    metadata, what = checkouts.metadata_of(checkout), f"{pack.credits:,} credits"
    end_read()
    try:
        intent = gateways().payments.charge(customer, card, pack.price_cents, metadata, what, checkout.id)
    except CardRefused as refusal:
        close_checkout(checkout.id, "declined")
        raise customers.declined(refusal) from None
    sync_intent(str(intent["id"]))
    return Purchase(checkouts.get_for(actor, checkout.id))
