"""Our price list at the gateway. A price is found by its lookup key, which names plan, version and interval, or a pack."""

from __future__ import annotations

import contextlib

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from models.base import db, transaction
from models.plans import INTERVALS, GatewayPrice, Pack, Plan
from services import price_list
from services.gateways import gateways

PREFIX = "trainyard:"


def plan_price(plan: Plan, interval: str) -> str:
    """The gateway's id for a plan's price, made there when it is missing."""
    cents = plan.cents(interval)
    assert cents, f"{plan.name} is not sold by the {interval}"
    key = f"{PREFIX}plan:{plan.name}:v{plan.version}:{interval}"
    return _ensured(key, plan.display_name, cents, interval, GatewayPrice(plan_id=plan.id, interval=interval))


def pack_price(pack: Pack) -> str:
    """The gateway's id for a pack's price, made there when it is missing."""
    key = f"{PREFIX}pack:{pack.credits}:{pack.price_cents}"
    return _ensured(key, f"{pack.credits:,} credits", pack.price_cents, None, GatewayPrice(pack_id=pack.id))


def plan_of(price_id: str) -> tuple[Plan, str] | None:
    """The plan and interval that a price of the gateway's stands for, if it is one of ours."""
    query = select(GatewayPrice).where(
        GatewayPrice.price_id == price_id, GatewayPrice.gateway == gateways().payments.name
    )  # fmt: skip
    known = db.session.scalar(query)
    if known is None or known.plan_id is None:
        return None
    return db.session.get_one(Plan, known.plan_id), known.interval or "month"


def publish() -> dict[str, list[str]]:
    """Make the gateway's products and prices equal the price list; answers what was added and retired there."""
    payments = gateways().payments
    if not payments.is_on:
        return {"added": [], "retired": []}
    before = {str(price["lookup_key"]) for price in payments.active_prices(PREFIX)}
    for plan in price_list.plans():
        for interval in INTERVALS:
            if plan.cents(interval):
                plan_price(plan, interval)
    for pack in price_list.packs():
        pack_price(pack)
    offered = _offered()
    retired = []
    for price in payments.active_prices(PREFIX):
        if price["lookup_key"] not in offered and not _is_needed(str(price["id"])):
            payments.retire_price(str(price["id"]))
            retired.append(str(price["lookup_key"]))
    return {"added": sorted(offered - before), "retired": sorted(retired)}


def _offered() -> set[str]:
    plans = {
        f"{PREFIX}plan:{plan.name}:v{plan.version}:{interval}"
        for plan in price_list.plans()
        for interval in INTERVALS
        if plan.cents(interval)
    }
    return plans | {f"{PREFIX}pack:{pack.credits}:{pack.price_cents}" for pack in price_list.packs()}


def _is_needed(price_id: str) -> bool:
    """An archived version keeps its price: members who have it are charged by it."""
    known = plan_of(price_id)
    return known is not None


def _ensured(key: str, name: str, cents: int, interval: str | None, row: GatewayPrice) -> str:
    payments = gateways().payments
    known = db.session.get(GatewayPrice, (payments.name, key))
    if known is not None:
        return known.price_id
    found = payments.find_prices([key]).get(key)
    if found is None or found["unit_amount"] != cents:
        found = payments.create_price(key, name, cents, interval, {"trainyard": key})
    row.gateway, row.lookup_key, row.price_id = payments.name, key, str(found["id"])
    with contextlib.suppress(IntegrityError), transaction():  # somebody else noted the same just now
        db.session.add(row)
    return str(found["id"])
