"""The only module that writes the ledger: wallets, lots, holds, operations.

Each verb is one operation under the wallet's lock, known by a key that is a business fact. The same key with the same
input gives the stored operation again, refusals included; the same key with other input is a Conflict. Rules A to E and
N of the billing research hold; `services/reconcile.py` checks them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update

from models.base import add, db, now, transaction
from models.credits import SYSTEM_ACCOUNTS, LedgerAccount, LedgerOperation, LedgerTransfer, Wallet
from services.errors import Conflict, PaymentNeeded


@dataclass(frozen=True)
class Move:
    """Whole credits from one account to another."""

    source: LedgerAccount
    target: LedgerAccount
    amount: int


def open_wallet(user_id: int) -> None:
    """Give a new member a wallet."""
    with transaction():
        add(Wallet(user_id=user_id))


def grant(
    user_id: int, amount: int, *, key: str, priority: int, reason: str, expires_at: datetime | None
) -> LedgerOperation:
    """Issue a lot of `amount` credits that burns at `priority` and dies at `expires_at` (None: never)."""
    given = {"amount": amount, "priority": priority, "expires_at": expires_at and expires_at.isoformat()}
    with transaction():
        known = _begin(user_id, key, given)
        if known:
            return known
        lot = add(
            LedgerAccount(
                kind="lot", user_id=user_id, balance=0, granted=amount, priority=priority,
                effective_at=now(), expires_at=expires_at, source=key,
            )
        )  # fmt: skip
        moves = [Move(_system("issued"), lot, amount)] if amount else []
        return _book("grant", user_id, key, given, moves, reason)


def expire_lots(user_id: int, *, priority: int | None = None, reason: str) -> None:
    """End what is left of a member's lots: those past their date, or with `priority` all that burn at it."""
    with transaction():
        lock(user_id)
        for lot in _lots(user_id):
            past = lot.expires_at is not None and lot.expires_at <= now()
            if lot.balance and (past or lot.priority == priority):
                key = f"expire:{lot.id}"
                given = {"lot": lot.id}
                if not _begin(user_id, key, given):
                    _book("expire", user_id, key, given, [Move(lot, _system("expired"), lot.balance)], reason)
                    lot.closed_at = now()


def hold(user_id: int, job_id: int, attempt: int, amount: int, *, key: str, reason: str) -> LedgerOperation:
    """Set `amount` credits aside for one attempt of a job, on top of what is already held for it.

    The answer's `refused` is True when fewer are available; the refusal is stored like a success.
    """
    given = {"job": job_id, "attempt": attempt, "amount": amount}
    with transaction():
        known = _begin(user_id, key, given)
        if known:
            return known
        lots = _live_lots(user_id)
        available = sum(lot.balance or 0 for lot in lots)
        if available < amount:
            details = {"available": available}
            return _book("hold", user_id, key, given, [], reason, job_id, attempt, refused=True, details=details)
        account = _hold_account(job_id, attempt) or add(
            LedgerAccount(kind="hold", user_id=user_id, balance=0, job_id=job_id, attempt=attempt)
        )
        return _book("hold", user_id, key, given, _draw(lots, account, amount), reason, job_id, attempt)


def require(operation: LedgerOperation) -> LedgerOperation:
    """Raise PaymentNeeded when the operation was refused; otherwise give it back."""
    if operation.refused:
        available = operation.details.get("available", 0)
        raise PaymentNeeded(
            f"This needs {operation.amount} credits and {available} are available. "
            "Upgrade your plan, or train on your own machine for free.",
            code="insufficient_credits", needed=operation.amount, available=available,
        )  # fmt: skip
    return operation


def tick(user_id: int, job_id: int, attempt: int, minute: int, amount: int) -> LedgerOperation:
    """Charge started minute number `minute` (from 1) of an attempt to its hold, which must cover it."""
    key, given = f"tick:{job_id}:{attempt}:{minute}", {"amount": amount}
    with transaction():
        known = _begin(user_id, key, given)
        if known:
            return known
        account = _open_hold(job_id, attempt)
        moves = [Move(account, _system("consumed"), amount)] if amount else []
        return _book("tick", user_id, key, given, moves, f"Training, minute {minute}", job_id, attempt)


def held_for(job_id: int, attempt: int) -> int:
    """Credits set aside for an attempt now."""
    account = _hold_account(job_id, attempt)
    return account.balance or 0 if account and account.closed_at is None else 0


def held_by_job(job_ids: list[int]) -> dict[int, int]:
    """Credits set aside for each of these jobs now."""
    if not job_ids:
        return {}
    return _sums(
        select(LedgerAccount.job_id, func.sum(LedgerAccount.balance))
        .where(LedgerAccount.kind == "hold", LedgerAccount.job_id.in_(job_ids))
        .group_by(LedgerAccount.job_id)
    )


def refund(user_id: int, job_id: int, attempt: int, *, reason: str) -> int:
    """Give back all that an attempt was charged, into its hold while that is open, else into the lots it came from.

    Answers how many credits came back now: 0 when the attempt was refunded before.
    """
    key, given = f"refund:{job_id}:{attempt}", {"job": job_id, "attempt": attempt}
    with transaction():
        if _begin(user_id, key, given):
            return 0
        amount = _charged(job_id, attempt)
        account = _hold_account(job_id, attempt)
        if not amount or account is None:
            return 0
        moves = [Move(_system("consumed"), account, amount)]
        if account.closed_at is not None:
            moves += _give_back(account, amount)
        returned = sum(move.amount for move in moves if move.target.kind == "lot")
        _book("refund", user_id, key, given, moves, reason, job_id, attempt, details={"returned": returned})
        return amount


def settle(user_id: int, job_id: int, attempt: int) -> int:
    """Close the hold of an attempt: what was not used returns to the lots it came from. Answers how many; once."""
    key, given = f"settle:{job_id}:{attempt}", {"job": job_id, "attempt": attempt}
    with transaction():
        known = _begin(user_id, key, given)
        if known:
            return known.amount
        account = _hold_account(job_id, attempt)
        if account is None:
            return 0
        left = account.balance or 0
        moves = _give_back(account, left)
        returned = sum(move.amount for move in moves if move.target.kind == "lot")
        what = (
            "Unused credits returned" if returned == left else "Unused credits returned, as far as they had not expired"
        )
        _book("settle", user_id, key, given, moves, what, job_id, attempt, details={"returned": returned})
        account.closed_at = now()
        return left


def spendable(user_id: int) -> int:
    """Credits that can be spent now: what live lots hold, holds left out."""
    return sum(lot.balance or 0 for lot in _live_lots(user_id))


def held(user_id: int) -> int:
    """Credits set aside for jobs now."""
    return int(
        db.session.scalar(
            select(func.coalesce(func.sum(LedgerAccount.balance), 0)).where(
                LedgerAccount.user_id == user_id, LedgerAccount.kind == "hold"
            )
        )
        or 0
    )


def used_between(user_id: int, start: datetime, end: datetime) -> int:
    """Credits charged less credits refunded in [start, end)."""
    sums = dict(
        db.session.execute(
            select(LedgerOperation.kind, func.sum(LedgerOperation.amount))
            .where(
                LedgerOperation.user_id == user_id, LedgerOperation.outcome == "done",
                LedgerOperation.kind.in_(("tick", "refund")),
                LedgerOperation.event_at >= start, LedgerOperation.event_at < end,
            )
            .group_by(LedgerOperation.kind)
        ).all()
    )  # fmt: skip
    return max(0, int(sums.get("tick") or 0) - int(sums.get("refund") or 0))


def statement(user_id: int, limit: int = 50) -> list[dict[str, Any]]:
    """The newest lines of a member's ledger: what happened, what it changed of the spendable credits, what was left."""
    signs = {"grant": 1, "expire": -1, "hold": -1}
    rows = db.session.scalars(
        select(LedgerOperation)
        .where(LedgerOperation.user_id == user_id, LedgerOperation.outcome == "done")
        .order_by(LedgerOperation.id.desc())
        .limit(limit)
    )
    return [
        {
            "at": row.event_at, "what": row.reason, "kind": row.kind, "amount": row.amount,
            "change": signs.get(row.kind, 0) * row.amount + row.details.get("returned", 0),
            "balance_after": row.available_after, "job_id": row.job_id,
        }
        for row in rows
    ]  # fmt: skip


# --- under the lock -------------------------------------------------------------------------------------------------


def _begin(user_id: int, key: str, given: dict[str, Any]) -> LedgerOperation | None:
    """Take the wallet's lock; the stored operation when this key was already carried out. Raises Conflict."""
    lock(user_id)
    known = db.session.scalar(select(LedgerOperation).where(LedgerOperation.key == key))
    if known and known.fingerprint != _fingerprint(given):
        raise Conflict(f"The operation {key} was already carried out with other values.")
    return known


def lock(user_id: int) -> None:
    """Take the wallet's lock until the transaction ends; whatever counts what a member has comes after it."""
    result = db.session.execute(
        update(Wallet).where(Wallet.user_id == user_id).values(version=Wallet.version + 1),
        execution_options={"synchronize_session": False},
    )
    if result.rowcount != 1:  # type: ignore[attr-defined]
        raise RuntimeError(f"user {user_id} has no wallet")


def _book(
    kind: str, user_id: int, key: str, given: dict[str, Any], moves: list[Move], reason: str,
    job_id: int | None = None, attempt: int | None = None, *, refused: bool = False, details: dict[str, Any] | None = None,
) -> LedgerOperation:  # fmt: skip
    """Write the operation with its transfers and bring the cached balances along."""
    for move in moves:
        for account, change in ((move.source, -move.amount), (move.target, move.amount)):
            if account.balance is not None:
                account.balance += change
    db.session.flush()
    available, in_holds = spendable(user_id), held(user_id)
    operation = add(
        LedgerOperation(
            key=key, fingerprint=_fingerprint(given), kind=kind, user_id=user_id, job_id=job_id, attempt=attempt,
            reason=reason, outcome="refused" if refused else "done",
            amount=given.get("amount", moves[0].amount if kind == "refund" else sum(move.amount for move in moves)),
            available_after=available, event_at=now(), details=details or {},
        )
    )  # fmt: skip
    for seq, move in enumerate(moves):
        transfer = LedgerTransfer(
            operation_id=operation.id, seq=seq, from_id=move.source.id, to_id=move.target.id, amount=move.amount
        )
        db.session.add(transfer)
    db.session.execute(
        update(Wallet).where(Wallet.user_id == user_id).values(available=available, held=in_holds),
        execution_options={"synchronize_session": False},
    )
    db.session.flush()
    return operation


def _fingerprint(given: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def _system(kind: str) -> LedgerAccount:
    if kind not in SYSTEM_ACCOUNTS:
        raise ValueError(kind)
    found = db.session.scalar(select(LedgerAccount).where(LedgerAccount.kind == kind, LedgerAccount.user_id.is_(None)))
    if found is None:
        raise RuntimeError(f"the ledger has no account {kind!r}: run the migrations")
    return found


def _lots(user_id: int) -> list[LedgerAccount]:
    """Lots in burn order: priority, then what expires first (never last), then age (research: billing C2)."""
    return list(
        db.session.scalars(
            select(LedgerAccount)
            .where(
                LedgerAccount.user_id == user_id, LedgerAccount.kind == "lot", LedgerAccount.closed_at.is_(None)
            )
            .order_by(
                LedgerAccount.priority, LedgerAccount.expires_at.is_(None), LedgerAccount.expires_at, LedgerAccount.id
            )
        )
    )  # fmt: skip


def _live_lots(user_id: int) -> list[LedgerAccount]:
    moment = now()
    return [lot for lot in _lots(user_id) if lot.balance and (lot.expires_at is None or moment < lot.expires_at)]


def _draw(lots: list[LedgerAccount], target: LedgerAccount, amount: int) -> list[Move]:
    moves = []
    for lot in lots:
        part = min(amount, lot.balance or 0)
        if part:
            moves.append(Move(lot, target, part))
            amount -= part
    return moves


def _hold_account(job_id: int, attempt: int) -> LedgerAccount | None:
    return db.session.scalar(
        select(LedgerAccount).where(
            LedgerAccount.kind == "hold", LedgerAccount.job_id == job_id, LedgerAccount.attempt == attempt
        )
    )


def _open_hold(job_id: int, attempt: int) -> LedgerAccount:
    account = _hold_account(job_id, attempt)
    if account is None or account.closed_at is not None:
        raise Conflict(f"Attempt {attempt} of job {job_id} holds no credits any more.")
    return account


def _charged(job_id: int, attempt: int) -> int:
    return int(
        db.session.scalar(
            select(func.coalesce(func.sum(LedgerOperation.amount), 0)).where(
                LedgerOperation.job_id == job_id, LedgerOperation.attempt == attempt, LedgerOperation.kind == "tick"
            )
        )
        or 0
    )


def _give_back(account: LedgerAccount, amount: int) -> list[Move]:
    """From a hold to the lots it was drawn from, last drawn first; what came from a lot that died since expires."""
    drawn = db.session.execute(
        select(LedgerTransfer.from_id, LedgerTransfer.amount)
        .join(LedgerAccount, LedgerAccount.id == LedgerTransfer.from_id)
        .where(LedgerTransfer.to_id == account.id, LedgerAccount.kind == "lot")
        .order_by(LedgerTransfer.id.desc())
    ).all()
    returned = _sums(
        select(LedgerTransfer.to_id, func.sum(LedgerTransfer.amount))
        .where(LedgerTransfer.from_id == account.id)
        .group_by(LedgerTransfer.to_id)
    )
    moves = []
    for lot_id, part in drawn:
        already = min(part, returned.get(lot_id, 0))
        returned[lot_id] = returned.get(lot_id, 0) - already
        back = min(amount, part - already)
        if back:
            lot = db.session.get_one(LedgerAccount, lot_id)
            dead = lot.closed_at is not None or (lot.expires_at is not None and lot.expires_at <= now())
            moves.append(Move(account, _system("expired") if dead else lot, back))
            amount -= back
    return moves


def _sums(query: Any) -> dict[int, int]:
    return {row[0]: int(row[1]) for row in db.session.execute(query)}
