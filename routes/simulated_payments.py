"""The hosted pages of the simulated payment company. Public: whoever knows the address may use it, as at Stripe."""

from __future__ import annotations

from typing import Any, Literal

from flask import Blueprint, request
from werkzeug.wrappers import Response

from routes.answers import Given, answer, form, from_here, read
from services.errors import NotFound
from services.gateways import gateways
from services.gateways.simulated_stripe import SimulatedStripe, cards, hosted

bp = Blueprint("simulated_payments", __name__)
Kind = Literal["working", "declined", "needs_authentication"]


class Payment(Given):
    card: Kind = "working"
    confirmed: hosted.Confirmed | None = None


class ChosenCard(Given):
    card: Literal[Kind, "none"]


class Chosen(Given):
    subscription: str


@bp.get("/checkout/<session_id>")
def checkout(session_id: str) -> Response:
    page = hosted.checkout_page(_simulator(), session_id)
    if page.status == "complete":
        return answer({"status": "done", "url": page.success_url}, to=from_here(page.success_url))
    if page.status == "expired":
        return _over("This checkout page has expired", page.cancel_url)
    return answer({"status": page.status, "amount": page.cents}, page=CHECKOUT, checkout=page, cards=cards.CARDS)


@bp.post("/checkout/<session_id>", endpoint="pay")
@form("simulated_payments/checkout.html", lambda: _checkout_again())
def pay(session_id: str) -> Response:
    given = read(Payment)
    outcome = hosted.pay(_simulator(), session_id, given.card, given.confirmed)
    page = hosted.checkout_page(_simulator(), session_id)
    if outcome.state == "over":
        return _over("This checkout page has expired", page.cancel_url)
    return _paid_or_asked(outcome, given.card, page.cents, page.success_url)


@bp.get("/invoices/<invoice_id>")
def invoice(invoice_id: str) -> Response:
    page = hosted.invoice_page(_simulator(), invoice_id)
    return answer({"status": page.status, "amount": page.cents}, page=INVOICE, invoice=page, cards=cards.CARDS)


@bp.post("/invoices/<invoice_id>", endpoint="pay_invoice")
@form("simulated_payments/invoice.html", lambda: _invoice_again())
def pay_invoice(invoice_id: str) -> Response:
    given = read(Payment)
    outcome = hosted.pay_invoice(_simulator(), invoice_id, given.card, given.confirmed)
    return _paid_or_asked(outcome, given.card, hosted.invoice_page(_simulator(), invoice_id).cents, request.path)


@bp.get("/portal/<portal_id>")
def portal(portal_id: str) -> Response:
    page = hosted.portal_page(_simulator(), portal_id)
    if not page.open:
        return _over("This billing page has expired", page.return_url)
    shown = {"card": page.card, "return_url": page.return_url}
    return answer(shown, page="simulated_payments/portal.html", portal=page, cards=cards.CARDS)


@bp.post("/portal/<portal_id>/card", endpoint="choose_card")
def choose_card(portal_id: str) -> Response:
    return _back(hosted.choose_card(_simulator(), portal_id, read(ChosenCard).card), portal_id)


@bp.post("/portal/<portal_id>/cancel", endpoint="cancel")
def cancel(portal_id: str) -> Response:
    return _back(hosted.end_with_period(_simulator(), portal_id, read(Chosen).subscription, True), portal_id)


@bp.post("/portal/<portal_id>/resume", endpoint="resume")
def resume(portal_id: str) -> Response:
    return _back(hosted.end_with_period(_simulator(), portal_id, read(Chosen).subscription, False), portal_id)


CHECKOUT, INVOICE = "simulated_payments/checkout.html", "simulated_payments/invoice.html"


def _simulator() -> SimulatedStripe:
    """The simulated company of this server; with real payments these pages do not exist."""
    simulator: SimulatedStripe | None = getattr(gateways().payments, "simulator", None)
    if simulator is None:
        raise NotFound
    return simulator


def _paid_or_asked(outcome: hosted.Outcome, card: str, cents: int, url: str) -> Response:
    if outcome.state == "confirm":
        return answer(
            {"status": "confirm"}, page="simulated_payments/confirm.html", card=card, cents=cents, back=request.path
        )
    return answer({"status": outcome.state, "url": url}, to=from_here(url))


def _back(outcome: hosted.Outcome, portal_id: str) -> Response:
    if outcome.state == "over":
        return _over("This billing page has expired", outcome.url)
    url = outcome.url or f"/simulated/portal/{portal_id}"
    return answer({"status": "done", "url": url}, to=from_here(url))


def _over(title: str, back: str | None) -> Response:
    body = {"error": {"code": "expired", "message": f"{title}. Start again from where you came."}}
    return answer(body, 410, page="simulated_payments/expired.html", title=title, back=back)


def _checkout_again() -> dict[str, Any]:
    return {"checkout": hosted.checkout_page(_simulator(), _id("session_id")), "cards": cards.CARDS}


def _invoice_again() -> dict[str, Any]:
    return {"invoice": hosted.invoice_page(_simulator(), _id("invoice_id")), "cards": cards.CARDS}


def _id(name: str) -> str:
    return str((request.view_args or {})[name])
