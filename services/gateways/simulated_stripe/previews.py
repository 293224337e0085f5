"""What an invoice would say: computed with the same functions that charge it, and never written down."""

from __future__ import annotations

from services.gateways.simulated_stripe import changes, invoices, subscription_ends, subscriptions
from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params, Refused, invalid


def create(books: Books, given: Params) -> Thing:
    """POST /v1/invoices/create_preview: of a change, of the next renewal, or of a subscription not begun yet"""
    details = given.part("subscription_details")
    details.only((
        "items", "proration_behavior", "proration_date", "billing_cycle_anchor", "cancel_at_period_end", "metadata",
    ))  # fmt: skip
    subscription = _subscription(books, given, details)
    if subscription is None:
        return _first(books, given, details)
    if subscription["status"] in subscription_ends.OVER:
        raise _nothing_to_come()
    change = changes.asked(books, subscription, details)
    id = new_id("upcoming_in")
    if change is not None and change.now:
        return invoices.draft(books, subscription, change.lines, "subscription_update", id)
    if details.flag("cancel_at_period_end", subscription["cancel_at_period_end"]):
        raise _nothing_to_come()
    return invoices.draft(books, subscription, _renewal(books, subscription, change), "upcoming", id)


def _subscription(books: Books, given: Params, details: Params) -> Thing | None:
    if "subscription" in given:
        return books.named("subscription", given, "subscription")
    if "customer" not in given:
        raise invalid("You must provide one of `customer` or `subscription`.", "customer", "parameter_missing")
    if "items" in details:
        return None
    owned = books.all("subscription", customer=books.named("customer", given, "customer")["id"])
    live = [each for each in owned if each["status"] not in subscription_ends.OVER]
    if not live:
        raise _nothing_to_come()
    return min(live, key=lambda each: each["items"]["data"][0]["current_period_end"])


def _renewal(books: Books, subscription: Thing, change: changes.Change | None) -> list[Thing]:
    item = change.item if change else subscription["items"]["data"][0]
    anchor = change.anchor if change else subscription["billing_cycle_anchor"]
    period = changes.period_after(anchor, item["price"], item["current_period_end"])
    waiting = subscriptions.pending_lines(books, subscription)
    whole = invoices.line(books, subscription, item["price"], item["quantity"], period)
    return [*waiting, *(change.lines if change else ()), whole]


def _first(books: Books, given: Params, details: Params) -> Thing:
    customer = books.named("customer", given, "customer")["id"]
    price, quantity = changes.wanted_item(books, details, None)
    period = changes.period_after(books.second, price, books.second)
    imagined = {"id": None, "customer": customer, "metadata": details.metadata(), "items": {"data": [{"id": None}]}}
    lines = [invoices.line(books, imagined, price, quantity, period)]
    return invoices.draft(books, imagined, lines, "upcoming", new_id("upcoming_in"))


def _nothing_to_come() -> Refused:
    return Refused(404, "No upcoming invoices for customer", code="invoice_upcoming_none")
