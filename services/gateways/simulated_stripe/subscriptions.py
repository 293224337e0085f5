"""Subscriptions: begun, changed, ended. One item each, by the month or the year, charged automatically."""

from __future__ import annotations

from services.gateways.simulated_stripe import cards, changes, collection, invoices, subscription_ends
from services.gateways.simulated_stripe.books import INCOMPLETE_LASTS, Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params, invalid, no_such

ON_CREATE = ("allow_incomplete", "default_incomplete", "error_if_incomplete")
ON_UPDATE = (*ON_CREATE, "pending_if_incomplete")


def create(books: Books, given: Params) -> Thing:
    """POST /v1/subscriptions. What happens when the first payment fails is `payment_behavior`'s to say."""
    customer = books.named("customer", given, "customer")["id"]
    price, quantity = changes.wanted_item(books, given, None)
    behaviour = given.one_of("payment_behavior", ON_CREATE, "allow_incomplete")
    method = None
    if given.text("default_payment_method"):
        method = cards.usable(books, given, "default_payment_method", customer)["id"]
    subscription, invoice = begin(
        books, customer, price, quantity, given.metadata(), method, given.text("description"),
        ends=given.flag("cancel_at_period_end"),
    )  # fmt: skip
    if behaviour == "default_incomplete" and invoice["amount_due"]:
        return subscription
    card = collection.require_method(books, subscription, invoice["amount_due"])
    failure = collection.collect(books, invoice, card)
    if failure and behaviour == "error_if_incomplete":
        raise collection.refusal(books, invoice, failure, kept=False)
    return subscription


def begin(
    books: Books, customer: str, price: Thing, quantity: int, metadata: dict[str, str], method: str | None,
    description: str | None = None, *, ends: bool = False,
) -> tuple[Thing, Thing]:  # fmt: skip
    """Write down a subscription from now on and its first invoice, which nobody has tried to collect yet."""
    id, item_id = new_id("sub"), new_id("si", 14)
    start, end = changes.period_after(books.second, price, books.second)
    item = {
        "id": item_id, "object": "subscription_item", "billed_until": end, "billing_thresholds": None,
        "created": books.second, "current_period_end": end, "current_period_start": start, "discounts": [],
        "metadata": {}, "plan": changes.plan_of(price), "price": price, "quantity": quantity, "subscription": id,
        "tax_rates": [],
    }  # fmt: skip
    subscription = {
        **_nothing(books), "id": id, "object": "subscription", "billing_cycle_anchor": books.second,
        "created": books.second, "currency": price["currency"], "customer": customer, "default_payment_method": method,
        "description": description,
        "items": {
            "object": "list", "data": [item], "has_more": False, "total_count": 1,
            "url": f"/v1/subscription_items?subscription={id}",
        },
        "latest_invoice": None, "metadata": metadata, "start_date": books.second, "status": "incomplete",
    }  # fmt: skip
    subscription_ends.end_with_period(books, subscription, ends)
    draft = invoices.draft(
        books, subscription, [invoices.line(books, subscription, price, quantity, (start, end))], "subscription_create"
    )
    subscription["latest_invoice"] = draft["id"]
    books.add(subscription, "customer.subscription.created")
    return subscription, invoices.issue(books, draft)


def retrieve(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/subscriptions/:id"""
    return books.get("subscription", id, "id")


def update(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/subscriptions/:id. A change that costs something now is made when it is paid, or as `payment_behavior`
    says."""
    subscription = retrieve(books, given, id)
    behaviour = given.one_of("payment_behavior", ON_UPDATE, "allow_incomplete")
    if subscription["status"] in subscription_ends.OVER:
        raise invalid("A canceled subscription can only update its cancellation_details and metadata.")
    change = changes.asked(books, subscription, given)
    if change is None or not change.now:
        _plain(books, subscription, given)
    if change is not None:
        subscription_ends.drop_pending_update(books, subscription)
        if change.now:
            _charged_change(books, subscription, change, given, behaviour)
        else:
            _put_on_next_invoice(books, subscription, change.lines)
            changes.apply(subscription, change)
            subscription_ends.end_with_period(books, subscription, subscription["cancel_at_period_end"])
    return books.revise(subscription, "customer.subscription.updated")


def cancel(books: Books, given: Params, id: str) -> Thing:
    """DELETE /v1/subscriptions/:id: the end, now"""
    subscription = retrieve(books, given, id)
    if subscription["status"] in subscription_ends.OVER:
        raise no_such("subscription", id, "id")
    return subscription_ends.cancel(books, subscription, "cancellation_requested")


def listed(books: Books, given: Params) -> Thing:
    """GET /v1/subscriptions, by `customer`, `price` and `status`; ended ones only with `status=all` or their own"""
    status, price = given.text("status"), given.text("price")

    def fits(subscription: Thing) -> bool:
        state = subscription["status"]
        wanted = {"all": True, None: state not in subscription_ends.OVER, "ended": state in subscription_ends.OVER}
        return wanted.get(status, state == status) and price in (None, subscription["items"]["data"][0]["price"]["id"])

    return books.listing("subscription", "/v1/subscriptions", given, customer=given.text("customer"), fits=fits)


def pending_lines(books: Books, subscription: Thing, *, take: str | None = None) -> list[Thing]:
    """Lines that wait for the next invoice; with `take`, the id of that invoice, they wait no longer."""
    waiting = [item for item in books.all("invoiceitem", parent=subscription["id"]) if item["invoice"] is None]
    for item in waiting if take else ():
        item["invoice"] = take
        books.revise(item)
    return [dict(item["line"]) for item in waiting]


def _charged_change(books: Books, subscription: Thing, change: changes.Change, given: Params, behaviour: str) -> None:
    draft = invoices.draft(books, subscription, change.lines, "subscription_update")
    method = collection.require_method(books, subscription, draft["amount_due"])
    invoice = invoices.issue(books, draft)
    tries = behaviour != "default_incomplete" or not invoice["amount_due"]
    retry = books.second + 86400 if behaviour == "allow_incomplete" else None
    failure = collection.collect(books, invoice, method, retry_at=retry) if tries else None
    if failure and behaviour == "error_if_incomplete":
        raise collection.refusal(books, invoice, failure, kept=False)
    subscription["latest_invoice"] = invoice["id"]
    if failure and behaviour == "pending_if_incomplete":
        subscription["pending_update"] = _pending(books, subscription, change, given)
        return
    _plain(books, subscription, given)
    changes.apply(subscription, change)
    subscription_ends.end_with_period(books, subscription, subscription["cancel_at_period_end"])
    if invoice["status"] != "paid":
        subscription["status"] = "past_due"


def _pending(books: Books, subscription: Thing, change: changes.Change, given: Params) -> Thing:
    moved = change.anchor != subscription["billing_cycle_anchor"]
    return {
        "billing_cycle_anchor": change.anchor if moved else None,
        "cancel_at_period_end": given.flag("cancel_at_period_end") if "cancel_at_period_end" in given else None,
        "discount": None, "discounts": None,
        "expires_at": min(
            books.second + INCOMPLETE_LASTS, subscription["items"]["data"][0]["current_period_end"]
        ),
        "metadata": given.metadata() if "metadata" in given else None, "subscription_items": [change.item],
        "trial_end": None, "trial_from_plan": None,
    }  # fmt: skip


def _plain(books: Books, subscription: Thing, given: Params) -> None:
    """The fields that cost nothing."""
    subscription["metadata"] = given.metadata(subscription["metadata"])
    if "description" in given:
        subscription["description"] = given.text("description") or None
    if "default_payment_method" in given:
        wanted = given.text("default_payment_method")
        method = cards.usable(books, given, "default_payment_method", subscription["customer"]) if wanted else None
        subscription["default_payment_method"] = method and method["id"]
    details = given.part("cancellation_details")
    details.only(("comment", "feedback"))
    for name in details.values:
        subscription["cancellation_details"][name] = details.text(name) or None
    if "cancel_at_period_end" in given:
        subscription_ends.end_with_period(books, subscription, given.flag("cancel_at_period_end"))


def _put_on_next_invoice(books: Books, subscription: Thing, lines: list[Thing]) -> None:
    for line in lines:
        books.add({
            "id": new_id("ii"), "object": "invoiceitem", "amount": line["amount"], "created": books.second,
            "currency": line["currency"], "customer": subscription["customer"], "date": books.second,
            "description": line["description"], "invoice": None, "line": line, "livemode": False, "metadata": {},
            "parent": {"subscription_details": {"subscription": subscription["id"]}, "type": "subscription_details"},
            "period": line["period"], "proration": True, "quantity": line["quantity"],
        })  # fmt: skip


def _nothing(books: Books) -> Thing:
    """What no subscription of ours uses, as Stripe answers it."""
    nulls = (
        "application", "application_fee_percent", "billing_cycle_anchor_config", "billing_thresholds", "cancel_at",
        "canceled_at", "customer_account", "days_until_due", "default_source", "ended_at",
        "next_pending_invoice_item_invoice", "on_behalf_of", "pause_collection", "pending_invoice_item_interval",
        "pending_setup_intent", "pending_update", "schedule", "test_clock", "transfer_data", "trial_end", "trial_start",
    )  # fmt: skip
    return {
        **dict.fromkeys(nulls), "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_mode": {
            "flexible": {"proration_discounts": "included"}, "type": "flexible", "updated_at": books.second,
        },
        "billing_schedules": [], "cancel_at_period_end": False,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically", "default_tax_rates": [], "discounts": [],
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}}, "livemode": False,
        "payment_settings": {
            "payment_method_options": None, "payment_method_types": None, "save_default_payment_method": "off",
        },
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    }  # fmt: skip
