"""Plans, packs and the way to pay for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from flask import Blueprint, flash, jsonify, redirect, render_template, url_for
from werkzeug.wrappers import Response

from models.base import now
from models.payments import Checkout
from models.plans import Pack, Plan
from models.subscriptions import Subscription
from routes.answers import Given, Id, answer, read, wants_json
from routes.guards import actor, visitor
from services import calendar, catalogues, credits, payments, price_list, subscriptions
from services.gateways import gateways
from services.training_jobs import iso

shop = Blueprint("plans", __name__)
bp = Blueprint("subscriptions", __name__)


class Wanted(Given):
    tier_id: Id
    interval: Literal["month", "year"] = "month"


class WantedPack(Given):
    pack_size: Id


@shop.get("/pricing")
def pricing() -> str:
    member = visitor()
    subscription = shown(subscriptions.current(member)) if member else None
    minutes = {name.partition(":")[2]: price_list.price(name) for name in price_list.minute_actions()}
    return render_template(
        "subscriptions/pricing.html", plans=tiers(), subscription=subscription, packs=shown_packs(), minutes=minutes,
        limits=catalogues.LIMITS, **till(),
    )  # fmt: skip


@shop.get("/api/subscription/tiers", endpoint="tiers")
def list_tiers() -> Response:
    return jsonify(tiers())


@bp.get("/subscription")
def show() -> Response:
    return answer(shown(subscriptions.current(actor())), to=url_for("billing.show"))


@bp.post("/subscription/upgrade")
def upgrade() -> Response:
    wanted = read(Wanted)
    change = payments.upgrade(actor(), wanted.tier_id, wanted.interval)
    if change.checkout_url is not None:
        return answer({"checkout_url": change.checkout_url}, 202, to=change.checkout_url)
    body = {"subscription": shown(change.subscription), "credits_remaining": credits.spendable(actor().id)}
    if change.scheduled_for is not None:
        body["scheduled_for"] = iso(change.scheduled_for)
    if not wants_json():
        _tell(change)
    return answer(body, to=url_for("billing.show"))


@bp.post("/subscription/preview", endpoint="preview")
def preview() -> Response:
    wanted = read(Wanted)
    offer = payments.preview(actor(), wanted.tier_id, wanted.interval)
    return jsonify({
        "tier": tier(offer.plan), "interval": offer.interval, "amount_cents": offer.cents, "credits": offer.credits,
        "scheduled_for": iso(offer.scheduled_for) if offer.scheduled_for else None, "restarts": offer.restarts,
        "card": payments.card_of(actor()),
    })  # fmt: skip


@bp.post("/subscription/cancel", endpoint="cancel")
def cancel() -> Response:
    subscription = payments.cancel(actor())
    if not wants_json():
        flash(f"Your plan ends on {_day(subscriptions.term_end(subscription))}. Until then nothing changes.", "info")
    return answer(shown(subscription), to=url_for("billing.show"))


@bp.post("/subscription/resume", endpoint="resume")
def resume() -> Response:
    subscription = payments.resume(actor())
    if not wants_json():
        flash(f"You stay on the plan {subscription.plan.display_name}.", "success")
    return answer(shown(subscription), to=url_for("billing.show"))


@bp.post("/credits/purchase", endpoint="purchase")
def purchase() -> Response:
    bought = payments.buy_pack(actor(), read(WantedPack).pack_size)
    if bought.checkout_url is not None:
        return answer({"checkout_url": bought.checkout_url}, 202, to=bought.checkout_url)
    if not wants_json():
        flash(f"{bought.checkout.credits:,} credits are there.", "success")
    body = {"purchase": shown_checkout(bought.checkout), "credits_remaining": credits.spendable(actor().id)}
    return answer(body, to=url_for("billing.show"))


@bp.get("/checkout/<id>/done", endpoint="checkout_done")
def checkout_done(id: str) -> Any:
    checkout = payments.settle_checkout(actor(), id)
    if checkout.state == "paid":
        flash(_bought(checkout), "success")
    else:
        flash("The payment is on its way; your credits appear here as soon as it has arrived.", "info")
    return redirect(url_for("billing.show"))


@bp.get("/checkout/<id>/left", endpoint="checkout_left")
def checkout_left(id: str) -> Any:
    payments.get_for(actor(), id)
    flash("You left the payment page. Nothing was charged and nothing has changed.", "info")
    return redirect(url_for("billing.show"))


@bp.post("/stripe/create-subscription-checkout", endpoint="subscription_checkout")
def subscription_checkout() -> Response:
    wanted = read(Wanted)
    url = payments.plan_page(actor(), wanted.tier_id, wanted.interval)
    return answer({"checkout_url": url}, to=url)


@bp.post("/stripe/create-portal-session", endpoint="portal")
def portal() -> Response:
    url = payments.portal_url(actor())
    return answer({"portal_url": url}, to=url)


def tiers() -> list[dict[str, Any]]:
    """The price list as the API gives it."""
    return [tier(plan) for plan in price_list.plans()]


def tier(plan: Plan) -> dict[str, Any]:
    """One plan."""
    return {
        "id": plan.id, "name": plan.name, "display_name": plan.display_name, "monthly_price": plan.price_cents / 100,
        "monthly_price_cents": plan.price_cents, "yearly_price_cents": plan.yearly_cents,
        "monthly_credits": plan.monthly_credits, "features": plan.features, "limits": plan.limits, "rank": plan.rank,
    }  # fmt: skip


def shown_packs() -> list[dict[str, Any]]:
    """The packs on offer."""
    return [shown_pack(pack) for pack in price_list.packs()]


def shown_pack(pack: Pack) -> dict[str, Any]:
    """One pack; its size is what `POST /api/credits/purchase` takes."""
    return {"size": pack.credits, "price_cents": pack.price_cents}


def shown(subscription: Subscription) -> dict[str, Any]:
    """A subscription with its credits and its period."""
    start, end = subscriptions.period(subscription, now())
    user_id = subscription.user_id
    return {
        "tier": tier(subscription.plan), "status": subscription.status, "interval": subscription.interval,
        "source": subscription.source, "credits_remaining": credits.spendable(user_id),
        "credits_held": credits.held(user_id), "credits_used": credits.used_between(user_id, start, end),
        "period_start": iso(start), "period_end": iso(end), "days_until_reset": calendar.days_between(now(), end),
        "term_ends_at": iso(subscriptions.term_end(subscription)), "cancel_at_period_end": subscription.cancel_at_period_end,
        "grace_until": iso(subscription.grace_until) if subscription.grace_until else None,
        "scheduled_tier": tier(subscription.pending_plan) if subscription.pending_plan else None,
    }  # fmt: skip


def shown_checkout(checkout: Checkout) -> dict[str, Any]:
    """One purchase."""
    return {
        "id": checkout.id, "kind": checkout.kind, "credits": checkout.credits, "amount_cents": checkout.amount_cents,
        "state": checkout.state, "created_at": iso(checkout.created_at),
    }  # fmt: skip


def till() -> dict[str, Any]:
    """Whether anything is sold here, and whom to ask when not."""
    return {
        "payments": gateways().payments.name, "support_email": gateways().settings.support_email,
    }  # fmt: skip


def _tell(change: payments.Change) -> None:
    plan = change.subscription.plan.display_name
    if change.scheduled_for is None:
        flash(f"You are on the plan {plan}. Your credits are there.", "success")
    else:
        then = change.subscription.pending_plan
        flash(
            f"You stay on {plan} until {_day(change.scheduled_for)}, then {then.display_name if then else 'Free'} begins.",
            "info",
        )


def _bought(checkout: Checkout) -> str:
    if checkout.plan is not None:
        return f"You are on the plan {checkout.plan.display_name}. Your credits are there."
    return f"{checkout.credits:,} credits are there."


def _day(at: datetime) -> str:
    return f"{at.day} {at:%B %Y}"
