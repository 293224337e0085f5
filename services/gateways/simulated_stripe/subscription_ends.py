"""How a subscription ends, and how a change that was never paid is dropped."""

from __future__ import annotations

from services.gateways.simulated_stripe import invoices
from services.gateways.simulated_stripe.books import Books, Thing

OVER = ("canceled", "incomplete_expired")


def cancel(books: Books, subscription: Thing, reason: str) -> Thing:
    """End a subscription now. Open invoices are not collected any more."""
    drop_pending_update(books, subscription)
    for invoice in _open_invoices(books, subscription):
        if reason == "payment_failed":
            invoices.give_up(books, invoice)
        else:
            invoice["next_payment_attempt"], invoice["auto_advance"] = None, False
            books.revise(invoice, "invoice.updated")
    for item in books.all("invoiceitem", parent=subscription["id"]):
        if item["invoice"] is None:
            item["invoice"] = "none"  # nobody will be asked for it
            books.revise(item)
    planned = subscription["cancel_at"] or books.second  # a clock that was late ends nothing later
    subscription["status"], subscription["ended_at"] = "canceled", min(planned, books.second)
    subscription["canceled_at"] = subscription["canceled_at"] or books.second
    subscription["cancellation_details"]["reason"] = reason
    return books.revise(subscription, "customer.subscription.deleted")


def expire_incomplete(books: Books, subscription: Thing) -> None:
    """End a subscription whose first invoice was not paid in time."""
    for invoice in _open_invoices(books, subscription):
        invoices.void(books, invoice)
    subscription["status"], subscription["ended_at"] = "incomplete_expired", books.second
    books.revise(subscription, "customer.subscription.updated")


def drop_pending_update(books: Books, subscription: Thing) -> None:
    """Forget a change that waits for its payment, and take its invoice back."""
    if not subscription["pending_update"]:
        return
    invoice = books.find("invoice", subscription["latest_invoice"])
    if invoice and invoice["status"] == "open":
        invoices.void(books, invoice)
    subscription["pending_update"] = None


def end_with_period(books: Books, subscription: Thing, ends: bool) -> None:
    """Let a subscription end with its period, or go on after all."""
    subscription["cancel_at_period_end"] = ends
    subscription["cancel_at"] = subscription["items"]["data"][0]["current_period_end"] if ends else None
    subscription["canceled_at"] = (subscription["canceled_at"] or books.second) if ends else None
    subscription["cancellation_details"]["reason"] = "cancellation_requested" if ends else None


def _open_invoices(books: Books, subscription: Thing) -> list[Thing]:
    return [invoice for invoice in books.all("invoice", parent=subscription["id"]) if invoice["status"] == "open"]
