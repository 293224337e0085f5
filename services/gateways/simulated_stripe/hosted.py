"""The pages a person sees at a payment company: checkout, an open invoice, the billing portal.

Whoever knows the address may use it, as at Stripe: ids cannot be guessed. Pressing the button twice pays once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.errors import Conflict, NotFound, PaymentNeeded
from services.gateways.simulated_stripe import cards, checkout, collection, payments, portal
from services.gateways.simulated_stripe.books import Books, Thing, instant
from services.gateways.simulated_stripe.pages import Billed, CheckoutPage, InvoicePage, Line, PortalPage, Subscribed
from services.gateways.simulated_stripe.payments import Failure
from services.gateways.simulated_stripe.simulator import SimulatedStripe

Confirmed = Literal["yes", "no"]
ADVICE = "Nothing was charged. Choose another card, or try again."


@dataclass(frozen=True)
class Outcome:
    """What pressing a button led to, and where the person goes next."""

    state: Literal["done", "confirm", "over"]
    url: str | None = None


def checkout_page(simulator: SimulatedStripe, session_id: str) -> CheckoutPage:
    """A checkout session. Raises NotFound."""
    with simulator.reading() as books:
        session = _session(books, session_id)
        items = session["line_items"]["data"]
        customer = books.find("customer", session["customer"])
        recurring = items[0]["price"]["recurring"]
        return CheckoutPage(
            id=session_id, status="expired" if _over(books, session) else session["status"],
            lines=[Line(_words(item), item["amount_total"]) for item in items], cents=session["amount_total"],
            every=recurring and recurring["interval"], email=session["customer_details"]["email"],
            card=_kind(portal.card_of(books, customer) if customer else None),
            success_url=_success(session), cancel_url=session["cancel_url"],
        )  # fmt: skip


def pay(simulator: SimulatedStripe, session_id: str, card: str, confirmed: Confirmed | None = None) -> Outcome:
    """Pay a checkout session with a test card. Raises NotFound, and PaymentNeeded when the card is declined."""
    failure: Failure | None = None
    with simulator.work() as books:
        session = _session(books, session_id)
        if session["status"] == "complete":
            return Outcome("done", _success(session))
        if _over(books, session):
            return Outcome("over", session["cancel_url"])
        if card == "needs_authentication" and confirmed is None:
            return Outcome("confirm")
        failure = (
            payments.NOT_CONFIRMED if confirmed == "no" else checkout.pay(books, session, card, confirmed == "yes")
        )
    _refuse(failure)
    return Outcome("done", _success(session))


def invoice_page(simulator: SimulatedStripe, invoice_id: str) -> InvoicePage:
    """An invoice. Raises NotFound."""
    with simulator.reading() as books:
        invoice = _invoice(books, invoice_id)
        lines = [Line(line["description"], line["amount"]) for line in invoice["lines"]["data"]]
        return InvoicePage(
            id=invoice_id, number=invoice["number"], status=invoice["status"], lines=lines,
            carried=invoice["amount_due"] - invoice["total"], cents=invoice["amount_due"], email=invoice["customer_email"],
            card=_kind(portal.card_of(books, books.get("customer", invoice["customer"]))),
        )  # fmt: skip


def pay_invoice(simulator: SimulatedStripe, invoice_id: str, card: str, confirmed: Confirmed | None = None) -> Outcome:
    """Pay an open invoice with a test card. Raises NotFound, and PaymentNeeded when the card is declined."""
    failure: Failure | None = None
    with simulator.work() as books:
        invoice = _invoice(books, invoice_id)
        if invoice["status"] != "open":
            return Outcome("done" if invoice["status"] == "paid" else "over")
        if card == "needs_authentication" and confirmed is None:
            return Outcome("confirm")
        if confirmed == "no":
            failure = payments.NOT_CONFIRMED
        else:
            method = cards.on_file(books, invoice["customer"], card)
            failure = collection.collect(
                books, invoice, method, confirmed=confirmed == "yes", by_hand=True,
                retry_at=invoice["next_payment_attempt"],
            )  # fmt: skip
    _refuse(failure)
    return Outcome("done")


def portal_page(simulator: SimulatedStripe, portal_id: str) -> PortalPage:
    """The billing portal. Raises NotFound."""
    with simulator.reading() as books:
        session, customer = _portal(books, portal_id)
        method = portal.card_of(books, customer)
        bills = [_billed(invoice) for invoice in books.all("invoice", customer=customer["id"])]
        return PortalPage(
            id=portal_id, open=_usable(books, session), card=cards.kind_of(method) if method else "none",
            email=customer["email"],
            subscriptions=[_subscribed(books, each) for each in portal.live(books, customer["id"])],
            invoices=bills[::-1], return_url=session["return_url"],
        )  # fmt: skip


def choose_card(simulator: SimulatedStripe, portal_id: str, card: str) -> Outcome:
    """Let every payment from now on use a test card, or with `none` no card. Raises NotFound."""
    with simulator.work() as books:
        session, customer = _portal(books, portal_id)
        if not _usable(books, session):
            return Outcome("over", session["return_url"])
        portal.choose_card(books, customer, card)
    return Outcome("done", session["return_url"])


def end_with_period(simulator: SimulatedStripe, portal_id: str, subscription_id: str, ends: bool) -> Outcome:
    """Let a subscription end with its period, or go on after all. Raises NotFound, and Conflict when it has ended."""
    with simulator.work() as books:
        session, customer = _portal(books, portal_id)
        if not _usable(books, session):
            return Outcome("over", session["return_url"])
        if subscription_id not in [each["id"] for each in portal.live(books, customer["id"])]:
            raise Conflict("This subscription has ended already, or it is another customer's. Nothing was changed.")
        portal.end_with_period(books, subscription_id, ends)
    return Outcome("done", session["return_url"])


def _session(books: Books, id: str) -> Thing:
    session = books.find("checkout.session", id)
    if session is None:
        raise NotFound("There is no such checkout page. Start the purchase again.")
    return session


def _invoice(books: Books, id: str) -> Thing:
    invoice = books.find("invoice", id)
    if invoice is None:
        raise NotFound("There is no such invoice.")
    return invoice


def _portal(books: Books, id: str) -> tuple[Thing, Thing]:
    session = books.find("billing_portal.session", id)
    if session is None:
        raise NotFound("There is no such billing page. Open it again from your account.")
    return session, books.get("customer", session["customer"])


def _usable(books: Books, session: Thing) -> bool:
    return books.second < session["created"] + portal.LASTS


def _over(books: Books, session: Thing) -> bool:
    late = session["status"] == "open" and session["expires_at"] <= books.second
    return late or session["status"] == "expired"


def _success(session: Thing) -> str:
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def _words(item: Thing) -> str:
    return f"{item['quantity']} × {item['description']}" if item["quantity"] > 1 else item["description"]


def _kind(method: Thing | None) -> str:
    return cards.kind_of(method) if method else "working"


def _subscribed(books: Books, subscription: Thing) -> Subscribed:
    item = subscription["items"]["data"][0]
    price = item["price"]
    return Subscribed(
        id=subscription["id"], name=books.get("product", price["product"])["name"], status=subscription["status"],
        cents=price["unit_amount"] * item["quantity"], every=price["recurring"]["interval"],
        ends=subscription["cancel_at_period_end"], until=instant(item["current_period_end"]),
    )  # fmt: skip


def _billed(invoice: Thing) -> Billed:
    at = instant(invoice["created"])
    return Billed(invoice["id"], invoice["number"], invoice["status"], invoice["amount_due"], at)


def _refuse(failure: Failure | None) -> None:
    if failure:
        raise PaymentNeeded(f"{failure.message.removesuffix('.')}. {ADVICE}", code=failure.code)
