"""The price list in the admin's panel: every admin looks, superadmins change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from flask import Blueprint, flash, request, url_for
from pydantic import Field
from werkzeug.wrappers import Response

from models.plans import Plan
from routes.admin import Act, plain, why
from routes.answers import answer, form, read, wants_json
from routes.guards import actor
from services import admin, catalogues, price_list
from services.errors import Conflict, Invalid

bp = Blueprint("admin_plans", __name__)
changes_bp = Blueprint("admin_plan_changes", __name__)
FREE_LIMITS = catalogues.DEFAULT["plans"][0]["limits"]
IN_FORM = {"price_cents": "price", "yearly_cents": "yearly_price"}  # what the price list calls so is asked for so


class GivenValues(Act):
    """A plan as the form asks for it: prices in dollars, features one a line, the limits as fields of their own."""

    display_name: str = ""
    price: Decimal = Field(ge=0, le=10_000_000, decimal_places=2)
    yearly_price: Decimal | None = Field(None, ge=0, le=10_000_000, decimal_places=2)
    monthly_credits: int
    features: str | list[str] = ""
    upload_bytes: int
    models: int
    private_models: bool = False
    server_jobs: int
    accelerators: str | list[str] = ""
    image_side: int
    queue: str | None = None
    v1_api: str
    v1_requests: int

    def values(self, present: dict[str, Any]) -> dict[str, Any]:
        """What the price list takes; limits that the form does not know stay as they are."""
        given = {name: getattr(self, name) for name in FREE_LIMITS if hasattr(self, name)}
        given |= {"accelerators": _parts(self.accelerators, ","), "queue": None if self.queue == "none" else self.queue}
        yearly = self.yearly_price
        return {
            "display_name": self.display_name.strip(), "price_cents": int(self.price * 100),
            "yearly_cents": int(yearly * 100) if yearly else None, "monthly_credits": self.monthly_credits,
            "features": _parts(self.features, "\n"), "limits": {**present, **given},
        }  # fmt: skip


class GivenNewPlan(GivenValues):
    name: str


class GivenPrice(Act):
    action: str
    credits: int


@bp.get("", endpoint="index")
def index() -> Response:
    rows = _rows()
    return answer(plain({"plans": rows}), page="admin/plans.html", plans=rows)


@bp.get("/<int:id>", endpoint="show")
def show(id: int) -> Response:
    shown = _shown(admin.plan_for(actor(), id))
    return answer(plain(shown), page="admin/plan_form.html", plan=shown)


@bp.get("/prices", endpoint="prices")
def prices() -> Response:
    rows = _prices()
    return answer({"prices": rows}, page="admin/prices.html", prices=rows)


@changes_bp.get("/new", endpoint="new")
def new() -> Response:
    return answer(None, page="admin/plan_form.html", plan=_blank())


@changes_bp.post("", endpoint="create")
@form("admin/plan_form.html", lambda: {"plan": _blank()})
def create() -> Response:
    given = read(GivenNewPlan)
    with _named_as_asked():
        made = admin.create_plan(actor(), {"name": given.name, **given.values(FREE_LIMITS)}, why(given))
    return _done(made, "is on offer now.", 201)


def _again() -> dict[str, Any]:
    return {"plan": _shown(admin.plan_for(actor(), (request.view_args or {})["id"]))}


@changes_bp.post("/<int:id>", endpoint="edit")
@form("admin/plan_form.html", _again)
def edit(id: int) -> Response:
    given = read(GivenValues)
    values = given.values(admin.plan_for(actor(), id).limits)
    with _named_as_asked():
        made = admin.edit_plan(actor(), id, values, why(given))
    return _done(made, "is on offer now; whoever has an older version keeps it.")


@changes_bp.get("/<int:id>/<any(archive,activate):act>", endpoint="ask")
def ask(id: int, act: str) -> Response:
    shown = _shown(admin.plan_for(actor(), id))
    return answer(plain(shown), page="admin/plan_offer.html", plan=shown)


@changes_bp.post("/<int:id>/archive", endpoint="archive")
@form("admin/plan_offer.html", _again)
def archive(id: int) -> Response:
    return _done(admin.archive_plan(actor(), id, why(read(Act))), "is not offered any more; whoever has it keeps it.")


@changes_bp.post("/<int:id>/activate", endpoint="activate")
@form("admin/plan_offer.html", _again)
def activate(id: int) -> Response:
    return _done(admin.activate_plan(actor(), id, why(read(Act))), "is on offer again.")


@changes_bp.post("/prices", endpoint="set_price")
@form("admin/prices.html", lambda: {"prices": _prices()})
def set_price() -> Response:
    given = read(GivenPrice)
    changed = admin.set_price(actor(), given.action, given.credits, why(given))
    if not wants_json():
        flash(f"{changed.action} costs {changed.credits:,} from now on; running jobs keep their price.", "success")
    return answer({"prices": _prices()}, to=url_for("admin_plans.prices"))


@contextlib.contextmanager
def _named_as_asked() -> Iterator[None]:
    """A refusal of the price list, with the names of the fields that were asked for."""
    try:
        yield
    except Invalid as error:
        fields = {IN_FORM.get(name, name.removeprefix("limits.")): words for name, words in error.fields.items()}
        raise Invalid(error.message, fields) from None
    except Conflict as error:
        if error.code == "plan_exists":
            error.details["fields"] = {"name": error.message}
        raise


def _rows() -> list[dict[str, Any]]:
    members = admin.members_by_plan()
    return [{**_shown(plan), "members": members.get(plan.id, 0)} for plan in price_list.all_plans()]


def _prices() -> list[dict[str, Any]]:
    return [{"action": price.action, "credits": price.credits} for price in admin.prices(actor())]


def _shown(plan: Plan) -> dict[str, Any]:
    return {
        "id": plan.id, "name": plan.name, "version": plan.version, "display_name": plan.display_name,
        "price_cents": plan.price_cents, "yearly_cents": plan.yearly_cents, "monthly_credits": plan.monthly_credits,
        "features": plan.features, "limits": plan.limits, "archived_at": plan.archived_at, "created_at": plan.created_at,
    }  # fmt: skip


def _blank() -> dict[str, Any]:
    return {
        "id": None, "name": "", "version": 1, "display_name": "", "price_cents": None, "yearly_cents": None,
        "monthly_credits": None, "features": [], "limits": FREE_LIMITS, "archived_at": None,
    }  # fmt: skip


def _parts(given: str | list[str], mark: str) -> list[str]:
    parts = given.split(mark) if isinstance(given, str) else given
    return [part.strip() for part in parts if part.strip()]


def _done(plan: Plan, what: str, status: int = 200) -> Response:
    if not wants_json():
        flash(f"{plan.display_name}, version {plan.version}, {what}", "success")
    return answer(plain(_shown(plan)), status, to=url_for("admin_plans.index"))
