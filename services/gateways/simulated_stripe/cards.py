"""Cards: three test cards that work, are declined, or need the person there. No real card is ever asked for.

Numbers and ids after https://docs.stripe.com/testing. Unlike at Stripe the declined card can be attached, so that a
declined renewal can be tried out.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params, invalid


@dataclass(frozen=True)
class Card:
    """A kind of test card."""

    kind: str
    number: str
    label: str
    about: str
    stripe_ids: tuple[str, ...]


CARDS = (
    Card("working", "4242424242424242", "Test card that works", "Every payment goes through.", ("pm_card_visa",)),
    Card(
        "declined", "4000000000000002", "Test card that is declined", "Every payment is refused.",
        ("pm_card_visa_chargeDeclined", "pm_card_chargeCustomerFail"),
    ),
    Card(
        "needs_authentication", "4000002500003155", "Test card that asks you first",
        "You confirm each payment; a renewal without you fails.",
        ("pm_card_authenticationRequired", "pm_card_threeDSecure2Required"),
    ),
)  # fmt: skip


def kind_of(method: Thing) -> str:
    """Which test card a payment method is."""
    return next(card.kind for card in CARDS if card.number.endswith(method["card"]["last4"]))


def issue(books: Books, card: Card, customer: str | None = None) -> Thing:
    """Write down a fresh payment method, attached when a customer is given."""
    method = {
        "id": new_id("pm"), "object": "payment_method", "allow_redisplay": "unspecified",
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "card": {
            "brand": "visa", "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US", "display_brand": "visa", "exp_month": 12, "exp_year": books.at.year + 5,
            "fingerprint": f"simulated{card.number[-4:]}", "funding": "credit", "generated_from": None,
            "last4": card.number[-4:], "networks": {"available": ["visa"], "preferred": None},
            "regulated_status": "unregulated", "three_d_secure_usage": {"supported": True}, "wallet": None,
        },
        "created": books.second, "customer": customer, "livemode": False, "metadata": {}, "type": "card",
    }  # fmt: skip
    return books.add(method, "payment_method.attached" if customer else None)


def on_file(books: Books, customer: str, kind: str) -> Thing:
    """A customer's card of a kind, attached now when there is none."""
    return _held(books, customer, kind) or issue(books, _of_kind(kind), customer)


def for_once(books: Books, customer: str | None, kind: str) -> Thing:
    """A card of a kind to pay with once: the customer's, or one that is attached to nobody."""
    return (customer and _held(books, customer, kind)) or issue(books, _of_kind(kind))


def usable(books: Books, given: Params, name: str, customer: str | None) -> Thing:
    """The payment method a parameter names, which must belong to the customer. Raises Refused 400."""
    id = given.need(name)
    if card := _by_stripe_id(id):
        return issue(books, card)
    method = books.named("payment_method", given, name)
    if customer and method["customer"] not in (customer, None):
        raise invalid(
            f"The customer does not have a payment method with the ID {id}. The payment method must be attached to the "
            "customer.", given.param(name), "resource_missing",
        )  # fmt: skip
    return method


def create(books: Books, given: Params) -> Thing:
    """POST /v1/payment_methods with `type=card` and the number of a test card."""
    given.one_of("type", ("card",), "card")
    number = given.part("card").need("number").replace(" ", "")
    card = next((card for card in CARDS if card.number == number), None)
    if card is None:
        raise invalid(
            f"Your card number is not one of the test cards: {', '.join(c.number for c in CARDS)}.", "card[number]"
        )
    return issue(books, card)


def retrieve(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/payment_methods/:id"""
    return books.get("payment_method", id, "payment_method")


def attach(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/payment_methods/:id/attach; Stripe's own `pm_card_...` ids give a fresh card."""
    customer = books.named("customer", given, "customer")["id"]
    if card := _by_stripe_id(id):
        return issue(books, card, customer)
    method = retrieve(books, given, id)
    if method["customer"] not in (None, customer):
        raise invalid("The payment method you provided has already been attached to a customer.", "payment_method")
    method["customer"] = customer
    return books.revise(method, "payment_method.attached")


def detach(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/payment_methods/:id/detach; nothing goes on charging it."""
    method = retrieve(books, given, id)
    if method["customer"] is None:
        raise invalid("The payment method you provided is not attached to a customer so detachment is impossible.")
    customer = books.get("customer", method["customer"])
    method["customer"] = None
    books.revise(method, "payment_method.detached")
    if customer["invoice_settings"]["default_payment_method"] == id:
        customer["invoice_settings"]["default_payment_method"] = None
        books.revise(customer, "customer.updated")
    for subscription in books.all("subscription", customer=customer["id"]):
        if subscription["default_payment_method"] == id:
            subscription["default_payment_method"] = None
            books.revise(subscription, "customer.subscription.updated")
    return method


def listed(books: Books, given: Params, customer: str | None = None) -> Thing:
    """GET /v1/payment_methods?customer= and GET /v1/customers/:id/payment_methods"""
    url = f"/v1/customers/{customer}/payment_methods" if customer else "/v1/payment_methods"
    customer = customer or books.named("customer", given, "customer")["id"]
    return books.listing("payment_method", url, given, customer=customer)


def _of_kind(kind: str) -> Card:
    return next(card for card in CARDS if card.kind == kind)


def _held(books: Books, customer: str, kind: str) -> Thing | None:
    attached = books.all("payment_method", customer=customer)
    return next((method for method in reversed(attached) if kind_of(method) == kind), None)


def _by_stripe_id(id: str) -> Card | None:
    return next((card for card in CARDS if id in card.stripe_ids), None)
