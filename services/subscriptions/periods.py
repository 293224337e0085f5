"""Periods: a renewal is the opening of period k, once, in order, as a pure function of the anchor and the time.

Whoever comes first opens what is due: a page, a spend, the clock, the sweep, an admin. They meet under the wallet's lock,
so three months without a clock, or two clocks, end in the same ledger (research: billing, rules I and J).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import selectinload

from models import bulk
from models.accounts import User
from models.base import add, after_commit, db, now, transaction
from models.credits import MONTHLY, Wallet
from models.notices import Notice, OutgoingMail
from models.plans import Plan
from models.subscriptions import CreditPeriod, PlanChange, Subscription
from services import calendar, credits, mails, notices, price_list

BATCH = 500
LEASE = timedelta(minutes=5)
_subscriptions: Any = Subscription.__table__
_periods: Any = CreditPeriod.__table__
_notices: Any = Notice.__table__
_mails: Any = OutgoingMail.__table__
_LIVE = (
    select(Subscription)
    .where(Subscription.ended_at.is_(None))
    .options(selectinload(Subscription.plan), selectinload(Subscription.pending_plan))  # a few plans, many rows
    .execution_options(populate_existing=True)
)


@dataclass(frozen=True)
class Period:
    """One period of a subscription: its number, and [start, end)."""

    k: int
    starts_at: datetime
    ends_at: datetime


def begin(
    user_id: int, plan: Plan, *, source: str, by: str, interval: str = "month", anchor: datetime | None = None,
    gateway_id: str | None = None, term_ends_at: datetime | None = None, from_plan: Plan | None = None,
) -> Subscription:  # fmt: skip
    """Start a series: periods are counted from `anchor` (now), and the one that holds the present is opened."""
    with transaction():
        anchor = anchor or now()
        wallet = credits.lock(user_id)
        first = max(0, calendar.index_at(anchor, now()))
        subscription = add(
            Subscription(
                user_id=user_id, plan_id=plan.id, interval=interval, source=source, anchor_at=anchor, next_period=first,
                next_reset_at=calendar.start(anchor, first), gateway_id=gateway_id, term_ends_at=term_ends_at,
            )
        )  # fmt: skip
        db.session.refresh(subscription)
        note_change(subscription, from_plan, now())
        _renew([subscription], {user_id: wallet}, now(), by)
        return subscription


def renew_due(user_id: int, at: datetime, by: str) -> int:
    """Open every period of a member that is due at `at`, in order. Answers how many were opened."""
    with transaction():
        wallet = credits.lock(user_id)
        found = db.session.scalars(_LIVE.where(Subscription.user_id == user_id)).one()
        return _renew([found], {user_id: wallet}, at, by)


def renew_overdue(at: datetime | None = None, by: str = "sweep") -> int:
    """Open the due periods of everybody, in batches that nobody else has claimed. Answers how many were opened.

    Lets go of whatever the session holds after each batch: this is for the clock and the command line.
    """
    opened = 0
    while batch := _claim(at or now()):
        with transaction():
            users = select(Subscription.user_id).where(bulk.among(Subscription.id, batch))
            wallets = credits.lock_many(list(db.session.scalars(users)))
            found = db.session.scalars(_LIVE.where(bulk.among(Subscription.id, batch))).all()
            opened += _renew(found, wallets, at or now(), by)
        db.session.expunge_all()
    return opened


def move_up(subscription: Subscription, plan: Plan, interval: str, key: str) -> None:
    """Take a dearer plan in mid-period: one more lot for the rest of the period, and nothing is taken away (billing H1)."""
    with transaction():
        credits.lock(subscription.user_id)
        old = subscription.plan
        start, end = _bounds(subscription, now())
        more = share(plan.monthly_credits - old.monthly_credits, start, end)
        subscription.plan_id, subscription.interval = plan.id, interval
        subscription.pending_plan_id = subscription.pending_interval = None
        db.session.flush()
        db.session.refresh(subscription)
        if more > 0:
            credits.grant(
                subscription.user_id, more, key=f"upgrade:{key}", priority=MONTHLY,
                reason=f"{plan.display_name}: credits for the rest of the period", expires_at=end,
            )  # fmt: skip
        note_change(subscription, old, now())


def share(whole: int, start: datetime, end: datetime) -> int:
    """The part of `whole` that belongs to what is left of the period, rounded down."""
    left, all_of_it = int((end - now()).total_seconds()), int((end - start).total_seconds())
    return whole * max(0, left) // all_of_it


def mrr(subscription: Subscription) -> int:
    """Cents a month that a subscription brings: those that the gateway charges, while they are active or in grace."""
    if subscription.source != "gateway" or subscription.status not in ("active", "past_due"):
        return 0
    return subscription.plan.monthly_value(subscription.interval)


def note_change(subscription: Subscription, old: Plan | None, at: datetime) -> None:
    """Keep a step from plan to plan for the reports, beginning with the revenue at which the last one ended."""
    steps = select(PlanChange.mrr_after).where(PlanChange.user_id == subscription.user_id)
    mrr_before = db.session.scalar(steps.order_by(PlanChange.id.desc()).limit(1)) or 0
    after = mrr(subscription)
    if (old is None or old.id != subscription.plan_id) or after != mrr_before:
        db.session.add(
            PlanChange(
                user_id=subscription.user_id, subscription_id=subscription.id, at=at, from_plan_id=old.id if old else None,
                plan_id=subscription.plan_id, source=subscription.source, mrr_before=mrr_before, mrr_after=after,
            )
        )  # fmt: skip


def _claim(at: datetime) -> list[int]:
    """Take a lease on some of what is due; what another one has claimed is left to it."""
    with transaction():
        free = Subscription.lease_until.is_(None) | (Subscription.lease_until < now())
        due = (
            select(Subscription.id)
            .where(Subscription.next_reset_at <= at, Subscription.ended_at.is_(None), free)
            .order_by(Subscription.next_reset_at, Subscription.id)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        ids = list(db.session.scalars(due))
        db.session.execute(
            update(Subscription).where(bulk.among(Subscription.id, ids)).values(lease_until=now() + LEASE),
            execution_options={"synchronize_session": False},
        )
        return ids


def _renew(subscriptions: Sequence[Subscription], wallets: Mapping[int, Wallet], at: datetime, by: str) -> int:
    """Open what is due, one round of periods after the other, in wallets that are locked."""
    last: dict[int, tuple[Subscription, Period]] = {}
    opened = 0
    while due := [one for one in subscriptions if one.next_reset_at is not None and one.next_reset_at <= at]:
        for subscription in due:
            _turn(subscription, subscription.next_reset_at or at)
        periods = [(one, period) for one in due if (period := _next(one))]
        credits.grant_many([_allotment(*pair) for pair in periods], wallets)
        bulk.insert_many(_periods, [_row(*pair, by) for pair in periods])
        opened += len(periods)
        last.update({one.id: (one, period) for one, period in periods})
    db.session.flush()
    bulk.update_many(_subscriptions, [_counted(subscription) for subscription in subscriptions])
    _tell([pair for pair in last.values() if pair[1].k > 0])
    return opened


def _turn(subscription: Subscription, boundary: datetime) -> None:
    """What changes at the end of what is paid for: the plan that was asked for, or Free, with the same anchor (G4).

    The gateway's id stays with a plan that ended, so that what comes late about it is known to be late; a plan that is
    to be bought after it stays noted for `payments.go_on`.
    """
    if subscription.term_ends_at is None or boundary < subscription.term_ends_at:
        return
    old = subscription.plan
    if subscription.cancel_at_period_end or subscription.source == "given":
        subscription.plan = price_list.free_plan()
        subscription.source, subscription.status, subscription.interval = "free", "active", "month"
        subscription.term_ends_at = subscription.grace_until = None
        subscription.cancel_at_period_end = False
    else:
        if subscription.pending_plan is not None:
            subscription.plan = subscription.pending_plan
            subscription.pending_plan = subscription.pending_interval = None
        months = 12 if subscription.interval == "year" else 1
        bulk.put(subscription, term_ends_at=calendar.start(subscription.anchor_at, subscription.next_period + months))
    if subscription.plan is not old:
        subscription.plan_id = subscription.plan.id
        note_change(subscription, old, boundary)


def _next(subscription: Subscription) -> Period | None:
    """The next period, counted on; None, and none due any more, while the subscription is not paid for."""
    k, starts_at = subscription.next_period, subscription.next_reset_at
    assert starts_at is not None
    if not subscription.is_entitled(starts_at):
        bulk.put(subscription, next_reset_at=None)
        return None
    ends_at = calendar.start(subscription.anchor_at, k + 1)
    bulk.put(subscription, next_period=k + 1, next_reset_at=ends_at)
    return Period(k, starts_at, ends_at)


def _counted(subscription: Subscription) -> dict[str, Any]:
    """What every renewal changes of a subscription; its lease ends with it."""
    bulk.put(subscription, lease_until=None)
    names = ("id", "next_period", "next_reset_at", "term_ends_at", "lease_until")
    return {name: getattr(subscription, name) for name in names}


def _row(subscription: Subscription, period: Period, by: str) -> dict[str, Any]:
    return {
        "subscription_id": subscription.id, "k": period.k, "starts_at": period.starts_at, "ends_at": period.ends_at,
        "plan_id": subscription.plan.id, "allotment": subscription.plan.monthly_credits, "opened_by": by,
        "created_at": now(),
    }  # fmt: skip


def _allotment(subscription: Subscription, period: Period) -> credits.Lot:
    plan = subscription.plan
    return credits.Lot(
        subscription.user_id, plan.monthly_credits, f"period:{subscription.id}:{period.k}",
        f"{plan.display_name}: monthly credits", MONTHLY, period.starts_at, period.ends_at,
    )  # fmt: skip


def _tell(renewed: Sequence[tuple[Subscription, Period]]) -> None:
    """One mail for each renewal, about the newest period when several were opened at once."""
    if not renewed:
        return
    query = select(User.id, User.email, User.username).where(bulk.among(User.id, [one.user_id for one, _ in renewed]))
    people = {row.id: row for row in db.session.execute(query)}
    page, moment = notices.billing_page(), now()
    told: list[dict[str, Any]] = []
    mail: list[dict[str, Any]] = []
    for subscription, period in renewed:
        person, plan = people[subscription.user_id], subscription.plan
        text = (
            f"Hello {person.username},\n\nyour credits were renewed: {plan.monthly_credits:,} of the plan "
            f"{plan.display_name}, until {period.ends_at:%d %B %Y, %H:%M} UTC.\n\n{page}\n"
        )
        key = f"{subscription.id}:{period.k}"
        told.append({"user_id": person.id, "kind": "renewal", "key": key, "created_at": moment})
        mail.append({
            "to": person.email, "subject": "Your credits were renewed", "text": text, "tries": 0, "next_try_at": moment,
            "created_at": moment,
        })  # fmt: skip
    bulk.insert_many(_notices, told)
    bulk.insert_many(_mails, mail)
    after_commit(mails.send_soon)


def _bounds(subscription: Subscription, at: datetime) -> tuple[datetime, datetime]:
    k = calendar.index_at(subscription.anchor_at, at)
    return calendar.start(subscription.anchor_at, k), calendar.start(subscription.anchor_at, k + 1)
