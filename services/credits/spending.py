"""Spending credits: at once for an action, or set aside for a job and charged minute by minute."""

from __future__ import annotations

from sqlalchemy import func, select

from models.base import add, db, now, transaction
from models.credits import LedgerAccount, LedgerOperation, LedgerTransfer, Wallet
from models.usage import UsageRecord
from services.credits import ledger
from services.credits.ledger import Entry
from services.credits.reading import charged, hold_account, sums
from services.credits.writing import Move, Usage
from services.errors import Conflict, PaymentNeeded


def spend(user_id: int, amount: int, *, key: str, reason: str, usage: Usage) -> LedgerOperation:
    """Charge an action at once. The answer's `refused` is True when fewer are available; the refusal is stored too."""
    given = {"amount": amount, "action": usage.action}
    with transaction():
        wallet = ledger.lock(user_id)
        operation, lots = ledger.look(user_id, key, given)
        if operation:
            return operation
        spendable = ledger.live(wallet, lots)
        available = ledger.total(spendable)
        if available < amount:
            entry = Entry("spend", key, given, reason, amount, refused=True, details={"available": available})
            return ledger.book(wallet, entry, [], lots)
        moves = ledger.draw(spendable, ledger.system("consumed"), amount)
        return ledger.book(wallet, Entry("spend", key, given, reason, amount, usage=usage), moves, lots)


def hold(user_id: int, job_id: int, attempt: int, amount: int, *, key: str, reason: str) -> LedgerOperation:
    """Set `amount` credits aside for one attempt of a job, on top of what is already held for it.

    The answer's `refused` is True when fewer are available; the refusal is stored like a success.
    """
    given = {"job": job_id, "attempt": attempt, "amount": amount}
    with transaction():
        wallet = ledger.lock(user_id)
        operation, lots = ledger.look(user_id, key, given)
        if operation:
            return operation
        account = hold_account(job_id, attempt)
        if account is not None and account.closed_at is not None:
            raise Conflict(f"Attempt {attempt} of job {job_id} is settled; nothing more can be held for it.")
        spendable = ledger.live(wallet, lots)
        available = ledger.total(spendable)
        entry = Entry("hold", key, given, reason, amount, job_id, attempt)
        if available < amount:
            refusal = Entry(
                "hold", key, given, reason, amount, job_id, attempt, refused=True, details={"available": available}
            )
            return ledger.book(wallet, refusal, [], lots)
        account = account or add(LedgerAccount(kind="hold", user_id=user_id, balance=0, job_id=job_id, attempt=attempt))
        return ledger.book(wallet, entry, ledger.draw(spendable, account, amount), lots)


def require(operation: LedgerOperation) -> LedgerOperation:
    """Raise PaymentNeeded when the operation was refused; otherwise give it back."""
    if operation.refused:
        available = operation.details.get("available", 0)
        raise PaymentNeeded(
            f"This needs {operation.amount} credits and {available} are available. "
            "Get more credits, or train on your own machine for free.",
            code="insufficient_credits", needed=operation.amount, available=available,
        )  # fmt: skip
    return operation


def tick(user_id: int, job_id: int, attempt: int, minute: int, amount: int, usage: Usage) -> LedgerOperation:
    """Charge started minute number `minute` (from 1) of an attempt to its hold, which must cover it."""
    key, given = f"tick:{job_id}:{attempt}:{minute}", {"amount": amount}
    with transaction():
        wallet = ledger.lock(user_id)
        if operation := ledger.known(key, given):
            return operation
        account = _open_hold(job_id, attempt)
        moves = [Move(account, ledger.system("consumed"), amount)] if amount else []
        entry = Entry("tick", key, given, f"Training, minute {minute}", amount, job_id, attempt, usage=usage)
        return ledger.book(wallet, entry, moves)


def refund(user_id: int, job_id: int, attempt: int, *, reason: str) -> int:
    """Give back all that an attempt was charged, into its hold while that is open, else into the lots it came from.

    Answers how many credits came back now: 0 when the attempt was refunded before.
    """
    key, given = f"refund:{job_id}:{attempt}", {"job": job_id, "attempt": attempt}
    with transaction():
        wallet = ledger.lock(user_id)
        if ledger.known(key, given):
            return 0
        amount = charged(job_id, attempt)
        account = hold_account(job_id, attempt)
        if not amount or account is None:
            return 0
        moves = [Move(ledger.system("consumed"), account, amount)]
        if account.closed_at is not None:
            moves += _give_back(wallet, account, amount)
        entry = Entry("refund", key, given, reason, amount, job_id, attempt, usage=_usage_of(job_id, attempt))
        ledger.book(wallet, entry, moves, ledger.open_lots(user_id))
        return amount


def settle(user_id: int, job_id: int, attempt: int) -> int:
    """Close the hold of an attempt: what was not used returns to the lots it came from. Answers how many; once."""
    key, given = f"settle:{job_id}:{attempt}", {"job": job_id, "attempt": attempt}
    with transaction():
        wallet = ledger.lock(user_id)
        if operation := ledger.known(key, given):
            return operation.amount
        account = hold_account(job_id, attempt)
        if account is None:
            return 0
        left = account.balance or 0
        lots = ledger.open_lots(user_id)
        moves = _give_back(wallet, account, left)
        returned = sum(move.amount for move in moves if move.target.kind == "lot")
        what = (
            "Unused credits returned" if returned == left else "Unused credits returned, as far as they had not expired"
        )
        ledger.book(wallet, Entry("settle", key, given, what, left, job_id, attempt), moves, lots)
        account.closed_at = now()
        db.session.flush()
        return left


def _open_hold(job_id: int, attempt: int) -> LedgerAccount:
    account = hold_account(job_id, attempt)
    if account is None or account.closed_at is not None:
        raise Conflict(f"Attempt {attempt} of job {job_id} holds no credits any more.")
    return account


def _give_back(wallet: Wallet, account: LedgerAccount, amount: int) -> list[Move]:
    """From a hold to the lots it was drawn from, last drawn first; what came from a lot that died since expires. A debt is
    paid from what came back."""
    drawn = db.session.execute(
        select(LedgerTransfer.from_id, LedgerTransfer.amount)
        .join(LedgerAccount, LedgerAccount.id == LedgerTransfer.from_id)
        .where(LedgerTransfer.to_id == account.id, LedgerAccount.kind == "lot")
        .order_by(LedgerTransfer.id.desc())
    ).all()
    returned = sums(
        select(LedgerTransfer.to_id, func.sum(LedgerTransfer.amount))
        .where(LedgerTransfer.from_id == account.id)
        .group_by(LedgerTransfer.to_id)
    )
    moves, graveyard = [], ledger.system("expired")
    for lot_id, part in drawn:
        lot = db.session.get_one(LedgerAccount, lot_id)
        dead = lot.closed_at is not None or (lot.expires_at is not None and lot.expires_at <= now())
        for place in (lot_id, graveyard.id) if dead else (lot_id,):
            already = min(part, returned.get(place, 0))
            returned[place] = returned.get(place, 0) - already
            part -= already
        back = min(amount, part)
        if back:
            moves.append(Move(account, graveyard if dead else lot, back))
            amount -= back
    return moves + ledger.pay_debt(wallet, moves)


def _usage_of(job_id: int, attempt: int) -> Usage:
    """What the ticks of an attempt were for, as a quantity to take off again."""
    query = (
        select(UsageRecord.action, UsageRecord.recipe, UsageRecord.base_model, func.sum(UsageRecord.quantity))
        .join(LedgerOperation, LedgerOperation.id == UsageRecord.operation_id)
        .where(LedgerOperation.job_id == job_id, LedgerOperation.attempt == attempt, LedgerOperation.kind == "tick")
        .group_by(UsageRecord.action, UsageRecord.recipe, UsageRecord.base_model)
    )
    action, recipe, base_model, quantity = db.session.execute(query).one()
    return Usage(action, recipe, base_model, -int(quantity))
