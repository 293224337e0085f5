"""The default price list, the verb that puts a list into the database, and what is asked of it.

`python setup_subscriptions.py` runs `install`; doing so again changes only what differs. A plan that left the list is
archived, never deleted: subscriptions keep pointing at it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from models.base import add, db, now, transaction
from models.plans import ActionPrice, Plan
from services.errors import Invalid, NotFound

MB, GB = 10**6, 10**9
TRAINING_MINUTE_CPU = "training_minute:cpu"

LIMITS: dict[str, str] = {
    "upload_bytes": "One upload",
    "models": "Models kept",
    "private_models": "Private models",
    "server_jobs": "Server jobs at once",
    "image_side": "Largest image side",
    "queue": "Queue",
    "v1_api": "OpenAI-compatible API",
}

DEFAULT: dict[str, Any] = {
    "plans": [
        {
            "name": "free", "display_name": "Free", "price_cents": 0, "monthly_credits": 20,
            "features": ["Unlimited training on your own machines", "Live curves and logs", "Your models to download"],
            "limits": {"upload_bytes": 100 * MB, "models": 1, "private_models": False, "server_jobs": 0,
                       "image_side": 512, "queue": None, "v1_api": "own_machines"},
        },
        {
            "name": "basic", "display_name": "Basic", "price_cents": 999, "monthly_credits": 200,
            "features": ["Everything in Free", "Training on the server", "Private models"],
            "limits": {"upload_bytes": 2 * GB, "models": 10, "private_models": True, "server_jobs": 1,
                       "image_side": 1024, "queue": "normal", "v1_api": "all"},
        },
        {
            "name": "pro", "display_name": "Pro", "price_cents": 2999, "monthly_credits": 1000,
            "features": ["Everything in Basic", "Three server jobs at once", "Ahead in the queue"],
            "limits": {"upload_bytes": 20 * GB, "models": 100, "private_models": True, "server_jobs": 3,
                       "image_side": 1536, "queue": "high", "v1_api": "all"},
        },
        {
            "name": "enterprise", "display_name": "Enterprise", "price_cents": 9999, "monthly_credits": 5000,
            "features": ["Everything in Pro", "Ten server jobs at once", "First in the queue"],
            "limits": {"upload_bytes": 200 * GB, "models": 1000, "private_models": True, "server_jobs": 10,
                       "image_side": 2048, "queue": "first", "v1_api": "all"},
        },
    ],
    "prices": {"message": 1, "image": 1, TRAINING_MINUTE_CPU: 1, "training_minute:cuda": 4},
}  # fmt: skip


def install(catalogue: dict[str, Any]) -> dict[str, list[str]]:
    """Make the database's price list equal `catalogue`; answers which plans were added, changed and archived."""
    plans = _checked(catalogue)
    done: dict[str, list[str]] = {"added": [], "changed": [], "archived": []}
    with transaction():
        present = {plan.name: plan for plan in db.session.scalars(select(Plan))}
        for rank, given in enumerate(plans):
            values = {**given, "rank": rank, "archived_at": None}
            plan = present.pop(given["name"], None)
            if plan is None:
                add(Plan(**values))
                done["added"].append(given["name"])
            elif any(getattr(plan, name) != value for name, value in values.items()):
                for name, value in values.items():
                    setattr(plan, name, value)
                done["changed"].append(given["name"])
        for name, plan in present.items():
            if plan.archived_at is None:
                plan.archived_at = now()
                done["archived"].append(name)
        for action, credits in catalogue["prices"].items():
            db.session.merge(ActionPrice(action=action, credits=credits))
    return done


def plans() -> list[Plan]:
    """The plans on offer, cheapest first."""
    return list(db.session.scalars(select(Plan).where(Plan.archived_at.is_(None)).order_by(Plan.rank)))


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
        raise RuntimeError("The price list has no free plan: run `python setup_subscriptions.py`.")
    return found


def price(action: str) -> int:
    """Credits for one unit of an action."""
    found = db.session.get(ActionPrice, action)
    if found is None:
        raise RuntimeError(f"The price list has no price for {action}: run `python setup_subscriptions.py`.")
    return found.credits


def _checked(catalogue: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = {"name", "display_name", "price_cents", "monthly_credits", "features", "limits"}
    if not isinstance(catalogue, dict) or not isinstance(catalogue.get("plans"), list) or "prices" not in catalogue:
        raise Invalid("A catalogue is an object with the fields `plans` (a list) and `prices`.")
    for number, given in enumerate(catalogue["plans"], start=1):
        if not isinstance(given, dict) or set(given) != wanted:
            raise Invalid(f"Plan {number} of the catalogue must have exactly the fields {', '.join(sorted(wanted))}.")
        if set(given["limits"]) != set(LIMITS):
            raise Invalid(f"Plan {given['name']}: `limits` must have exactly the fields {', '.join(LIMITS)}.")
        for name in ("price_cents", "monthly_credits"):
            if type(given[name]) is not int or given[name] < 0:
                raise Invalid(f"Plan {given['name']}: `{name}` must be a whole number of at least 0.")
    for action, credits in catalogue["prices"].items():
        if type(credits) is not int or credits < 0:
            raise Invalid(f"The price of `{action}` must be a whole number of at least 0.")
    if not any(given["price_cents"] == 0 for given in catalogue["plans"]):
        raise Invalid("The catalogue needs a plan that costs nothing: everybody starts on it.")
    return list(catalogue["plans"])
