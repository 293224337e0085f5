"""Plans and the way to another one."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, jsonify, redirect, render_template, url_for
from werkzeug.wrappers import Response

from models.base import now
from models.plans import Plan
from models.subscriptions import Subscription
from routes.answers import Given, Id, answer, read, wants_json
from routes.guards import actor, visitor
from services import calendar, credits, price_list, subscriptions
from services.gateways import gateways
from services.training_jobs import iso

shop = Blueprint("plans", __name__)
bp = Blueprint("subscriptions", __name__)


class Wanted(Given):
    tier_id: Id


class Card(Given):
    card: str | None = None


@shop.get("/pricing")
def pricing() -> str:
    member = visitor()
    subscription = shown(subscriptions.current(member)) if member else None
    return render_template("subscriptions/pricing.html", plans=tiers(), subscription=subscription)


@shop.get("/api/subscription/tiers", endpoint="tiers")
def list_tiers() -> Response:
    return jsonify(tiers())


@bp.get("/subscription")
def show() -> Response:
    return answer(shown(subscriptions.current(actor())), to=url_for("dashboard.show"))


@bp.post("/subscription/upgrade")
def upgrade() -> Response:
    change = subscriptions.upgrade(actor(), read(Wanted).tier_id)
    if change.checkout is not None:
        url = f"{gateways().settings.public_url}/checkout/{change.checkout.id}"
        return answer({"checkout_url": url}, 202, to=url_for("subscriptions.checkout", id=change.checkout.id))
    body = {"subscription": shown(change.subscription), "credits_remaining": credits.spendable(actor().id)}
    if change.scheduled_for is not None:
        body["scheduled_for"] = iso(change.scheduled_for)
    if not wants_json():
        _tell(change)
    return answer(body, to=url_for("dashboard.show"))


@bp.get("/checkout/<id>")
def checkout(id: str) -> Any:
    found = subscriptions.get_for(actor(), id)
    if found.state == "paid":
        return redirect(url_for("dashboard.show"))
    return _checkout_page(id)


@bp.post("/checkout/<id>", endpoint="pay")
def pay(id: str) -> Response:
    try_card = read(Card).card
    subscription = subscriptions.pay(actor(), id, try_card)
    flash(f"You are on the plan {subscription.plan.display_name}.", "success")
    return answer(shown(subscription), to=url_for("dashboard.show"))


def tiers() -> list[dict[str, Any]]:
    """The price list as the API gives it."""
    return [tier(plan) for plan in price_list.plans()]


def tier(plan: Plan) -> dict[str, Any]:
    """One plan."""
    return {
        "id": plan.id, "name": plan.name, "display_name": plan.display_name, "monthly_price": plan.price_cents / 100,
        "monthly_price_cents": plan.price_cents, "monthly_credits": plan.monthly_credits, "features": plan.features,
        "limits": plan.limits,
    }  # fmt: skip


def shown(subscription: Subscription) -> dict[str, Any]:
    """A subscription with its credits and its period."""
    start, end = subscriptions.period(subscription, now())
    user_id = subscription.user_id
    return {
        "tier": tier(subscription.plan), "status": subscription.status, "credits_remaining": credits.spendable(user_id),
        "credits_held": credits.held(user_id), "credits_used": credits.used_between(user_id, start, end),
        "period_start": iso(start), "period_end": iso(end), "days_until_reset": calendar.days_between(now(), end),
        "scheduled_tier": tier(subscription.pending_plan) if subscription.pending_plan else None,
    }  # fmt: skip


def _tell(change: subscriptions.Change) -> None:
    plan = change.subscription.plan.display_name
    if change.scheduled_for is None:
        flash(f"You are on the plan {plan}. Your credits are there.", "success")
    else:
        flash(f"You stay on {plan} until the period ends, then the smaller plan begins.", "info")


def _checkout_page(id: str) -> str:
    found = subscriptions.get_for(actor(), id)
    view = {
        "id": found.id, "plan": tier(found.plan), "amount_cents": found.amount_cents,
        "payment_method": actor().payment_method,
    }  # fmt: skip
    return render_template("subscriptions/checkout.html", checkout=view, simulated=gateways().payments.simulated)
