"""The price list in the database: what is offered, and every change of it.

`python setup_subscriptions.py` runs `complete`, and `install` for a list that it is given; doing so again changes only what
differs. A plan that changed gets a new version, one that left the list is archived; none is deleted, since subscriptions
keep pointing at it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update

from models.base import add, db, now, transaction
from models.plans import ActionPrice, Pack, Plan
from services import catalogues
from services.errors import Conflict, Invalid, NotFound, Unavailable


def install(catalogue: dict[str, Any]) -> dict[str, list[str]]:
    """Make what is offered equal `catalogue`; answers what was added, changed and archived, by name.

    A plan that differs gets a new version, and members keep the one they have. Raises Invalid, naming the place.
    """
    plans, packs, prices = catalogues.checked(catalogue)
    done: dict[str, list[str]] = {"added": [], "changed": [], "archived": []}
    with transaction():
        _install_plans(plans, done)
        _install_packs(packs, done)
        _install_prices(prices, done)
    return done


def complete() -> dict[str, list[str]]:
    """Give a yard without plans the default list, and any other the prices that it lacks; what is there stays."""
    if not plans():
        return install(catalogues.DEFAULT)
    done: dict[str, list[str]] = {"added": []}
    with transaction():
        present = set(db.session.scalars(select(ActionPrice.action)))
        _install_prices(
            {name: cost for name, cost in catalogues.DEFAULT["prices"].items() if name not in present}, done
        )
    return done


def plans() -> list[Plan]:
    """The plans on offer, cheapest first."""
    return list(db.session.scalars(select(Plan).where(Plan.archived_at.is_(None)).order_by(Plan.rank, Plan.id)))


def all_plans() -> list[Plan]:
    """Every version of every plan: the plans by the rank of their newest version, the newest versions first."""
    newest = {plan.name: plan.rank for plan in db.session.scalars(select(Plan).order_by(Plan.version))}
    every = db.session.scalars(select(Plan).order_by(Plan.name, Plan.version.desc()))
    return sorted(every, key=lambda plan: newest[plan.name])


def packs() -> list[Pack]:
    """The packs on offer, smallest first."""
    return list(db.session.scalars(select(Pack).where(Pack.archived_at.is_(None)).order_by(Pack.credits)))


def pack(size: int) -> Pack:
    """The pack of so many credits that is on offer. Raises Invalid, naming the sizes there are."""
    found = db.session.scalar(select(Pack).where(Pack.credits == size, Pack.archived_at.is_(None)))
    if found is None:
        sizes = ", ".join(f"{one.credits:,}" for one in packs()) or "none at present"
        raise Invalid.of(pack_size=f"There is no pack of {size:,} credits. On offer: {sizes}.")
    return found


def plan(plan_id: int) -> Plan:
    """One plan, archived or not. Raises NotFound."""
    found = db.session.get(Plan, plan_id)
    if found is None:
        raise NotFound("There is no such plan.")
    return found


def free_plan() -> Plan:
    """The plan everybody starts with."""
    found = db.session.scalar(
        select(Plan).where(Plan.price_cents == 0, Plan.archived_at.is_(None)).order_by(Plan.rank).limit(1)
    )
    if found is None:
        raise Unavailable("The price list has no free plan. Whoever runs this server: `python setup_subscriptions.py`.")
    return found


def minute_actions() -> list[str]:
    """The actions that are a minute of server training, one for each class of accelerator."""
    query = select(ActionPrice.action).where(ActionPrice.action.startswith("training_minute:"))
    return list(db.session.scalars(query.order_by(ActionPrice.credits)))


def price(action: str) -> int:
    """Credits for one unit of an action."""
    found = db.session.get(ActionPrice, action)
    if found is None:
        raise Unavailable(
            f"The price list has no price for {action}. Whoever runs this server: `python setup_subscriptions.py`."
        )
    return found.credits


def edit(plan_id: int, values: dict[str, Any]) -> Plan:
    """Offer a new version of a plan with these values; whoever has the old one keeps it. Raises Invalid, NotFound."""
    with transaction():
        old = plan(plan_id)
        given = {name: getattr(old, name) for name in catalogues.PLAN_FIELDS} | values | {"name": old.name}
        catalogues.check_plan(given, f"The plan {old.display_name}")
        return _new_version(old.name, given)


def create_plan(values: dict[str, Any]) -> Plan:
    """Offer a plan that was not there before. Raises Invalid, Conflict."""
    with transaction():
        catalogues.check_plan(values, "The plan")
        if db.session.scalar(select(Plan.id).where(Plan.name == values["name"]).limit(1)) is not None:
            raise Conflict(
                f"There is a plan {values['name']} already. Edit it, or choose another name.", code="plan_exists"
            )
        return _new_version(values["name"], values)


def archive(plan_id: int) -> Plan:
    """Offer a plan no longer; whoever has it keeps it. Raises Conflict for the last free plan, which everybody starts on."""
    with transaction():
        found = plan(plan_id)
        others = [one for one in plans() if one.id != found.id and not one.is_paid]
        if not found.is_paid and not others:
            raise Conflict("Everybody starts on this plan. Create another free plan first.", code="last_free_plan")
        found.archived_at = found.archived_at or now()
        return found


def activate(plan_id: int) -> Plan:
    """Offer an archived version again, in place of the version that is on offer now."""
    with transaction():
        found = plan(plan_id)
        for other in plans():
            if other.name == found.name and other.id != found.id:
                other.archived_at = now()
        db.session.flush()
        found.archived_at = None
        return found


def _install_plans(wanted: list[dict[str, Any]], done: dict[str, list[str]]) -> None:
    present = {plan.name: plan for plan in plans()}
    for given in wanted:
        old = present.pop(given["name"], None)
        if old is None:
            _new_version(given["name"], given)
            done["added"].append(given["name"])
        elif any(getattr(old, name) != value for name, value in given.items()):
            _new_version(given["name"], given)
            done["changed"].append(given["name"])
    for name, plan in present.items():
        plan.archived_at = now()
        done["archived"].append(name)


def _install_prices(wanted: dict[str, int], done: dict[str, list[str]]) -> None:
    for action, cost in wanted.items():
        old = db.session.get(ActionPrice, action)
        if old is None or old.credits != cost:
            db.session.merge(ActionPrice(action=action, credits=cost))
            done["added" if old is None else "changed"].append(f"price of {action}")


def _new_version(name: str, values: dict[str, Any]) -> Plan:
    last = db.session.scalar(select(func.max(Plan.version)).where(Plan.name == name)) or 0
    db.session.execute(update(Plan).where(Plan.name == name, Plan.archived_at.is_(None)).values(archived_at=now()))
    return add(Plan(**{**values, "name": name}, version=last + 1, rank=values["price_cents"]))


def _install_packs(wanted: list[dict[str, Any]], done: dict[str, list[str]]) -> None:
    present = {pack.credits: pack for pack in packs()}
    for given in wanted:
        old = present.pop(given["credits"], None)
        if old is not None and old.price_cents == given["price_cents"]:
            continue
        if old is not None:
            old.archived_at = now()
            db.session.flush()
        add(Pack(**given))
        done["changed" if old else "added"].append(f"pack of {given['credits']:,}")
    for credits, pack in present.items():
        pack.archived_at = now()
        done["archived"].append(f"pack of {credits:,}")
