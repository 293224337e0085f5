"""Customers. Each begins with the working test card, so that everything can be bought until another one is chosen."""

from __future__ import annotations

import secrets

from services.gateways.simulated_stripe import cards, subscription_ends
from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params, no_such

PLAIN = ("name", "email", "phone", "description")


def create(books: Books, given: Params) -> Thing:
    """POST /v1/customers"""
    customer = begin(books, given.text("email"), given.metadata(), {name: given.text(name) for name in PLAIN})
    method = given.text("payment_method") and cards.usable(books, given, "payment_method", customer["id"])
    if method:
        customer["invoice_settings"]["default_payment_method"] = _attached(books, method, customer["id"])
        books.revise(customer, "customer.updated")
    return customer


def begin(books: Books, email: str | None, metadata: dict[str, str], plain: Thing | None = None) -> Thing:
    """Write down a new customer with the working test card."""
    id = new_id("cus", 14)
    customer = {
        "id": id, "object": "customer", "address": None, "balance": 0, "created": books.second, "currency": None,
        "default_source": None, "delinquent": False, "description": None, "discount": None, "name": None, "phone": None,
        **(plain or {}), "email": email, "invoice_prefix": secrets.token_hex(4).upper(),
        "invoice_settings": {
            "custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None,
        },
        "livemode": False, "metadata": metadata, "next_invoice_sequence": 1, "preferred_locales": [], "shipping": None,
        "tax_exempt": "none", "test_clock": None,
    }  # fmt: skip
    method = cards.issue(books, cards.CARDS[0])
    customer["invoice_settings"]["default_payment_method"] = method["id"]  # type: ignore[index]
    books.add(customer, "customer.created")
    method["customer"] = id
    books.revise(method, "payment_method.attached")
    return customer


def retrieve(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/customers/:id; a deleted one is answered as such."""
    customer = books.get("customer", id, "customer")
    return {"id": id, "object": "customer", "deleted": True} if customer.get("deleted") else customer


def update(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/customers/:id"""
    customer = _there(books, id)
    for name in PLAIN:
        if name in given:
            customer[name] = given.text(name) or None
    customer["metadata"] = given.metadata(customer["metadata"])
    invoicing = given.part("invoice_settings")
    invoicing.only(("default_payment_method",))
    if "default_payment_method" in invoicing:
        wanted = invoicing.text("default_payment_method")
        method = cards.usable(books, invoicing, "default_payment_method", id) if wanted else None
        customer["invoice_settings"]["default_payment_method"] = method and _attached(books, method, id)
    return books.revise(customer, "customer.updated")


def delete(books: Books, given: Params, id: str) -> Thing:
    """DELETE /v1/customers/:id; what the customer subscribes to ends at once."""
    customer = _there(books, id)
    for subscription in books.all("subscription", customer=id):
        if subscription["status"] not in subscription_ends.OVER:
            subscription_ends.cancel(books, subscription, "cancellation_requested")
    customer["deleted"] = True
    books.revise(customer, "customer.deleted")
    return retrieve(books, given, id)


def listed(books: Books, given: Params) -> Thing:
    """GET /v1/customers, by `email`"""
    email = given.text("email")
    return books.listing(
        "customer", "/v1/customers", given,
        fits=lambda customer: not customer.get("deleted") and email in (None, customer["email"]),
    )  # fmt: skip


def _there(books: Books, id: str) -> Thing:
    customer = books.get("customer", id, "customer")
    if customer.get("deleted"):
        raise no_such("customer", id, "customer")
    return customer


def _attached(books: Books, method: Thing, customer: str) -> str:
    if method["customer"] is None:
        method["customer"] = customer
        books.revise(method, "payment_method.attached")
    return str(method["id"])
