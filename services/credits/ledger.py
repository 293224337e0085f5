"""Under the wallet's lock: what a member has, and the one function that books an operation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import current_app
from sqlalchemy import bindparam, func, select, update

from models import bulk
from models.base import add, db, now
from models.credits import MONTHLY, SYSTEM_ACCOUNTS, LedgerAccount, LedgerOperation, Wallet
from services import notices
from services.credits.writing import Draft, Move, Usage, write
from services.errors import Conflict

_SPENDABLE = ("lot", "debt")

_HASHED = ("key", "fingerprint", "kind", "user_id", "outcome", "amount", "change", "balance_after")

# Built once, since building a statement costs as much as carrying it out.
_LOCK = (
    update(Wallet)
    .values(version=Wallet.version + 1)
    .returning(Wallet)
    .execution_options(synchronize_session=False, populate_existing=True)
)
_LOCK_ONE = _LOCK.where(Wallet.user_id == bindparam("owner"))
_OPEN = (LedgerAccount.kind == "lot") & LedgerAccount.closed_at.is_(None)
_BURN_ORDER = (
    LedgerAccount.priority, LedgerAccount.expires_at.is_(None), LedgerAccount.expires_at, LedgerAccount.id
)  # fmt: skip
OPEN_LOTS = select(LedgerAccount).where(_OPEN).order_by(*_BURN_ORDER)
_LOTS_OF_ONE = OPEN_LOTS.where(LedgerAccount.user_id == bindparam("owner"))
_BY_KEY = select(LedgerOperation.id).where(LedgerOperation.key == bindparam("key"))
_LOOK = (
    select(_BY_KEY.scalar_subquery(), LedgerAccount)
    .select_from(Wallet)
    .outerjoin(LedgerAccount, (LedgerAccount.user_id == Wallet.user_id) & _OPEN)
    .where(Wallet.user_id == bindparam("owner"))
    .order_by(*_BURN_ORDER)
)


@dataclass(frozen=True)
class Entry:
    """What an operation says of itself, beside its moves."""

    kind: str
    key: str
    given: dict[str, Any]
    reason: str
    amount: int
    job_id: int | None = None
    attempt: int | None = None
    refused: bool = False
    at: datetime | None = None
    details: dict[str, Any] | None = None
    usage: Usage | None = None


def lock(user_id: int) -> Wallet:
    """Take the wallet's lock until the transaction ends; whatever counts what a member has comes after it."""
    wallet = db.session.scalar(_LOCK_ONE, {"owner": user_id})
    if wallet is None:
        raise RuntimeError(f"user {user_id} has no wallet")
    return wallet


def lock_many(user_ids: Sequence[int]) -> dict[int, Wallet]:
    """The locks of several wallets; whoever takes several at once has a claim on them that nobody else has."""
    wallets = db.session.scalars(_LOCK.where(bulk.among(Wallet.user_id, user_ids)))
    return {wallet.user_id: wallet for wallet in wallets}


def known(key: str, given: dict[str, Any]) -> LedgerOperation | None:
    """The operation that was carried out under this key. Raises Conflict when its input was another."""
    return _agreed(db.session.scalar(_BY_KEY, {"key": key}), given)


def look(user_id: int, key: str, given: dict[str, Any]) -> tuple[LedgerOperation | None, list[LedgerAccount]]:
    """What is `known` under this key, and the member's open lots in burn order; under the lock."""
    rows = db.session.execute(_LOOK, {"owner": user_id, "key": key}).all()
    return _agreed(rows[0][0], given), [lot for _, lot in rows if lot is not None]


def book(
    wallet: Wallet, entry: Entry, moves: Sequence[Move], lots: list[LedgerAccount] | None = None
) -> LedgerOperation:
    """Write the operation with its transfers and bring the cached figures along; the caller holds the lock.

    `lots` are the member's open lots when the operation looked at them: only then can time have changed what is live. The
    accounts in `moves` have their ids. The answer has its id; it stands outside of the session, as nothing changes it.
    """
    before = wallet.available + wallet.held
    made = draft(wallet, entry, moves, lots)
    watch(made, before)
    return stored(made)


def stored(made: Draft) -> LedgerOperation:
    """Write one draft; the operation, outside of the session."""
    (number,) = write([made])
    return LedgerOperation(id=number, **made.row)


def draft(wallet: Wallet, entry: Entry, moves: Sequence[Move], lots: list[LedgerAccount] | None = None) -> Draft:
    """As `book`, but leave the writing to `write`, which takes many at once, each wallet's in the order of its chain."""
    change = _apply(wallet, moves)
    bulk.put(wallet, balance=wallet.balance + change)
    left = total(live(wallet, lots)) if lots is not None else wallet.available + change
    bulk.put(wallet, available=left)
    row = {
        "key": entry.key, "fingerprint": fingerprint(entry.given), "kind": entry.kind, "user_id": wallet.user_id,
        "job_id": entry.job_id, "attempt": entry.attempt, "reason": entry.reason[:200], "amount": entry.amount,
        "outcome": "refused" if entry.refused else "done", "change": change, "balance_after": wallet.balance,
        "available_after": wallet.available, "event_at": entry.at or now(), "details": entry.details or {},
        "created_at": now(),
    }  # fmt: skip
    transfers = [(move.source.id, move.target.id, move.amount) for move in moves]
    row["hash"] = operation_hash(wallet.head, row, transfers)
    bulk.put(wallet, head=row["hash"])
    return Draft(wallet, row, moves, entry.usage)


def watch(made: Draft, before: int) -> None:
    """Notice when the credits fall to a fifth: once, until they rise again."""
    wallet = made.wallet
    left = wallet.available + wallet.held
    if left > wallet.low_at:
        bulk.put(wallet, low_since=None)
    elif left < before and wallet.low_since is None:
        bulk.put(wallet, low_since=now())
        notices.low_credits(wallet.user_id, left, made.row["key"])


def so_far(user_id: int, key: str, kind: str) -> tuple[int, int]:
    """How many operations there are under `key:1`, `key:2`, ..., and what those of this kind moved less the others."""
    rows = db.session.execute(
        select(LedgerOperation.kind, func.count(), func.sum(LedgerOperation.amount))
        .where(LedgerOperation.user_id == user_id, LedgerOperation.key.startswith(f"{key}:", autoescape=True))
        .group_by(LedgerOperation.kind)
    ).all()
    return sum(count for _, count, _ in rows), sum(int(total) * (1 if name == kind else -1) for name, _, total in rows)


def pay_debt(wallet: Wallet, moves: Sequence[Move]) -> list[Move]:
    """Moves that pay a debt out of what `moves` bring back to lots."""
    owed, paying = -wallet.debt, []
    for move in moves:
        part = min(owed, move.amount) if move.target.kind == "lot" else 0
        if part:
            paying.append(Move(move.target, debt_account(wallet.user_id), part))
            owed -= part
    return paying


def operation_hash(previous: str, row: Mapping[str, Any], transfers: Sequence[tuple[int, int, int]]) -> str:
    """The link of a wallet's chain: over the one before, the operation's row, and its (from, to, amount) in order."""
    content = [
        previous, *(row[name] for name in _HASHED), row["event_at"].isoformat(), row["reason"],
        [list(transfer) for transfer in transfers],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def fingerprint(given: dict[str, Any]) -> str:
    """What the caller gave, in short: two calls with one key must agree in it."""
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def open_lots(user_id: int) -> list[LedgerAccount]:
    """Lots in burn order: priority, then what expires first (never last), then age (research: billing C2)."""
    return list(db.session.scalars(_LOTS_OF_ONE, {"owner": user_id}))


def live(wallet: Wallet, lots: Sequence[LedgerAccount], at: datetime | None = None) -> list[LedgerAccount]:
    """Those of the open lots that can be spent now: alive, not frozen, paid for, and nothing while there is a debt."""
    at = at or now()
    if wallet.debt < 0:
        return []
    gated = wallet.monthly_until is not None and wallet.monthly_until <= at
    return [
        lot
        for lot in lots
        if lot.balance
        and lot.frozen_at is None
        and (lot.expires_at is None or at < lot.expires_at)
        and not (gated and lot.priority == MONTHLY)
    ]


def total(lots: Sequence[LedgerAccount]) -> int:
    """Credits that these lots hold."""
    return sum(lot.balance or 0 for lot in lots)


def draw(lots: Sequence[LedgerAccount], target: LedgerAccount, amount: int) -> list[Move]:
    """Moves that take `amount` from the lots in their order."""
    moves = []
    for lot in lots:
        part = min(amount, lot.balance or 0)
        if part:
            moves.append(Move(lot, target, part))
            amount -= part
    return moves


def debt_account(user_id: int) -> LedgerAccount:
    """Where a member owes credits that were taken back after they had been spent."""
    query = select(LedgerAccount).where(LedgerAccount.user_id == user_id, LedgerAccount.kind == "debt")
    return db.session.scalar(query) or add(LedgerAccount(kind="debt", user_id=user_id, balance=0))


def system(kind: str) -> LedgerAccount:
    """One of the ledger's own accounts. Their rows never change, so they are read once in a process."""
    cache: dict[str, LedgerAccount] = current_app.extensions.setdefault("ledger_accounts", {})
    if kind not in cache:
        if kind not in SYSTEM_ACCOUNTS:
            raise ValueError(kind)
        query = select(LedgerAccount.id).where(LedgerAccount.kind == kind, LedgerAccount.user_id.is_(None))
        found = db.session.scalar(query)
        if found is None:
            raise RuntimeError(f"the ledger has no account {kind!r}: run the migrations")
        cache[kind] = LedgerAccount(id=found, kind=kind, unit=SYSTEM_ACCOUNTS[kind])
    return cache[kind]


def _agreed(number: int | None, given: dict[str, Any]) -> LedgerOperation | None:
    if number is None:
        return None
    found = db.session.get_one(LedgerOperation, number)
    if found.fingerprint != fingerprint(given):
        raise Conflict(f"The operation {found.key} was already carried out with other values.")
    return found


def _apply(wallet: Wallet, moves: Sequence[Move]) -> int:
    """Change the cached balances; answers what it did to the sum of lots and debt."""
    change = 0
    for move in moves:
        for account, amount in ((move.source, -move.amount), (move.target, move.amount)):
            if account.user_id is None:
                continue
            bulk.put(account, balance=(account.balance or 0) + amount)
            if account.kind in _SPENDABLE:
                change += amount
            if account.kind == "hold":
                bulk.put(wallet, held=wallet.held + amount)
            elif account.kind == "debt":
                bulk.put(wallet, debt=wallet.debt + amount)
    return change
