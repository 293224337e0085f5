"""Sessions of the billing portal, where a customer chooses a card, reads invoices and ends a subscription."""

from __future__ import annotations

from services.gateways.simulated_stripe import cards, subscription_ends
from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params

LASTS = 3600  # seconds a portal session can be used


def create(books: Books, given: Params) -> Thing:
    """POST /v1/billing_portal/sessions"""
    id, customer = new_id("bps"), books.named("customer", given, "customer")["id"]
    session = {
        "id": id, "object": "billing_portal.session", "configuration": "bpc_simulated", "created": books.second,
        "customer": customer, "customer_account": None, "flow": None, "livemode": False, "locale": None,
        "on_behalf_of": None, "return_url": given.text("return_url"), "url": f"{books.public_url}/simulated/portal/{id}",
    }  # fmt: skip
    return books.add(session, "billing_portal.session.created")


def choose_card(books: Books, customer: Thing, kind: str) -> None:
    """Let every payment from now on use a test card; with `none` no card at all. Other cards are taken off, also where
    a subscription had one of its own."""
    wanted = cards.on_file(books, customer["id"], kind)["id"] if kind != "none" else None
    customer["invoice_settings"]["default_payment_method"] = wanted
    books.revise(customer, "customer.updated")
    for method in books.all("payment_method", customer=customer["id"]):
        if method["id"] != wanted:
            cards.detach(books, Params({}), method["id"])


def end_with_period(books: Books, subscription_id: str, ends: bool) -> None:
    """Let a subscription end with its period, or go on after all."""
    subscription = books.get("subscription", subscription_id)
    subscription_ends.end_with_period(books, subscription, ends)
    books.revise(subscription, "customer.subscription.updated")


def live(books: Books, customer: str) -> list[Thing]:
    """The customer's subscriptions that have not ended, oldest first."""
    owned = books.all("subscription", customer=customer)
    return [each for each in owned if each["status"] not in subscription_ends.OVER]


def card_of(books: Books, customer: Thing) -> Thing | None:
    """The card that the customer's payments use: a subscription's own, else the default."""
    own = [each["default_payment_method"] for each in live(books, customer["id"]) if each["default_payment_method"]]
    return books.find("payment_method", own[0] if own else customer["invoice_settings"]["default_payment_method"])
