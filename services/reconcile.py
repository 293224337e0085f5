"""Check every invariant of the ledger (research: billing, part N): the same code in tests, as a command, and at night.

`flask --app wsgi credits-reconcile` prints what is broken and exits with 1; repair is a new operation, never an UPDATE.
"""

from __future__ import annotations

from sqlalchemy import func, select

from models.base import db, now
from models.credits import SYSTEM_ACCOUNTS, LedgerAccount, LedgerOperation, LedgerTransfer, Wallet
from models.subscriptions import Subscription
from models.training_jobs import Attempt, TrainingJob


def reconcile() -> list[str]:
    """One sentence for each break, with ids and the difference; an empty list when all holds."""
    broken: list[str] = []
    for check in (
        _accounts, _wallets, _operations, _subscriptions, _jobs, _open_holds,
    ):  # fmt: skip
        broken += check()
    return broken


def _flows() -> dict[int, int]:
    """Account -> what transfers brought less what they took."""
    flows: dict[int, int] = {}
    for column, sign in ((LedgerTransfer.to_id, 1), (LedgerTransfer.from_id, -1)):
        for account, amount in db.session.execute(select(column, func.sum(LedgerTransfer.amount)).group_by(column)):
            flows[account] = flows.get(account, 0) + sign * int(amount or 0)
    return flows


def _accounts() -> list[str]:
    broken, flows = [], _flows()
    if sum(flows.values()) != 0:
        broken.append(f"The sum over all accounts is {sum(flows.values())}, not 0.")
    for account in db.session.scalars(select(LedgerAccount)):
        flow = flows.get(account.id, 0)
        if account.kind in SYSTEM_ACCOUNTS:
            if account.balance is not None:
                broken.append(f"System account {account.id} ({account.kind}) caches a balance.")
        elif account.balance != flow:
            broken.append(f"Account {account.id}: cached {account.balance}, transfers say {flow}.")
        elif account.kind == "lot" and not 0 <= flow <= (account.granted or 0):
            broken.append(f"Lot {account.id} holds {flow} of {account.granted} granted.")
        elif account.kind == "hold" and account.closed_at is not None and flow:
            broken.append(f"Hold {account.id} is closed and still holds {flow}.")
    return broken


def _wallets() -> list[str]:
    broken = []
    sums = {
        (user_id, kind): int(total or 0)
        for user_id, kind, total in db.session.execute(
            select(LedgerAccount.user_id, LedgerAccount.kind, func.sum(LedgerAccount.balance))
            .where(LedgerAccount.user_id.is_not(None))
            .where((LedgerAccount.kind == "hold") | LedgerAccount.closed_at.is_(None))
            .group_by(LedgerAccount.user_id, LedgerAccount.kind)
        )
    }
    stale = {
        user_id: int(total or 0)
        for user_id, total in db.session.execute(
            select(LedgerAccount.user_id, func.sum(LedgerAccount.balance))
            .where(LedgerAccount.kind == "lot", LedgerAccount.closed_at.is_(None), LedgerAccount.expires_at <= now())
            .group_by(LedgerAccount.user_id)
        )
    }
    for wallet in db.session.scalars(select(Wallet)):
        lots, holds = sums.get((wallet.user_id, "lot"), 0), sums.get((wallet.user_id, "hold"), 0)
        # A lot past its date counts as spendable in the cache until the next operation looks at it.
        if not lots - stale.get(wallet.user_id, 0) <= wallet.available <= lots:
            broken.append(f"Wallet {wallet.user_id}: {wallet.available} available, live lots hold {lots}.")
        if wallet.held != holds:
            broken.append(f"Wallet {wallet.user_id}: {wallet.held} held, holds say {holds}.")
    return broken


TEMPLATES = {
    "grant": {("issued", "lot")},
    "expire": {("lot", "expired")},
    "hold": {("lot", "hold")},
    "tick": {("hold", "consumed")},
    "refund": {("consumed", "hold"), ("hold", "lot"), ("hold", "expired")},
    "settle": {("hold", "lot"), ("hold", "expired")},
}


def _operations() -> list[str]:
    source, target = db.aliased(LedgerAccount), db.aliased(LedgerAccount)
    rows = db.session.execute(
        select(
            LedgerOperation.id, LedgerOperation.kind, LedgerOperation.outcome, source.kind, target.kind,
            source.user_id, target.user_id, LedgerOperation.user_id,
        )
        .join(LedgerTransfer, LedgerTransfer.operation_id == LedgerOperation.id)
        .join(source, source.id == LedgerTransfer.from_id)
        .join(target, target.id == LedgerTransfer.to_id)
    )  # fmt: skip
    broken = []
    for operation, kind, outcome, from_kind, to_kind, from_user, to_user, user in rows:
        if outcome == "refused":
            broken.append(f"Operation {operation} was refused and has transfers.")
        if (from_kind, to_kind) not in TEMPLATES.get(kind, set()):
            broken.append(f"Operation {operation} ({kind}) moves credits from {from_kind} to {to_kind}.")
        if {from_user, to_user} - {user, None}:
            broken.append(f"Operation {operation} of user {user} touches somebody else's account.")
    return broken


def _subscriptions() -> list[str]:
    rows = db.session.execute(
        select(Wallet.user_id, func.count(Subscription.id))
        .outerjoin(
            Subscription, (Subscription.user_id == Wallet.user_id) & Subscription.ended_at.is_(None)
        )
        .group_by(Wallet.user_id)
    )  # fmt: skip
    return [f"User {user} has {count} live subscriptions, not 1." for user, count in rows if count != 1]


def _jobs() -> list[str]:
    """What jobs say they cost is what the ledger says, never more than was promised."""
    sums: dict[tuple[int | None, str], int] = {
        (job, kind): int(total or 0)
        for job, kind, total in db.session.execute(
            select(LedgerOperation.job_id, LedgerOperation.kind, func.sum(LedgerOperation.amount))
            .where(LedgerOperation.kind.in_(("tick", "refund")), LedgerOperation.outcome == "done")
            .group_by(LedgerOperation.job_id, LedgerOperation.kind)
        )
    }
    broken = []
    for job in db.session.execute(
        select(TrainingJob.id, TrainingJob.charged, TrainingJob.refunded, TrainingJob.at_most)
    ):
        ticks, refunds = sums.pop((job.id, "tick"), 0), sums.pop((job.id, "refund"), 0)
        if (job.charged, job.refunded) != (ticks, refunds):
            broken.append(
                f"Job {job.id}: says {job.charged} charged and {job.refunded} refunded, the ledger {ticks} and {refunds}."
            )
        if refunds > ticks:
            broken.append(f"Job {job.id} was refunded {refunds} of {ticks} charged.")
        if ticks - refunds > job.at_most:
            broken.append(f"Job {job.id} cost {ticks - refunds}, more than the {job.at_most} promised.")
    broken += [f"The ledger charges job {job}, which does not exist." for job, _ in sums]
    return broken


def _open_holds() -> list[str]:
    """A hold is open exactly while its attempt is."""
    rows = db.session.execute(
        select(LedgerAccount.id, LedgerAccount.job_id, LedgerAccount.attempt)
        .join(Attempt, (Attempt.job_id == LedgerAccount.job_id) & (Attempt.number == LedgerAccount.attempt))
        .where(LedgerAccount.kind == "hold", LedgerAccount.closed_at.is_(None), Attempt.ended_at.is_not(None))
    )
    return [f"Hold {hold} outlives attempt {attempt} of job {job}." for hold, job, attempt in rows]
