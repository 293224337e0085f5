"""The figures of today: members, money, work, and what needs somebody."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from sqlalchemy import case, func, select

from models.accounts import User
from models.agents import Agent
from models.base import db, now
from models.payments import GatewayEvent
from models.plans import Plan
from models.subscriptions import PlanChange, Subscription
from models.training_jobs import RUNNING_STATES, TrainingJob
from models.usage import UsageDay
from services import agents, clock, subscriptions
from services.admin.audit import require_admin
from services.clock import Fault

DAYS = 30
STUCK = timedelta(minutes=15)


def figures(actor: User) -> dict[str, Any]:
    """Counts and sums of now and of the last 30 days; money in cents."""
    require_admin(actor)
    members = int(db.session.scalar(select(func.count(User.id))) or 0)
    paying, given = _subscribers()
    states = _jobs_by_state()
    done, failed = _finished()
    return {
        "members": members, "new_members": _joined(), "paying": paying, "given": given, "active": paying + given,
        "conversion": paying / members if members else 0.0, "mrr_cents": subscriptions.recurring_cents(),
        "credits_spent": sum(credits for _, credits in spent_by_day(DAYS)), "jobs": states, "completed": done,
        "failed": failed, "success_rate": done / (done + failed) if done + failed else None,
        "agents_connected": _connected(), "queue": _queue(),
    }  # fmt: skip


def movement(days: int = DAYS) -> dict[str, int]:
    """How recurring revenue moved in the last days, in cents; new + expansion - contraction - churn is the change."""
    end = now()
    start = end - timedelta(days=days)
    up = PlanChange.mrr_after - PlanChange.mrr_before
    kinds = {
        "new": (PlanChange.mrr_before == 0) & (PlanChange.mrr_after > 0),
        "expansion": (PlanChange.mrr_before > 0) & (PlanChange.mrr_after > PlanChange.mrr_before),
        "contraction": (PlanChange.mrr_after > 0) & (PlanChange.mrr_after < PlanChange.mrr_before),
        "churn": (PlanChange.mrr_before > 0) & (PlanChange.mrr_after == 0),
    }
    sums = [func.coalesce(func.sum(case((which, up), else_=0)), 0) for which in kinds.values()]
    row = db.session.execute(select(*sums).where(PlanChange.at > start, PlanChange.at <= end)).one()
    parts = {name: abs(int(total)) for name, total in zip(kinds, row, strict=True)}
    before, after = subscriptions.recurring_cents(start), subscriptions.recurring_cents(end)
    return {"before": before, **parts, "after": after, "change": after - before}


def spent_by_day(days: int) -> list[tuple[date, int]]:
    """Credits spent by everybody on each of the last days, today included."""
    first = now().date() - timedelta(days=days - 1)
    query = select(UsageDay.day, func.sum(UsageDay.credits)).where(UsageDay.day >= first).group_by(UsageDay.day)
    found = {row[0]: int(row[1]) for row in db.session.execute(query)}
    return [(day, found.get(day, 0)) for day in (first + timedelta(days=number) for number in range(days))]


def alerts() -> list[Fault]:
    """What needs somebody, the clock first."""
    return [*clock.faults(), *_inbox(), *_lost_machines()]


def _subscribers() -> tuple[int, int]:
    """Members whose paid plan is live: those who pay, those who were given it."""
    query = (
        select(Subscription.source, func.count())
        .join(Plan, Plan.id == Subscription.plan_id)
        .where(
            Subscription.ended_at.is_(None), Subscription.source.in_(("gateway", "given")),
            Subscription.status.in_(("active", "trialing", "past_due")), Plan.price_cents > 0,
        )
        .group_by(Subscription.source)
    )  # fmt: skip
    found = {row[0]: int(row[1]) for row in db.session.execute(query)}
    return found.get("gateway", 0), found.get("given", 0)


def _joined() -> int:
    return int(db.session.scalar(select(func.count()).where(User.created_at > now() - timedelta(days=DAYS))) or 0)


def _jobs_by_state() -> dict[str, int]:
    query = select(TrainingJob.state, func.count()).group_by(TrainingJob.state)
    return {row[0]: int(row[1]) for row in db.session.execute(query)}


def _finished() -> tuple[int, int]:
    """Jobs that completed and that failed in the last 30 days."""
    query = (
        select(TrainingJob.state, func.count())
        .where(
            TrainingJob.finished_at > now() - timedelta(days=DAYS), TrainingJob.state.in_(("completed", "failed"))
        )
        .group_by(TrainingJob.state)
    )  # fmt: skip
    found = {row[0]: int(row[1]) for row in db.session.execute(query)}
    return found.get("completed", 0), found.get("failed", 0)


def _connected() -> int:
    here = select(func.count(Agent.id)).where(Agent.session.is_not(None), Agent.last_seen_at > now() - agents.SILENCE)
    return int(db.session.scalar(here) or 0)


def _queue() -> dict[str, int]:
    """Jobs that wait: for the server, and for members' machines."""
    on_server = case((TrainingJob.agent_id.is_(None), 1), else_=0)
    row = db.session.execute(
        select(func.coalesce(func.sum(on_server), 0), func.count()).where(TrainingJob.state == "queued")
    ).one()
    return {"server": int(row[0]), "machines": int(row[1]) - int(row[0])}


def _lost_machines() -> list[Fault]:
    lost = select(func.count()).where(
        TrainingJob.state.in_(RUNNING_STATES), TrainingJob.disconnected_since.is_not(None)
    )  # fmt: skip
    count = int(db.session.scalar(lost) or 0)
    if not count:
        return []
    trainings = "1 training has" if count == 1 else f"{count:,} trainings have"
    return [
        Fault(
            f"{trainings} lost the connection to the member's machine.",
            "They go on there and report when it is back. If many machines are away at once, look at the web process, the "
            "proxy and the network.",
        )
    ]


def _inbox() -> list[Fault]:
    rows = dict(
        db.session.execute(
            select(GatewayEvent.state, func.count())
            .where(
                (GatewayEvent.state == "dead")
                | ((GatewayEvent.state == "pending") & (GatewayEvent.created_at < now() - STUCK))
            )
            .group_by(GatewayEvent.state)
        ).all()
    )
    found = []
    if rows.get("pending"):
        what = f"Messages of the payment service that wait for more than 15 minutes: {rows['pending']:,}."
        found.append(
            Fault(what, "See whether the clock runs and the payment service can be reached; then force handle_inbox.")
        )
    if rows.get("dead"):
        what = f"Messages of the payment service that were given up: {rows['dead']:,}."
        found.append(Fault(what, "Read each error under Scheduled jobs, repair its cause, then try it again there."))
    return found
