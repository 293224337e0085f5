"""Invoices: what they hold, how they are issued, voided, listed. Being paid is `collection`'s.

In the shapes since 2025-03-31: the subscription is in `parent`, payments are objects of their own, and the period that
matters is the one of each line.
"""

from __future__ import annotations

from services.gateways.simulated_stripe import payments
from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params, invalid


def line(
    books: Books, subscription: Thing, price: Thing, quantity: int, period: tuple[int, int], amount: int | None = None,
    words: str | None = None,
) -> Thing:  # fmt: skip
    """One line: a whole period of a price, or with `amount` and `words` a proration of it. Cents and seconds."""
    product = books.find("product", price["product"])
    name = product["name"] if product else price["product"]
    total = price["unit_amount"] * quantity if amount is None else amount
    recurring = price["recurring"] or {"interval": "month"}
    whole = f"{quantity} × {name} (at ${price['unit_amount'] / 100:,.2f} / {recurring['interval']})"
    return {
        "id": new_id("il"), "object": "line_item", "amount": total, "currency": price["currency"],
        "description": whole if words is None else words.format(name=name), "discount_amounts": [],
        "discountable": amount is None, "discounts": [], "invoice": None, "livemode": False,
        "metadata": dict(subscription["metadata"]),
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None, "proration": amount is not None, "proration_details": {"credited_items": None},
                "subscription": subscription["id"], "subscription_item": subscription["items"]["data"][0]["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"start": period[0], "end": period[1]}, "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]}, "type": "price_details",
            "unit_amount_decimal": str(total if amount is not None else price["unit_amount"]),
        },
        "quantity": quantity, "subtotal": total, "taxes": [],
    }  # fmt: skip


def draft(books: Books, subscription: Thing, lines: list[Thing], reason: str, id: str | None = None) -> Thing:
    """An invoice over `lines`, not written down yet. What is due counts the customer's balance in; less than the least
    charge is carried over to the next invoice."""
    customer = books.get("customer", subscription["customer"])
    id, total, balance = id or new_id("in"), sum(each["amount"] for each in lines), customer["balance"]
    due = total + balance if total + balance >= payments.LEAST_CENTS else 0
    for each in lines:
        each["invoice"] = id
    starts, ends = zip(*[(each["period"]["start"], each["period"]["end"]) for each in lines], strict=True)
    about = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
    return {
        **_nothing(), "id": id, "object": "invoice", "amount_due": due, "amount_remaining": due,
        "billing_reason": reason, "created": books.second, "currency": lines[0]["currency"], "customer": customer["id"],
        "customer_email": customer["email"], "customer_name": customer["name"], "ending_balance": total + balance - due,
        "lines": {
            "object": "list", "data": lines, "has_more": False, "total_count": len(lines),
            "url": f"/v1/invoices/{id}/lines",
        },
        "metadata": {}, "period_start": min(starts), "period_end": max(ends),
        "parent": {"quote_details": None, "subscription_details": about, "type": "subscription_details"},
        "starting_balance": balance, "status": "draft", "subtotal": total, "subtotal_excluding_tax": total,
        "total": total, "total_excluding_tax": total,
    }  # fmt: skip


def issue(books: Books, invoice: Thing) -> Thing:
    """Write a draft down and finalize it: it has a number, a page and a payment that is meant to be made."""
    customer = books.get("customer", invoice["customer"])
    books.add(invoice, "invoice.created")
    invoice["number"] = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
    invoice["status"], invoice["effective_at"] = "open", books.second
    invoice["status_transitions"]["finalized_at"] = books.second
    invoice["hosted_invoice_url"] = f"{books.public_url}/simulated/invoices/{invoice['id']}"
    customer["next_invoice_sequence"] += 1
    customer["balance"] = invoice["ending_balance"]
    customer["currency"] = invoice["currency"]
    books.revise(customer)
    if invoice["amount_due"]:
        words = f"Invoice {invoice['number']}"
        intent = payments.intend(books, customer["id"], invoice["amount_due"], invoice["currency"], {}, words)
        _meant_for(books, invoice, intent)
    return books.revise(invoice, "invoice.finalized")


def payment_of(books: Books, invoice: Thing) -> tuple[Thing, Thing] | None:
    """The invoice payment and the payment intent of an invoice; None when nothing was due."""
    for payment in books.all("invoice_payment", parent=invoice["id"]):
        return payment, books.get("payment_intent", payment["payment"]["payment_intent"])
    return None


def void(books: Books, invoice: Thing) -> Thing:
    """Take an open invoice back: what it counted in of the customer's balance is there again."""
    customer = books.get("customer", invoice["customer"])
    customer["balance"] += invoice["starting_balance"] - invoice["ending_balance"]
    books.revise(customer)
    invoice["status"], invoice["next_payment_attempt"], invoice["auto_advance"] = "void", None, False
    invoice["status_transitions"]["voided_at"] = books.second
    if found := payment_of(books, invoice):
        payment, intent = found
        payment["status"], payment["status_transitions"]["canceled_at"] = "canceled", books.second
        books.revise(payment)
        payments.call_off(books, intent, "void_invoice")
    return books.revise(invoice, "invoice.voided")


def give_up(books: Books, invoice: Thing) -> Thing:
    """Stop trying to collect an open invoice."""
    invoice["status"], invoice["next_payment_attempt"], invoice["auto_advance"] = "uncollectible", None, False
    invoice["status_transitions"]["marked_uncollectible_at"] = books.second
    return books.revise(invoice, "invoice.marked_uncollectible")


def void_by_id(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/invoices/:id/void"""
    invoice = retrieve(books, given, id)
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid(
            f"You can only pass in open invoices. This invoice isn't open: it is {invoice['status']}.", "invoice"
        )
    return void(books, invoice)


def retrieve(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/invoices/:id"""
    return books.get("invoice", id, "invoice")


def listed(books: Books, given: Params) -> Thing:
    """GET /v1/invoices, by `customer`, `subscription` and `status`"""
    status = given.text("status")
    return books.listing(
        "invoice", "/v1/invoices", given, customer=given.text("customer"), parent=given.text("subscription"),
        fits=lambda invoice: status in (None, invoice["status"]),
    )  # fmt: skip


def list_payments(books: Books, given: Params) -> Thing:
    """GET /v1/invoice_payments, by `invoice`, `status` and `payment[payment_intent]`"""
    status, intent = given.text("status"), given.part("payment").text("payment_intent")
    return books.listing(
        "invoice_payment", "/v1/invoice_payments", given, parent=given.text("invoice"),
        fits=lambda payment: (
            status in (None, payment["status"]) and intent in (None, payment["payment"]["payment_intent"])
        ),
    )  # fmt: skip


def _meant_for(books: Books, invoice: Thing, intent: Thing) -> None:
    books.add({
        "id": new_id("inpay"), "object": "invoice_payment", "amount_paid": None, "amount_requested": invoice["amount_due"],
        "created": books.second, "currency": invoice["currency"], "customer": invoice["customer"],
        "invoice": invoice["id"], "is_default": True, "livemode": False,
        "payment": {"payment_intent": intent["id"], "type": "payment_intent"}, "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    })  # fmt: skip


def _nothing() -> Thing:
    """What no invoice of ours uses, as Stripe answers it."""
    tax = {"disabled_reason": None, "enabled": False, "liability": None, "provider": None, "status": None}
    settings = {"default_mandate": None, "payment_method_options": None, "payment_method_types": None}
    moments = ("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")
    nulls = (
        "account_tax_ids", "application", "automatically_finalizes_at", "custom_fields", "customer_account",
        "customer_address", "customer_phone", "customer_shipping", "default_payment_method", "default_source",
        "description", "due_date", "effective_at", "footer", "from_invoice", "hosted_invoice_url", "invoice_pdf",
        "last_finalization_error", "latest_revision", "next_payment_attempt", "number", "on_behalf_of", "receipt_number",
        "rendering", "shipping_cost", "shipping_details", "statement_descriptor", "test_clock", "webhooks_delivered_at",
    )  # fmt: skip
    zeros = (
        "amount_overpaid", "amount_paid", "amount_shipping", "attempt_count", "post_payment_credit_notes_amount",
        "pre_payment_credit_notes_amount",
    )  # fmt: skip
    empty = (
        "customer_tax_ids",
        "default_tax_rates",
        "discounts",
        "total_discount_amounts",
        "total_pretax_credit_amounts",
    )
    return {
        **dict.fromkeys(nulls), **dict.fromkeys(zeros, 0), **{name: [] for name in (*empty, "total_taxes")},
        "account_country": "US", "account_name": "Trainyard", "attempted": False, "auto_advance": True,
        "automatic_tax": tax, "collection_method": "charge_automatically", "customer_tax_exempt": "none",
        "issuer": {"type": "self"}, "livemode": False, "payment_settings": settings,
        "status_transitions": dict.fromkeys(moments),
    }  # fmt: skip
