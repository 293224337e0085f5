"""Balances, lots and the statement: what a member sees of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, func, select

from models.base import db, now
from models.credits import LedgerAccount, LedgerOperation, Wallet
from models.usage import UsageDay
from services.credits import ledger

SOURCES = {"period": "monthly", "upgrade": "upgrade", "purchase": "pack", "admin": "granted"}


def wallet_of(user_id: int) -> Wallet:
    """The figures of a member, as the last operation left them."""
    return db.session.get_one(Wallet, user_id)


def spendable(user_id: int) -> int:
    """Credits that can be spent now: what live lots hold, holds left out."""
    return ledger.total(ledger.live(wallet_of(user_id), ledger.open_lots(user_id)))


def held(user_id: int) -> int:
    """Credits set aside for jobs now."""
    query = select(func.coalesce(func.sum(LedgerAccount.balance), 0))
    return int(db.session.scalar(query.where(LedgerAccount.user_id == user_id, LedgerAccount.kind == "hold")) or 0)


def held_for(job_id: int, attempt: int) -> int:
    """Credits set aside for an attempt now."""
    account = hold_account(job_id, attempt)
    return account.balance or 0 if account and account.closed_at is None else 0


def held_by_job(job_ids: list[int]) -> dict[int, int]:
    """Credits set aside for each of these jobs now."""
    if not job_ids:
        return {}
    return sums(
        select(LedgerAccount.job_id, func.sum(LedgerAccount.balance))
        .where(LedgerAccount.kind == "hold", LedgerAccount.job_id.in_(job_ids))
        .group_by(LedgerAccount.job_id)
    )


def used_between(user_id: int, start: datetime, end: datetime) -> int:
    """Credits charged less credits refunded in [start, end): whole days from their sums, the edges from the ledger."""
    first, last = _next_midnight(start), _midnight(end)
    if first >= last:
        return max(0, _charged_between(user_id, start, end))
    days = select(func.coalesce(func.sum(UsageDay.credits), 0)).where(
        UsageDay.user_id == user_id, UsageDay.day >= first.date(), UsageDay.day < last.date()
    )
    edges = _charged_between(user_id, start, first) + _charged_between(user_id, last, end)
    return max(0, int(db.session.scalar(days) or 0) + edges)


def lots_of(user_id: int) -> list[dict[str, Any]]:
    """The lots that hold something, in the order in which they are spent: where each came from and when it ends."""
    wallet, lots = wallet_of(user_id), [lot for lot in ledger.open_lots(user_id) if lot.balance]
    live = {lot.id for lot in ledger.live(wallet, lots)}
    return [
        {
            "id": lot.id, "source": SOURCES.get(str(lot.source).partition(":")[0], "granted"), "granted": lot.granted,
            "left": lot.balance, "since": lot.effective_at, "expires_at": lot.expires_at,
            "is_frozen": lot.frozen_at is not None, "can_be_spent": lot.id in live,
        }
        for lot in lots
        if lot.expires_at is None or lot.expires_at > now()
    ]  # fmt: skip


def statement(user_id: int, limit: int = 50, before: int | None = None) -> list[dict[str, Any]]:
    """Lines of a member's ledger, the newest first: what happened, what it changed of their credits, what was left.

    All changes since the beginning add up to the balance. A line of money (a sale) has no place among credits.
    """
    query = select(LedgerOperation).where(
        LedgerOperation.user_id == user_id, LedgerOperation.outcome == "done",
        LedgerOperation.kind.not_in(("sale", "sale_refund", "sale_restore")),
    )  # fmt: skip
    if before is not None:
        query = query.where(LedgerOperation.id < before)
    rows = db.session.scalars(query.order_by(LedgerOperation.id.desc()).limit(limit))
    return [_line(row) for row in rows]


def history(user_id: int, limit: int, before: int | None) -> tuple[list[dict[str, Any]], int | None]:
    """A page of the statement and what to ask for next."""
    lines = statement(user_id, limit + 1, before)
    return lines[:limit], lines[limit - 1]["id"] if len(lines) > limit else None


def hold_account(job_id: int, attempt: int) -> LedgerAccount | None:
    """Where an attempt's credits are set aside."""
    return db.session.scalar(
        select(LedgerAccount).where(
            LedgerAccount.kind == "hold", LedgerAccount.job_id == job_id, LedgerAccount.attempt == attempt
        )
    )


def charged(job_id: int, attempt: int) -> int:
    """What the ticks of an attempt add up to."""
    query = select(func.coalesce(func.sum(LedgerOperation.amount), 0)).where(
        LedgerOperation.job_id == job_id, LedgerOperation.attempt == attempt, LedgerOperation.kind == "tick"
    )  # fmt: skip
    return int(db.session.scalar(query) or 0)


def sums(query: Any) -> dict[int, int]:
    """The rows (id, sum) of a query as a mapping."""
    rows: Sequence[Any] = db.session.execute(query).all()
    return {row[0]: int(row[1]) for row in rows}


def _line(row: LedgerOperation) -> dict[str, Any]:
    return {
        "id": row.id, "at": row.event_at, "what": row.reason, "kind": row.kind, "amount": row.amount, "change": row.change,
        "balance_after": row.balance_after, "lot": row.details.get("lot"), "job_id": row.job_id,
    }  # fmt: skip


def _charged_between(user_id: int, start: datetime, end: datetime) -> int:
    signed = case((LedgerOperation.kind == "refund", -LedgerOperation.amount), else_=LedgerOperation.amount)
    query = select(func.coalesce(func.sum(signed), 0)).where(
        LedgerOperation.user_id == user_id, LedgerOperation.outcome == "done",
        LedgerOperation.kind.in_(("spend", "tick", "refund")),
        LedgerOperation.event_at >= start, LedgerOperation.event_at < end,
    )  # fmt: skip
    return int(db.session.scalar(query) or 0)


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def _next_midnight(at: datetime) -> datetime:
    return at if at == _midnight(at) else _midnight(at) + timedelta(days=1)
