"""Reports that can be made again for any past day: from the steps between plans, the days of use, and the payments.

Recurring revenue and the spread over plans are sums of steps (`PlanChange`), so a day's figures never change afterwards;
refunds count against the day on which the money came in. Money in cents, days in UTC.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from dateutil.relativedelta import relativedelta
from sqlalchemy import case, func, select

from models.accounts import User
from models.base import db, now
from models.payments import Payment
from models.plans import Plan
from models.subscriptions import PlanChange
from models.usage import UsageDay
from services import subscriptions
from services.admin.audit import require_admin
from services.errors import Invalid

MONTHS = 12
TOP = 20
DAYS = 30


def distribution(actor: User, on: date | None = None) -> list[dict[str, Any]]:
    """How members were spread over plans at the end of a day (None: now), with what each plan brought a month."""
    require_admin(actor)
    until = _end_of(on) if on else now()
    totals: dict[int, list[int]] = {}
    columns: tuple[tuple[Any, Any, int], ...] = (
        (PlanChange.plan_id, PlanChange.mrr_after, 1), (PlanChange.from_plan_id, PlanChange.mrr_before, -1),
    )  # fmt: skip
    for column, cents, sign in columns:
        steps = select(column, func.count(), func.sum(cents)).where(PlanChange.at <= until, column.is_not(None))
        for plan_id, count, total in db.session.execute(steps.group_by(column)):
            sums = totals.setdefault(plan_id, [0, 0])
            sums[0] += sign * int(count)
            sums[1] += sign * int(total)
    members = sum(count for count, _ in totals.values())
    plans = db.session.scalars(select(Plan).where(Plan.id.in_(totals)).order_by(Plan.rank, Plan.name, Plan.version))
    return [
        {"plan": plan.display_name, "version": plan.version, "members": totals[plan.id][0],
         "share": totals[plan.id][0] / members if members else 0.0, "mrr_cents": totals[plan.id][1]}
        for plan in plans if any(totals[plan.id])
    ]  # fmt: skip


def top_members(actor: User, on: date | None = None) -> list[dict[str, Any]]:
    """The members who spent the most credits in the 30 days that end with a day (None: today)."""
    require_admin(actor)
    last = on or now().date()
    within = (UsageDay.day > last - timedelta(days=DAYS), UsageDay.day <= last)
    spent = func.sum(UsageDay.credits)
    most = select(UsageDay.user_id, spent).where(*within).group_by(UsageDay.user_id).having(spent > 0)
    sums = {row[0]: int(row[1]) for row in db.session.execute(most.order_by(spent.desc(), UsageDay.user_id).limit(TOP))}
    days = (
        select(UsageDay.user_id, func.count(UsageDay.day.distinct()))
        .where(*within, UsageDay.user_id.in_(sums))
        .group_by(UsageDay.user_id)
    )
    counted = {row[0]: int(row[1]) for row in db.session.execute(days)}
    people = {user.id: user for user in db.session.scalars(select(User).where(User.id.in_(sums)))}
    return [
        {"user_id": number, "username": people[number].username, "email": people[number].email, "credits": total,
         "days": counted[number]}
        for number, total in sums.items()
    ]  # fmt: skip


def months(actor: User, on: date | None = None) -> list[dict[str, Any]]:
    """The twelve months that end with the one of a day (None: today): revenue a month at each end, credits spent, money in."""
    require_admin(actor)
    this = (on or now().date()).replace(day=1)
    starts = [this - relativedelta(months=number) for number in range(MONTHS - 1, -1, -1)]
    limits = [*starts, this + relativedelta(months=1)]
    recurring, revenue, used = _recurring(limits), _revenue(limits), _spent(limits)
    return [
        {"month": f"{start:%Y-%m}", "mrr_cents": recurring[number], "credits": used[number],
         "revenue_cents": revenue[number]}
        for number, start in enumerate(starts)
    ]  # fmt: skip


def day(actor: User, on: date) -> dict[str, Any]:
    """What a day looked like at its end: members, recurring revenue; and what it brought. Raises Invalid for the future."""
    require_admin(actor)
    if on > now().date():
        raise Invalid.of(day="Choose today or a day that is over.")
    start, end = _start_of(on), _end_of(on)
    paid = select(
        func.coalesce(func.sum(Payment.amount_cents - Payment.refunded_cents), 0), func.count(Payment.id)
    ).where(Payment.paid_at >= start, Payment.paid_at <= end)  # fmt: skip
    revenue, payments = db.session.execute(paid).one()
    return {
        "day": on, "members": int(db.session.scalar(select(func.count()).where(User.created_at <= end)) or 0),
        "joined": int(
            db.session.scalar(select(func.count()).where(User.created_at >= start, User.created_at <= end)) or 0
        ),
        "mrr_cents": subscriptions.recurring_cents(end), "revenue_cents": int(revenue), "payments": int(payments),
        "credits": int(db.session.scalar(select(func.sum(UsageDay.credits)).where(UsageDay.day == on)) or 0),
    }  # fmt: skip


def _recurring(limits: list[date]) -> list[int]:
    """Recurring revenue at the end of each month: one pass over the steps, added up."""
    total = func.sum(PlanChange.mrr_after - PlanChange.mrr_before)
    steps = _by_month(PlanChange.at, limits, total, from_the_beginning=True)
    sums, running = [], steps.get(-1, 0)
    for number in range(len(limits) - 1):
        running += steps.get(number, 0)
        sums.append(running)
    return sums


def _revenue(limits: list[date]) -> list[int]:
    found = _by_month(Payment.paid_at, limits, func.sum(Payment.amount_cents - Payment.refunded_cents))
    return [found.get(number, 0) for number in range(len(limits) - 1)]


def _by_month(at: Any, limits: list[date], total: Any, from_the_beginning: bool = False) -> dict[int, int]:
    """Sums by the number of the month; -1 is all that was before the first."""
    whens = [(at < _start_of(limit), number - 1) for number, limit in enumerate(limits)]
    month = case(*whens, else_=len(limits)).label("month")
    query = select(month, total).where(at < _start_of(limits[-1]))
    if not from_the_beginning:
        query = query.where(at >= _start_of(limits[0]))
    return {row[0]: int(row[1]) for row in db.session.execute(query.group_by(month))}


def _spent(limits: list[date]) -> list[int]:
    query = select(UsageDay.day, func.sum(UsageDay.credits)).where(
        UsageDay.day >= limits[0], UsageDay.day < limits[-1]
    )  # fmt: skip
    sums = [0] * (len(limits) - 1)
    for on, total in db.session.execute(query.group_by(UsageDay.day)):
        sums[(on.year - limits[0].year) * 12 + on.month - limits[0].month] += int(total)
    return sums


def _start_of(on: date) -> datetime:
    return datetime.combine(on, time(), UTC)


def _end_of(on: date) -> datetime:
    """The last instant of a day that a clock here can tell."""
    return datetime.combine(on, time.max, UTC)
