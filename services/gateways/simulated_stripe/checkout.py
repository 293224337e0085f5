"""Checkout sessions: what is bought on a hosted page, once or as a subscription."""

from __future__ import annotations

from services.gateways.simulated_stripe import cards, catalogue, collection, customers, payments, subscriptions
from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.payments import Failure
from services.gateways.simulated_stripe.wire import Params, invalid

SHORTEST, LONGEST = 30 * 60, 24 * 3600  # seconds a session may last
DATA_NAMES = {"payment": ("metadata", "description", "setup_future_usage"), "subscription": ("metadata", "description")}


def create(books: Books, given: Params) -> Thing:
    """POST /v1/checkout/sessions with `mode` payment or subscription"""
    given.need("mode")
    mode = given.one_of("mode", tuple(DATA_NAMES), "payment")
    id = new_id("cs_test", 58)
    items = [_item(books, part, mode) for part in given.parts("line_items")]
    if not items:
        raise invalid("Missing required param: line_items.", "line_items", "parameter_missing")
    if mode == "subscription" and len(items) > 1:
        raise invalid("A simulated subscription has one item.", "line_items")
    total = sum(item["amount_total"] for item in items)
    if mode == "payment" and total < payments.LEAST_CENTS:
        message = "The Checkout Session's total amount due must add up to at least $0.50 usd"
        raise invalid(message, code="amount_too_small")
    session = {
        **_nothing(), **_chosen(books, given, mode), "id": id, "object": "checkout.session", "amount_subtotal": total,
        "amount_total": total, "created": books.second, "currency": items[0]["currency"],
        "line_items": {
            "object": "list", "data": items, "has_more": False, "url": f"/v1/checkout/sessions/{id}/line_items",
        },
        "mode": mode, "payment_status": "unpaid", "status": "open",
        "url": f"{books.public_url}/simulated/checkout/{id}",
    }  # fmt: skip
    return books.add(session)


def retrieve(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/checkout/sessions/:id"""
    return books.get("checkout.session", id, "session")


def listed(books: Books, given: Params) -> Thing:
    """GET /v1/checkout/sessions, by `customer`, `status`, `payment_intent` and `subscription`"""
    wanted = {name: given.text(name) for name in ("status", "payment_intent", "subscription") if name in given}
    return books.listing(
        "checkout.session", "/v1/checkout/sessions", given, customer=given.text("customer"),
        fits=lambda session: all(session[name] == value for name, value in wanted.items()),
    )  # fmt: skip


def list_items(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/checkout/sessions/:id/line_items, all on one page"""
    return retrieve(books, given, id)["line_items"]


def expire(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/checkout/sessions/:id/expire"""
    session = retrieve(books, given, id)
    if session["status"] != "open":
        raise invalid(
            f"Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of "
            f"{session['status']}.",
        )  # fmt: skip
    return end(books, session)


def end(books: Books, session: Thing) -> Thing:
    """Nobody can pay this session any more."""
    session["status"], session["url"] = "expired", None
    if intent := books.find("payment_intent", session["payment_intent"]):
        payments.call_off(books, intent, "abandoned")
    return books.revise(session, "checkout.session.expired")


def pay(books: Books, session: Thing, kind: str, confirmed: bool) -> Failure | None:
    """Pay an open session with a test card; None when it worked. A failure leaves it open."""
    if session["customer"] is None and session["mode"] == "subscription":
        session["customer"] = customers.begin(books, session["customer_email"], {})["id"]
    pays = _pay_once if session["mode"] == "payment" else _subscribe
    failure = pays(books, session, kind, confirmed)
    if failure is None:
        session["status"], session["payment_status"], session["url"] = "complete", "paid", None
    books.revise(session, None if failure else "checkout.session.completed")
    return failure


def _pay_once(books: Books, session: Thing, kind: str, confirmed: bool) -> Failure | None:
    data, customer = Params(session["simulated_data"]), session["customer"]
    intent = books.find("payment_intent", session["payment_intent"])
    if intent is None:
        intent = payments.intend(
            books, customer, session["amount_total"], session["currency"], data.metadata(), data.text("description")
        )
        session["payment_intent"] = intent["id"]
    keeps = customer and data.text("setup_future_usage")
    method = cards.on_file(books, customer, kind) if keeps else cards.for_once(books, customer, kind)
    return payments.attempt(books, intent, method, confirmed=confirmed)


def _subscribe(books: Books, session: Thing, kind: str, confirmed: bool) -> Failure | None:
    item, data = session["line_items"]["data"][0], Params(session["simulated_data"])
    if session["amount_total"] and (failure := payments.failure_of(kind, confirmed)):
        return failure  # as at Stripe, nothing of the subscription is there before it is paid
    method = cards.on_file(books, session["customer"], kind)
    subscription, invoice = subscriptions.begin(
        books, session["customer"], item["price"], item["quantity"], data.metadata(), method["id"],
        data.text("description"),
    )  # fmt: skip
    failure = collection.collect(books, invoice, method, confirmed=confirmed)
    session["subscription"], session["invoice"] = subscription["id"], invoice["id"]
    return failure


def _chosen(books: Books, given: Params, mode: str) -> Thing:
    data = given.part(f"{mode}_data" if mode == "subscription" else "payment_intent_data")
    data.only(DATA_NAMES[mode])
    customer = books.named("customer", given, "customer") if "customer" in given else None
    expires = given.whole("expires_at") or books.second + LONGEST
    if not books.second + SHORTEST - 60 <= expires <= books.second + LONGEST + 60:
        message = "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation."
        raise invalid(message, "expires_at")
    email = customer["email"] if customer else given.text("customer_email")
    return {
        "cancel_url": given.text("cancel_url"), "client_reference_id": given.text("client_reference_id"),
        "customer": customer["id"] if customer else None, "customer_email": given.text("customer_email"),
        "customer_details": {
            "address": None, "email": email, "name": None, "phone": None, "tax_exempt": "none", "tax_ids": [],
        },
        "expires_at": expires, "metadata": given.metadata(), "simulated_data": data.values,
        "success_url": given.need("success_url"),
    }  # fmt: skip


def _item(books: Books, part: Params, mode: str) -> Thing:
    part.only(("price", "price_data", "quantity", "adjustable_quantity"))
    price = catalogue.inline_price(books, part.part("price_data")) if "price_data" in part else None
    if price is None:
        price = books.named("price", part, "price")
        if not price["active"]:
            raise invalid(f"The price specified is inactive: {price['id']}.", part.param("price"))
    if (mode == "subscription") != (price["type"] == "recurring"):
        raise invalid(
            f"You must provide {'at least one recurring price' if mode == 'subscription' else 'one-time prices only'} in "
            f"`{mode}` mode.", part.param("price"),
        )  # fmt: skip
    quantity = part.need_whole("quantity", 1)
    amount = price["unit_amount"] * quantity
    return {
        "id": new_id("li"), "object": "item", "adjustable_quantity": None, "amount_discount": 0, "amount_subtotal": amount,
        "amount_tax": 0, "amount_total": amount, "currency": price["currency"],
        "description": books.get("product", price["product"])["name"], "metadata": {}, "price": price,
        "quantity": quantity,
    }  # fmt: skip


def _nothing() -> Thing:
    """What no session of ours uses, as Stripe answers it."""
    nulls = (
        "adaptive_pricing", "after_expiration", "allow_promotion_codes", "billing_address_collection", "client_secret",
        "collected_information", "consent", "consent_collection", "currency_conversion", "customer_account",
        "customer_creation", "invoice", "invoice_creation", "locale", "payment_intent", "payment_link",
        "payment_method_configuration_details", "recovered_from", "return_url", "saved_payment_method_options",
        "setup_intent", "shipping_address_collection", "shipping_cost", "submit_type", "subscription",
    )  # fmt: skip
    return {
        **dict.fromkeys(nulls), "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "custom_fields": [], "custom_text": {}, "discounts": [], "livemode": False,
        "payment_method_collection": "always", "payment_method_options": {}, "payment_method_types": ["card"],
        "phone_number_collection": {"enabled": False}, "shipping_options": [],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0}, "ui_mode": "hosted_page",
    }  # fmt: skip
