"""Members as the gateway knows them: their customer, the card on file, the gateway's page for both."""

from __future__ import annotations

from sqlalchemy import update

from models.accounts import User
from models.base import changed, db, end_read, transaction
from services.errors import Forbidden, Invalid, NotFound, PaymentNeeded
from services.gateways import gateways
from services.gateways.payments import CardRefused

TEST_CARDS = ("working", "declined", "needs_authentication", "none")
WAYS_TO_PAY = [
    {"label": "Choose another card", "url": "/billing",
     "explanation": "The billing page shows the card on file and leads to where you change it."},
    {"label": "See plans and packs", "url": "/pricing",
     "explanation": "Nothing has changed: your plan and your credits are as they were."},
]  # fmt: skip


def require_on() -> None:
    """Raise Forbidden, naming whom to ask, where nothing is sold."""
    if not gateways().payments.is_on:
        whom = gateways().settings.support_email
        asks = f"Write to {whom}." if whom else "Ask whoever runs this server."
        raise Forbidden(f"Nothing is sold on this server; its admins assign plans. {asks}", code="payments_off")


def of(actor: User) -> str:
    """The gateway's id for a member, made there when it is missing; two at once get the same by the key."""
    if actor.customer_id is None:
        end_read()
        made = gateways().payments.create_customer(actor.id, actor.email, f"customer:{actor.id}:{actor.created_at:%s}")
        with transaction():
            changed(update(User).where(User.id == actor.id, User.customer_id.is_(None)).values(customer_id=made))
        db.session.refresh(actor)
    assert actor.customer_id is not None
    return actor.customer_id


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


def portal_url(actor: User) -> str:
    """The gateway's page for the card and the invoices. Raises Forbidden when payments are off."""
    require_on()
    customer = of(actor)
    end_read()
    return gateways().payments.portal_url(customer, f"{gateways().settings.public_url}/billing?from=portal")


def choose_test_card(actor: User, kind: str) -> None:
    """Pay with another of the simulated gateway's cards from now on. Raises NotFound where payments are real."""
    simulator = gateways().payments.simulator
    if simulator is None:
        raise NotFound("There are no test cards on this server. Choose your card on the billing page.")
    if kind not in TEST_CARDS:
        raise Invalid.of(card=f"Choose one of the test cards: {', '.join(TEST_CARDS)}.")
    customer = of(actor)
    end_read()
    simulator.choose_card(customer, kind)


def declined(refusal: CardRefused) -> PaymentNeeded:
    """What a member is told when the bank said no, and the ways on."""
    if refusal.needs_person:
        return PaymentNeeded(
            "Your bank asks you to confirm each payment with this card, which can be done on a payment page only. Nothing was "
            "charged. Choose another card, or remove this one and you pay on a page.",
            code="authentication_required", ways=WAYS_TO_PAY,
        )  # fmt: skip
    return PaymentNeeded(
        "Your card was declined and nothing was charged. Use another card and try again.", code="card_declined",
        ways=WAYS_TO_PAY,
    )  # fmt: skip
