"""Payment intents and the charges they lead to. Whether a card works is decided here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateways.simulated_stripe import cards
from services.gateways.simulated_stripe.books import Books, Thing, new_id
from services.gateways.simulated_stripe.wire import Params, Refused, invalid

LEAST_CENTS = 50  # what Stripe charges at least
MOST_CENTS = 99_999_999


@dataclass(frozen=True)
class Failure:
    """Why a payment did not go through."""

    code: str
    decline_code: str | None
    message: str


DECLINED = Failure("card_declined", "generic_decline", "Your card was declined.")
NOT_THERE = Failure(
    "authentication_required", "authentication_required",
    "Your card was declined. This transaction requires authentication.",
)  # fmt: skip
NOT_CONFIRMED = Failure(
    "payment_intent_authentication_failure", None,
    "We are unable to authenticate your payment method. Please choose a different payment method and try again.",
)  # fmt: skip
NO_CARD = Failure("payment_method_missing", None, "There is no card to charge.")


def intend(
    books: Books, customer: str | None, amount: int, currency: str, metadata: dict[str, str],
    description: str | None = None,
) -> Thing:  # fmt: skip
    """Write down a payment that is meant to be made. `amount` in cents."""
    id = new_id("pi")
    intent = {
        "id": id, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_details": {"tip": {}},
        "amount_received": 0, "application": None, "application_fee_amount": None,
        "automatic_payment_methods": {"allow_redirects": "always", "enabled": True}, "canceled_at": None,
        "cancellation_reason": None, "capture_method": "automatic_async", "client_secret": new_id(f"{id}_secret"),
        "confirmation_method": "automatic", "created": books.second, "currency": currency, "customer": customer,
        "description": description, "last_payment_error": None, "latest_charge": None, "livemode": False,
        "metadata": metadata, "next_action": None, "on_behalf_of": None, "payment_method": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}}, "payment_method_types": ["card"],
        "processing": None, "receipt_email": None, "review": None, "setup_future_usage": None, "shipping": None,
        "source": None, "statement_descriptor": None, "statement_descriptor_suffix": None,
        "status": "requires_payment_method", "transfer_data": None, "transfer_group": None,
    }  # fmt: skip
    return books.add(intent, "payment_intent.created")


def attempt(
    books: Books, intent: Thing, method: Thing | None, *, confirmed: bool = False, waits: bool = False
) -> Failure | None:
    """Try to charge a card once; None when it worked.

    `confirmed`: the person has just said yes to this payment. `waits`: a payment that lacks this stays open for it.
    """
    if method is None:
        return NO_CARD
    intent["payment_method"] = method["id"]
    failure = failure_of(cards.kind_of(method), confirmed)
    if failure is NOT_THERE and waits:
        intent["status"] = "requires_action"
        intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "simulated_confirmation"}}
        books.revise(intent, "payment_intent.requires_action")
        return failure
    charge = _charge(books, intent, method, failure)
    intent["latest_charge"], intent["next_action"] = charge["id"], None
    if failure:
        intent["status"], intent["payment_method"] = "requires_payment_method", None
        intent["last_payment_error"] = _error(failure, charge, method)
        books.revise(intent, "payment_intent.payment_failed")
        return failure
    intent["status"], intent["amount_received"], intent["last_payment_error"] = "succeeded", intent["amount"], None
    books.revise(intent, "payment_intent.succeeded")
    return None


def refusal(failure: Failure, intent: Thing, *, kept: bool = True) -> Refused:
    """The 402 of a payment that did not go through, with the payment intent inside as Stripe sends it."""
    error = intent["last_payment_error"] or {}
    return Refused(
        402, failure.message, kind="card_error", code=failure.code, kept=kept, decline_code=failure.decline_code,
        charge=error.get("charge"), payment_intent=intent, payment_method=error.get("payment_method"),
    )  # fmt: skip


def create(books: Books, given: Params) -> Thing:
    """POST /v1/payment_intents; with `confirm` the card is charged at once."""
    amount = given.need_whole("amount", 1)
    if not LEAST_CENTS <= amount <= MOST_CENTS:
        word = "small" if amount < LEAST_CENTS else "large"
        limit = "at least $0.50" if amount < LEAST_CENTS else "no more than $999,999.99"
        raise invalid(f"Amount must be {limit} usd", "amount", f"amount_too_{word}")
    customer = books.named("customer", given, "customer")["id"] if "customer" in given else None
    currency = given.need("currency").lower()
    if given.flag("off_session") and not given.flag("confirm"):
        raise invalid("`off_session` can only be used when `confirm` is true.", "off_session")
    intent = intend(books, customer, amount, currency, given.metadata(), given.text("description"))
    if "payment_method" in given:
        intent["payment_method"] = cards.usable(books, given, "payment_method", customer)["id"]
        intent["status"] = "requires_confirmation"
        books.revise(intent)
    return _confirm(books, intent, given) if given.flag("confirm") else intent


def retrieve(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/payment_intents/:id"""
    return books.get("payment_intent", id, "intent")


def confirm(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/payment_intents/:id/confirm"""
    intent = retrieve(books, given, id)
    if "payment_method" in given:
        intent["payment_method"] = cards.usable(books, given, "payment_method", intent["customer"])["id"]
    return _confirm(books, intent, given)


def cancel(books: Books, given: Params, id: str) -> Thing:
    """POST /v1/payment_intents/:id/cancel"""
    intent = retrieve(books, given, id)
    if intent["status"] in ("succeeded", "canceled"):
        raise _unexpected(
            intent, f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}."
        )
    return call_off(books, intent, given.text("cancellation_reason"))


def call_off(books: Books, intent: Thing, reason: str | None) -> Thing:
    """End a payment that will not be made."""
    intent["status"], intent["canceled_at"], intent["cancellation_reason"] = "canceled", books.second, reason
    return books.revise(intent, "payment_intent.canceled")


def listed(books: Books, given: Params) -> Thing:
    """GET /v1/payment_intents, by `customer`"""
    return books.listing("payment_intent", "/v1/payment_intents", given, customer=given.text("customer"))


def retrieve_charge(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/charges/:id"""
    return books.get("charge", id)


def list_charges(books: Books, given: Params) -> Thing:
    """GET /v1/charges, by `customer` and `payment_intent`"""
    return books.listing(
        "charge", "/v1/charges", given, customer=given.text("customer"), parent=given.text("payment_intent")
    )


def _confirm(books: Books, intent: Thing, given: Params) -> Thing:
    if intent["status"] in ("succeeded", "canceled"):
        raise _unexpected(
            intent, f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}."
        )
    method = books.find("payment_method", intent["payment_method"])
    if method is None:
        raise _unexpected(
            intent, "You cannot confirm this PaymentIntent because it's missing a payment method. To confirm the "
            "PaymentIntent with the customer's card, specify a payment method attached to this customer along with the "
            "customer ID.",
        )  # fmt: skip
    waits = not given.flag("off_session") and not given.flag("error_on_requires_action")
    failure = attempt(books, intent, method, waits=waits)
    if failure and intent["status"] != "requires_action":
        raise refusal(failure, intent)
    return intent


def _unexpected(intent: Thing, message: str) -> Refused:
    return Refused(400, message, code="payment_intent_unexpected_state", payment_intent=intent)


def failure_of(kind: str, confirmed: bool) -> Failure | None:
    """Why a kind of test card fails; None when it works. `confirmed`: the person has said yes to this payment."""
    if kind == "declined":
        return DECLINED
    return NOT_THERE if kind == "needs_authentication" and not confirmed else None


def _error(failure: Failure, charge: Thing, method: Thing) -> Thing:
    return {
        "charge": charge["id"], "code": failure.code, "decline_code": failure.decline_code, "message": failure.message,
        "payment_method": method, "type": "card_error",
    }  # fmt: skip


def _charge(books: Books, intent: Thing, method: Thing, failure: Failure | None) -> Thing:
    paid = failure is None
    card = {name: method["card"][name] for name in ("brand", "country", "exp_month", "exp_year", "funding", "last4")}
    charge = {
        "id": new_id("ch"), "object": "charge", "amount": intent["amount"],
        "amount_captured": intent["amount"] if paid else 0, "amount_refunded": 0, "application": None,
        "application_fee": None, "application_fee_amount": None, "balance_transaction": None,
        "billing_details": method["billing_details"], "calculated_statement_descriptor": "TRAINYARD",
        "captured": paid, "created": books.second, "currency": intent["currency"], "customer": intent["customer"],
        "description": intent["description"], "disputed": False, "failure_balance_transaction": None,
        "failure_code": failure.code if failure else None, "failure_message": failure.message if failure else None,
        "fraud_details": {}, "livemode": False, "metadata": dict(intent["metadata"]), "on_behalf_of": None,
        "outcome": {
            "network_status": "approved_by_network" if paid else "declined_by_network",
            "reason": failure.decline_code if failure else None, "risk_level": "normal",
            "seller_message": "Payment complete." if paid else "The bank did not return any further details.",
            "type": "authorized" if paid else "issuer_declined",
        },
        "paid": paid, "payment_intent": intent["id"], "payment_method": method["id"],
        "payment_method_details": {"card": card, "type": "card"}, "radar_options": {}, "receipt_email": None,
        "receipt_number": None, "receipt_url": None, "refunded": False, "review": None, "shipping": None, "source": None,
        "source_transfer": None, "statement_descriptor": None, "statement_descriptor_suffix": None,
        "status": "succeeded" if paid else "failed", "transfer_data": None, "transfer_group": None,
    }  # fmt: skip
    return books.add(charge, "charge.succeeded" if paid else "charge.failed")
