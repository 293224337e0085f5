"""The live subscription of a member, its period, and its limits with what is used of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from models.accounts import User
from models.base import db, now
from models.model_versions import TrainedModel
from models.subscriptions import Subscription
from models.training_jobs import OPEN_STATES, TrainingJob
from services import calendar, catalogues, price_list
from services.errors import Forbidden
from services.subscriptions.periods import renew_due


@dataclass(frozen=True)
class Use:
    """One limit of a plan, and how much of it is used (None: it is not counted up)."""

    name: str
    label: str
    used: int | None
    limit: int
    unit: str


def current(actor: User) -> Subscription:
    """The live subscription, with every period opened that is due by now; everybody has one."""
    return live(actor.id)


def live(user_id: int) -> Subscription:
    """As `current`, for whoever acts on somebody's behalf."""
    query = select(Subscription).where(Subscription.user_id == user_id, Subscription.ended_at.is_(None))
    found = db.session.scalars(query).one()
    if found.next_reset_at is not None and found.next_reset_at <= now():
        renew_due(user_id, now(), "member")
        found = db.session.scalars(query, execution_options={"populate_existing": True}).one()
    return found


def period(subscription: Subscription, at: datetime) -> tuple[datetime, datetime]:
    """The bounds of the period that holds `at`."""
    k = calendar.index_at(subscription.anchor_at, at)
    return calendar.start(subscription.anchor_at, k), calendar.start(subscription.anchor_at, k + 1)


def term_end(subscription: Subscription) -> datetime:
    """Until when the present plan is paid for: the end of the month, or of the year that was bought."""
    return subscription.term_ends_at or period(subscription, now())[1]


def limit(actor: User, name: str) -> Any:
    """What a member's plan allows of one thing of `catalogues.LIMITS`."""
    return current(actor).plan.limits.get(name, catalogues.DEFAULT["plans"][0]["limits"][name])


def limits_with_use(actor: User) -> list[Use]:
    """Each limit of the plan that can be used up, with what is used."""
    limits = current(actor).plan.limits
    models = select(func.count(TrainedModel.id)).where(
        TrainedModel.user_id == actor.id, TrainedModel.deleted_at.is_(None)
    )
    jobs = select(func.count(TrainingJob.id)).where(
        TrainingJob.user_id == actor.id, TrainingJob.agent_id.is_(None), TrainingJob.state.in_(OPEN_STATES),
        TrainingJob.state != "paused",
    )  # fmt: skip
    used = {"models": db.session.scalar(models), "server_jobs": db.session.scalar(jobs), "upload_bytes": None}
    return [
        Use(name, catalogues.LIMITS[name], used[name], limits[name], "bytes" if name == "upload_bytes" else "")
        for name in ("upload_bytes", "models", "server_jobs")
    ]


def refuse_beyond(actor: User, name: str, what: str, allows: Callable[[Any], bool]) -> None:
    """Raise Forbidden, naming the limit and the cheapest plan that lifts it, unless `allows(limit)` holds.

    `what` is the rest of the sentence "Your plan ...".
    """
    plan = current(actor).plan
    if not allows(plan.limits.get(name)):
        lifting, advice = way_out(actor, name, allows)
        raise Forbidden(f"Your plan {plan.display_name} {what} {advice}", code="plan_limit", limit=name, plan=lifting)


def way_out(actor: User, name: str, allows: Callable[[Any], bool]) -> tuple[str | None, str]:
    """The cheapest plan above the member's own whose limit satisfies `allows`, and the sentence that names it."""
    rank = current(actor).plan.rank
    lifting = next((one for one in price_list.plans() if one.rank > rank and allows(one.limits.get(name))), None)
    if lifting is None:
        return None, "No plan on offer lifts this."
    return lifting.name, f"The plan {lifting.display_name} lifts this."
