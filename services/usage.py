"""What credits were spent on: sums for pages and programs, and the clearing away of old single records."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from dateutil.relativedelta import relativedelta
from sqlalchemy import delete, func, select

from models.base import db, now, transaction
from models.usage import UsageDay, UsageRecord

KEPT_MONTHS = 13
AT_ONCE = 10_000


def stats(user_id: int, days: int) -> dict[str, Any]:
    """Credits used in the last `days` days, today included: in all, by day, by action, by recipe and by base model."""
    first = now().date() - timedelta(days=days - 1)
    mine = (UsageDay.user_id == user_id, UsageDay.day >= first)
    by_day = dict(
        db.session.execute(select(UsageDay.day, func.sum(UsageDay.credits)).where(*mine).group_by(UsageDay.day)).all()
    )
    return {
        "credits_used": sum(int(total) for total in by_day.values()),
        "by_day": [
            {"day": day.isoformat(), "credits": int(by_day.get(day, 0))} for day in _days(first, days)
        ],
        "by_action": _grouped(UsageDay.action, mine, "action"),
        "by_recipe": _grouped(UsageDay.recipe, mine, "recipe"),
        "by_model": _grouped(UsageDay.base_model, mine, "model"),
    }  # fmt: skip


def forget_old() -> int:
    """Remove single records of more than 13 months ago, whose days' sums stay. Answers how many; some at a time."""
    old = select(UsageRecord.id).where(UsageRecord.at < now() - relativedelta(months=KEPT_MONTHS)).limit(AT_ONCE)
    gone = 0
    while True:
        with transaction():
            removed = db.session.execute(delete(UsageRecord).where(UsageRecord.id.in_(old.scalar_subquery())))
        count = int(removed.rowcount)  # type: ignore[attr-defined]
        gone += count
        if count < AT_ONCE:
            return gone


def _days(first: date, count: int) -> list[date]:
    return [first + timedelta(days=number) for number in range(count)]


def _grouped(column: Any, mine: tuple[Any, ...], name: str) -> list[dict[str, Any]]:
    query = (
        select(column, func.sum(UsageDay.credits), func.sum(UsageDay.quantity))
        .where(*mine, column != "")
        .group_by(column)
        .order_by(func.sum(UsageDay.credits).desc())
    )
    return [{name: row[0], "credits": int(row[1]), "quantity": int(row[2])} for row in db.session.execute(query)]
