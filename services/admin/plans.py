"""The price list: admins look, superadmins change. A change is a new version; whoever has the old one keeps it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from models.accounts import User
from models.base import db, transaction
from models.plans import ActionPrice, Plan
from models.subscriptions import Subscription
from services import catalogues, price_list
from services.admin.audit import Why, audit, require_admin, require_superadmin
from services.errors import Conflict, Invalid, NotFound


def members_by_plan() -> dict[int, int]:
    """How many members have each version of each plan now."""
    query = (
        select(Subscription.plan_id, func.count()).where(Subscription.ended_at.is_(None)).group_by(Subscription.plan_id)
    )
    return {row[0]: int(row[1]) for row in db.session.execute(query)}


def plan_for(actor: User, plan_id: int) -> Plan:
    """One version of a plan, for an admin. Raises NotFound."""
    require_admin(actor)
    return price_list.plan(plan_id)


def create_plan(actor: User, values: dict[str, Any], why: Why) -> Plan:
    """Offer a plan that was not there before. Raises Invalid, Conflict."""
    require_superadmin(actor)
    with transaction():
        made = price_list.create_plan(values)
        audit(actor, "create_plan", why, target=_name(made), before={}, after=_shown(made))
        return made


def edit_plan(actor: User, plan_id: int, values: dict[str, Any], why: Why) -> Plan:
    """Offer a new version of a plan in place of the one on offer. Raises Invalid, NotFound, Conflict."""
    require_superadmin(actor)
    with transaction():
        old = price_list.plan(plan_id)
        before = _shown(old)
        if old.archived_at is None and all(getattr(old, name) == value for name, value in values.items()):
            raise Conflict("Nothing was changed, so no new version was made.", code="nothing_to_change")
        made = price_list.edit(plan_id, values)
        _require_free_plan()
        audit(actor, "edit_plan", why, target=_name(made), before=before, after=_shown(made))
        return made


def archive_plan(actor: User, plan_id: int, why: Why) -> Plan:
    """Offer a plan no longer; whoever has it keeps it. Raises Conflict."""
    require_superadmin(actor)
    with transaction():
        if price_list.plan(plan_id).archived_at is not None:
            raise Conflict("This version is archived already.", code="nothing_to_change")
        found = price_list.archive(plan_id)
        audit(actor, "archive_plan", why, target=_name(found), before={"offered": True}, after={"offered": False})
        return found


def activate_plan(actor: User, plan_id: int, why: Why) -> Plan:
    """Offer an archived version again, in place of the version that is on offer. Raises Conflict."""
    require_superadmin(actor)
    with transaction():
        if price_list.plan(plan_id).archived_at is None:
            raise Conflict("This version is on offer already.", code="nothing_to_change")
        replaced = [_name(one) for one in price_list.plans() if one.name == price_list.plan(plan_id).name]
        found = price_list.activate(plan_id)
        _require_free_plan()
        audit(
            actor, "activate_plan", why, target=_name(found), before={"offered": False, "in_its_place": replaced},
            after={"offered": True},
        )  # fmt: skip
        return found


def prices(actor: User) -> list[ActionPrice]:
    """What each action costs, in credits."""
    require_admin(actor)
    return list(db.session.scalars(select(ActionPrice).order_by(ActionPrice.action)))


def set_price(actor: User, action: str, credits: int, why: Why) -> ActionPrice:
    """Change what one unit of an action costs from now on; jobs keep the price they started with. Raises Invalid, NotFound."""
    require_superadmin(actor)
    if not 0 <= credits <= catalogues.MOST:
        raise Invalid.of(credits=f"Give a whole number from 0 to {catalogues.MOST:,}.")
    with transaction():
        found = db.session.get(ActionPrice, action, populate_existing=True)
        if found is None:
            raise NotFound("There is no such action in the price list.")
        if found.credits == credits:
            raise Conflict(f"{action} costs {credits:,} already.", code="nothing_to_change")
        before, found.credits = found.credits, credits
        audit(actor, "set_price", why, target=action, before={"credits": before}, after={"credits": credits})
        return found


def _require_free_plan() -> None:
    db.session.flush()
    if all(plan.is_paid for plan in price_list.plans()):
        raise Conflict(
            "Everybody starts on a plan that costs nothing. Create another one first.", code="last_free_plan"
        )


def _name(plan: Plan) -> str:
    return f"{plan.name} v{plan.version}"


def _shown(plan: Plan) -> dict[str, Any]:
    return {"version": plan.version, **{name: getattr(plan, name) for name in catalogues.PLAN_FIELDS}}
