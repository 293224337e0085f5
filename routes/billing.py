"""The billing page: every credit explained, every payment listed, and what can be changed."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template, request

from models.base import now
from models.payments import Payment
from routes.guards import actor
from routes.subscriptions import shown as shown_subscription
from routes.subscriptions import shown_packs, tiers, till
from routes.usage import days_asked, line
from services import calendar, credits, payments, subscriptions, usage
from services.training_jobs import iso

bp = Blueprint("billing", __name__)
HISTORY = 20


@bp.get("")
def show() -> str:
    user = actor()
    subscription = subscriptions.current(user)
    lines, following = credits.history(user.id, HISTORY, None)
    return render_template(
        "billing/show.html", subscription=shown_subscription(subscription), lots=[_lot(lot) for lot in credits.lots_of(user.id)],
        usage=usage.stats(user.id, 30), history=[line(one) for one in lines], history_next=following,
        limits=subscriptions.limits_with_use(user), plans=tiers(), packs=shown_packs(),
        invoices=[_invoice(payment) for payment in payments.payments_of(user.id)], card=payments.card_of(user),
        debt=-credits.wallet_of(user.id).debt, back_from_portal=request.args.get("from") == "portal", **till(),
    )  # fmt: skip


@bp.get("/history", endpoint="history")
def history() -> str:
    before = request.args.get("before", "")
    lines, following = credits.history(
        actor().id, HISTORY, int(before) if before.isdigit() and len(before) < 16 else None
    )
    return render_template("billing/history.html", history=[line(one) for one in lines], history_next=following)


@bp.get("/usage", endpoint="usage")
def usage_table() -> str:
    return render_template("billing/usage.html", usage=usage.stats(actor().id, days_asked()), days=days_asked())


def _lot(lot: dict[str, Any]) -> dict[str, Any]:
    ends = lot["expires_at"]
    return {
        **lot, "since": iso(lot["since"]), "expires_at": iso(ends) if ends else None,
        "days_left": calendar.days_between(now(), ends) if ends else None,
    }  # fmt: skip


def _invoice(payment: Payment) -> dict[str, Any]:
    return {
        "id": payment.id, "number": payment.number, "what": payment.what, "status": payment.status, "url": payment.url,
        "amount_cents": payment.amount_cents, "refunded_cents": payment.refunded_cents,
        "at": iso(payment.paid_at or payment.created_at), "disputed": payment.dispute_status,
    }  # fmt: skip
