"""Money that goes back: refunds of a charge, and disputes that a cardholder opens and the bank decides."""

from __future__ import annotations

from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params, invalid

DISPUTE_ANSWER_SECONDS = 7 * 86400


def create(books: Books, given: Params) -> Thing:
    """POST /v1/refunds of a `charge` or a `payment_intent`; the whole rest when no `amount` is given, never more."""
    charge = _charge_of(books, given)
    left = charge["amount_captured"] - charge["amount_refunded"]
    if charge["status"] != "succeeded":
        raise invalid(f"Charge {charge['id']} has not succeeded and cannot be refunded.", "charge")
    if any(dispute["status"] != "won" for dispute in books.all("dispute", parent=charge["id"])):
        message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
        raise invalid(message, code="charge_disputed")
    if left == 0:
        raise invalid(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = given.whole("amount", 1) or left
    if amount > left:
        raise invalid(
            f"Refund amount ({_dollars(amount)}) is greater than unrefunded amount on charge ({_dollars(left)})",
            "amount",
        )
    refund = books.add(_refund(books, charge, amount, given), "refund.created")
    _count(books, charge)
    return refund


def retrieve(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/refunds/:id"""
    return books.get("refund", id)


def listed(books: Books, given: Params, charge: str | None = None) -> Thing:
    """GET /v1/refunds, by `charge` or `payment_intent`, and GET /v1/charges/:id/refunds"""
    url = f"/v1/charges/{charge}/refunds" if charge else "/v1/refunds"
    intent = given.text("payment_intent")
    return books.listing(
        "refund", url, given, parent=charge or given.text("charge"),
        fits=lambda refund: intent in (None, refund["payment_intent"]),
    )  # fmt: skip


def fail(books: Books, id: str) -> Thing:
    """Let the bank send a refund back, as happens when an account was closed: the charge counts it no more."""
    refund = books.get("refund", id)
    if refund["status"] != "failed":
        refund["status"], refund["failure_reason"] = "failed", "lost_or_stolen_card"
        books.revise(refund, "refund.failed")
        _count(books, books.get("charge", refund["charge"]))
    return refund


def open_dispute(books: Books, charge_id: str, amount: int | None = None) -> Thing:
    """Let the cardholder dispute a charge; the money is withdrawn until the bank has decided."""
    charge = books.get("charge", charge_id, "charge")
    dispute = {
        "id": new_id("du"), "object": "dispute", "amount": amount or charge["amount"] - charge["amount_refunded"],
        "balance_transactions": [], "charge": charge_id, "created": books.second, "currency": charge["currency"],
        "customer": charge["customer"], "enhanced_eligibility_types": [], "evidence": {},
        "evidence_details": {
            "due_by": books.second + DISPUTE_ANSWER_SECONDS, "has_evidence": False, "past_due": False, "submission_count": 0,
        },
        "is_charge_refundable": False, "livemode": False, "metadata": {}, "network_reason_code": "10.4",
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {"card": {"brand": "visa", "case_type": "chargeback"}, "type": "card"},
        "reason": "fraudulent", "status": "needs_response",
    }  # fmt: skip
    books.add(dispute, "charge.dispute.created")
    books.tell("charge.dispute.funds_withdrawn", dispute)
    charge["disputed"] = True
    books.revise(charge, "charge.updated")
    return dispute


def close_dispute(books: Books, id: str, won: bool) -> Thing:
    """Let the bank decide; `won` is ours."""
    dispute = books.get("dispute", id, "dispute")
    dispute["status"] = "won" if won else "lost"
    books.revise(dispute, "charge.dispute.closed")
    if won:
        books.tell("charge.dispute.funds_reinstated", dispute)
    return dispute


def accept_dispute(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/disputes/:id/close: give up, which loses it"""
    if books.get("dispute", id, "dispute")["status"] in ("won", "lost"):
        raise invalid("This dispute is already closed.", "dispute")
    return close_dispute(books, id, won=False)


def retrieve_dispute(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/disputes/:id"""
    return books.get("dispute", id, "dispute")


def list_disputes(books: Books, given: Params) -> Thing:
    """GET /v1/disputes, by `charge` or `payment_intent`"""
    intent = given.text("payment_intent")
    return books.listing(
        "dispute", "/v1/disputes", given, parent=given.text("charge"),
        fits=lambda dispute: intent in (None, dispute["payment_intent"]),
    )  # fmt: skip


def _charge_of(books: Books, given: Params) -> Thing:
    if "charge" in given:
        return books.named("charge", given, "charge")
    if "payment_intent" not in given:
        message = "One of the following params should be provided for this request: payment_intent or charge."
        raise invalid(message, code="parameter_missing")
    intent = books.named("payment_intent", given, "payment_intent")
    charge = books.find("charge", intent["latest_charge"])
    if charge is None:
        raise invalid(
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.", "payment_intent"
        )
    return charge


def _refund(books: Books, charge: Thing, amount: int, given: Params) -> Thing:
    reasons = ("duplicate", "fraudulent", "requested_by_customer", "")
    return {
        "id": new_id("re"), "object": "refund", "amount": amount, "balance_transaction": None, "charge": charge["id"],
        "created": books.second, "currency": charge["currency"], "customer": charge["customer"],
        "destination_details": {"card": {"reference_status": "pending", "type": "refund"}, "type": "card"},
        "metadata": given.metadata(), "payment_intent": charge["payment_intent"],
        "reason": given.one_of("reason", reasons, "") or None, "receipt_number": None, "source_transfer_reversal": None,
        "status": "succeeded", "transfer_reversal": None,
    }  # fmt: skip


def _count(books: Books, charge: Thing) -> None:
    """The sum on the charge is always that of its refunds."""
    standing = [refund["amount"] for refund in books.all("refund", parent=charge["id"]) if refund["status"] != "failed"]
    before, charge["amount_refunded"] = charge["amount_refunded"], sum(standing)
    charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
    books.revise(charge, "charge.refunded" if charge["amount_refunded"] > before else "charge.updated")


def _dollars(cents: int) -> str:
    return f"${cents / 100:,.2f}"
