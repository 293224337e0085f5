"""Collecting what an invoice asks for, and what being paid or not paid does to its subscription."""

from __future__ import annotations

from services.gateways.simulated_stripe import cards, changes, invoices, payments, subscription_ends
from services.gateways.simulated_stripe.books import Books, Thing
from services.gateways.simulated_stripe.payments import Failure
from services.gateways.simulated_stripe.wire import Params, Refused, invalid


def collect(
    books: Books, invoice: Thing, method: Thing | None, *, confirmed: bool = False, retry_at: int | None = None,
    by_hand: bool = False,
) -> Failure | None:  # fmt: skip
    """Try to have an open invoice paid; None when it is. `retry_at` (seconds) is when a failure is tried again; tries
    `by_hand` after the first are not counted."""
    found = invoices.payment_of(books, invoice)
    failure = payments.attempt(books, found[1], method, confirmed=confirmed, waits=True) if found else None
    invoice["attempt_count"] += 0 if by_hand and invoice["attempted"] else 1
    invoice["attempted"] = True
    if failure:
        invoice["next_payment_attempt"] = retry_at
        books.revise(invoice)
        books.tell("invoice.payment_failed", invoice)
        if failure is payments.NOT_THERE:
            books.tell("invoice.payment_action_required", invoice)
        return failure
    _paid(books, invoice, found[0] if found else None)
    return None


def method_of(books: Books, subscription: Thing) -> Thing | None:
    """The card that pays a subscription: its own, else the customer's."""
    customer = books.get("customer", subscription["customer"])
    id = subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    return books.find("payment_method", id)


def require_method(books: Books, subscription: Thing, amount: int) -> Thing | None:
    """The card that is about to pay `amount` cents. Raises Refused 400 when there is none and something is due."""
    method = method_of(books, subscription)
    if method is None and amount:
        raise invalid(
            "This customer has no attached payment source or default payment method. Please consider adding a default "
            "payment method.", code="resource_missing",
        )  # fmt: skip
    return method


def refusal(books: Books, invoice: Thing, failure: Failure, *, kept: bool) -> Refused:
    """The 402 of an invoice that could not be paid."""
    found = invoices.payment_of(books, invoice)
    assert found is not None
    if failure is not payments.NOT_THERE:
        return payments.refusal(failure, found[1], kept=kept)
    return Refused(
        402, "Payment for this subscription requires additional user action before it can be completed successfully. "
        "Payment can be completed using the PaymentIntent associated with the subscription's latest invoice.",
        kind="card_error", code="subscription_payment_intent_requires_action", payment_intent=found[1], kept=kept,
    )  # fmt: skip


def pay(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/invoices/:id/pay, with the customer's card or `payment_method`"""
    invoice = books.get("invoice", id, "invoice")
    if invoice["status"] == "paid":
        raise invalid("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid(f"This invoice is {invoice['status']} and cannot be paid.", "invoice")
    if "payment_method" in given:
        method: Thing | None = cards.usable(books, given, "payment_method", invoice["customer"])
    else:
        subscription = books.get("subscription", subscription_id(invoice))
        method = require_method(books, subscription, invoice["amount_due"])
    failure = collect(books, invoice, method, retry_at=invoice["next_payment_attempt"], by_hand=True)
    if failure:
        raise refusal(books, invoice, failure, kept=True)
    return invoice


def subscription_id(invoice: Thing) -> str:
    """Which subscription an invoice is for."""
    return str(invoice["parent"]["subscription_details"]["subscription"])


def _paid(books: Books, invoice: Thing, payment: Thing | None) -> None:
    invoice["status"], invoice["amount_paid"], invoice["amount_remaining"] = "paid", invoice["amount_due"], 0
    invoice["next_payment_attempt"], invoice["auto_advance"] = None, False
    invoice["status_transitions"]["paid_at"] = books.second
    if payment:
        payment["status"], payment["amount_paid"] = "paid", invoice["amount_due"]
        payment["status_transitions"]["paid_at"] = books.second
        books.revise(payment, "invoice_payment.paid")
    books.revise(invoice, "invoice.paid")
    books.tell("invoice.payment_succeeded", invoice)
    _carry_on(books, books.get("subscription", subscription_id(invoice)), invoice)


def _carry_on(books: Books, subscription: Thing, invoice: Thing) -> None:
    """A subscription that waited for this payment waits no longer."""
    pending = subscription["pending_update"]
    applied = pending and subscription["latest_invoice"] == invoice["id"]
    if applied:
        subscription["metadata"] = {**subscription["metadata"], **(pending["metadata"] or {})}
        anchor = pending["billing_cycle_anchor"] or subscription["billing_cycle_anchor"]
        changes.apply(subscription, changes.Change(pending["subscription_items"][0], anchor, [], now=False))
        ends = pending["cancel_at_period_end"]
        subscription_ends.end_with_period(
            books, subscription, subscription["cancel_at_period_end"] if ends is None else ends
        )
    owed = [each for each in books.all("invoice", parent=subscription["id"]) if each["status"] == "open"]
    if subscription["status"] == "incomplete" or (subscription["status"] in ("past_due", "unpaid") and not owed):
        subscription["status"] = "active"
    books.revise(subscription, "customer.subscription.updated")
    if applied:
        books.tell("customer.subscription.pending_update_applied", subscription)
