"""The admin's panel: the dashboard, every member, what is done to one, and the record of it all.

Its other rooms are admin_plans, admin_reports and admin_scheduled_jobs.
"""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Any, Literal

from flask import Blueprint, flash, redirect, request, url_for
from pydantic import Field
from werkzeug.wrappers import Response

from models.accounts import ROLES
from models.base import now
from models.payments import Payment
from models.subscriptions import SOURCES
from routes.answers import Given, Id, answer, form, page_of_list, read, wants_json
from routes.guards import actor
from services import admin, credits, price_list, subscriptions
from services.admin import Filter, Why
from services.training_jobs import iso

bp = Blueprint("admin", __name__)
LINES = 20
STATUSES = ("active", "trialing", "past_due", "unpaid", "incomplete")


class Act(Given):
    reason: str = ""


class GivenPlan(Act):
    plan_id: Id
    ends_on: date | None = None


class GivenCredits(Act):
    how: Literal["add", "set"] = "add"
    amount: int
    nonce: str = Field(default_factory=lambda: uuid.uuid4().hex)
    confirm: str = ""


class GivenRefund(Act):
    nonce: str = Field(default_factory=lambda: uuid.uuid4().hex)


class GivenRole(Act):
    role: str


@bp.get("", endpoint="home")
def home() -> Response:
    return redirect(url_for("admin.dashboard"))


@bp.get("/dashboard", endpoint="dashboard")
def dashboard() -> Response:
    shown = {
        "figures": admin.figures(actor()), "movement": admin.movement(), "alerts": admin.alerts(),
        "spent_by_day": admin.spent_by_day(30),
    }  # fmt: skip
    return answer(plain(shown), page="admin/dashboard.html", **shown)


@bp.get("/subscriptions/", endpoint="members")
def members() -> Response:
    limit, before = page_of_list()
    chosen = chosen_members()
    lines, following = admin.page(actor(), chosen, limit, before)
    return answer(
        plain({"items": lines, "next": following}), page="admin/members.html", members=lines, following=following,
        chosen=chosen, plans=price_list.all_plans(), sources=SOURCES, statuses=STATUSES, asked=request.args,
    )  # fmt: skip


@bp.get("/subscriptions/<int:id>", endpoint="member")
def show(id: int) -> Response:
    found = _about(admin.look_at(actor(), id))
    lines, following = credits.history(id, LINES, page_of_list()[1])
    acts, _ = admin.entries(actor(), LINES, user_id=id)
    shown = {**found, "ledger": lines, "ledger_next": following, "acts": acts}
    return answer(plain(shown), page="admin/member.html", **shown)


@bp.get('/subscriptions/<int:id>/<any(plan,credits,"end-plan",suspend,role):act>', endpoint="act")
def show_act(id: int, act: str) -> Response:
    found = _about(admin.look_at(actor(), id))
    return answer(plain(found), page=f"admin/{act.replace('-', '_')}.html", **found, **_choices())


@bp.get("/subscriptions/<int:id>/payments/<int:payment>/refund", endpoint="ask_refund")
def show_refund(id: int, payment: int) -> Response:
    found = _about(admin.look_at(actor(), id))
    return answer(plain(found), page="admin/refund.html", **found, payment_id=payment)


def _again() -> dict[str, Any]:
    """What the page of a refused form needs."""
    given = request.view_args or {}
    return {**_about(admin.look_at(actor(), given["id"])), **_choices(), "payment_id": given.get("payment")}


@bp.post("/subscriptions/<int:id>/plan", endpoint="assign_plan")
@form("admin/plan.html", _again)
def assign_plan(id: int) -> Response:
    given = read(GivenPlan)
    subscription = admin.assign_plan(actor(), id, given.plan_id, given.ends_on, why(given))
    return _done(id, f"The plan is {subscription.plan.display_name} now.")


@bp.post("/subscriptions/<int:id>/end-plan", endpoint="end_plan")
@form("admin/end_plan.html", _again)
def end_plan(id: int) -> Response:
    admin.end_plan(actor(), id, why(read(Act)))
    return _done(id, "The plan has ended; the member goes on with the free plan.")


@bp.post("/subscriptions/<int:id>/credits", endpoint="change_credits")
@form("admin/credits.html", _again)
def change_credits(id: int) -> Response:
    given = read(GivenCredits)
    operation = admin.change_credits(
        actor(), id, given.how, given.amount, given.nonce, why(given), given.confirm
    )  # fmt: skip
    return _done(
        id, f"{operation.change:+,} credits; {operation.available_after:,} can be spent now.".replace("-", "−")
    )


@bp.post("/subscriptions/<int:id>/payments/<int:payment>/refund", endpoint="refund")
@form("admin/refund.html", _again)
def refund(id: int, payment: int) -> Response:
    given = read(GivenRefund)
    done = admin.refund(actor(), id, payment, given.nonce, why(given))
    return _done(id, f"${done.refunded_cents / 100:,.2f} of ${done.amount_cents / 100:,.2f} went back.")


@bp.post("/subscriptions/<int:id>/<any(suspend,unsuspend):act>", endpoint="suspend")
@form("admin/suspend.html", _again)
def suspend(id: int, act: str) -> Response:
    user = admin.set_suspended(actor(), id, act == "suspend", why(read(Act)))
    return _done(id, f"{user.username} is {'suspended' if user.suspended_at else 'let in again'}.")


@bp.post("/subscriptions/<int:id>/role", endpoint="set_role")
@form("admin/role.html", _again)
def set_role(id: int) -> Response:
    given = read(GivenRole)
    user = admin.set_role(actor(), id, given.role, why(given))
    return _done(id, f"{user.username} is {user.role} now.")


@bp.get("/audit", endpoint="audit")
def audit() -> Response:
    limit, before = page_of_list()
    lines, following = admin.entries(actor(), limit, before)
    return answer(
        plain({"items": lines, "next": following}), page="admin/audit.html", acts=lines, following=following
    )  # fmt: skip


def why(given: Act) -> Why:
    """The reason that was given, and where the request came from."""
    told = request.headers.get("X-Request-ID", "")
    request_id = told if told.isascii() and told.isprintable() and 0 < len(told) <= 64 else uuid.uuid4().hex
    return Why(given.reason, request_id, request.remote_addr)


def chosen_members() -> Filter:
    """The filter in the address."""
    asked = {
        name: request.args.get(name, "").replace("\0", "")[:254] for name in ("search", "plan", "status", "source")
    }
    return Filter(**asked, suspended=bool(request.args.get("suspended")))


def plain(value: Any) -> Any:
    """The same for JSON: instants as the rest of the API writes them."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, datetime):
        return iso(value)
    return value.isoformat() if isinstance(value, date) else value


def _about(found: dict[str, Any]) -> dict[str, Any]:
    """One member as pages and JSON show them."""
    user, subscription = found.pop("user"), found.pop("subscription")
    return {
        "person": {
            "id": user.id, "username": user.username, "email": user.email, "role": user.role,
            "suspended_at": user.suspended_at, "created_at": user.created_at, "customer_id": user.customer_id,
        },
        "subscription": {
            "id": subscription.id, "plan_id": subscription.plan_id, "plan": subscription.plan.name,
            "plan_name": subscription.plan.display_name, "plan_version": subscription.plan.version,
            "monthly_credits": subscription.plan.monthly_credits, "interval": subscription.interval,
            "source": subscription.source, "status": subscription.status, "anchor_at": subscription.anchor_at,
            "next_reset_at": subscription.next_reset_at, "term_ends_at": subscription.term_ends_at,
            "paid_until": found.pop("term_ends_at"), "cancel_at_period_end": subscription.cancel_at_period_end,
            "scheduled_plan": subscription.pending_plan.display_name if subscription.pending_plan else None,
            "grace_until": subscription.grace_until, "gateway_id": subscription.gateway_id,
            "period": list(subscriptions.period(subscription, now())),
        },
        **found, "payments": [_payment(one) for one in found["payments"]],
    }  # fmt: skip


def _payment(payment: Payment) -> dict[str, Any]:
    return {
        "id": payment.id, "kind": payment.kind, "what": payment.what, "status": payment.status, "number": payment.number,
        "amount_cents": payment.amount_cents, "refunded_cents": payment.refunded_cents, "url": payment.url,
        "at": payment.paid_at or payment.created_at, "disputed": payment.dispute_status,
        "refundable": payment.kind == "pack" and payment.status == "paid"
        and payment.refunded_cents < payment.amount_cents,
    }  # fmt: skip


def _choices() -> dict[str, Any]:
    return {"plans": price_list.plans(), "roles": ROLES}


def _done(user_id: int, sentence: str) -> Response:
    if wants_json():
        return answer(plain(_about(admin.look_at(actor(), user_id))))
    flash(sentence, "success")
    return answer(None, to=url_for("admin.member", id=user_id))
