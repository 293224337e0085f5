"""The plan after this one: what was asked for at the end of the term, falling back to Free, and plans that admins give."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from models.accounts import User
from models.base import db, now, transaction
from models.credits import MONTHLY
from models.plans import Plan
from models.subscriptions import PlanChange, Subscription
from services import calendar, credits, price_list
from services.errors import Conflict
from services.subscriptions.periods import begin, note_change


def begin_free(user: User) -> Subscription:
    """Put a new member on the Free plan and grant its first credits."""
    return begin(user.id, price_list.free_plan(), source="free", by="signup")


def put_on_free() -> int:
    """Put every member who has no subscription on the Free plan. Answers how many."""
    live_one = select(Subscription.id).where(Subscription.user_id == User.id, Subscription.ended_at.is_(None))
    without = list(db.session.scalars(select(User).where(~live_one.exists())))
    for user in without:
        begin_free(user)
    return len(without)


def recurring_cents(at: datetime | None = None) -> int:
    """Recurring revenue a month at an instant, in cents: the sum of all steps from plan to plan until then."""
    steps = select(func.coalesce(func.sum(PlanChange.mrr_after - PlanChange.mrr_before), 0))
    return int(db.session.scalar(steps.where(PlanChange.at <= at) if at else steps) or 0)


def plan_later(subscription: Subscription, plan: Plan, interval: str) -> None:
    """From the end of the term on, go on with a cheaper plan or interval; until then nothing changes (billing H2)."""
    with transaction():
        credits.lock(subscription.user_id)
        subscription.pending_plan_id = plan.id if plan.is_paid else None
        subscription.pending_interval = interval if plan.is_paid else None
        # The gateway cannot change an interval later: there the present plan ends, and the other one is bought after it.
        subscription.cancel_at_period_end = not plan.is_paid or interval != subscription.interval
        _reload(subscription)


def cancel_at_end(subscription: Subscription) -> None:
    """Let the plan end with its term; the credits and the access last until then."""
    plan_later(subscription, price_list.free_plan(), "month")


def keep(subscription: Subscription) -> None:
    """Undo what was asked for at the end of the term."""
    with transaction():
        credits.lock(subscription.user_id)
        subscription.pending_plan_id = subscription.pending_interval = None
        subscription.cancel_at_period_end = False
        _reload(subscription)


def fall_back(subscription: Subscription, *, void: bool) -> None:
    """Go on with Free at once, same anchor; with `void` what is left of credits that were never paid for ends (G3)."""
    with transaction():
        credits.lock(subscription.user_id)
        old, goes_on = subscription.plan, subscription.cancel_at_period_end and not void
        subscription.plan_id = price_list.free_plan().id
        subscription.source, subscription.status, subscription.interval = "free", "active", "month"
        subscription.term_ends_at = subscription.grace_until = None
        subscription.cancel_at_period_end = False
        if not goes_on:
            subscription.pending_plan_id = subscription.pending_interval = None
        subscription.next_reset_at = calendar.start(subscription.anchor_at, subscription.next_period)
        _reload(subscription)
        note_change(subscription, old, now())
        credits.gate_monthly(subscription.user_id, None)
        if void:
            credits.expire_lots(subscription.user_id, priority=MONTHLY, reason=f"{old.display_name}: not paid for")


def give(user_id: int, plan: Plan, ends_at: datetime | None, by: str = "admin") -> Subscription:
    """Put somebody on a plan without payment, until `ends_at` or for good: a new series (billing H4).

    Raises Conflict while the gateway charges them: that subscription has to be cancelled there first.
    """
    with transaction():
        credits.lock(user_id)
        present = db.session.query(Subscription).filter_by(user_id=user_id, ended_at=None).one()
        if present.source == "gateway":
            raise Conflict("This member pays for a plan. Cancel that subscription first, then assign one.", code="pays")
        end_series(present)
        return begin(
            user_id,
            plan,
            source="given" if plan.is_paid else "free",
            by=by,
            term_ends_at=ends_at,
            from_plan=present.plan,
        )


def end_given(subscription: Subscription) -> None:
    """Take a given plan away now."""
    if subscription.source != "given":
        raise Conflict("This plan was not given by an admin.", code="not_given")
    fall_back(subscription, void=True)


def end_series(present: Subscription) -> None:
    """End a subscription because another series begins: its monthly credits end with it. The wallet is locked."""
    present.ended_at = now()
    present.next_reset_at = None
    db.session.flush()
    credits.expire_lots(
        present.user_id, priority=MONTHLY, reason="Monthly credits ended: another plan began", tells=False
    )


def _reload(subscription: Subscription) -> None:
    db.session.flush()
    db.session.refresh(subscription)
