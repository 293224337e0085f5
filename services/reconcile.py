"""Check every invariant of the ledger (research: billing, part N): the same code in tests, as a command, and at night.

`flask --app wsgi credits-reconcile` prints what is broken and exits with 1; repair is a new operation, never an UPDATE.
Each check reads in one pass and keeps sums, not rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import case, func, select

from models.base import db, now
from models.credits import SYSTEM_ACCOUNTS, LedgerAccount, LedgerOperation, LedgerTransfer, Wallet
from models.payments import Checkout, GatewayEvent, Payment
from models.subscriptions import CreditPeriod, PlanChange, Subscription
from models.training_jobs import Attempt, TrainingJob
from models.usage import UsageDay, UsageRecord
from services import calendar
from services.credits.ledger import operation_hash

OVERDUE = timedelta(hours=1)
STUCK = timedelta(minutes=15)


def reconcile() -> list[str]:
    """One sentence for each break, with ids and the difference; an empty list when all holds."""
    checks = (
        _accounts, _wallets, _moves, _chains, _subscriptions, _periods, _recurring, _jobs, _open_holds, _usage, _purchases,
        _sales, _inbox,
    )  # fmt: skip
    return [sentence for check in checks for sentence in check()]


def _flows() -> dict[int, int]:
    """Account -> what transfers brought less what they took."""
    flows: dict[int, int] = {}
    for column, sign in ((LedgerTransfer.to_id, 1), (LedgerTransfer.from_id, -1)):
        for account, amount in db.session.execute(select(column, func.sum(LedgerTransfer.amount)).group_by(column)):
            flows[account] = flows.get(account, 0) + sign * int(amount or 0)
    return flows


def _accounts() -> Iterator[str]:
    flows, sums = _flows(), dict.fromkeys(set(SYSTEM_ACCOUNTS.values()), 0)
    columns = (
        LedgerAccount.id, LedgerAccount.kind, LedgerAccount.unit, LedgerAccount.balance, LedgerAccount.granted,
        LedgerAccount.closed_at,
    )  # fmt: skip
    for account in db.session.execute(select(*columns)):
        flow = flows.get(account.id, 0)
        sums[account.unit] += flow
        if account.kind in SYSTEM_ACCOUNTS:
            if account.balance is not None:
                yield f"System account {account.id} ({account.kind}) caches a balance."
        elif account.balance != flow:
            yield f"Account {account.id}: cached {account.balance}, transfers say {flow}."
        elif account.kind == "lot" and not 0 <= flow <= (account.granted or 0):
            yield f"Lot {account.id} holds {flow} of {account.granted} granted."
        elif account.kind == "debt" and flow > 0:
            yield f"Debt {account.id} is {flow}, above 0."
        elif account.kind == "hold" and account.closed_at is not None and flow:
            yield f"Hold {account.id} is closed and still holds {flow}."
    for unit, total in sums.items():
        if total:
            yield f"The sum over all accounts in {unit}s is {total}, not 0."


def _wallets() -> Iterator[str]:
    open_lot = (LedgerAccount.kind == "lot") & LedgerAccount.closed_at.is_(None)
    dead = open_lot & (LedgerAccount.expires_at <= now())
    rows = db.session.execute(
        select(
            Wallet.user_id, Wallet.available, Wallet.held, Wallet.balance, Wallet.debt, Wallet.monthly_until,
            func.coalesce(func.sum(case((open_lot, LedgerAccount.balance), else_=0)), 0),
            func.coalesce(func.sum(case((dead, LedgerAccount.balance), else_=0)), 0),
            func.coalesce(func.sum(case((open_lot & LedgerAccount.frozen_at.is_not(None), LedgerAccount.balance), else_=0)), 0),
            func.coalesce(func.sum(case((LedgerAccount.kind == "hold", LedgerAccount.balance), else_=0)), 0),
            func.coalesce(func.sum(case((LedgerAccount.kind == "debt", LedgerAccount.balance), else_=0)), 0),
        )
        .outerjoin(LedgerAccount, LedgerAccount.user_id == Wallet.user_id)
        .group_by(Wallet.user_id)
    )  # fmt: skip
    for user, available, held, balance, debt, gate, lots, stale, frozen, holds, debts in rows:
        most, least = lots - frozen, lots - frozen - stale
        if debt < 0:
            most = least = 0
        elif gate is not None:
            least = 0
        # A lot past its date counts as spendable in the cache until the next operation looks at it.
        if not least <= available <= most:
            yield f"Wallet {user}: {available} available, live lots hold {least} to {most}."
        for name, cached, summed in (("held", held, holds), ("debt", debt, debts), ("balance", balance, lots + debts)):
            if cached != summed:
                yield f"Wallet {user}: {name} is {cached}, its accounts say {summed}."


TEMPLATES = {
    "grant": {("issued", "lot"), ("lot", "debt")},
    "expire": {("lot", "expired")},
    "hold": {("lot", "hold")},
    "spend": {("lot", "consumed")},
    "tick": {("hold", "consumed")},
    "refund": {("consumed", "hold"), ("hold", "lot"), ("hold", "expired"), ("lot", "debt")},
    "settle": {("hold", "lot"), ("hold", "expired"), ("lot", "debt")},
    "revoke": {("lot", "revoked")},
    "clawback": {("lot", "revoked"), ("debt", "revoked")},
    "restore": {("revoked", "lot"), ("revoked", "debt")},
    "sale": {("gateway", "platform")},
    "sale_refund": {("platform", "gateway")},
    "sale_restore": {("gateway", "platform")},
}


def _moves() -> Iterator[str]:
    source, target = db.aliased(LedgerAccount), db.aliased(LedgerAccount)
    rows = db.session.execute(
        select(
            LedgerOperation.id, LedgerOperation.kind, LedgerOperation.outcome, source.kind, target.kind,
            source.user_id, target.user_id, LedgerOperation.user_id, source.unit, target.unit,
        )
        .join(LedgerTransfer, LedgerTransfer.operation_id == LedgerOperation.id)
        .join(source, source.id == LedgerTransfer.from_id)
        .join(target, target.id == LedgerTransfer.to_id)
    )  # fmt: skip
    for operation, kind, outcome, from_kind, to_kind, from_user, to_user, user, unit, other in rows:
        if outcome == "refused":
            yield f"Operation {operation} was refused and has transfers."
        if (from_kind, to_kind) not in TEMPLATES.get(kind, set()) or unit != other:
            yield f"Operation {operation} ({kind}) moves {unit}s from {from_kind} to {to_kind} ({other}s)."
        if {from_user, to_user} - {user, None}:
            yield f"Operation {operation} of user {user} touches somebody else's account."


def _chains() -> Iterator[str]:
    """Each wallet's operations are linked by their hashes, and their changes add up to every balance on the way."""
    heads = {user: (head, balance) for user, head, balance in db.session.execute(
        select(Wallet.user_id, Wallet.head, Wallet.balance)
    )}  # fmt: skip
    table: Any = LedgerOperation.__table__
    rows = db.session.execute(select(table).order_by(table.c.user_id, table.c.id).execution_options(yield_per=1000))
    transfers = _transfers()
    for user, mine in groupby(rows.mappings(), itemgetter("user_id")):
        previous, balance = "", 0
        for row in mine:
            balance += row["change"]
            if row["hash"] != operation_hash(previous, dict(row), transfers.get(row["id"], [])):
                yield f"Operation {row['id']} of user {user} is not what was written: its hash does not fit."
            if row["balance_after"] != balance:
                yield f"Operation {row['id']} of user {user} says {row['balance_after']} were left, not {balance}."
            previous = row["hash"]
        if heads[user] != (previous, balance):
            yield f"Wallet {user} does not end where its operations do."


def _transfers() -> dict[int, list[tuple[int, int, int]]]:
    columns = (LedgerTransfer.operation_id, LedgerTransfer.from_id, LedgerTransfer.to_id, LedgerTransfer.amount)
    rows = db.session.execute(select(*columns).order_by(LedgerTransfer.operation_id, LedgerTransfer.seq))
    return {operation: [(row[1], row[2], row[3]) for row in found] for operation, found in groupby(rows, itemgetter(0))}


def _subscriptions() -> Iterator[str]:
    rows = db.session.execute(
        select(Wallet.user_id, func.count(Subscription.id))
        .outerjoin(
            Subscription, (Subscription.user_id == Wallet.user_id) & Subscription.ended_at.is_(None)
        )
        .group_by(Wallet.user_id)
    )  # fmt: skip
    for user, count in rows:
        if count != 1:
            yield f"User {user} has {count} live subscriptions, not 1."


def _periods() -> Iterator[str]:
    """Periods follow one another without a gap, as the calendar says, each with the one grant that it is the reason of."""
    columns = (
        Subscription.id, Subscription.anchor_at, Subscription.next_period, CreditPeriod.k, CreditPeriod.starts_at,
        CreditPeriod.ends_at,
    )  # fmt: skip
    rows = db.session.execute(
        select(*columns)
        .join(CreditPeriod, CreditPeriod.subscription_id == Subscription.id)
        .order_by(Subscription.id, CreditPeriod.k)
    )
    for subscription, periods in groupby(rows, itemgetter(0)):
        expected = None
        for _, anchor, following, k, starts_at, ends_at in periods:  # noqa: B007 - used after the loop
            if expected is not None and k != expected:
                yield f"Subscription {subscription}: period {k} follows period {expected - 1}."
            if (starts_at, ends_at) != (calendar.start(anchor, k), calendar.start(anchor, k + 1)):
                yield f"Subscription {subscription}: period {k} has other bounds than the calendar."
            expected = k + 1
        if expected != following:
            yield f"Subscription {subscription}: the next period is {following}, not {expected}."
    yield from _period_grants()
    overdue = select(Subscription.id).where(
        Subscription.ended_at.is_(None), Subscription.next_reset_at < now() - OVERDUE
    )  # fmt: skip
    for subscription in db.session.scalars(overdue):
        yield f"Subscription {subscription} has a renewal that is more than an hour overdue."


def _period_grants() -> Iterator[str]:
    granted = {
        key: int(amount)
        for key, amount in db.session.execute(
            select(LedgerOperation.key, LedgerOperation.amount).where(
                LedgerOperation.kind == "grant", LedgerOperation.key.startswith("period:")
            )
        )
    }
    for subscription, k, allotment in db.session.execute(
        select(CreditPeriod.subscription_id, CreditPeriod.k, CreditPeriod.allotment)
    ):
        amount = granted.pop(f"period:{subscription}:{k}", None)
        if amount != allotment:
            yield f"Period {k} of subscription {subscription} allots {allotment}, the ledger granted {amount}."
    for key in granted:
        yield f"The grant {key} belongs to no period."


def _recurring() -> Iterator[str]:
    """A member's steps from plan to plan join: each begins with the revenue at which the one before ended."""
    rows = db.session.execute(
        select(PlanChange.user_id, PlanChange.id, PlanChange.mrr_before, PlanChange.mrr_after).order_by(
            PlanChange.user_id, PlanChange.id
        )
    )
    for user, steps in groupby(rows, itemgetter(0)):
        last = 0
        for _, step, before, after in steps:
            if before != last:
                yield f"Plan change {step} of user {user} begins at {before} cents, the one before ended at {last}."
            last = after


def _jobs() -> Iterator[str]:
    """What jobs say they cost is what the ledger says, never more than was promised."""
    sums: dict[tuple[int | None, str], int] = {
        (job, kind): int(total or 0)
        for job, kind, total in db.session.execute(
            select(LedgerOperation.job_id, LedgerOperation.kind, func.sum(LedgerOperation.amount))
            .where(LedgerOperation.kind.in_(("tick", "refund")), LedgerOperation.outcome == "done")
            .group_by(LedgerOperation.job_id, LedgerOperation.kind)
        )
    }
    for job in db.session.execute(
        select(TrainingJob.id, TrainingJob.charged, TrainingJob.refunded, TrainingJob.at_most)
    ):
        ticks, refunds = sums.pop((job.id, "tick"), 0), sums.pop((job.id, "refund"), 0)
        if (job.charged, job.refunded) != (ticks, refunds):
            yield f"Job {job.id}: says {job.charged} charged and {job.refunded} refunded, the ledger {ticks} and {refunds}."
        if refunds > ticks:
            yield f"Job {job.id} was refunded {refunds} of {ticks} charged."
        if ticks - refunds > job.at_most:
            yield f"Job {job.id} cost {ticks - refunds}, more than the {job.at_most} promised."
    for job_id, _ in sums:
        yield f"The ledger charges job {job_id}, which does not exist."


def _open_holds() -> Iterator[str]:
    """A hold is open exactly while its attempt is."""
    rows = db.session.execute(
        select(LedgerAccount.id, LedgerAccount.job_id, LedgerAccount.attempt)
        .join(Attempt, (Attempt.job_id == LedgerAccount.job_id) & (Attempt.number == LedgerAccount.attempt))
        .where(LedgerAccount.kind == "hold", LedgerAccount.closed_at.is_(None), Attempt.ended_at.is_not(None))
    )
    for hold, job, attempt in rows:
        yield f"Hold {hold} outlives attempt {attempt} of job {job}."


def _usage() -> Iterator[str]:
    """Every single record is one charge of the same amount, and no day says less than its records."""
    rows = db.session.execute(
        select(UsageRecord.id, UsageRecord.credits, LedgerOperation.kind, LedgerOperation.amount).join(
            LedgerOperation, LedgerOperation.id == UsageRecord.operation_id
        )
    )
    for record, amount, kind, charged in rows:
        if amount != (-charged if kind == "refund" else charged) or kind not in ("spend", "tick", "refund"):
            yield f"Usage record {record} says {amount} credits, its operation ({kind}) {charged}."
    totals: dict[int, int] = dict(
        db.session.execute(
            select(LedgerOperation.user_id, func.sum(
                case((LedgerOperation.kind == "refund", -LedgerOperation.amount), else_=LedgerOperation.amount)
            ))
            .where(LedgerOperation.kind.in_(("spend", "tick", "refund")), LedgerOperation.outcome == "done")
            .group_by(LedgerOperation.user_id)
        ).all()  # type: ignore[arg-type]
    )  # fmt: skip
    days = dict(
        db.session.execute(select(UsageDay.user_id, func.sum(UsageDay.credits)).group_by(UsageDay.user_id)).all()
    )
    for user in totals.keys() | days.keys():
        if int(totals.get(user) or 0) != int(days.get(user) or 0):
            yield f"User {user} used {totals.get(user) or 0} credits by the ledger, {days.get(user) or 0} by the days."


def _purchases() -> Iterator[str]:
    """A pack that is paid is one grant of its credits, and every such grant a pack that is paid."""
    granted = dict(
        db.session.execute(
            select(LedgerOperation.key, LedgerOperation.amount).where(
                LedgerOperation.kind == "grant", LedgerOperation.key.startswith("purchase:")
            )
        ).all()
    )
    paid = select(Checkout.id, Checkout.credits).where(Checkout.kind == "pack", Checkout.state == "paid")
    for checkout, amount in db.session.execute(paid):
        if granted.pop(f"purchase:{checkout}", None) != amount:
            yield f"The pack {checkout} of {amount} credits is paid and was not granted."
    for key in granted:
        yield f"The grant {key} belongs to no pack that is paid."


def _sales() -> Iterator[str]:
    """Every payment is booked as a sale once, and what went back of it as refunds."""
    booked = dict(
        db.session.execute(
            select(LedgerOperation.key, LedgerOperation.amount).where(LedgerOperation.kind == "sale")
        ).all()
    )
    for payment, amount in db.session.execute(
        select(Payment.id, Payment.amount_cents).where(Payment.paid_at.is_not(None))
    ):
        if booked.pop(f"sale:{payment}", None) != amount:
            yield f"Payment {payment} of {amount} cents is not booked as a sale."
    for key in booked:
        yield f"The {key} belongs to no payment."
    gone = case((LedgerOperation.kind == "sale_restore", -LedgerOperation.amount), else_=LedgerOperation.amount)
    back = select(func.sum(gone)).where(LedgerOperation.kind.in_(("sale_refund", "sale_restore")))
    lost = Payment.refunded_cents + Payment.lost_cents
    refunded = select(func.sum(case((lost > Payment.amount_cents, Payment.amount_cents), else_=lost)))
    told, booked_back = int(db.session.scalar(refunded) or 0), int(db.session.scalar(back) or 0)
    if told != booked_back:
        yield f"Payments say {told} cents went back, the ledger {booked_back}."


def _inbox() -> Iterator[str]:
    stuck = select(GatewayEvent.id, GatewayEvent.type).where(
        (GatewayEvent.state == "dead") | ((GatewayEvent.state == "pending") & (GatewayEvent.created_at < now() - STUCK))
    )
    for event, kind in db.session.execute(stuck):
        yield f"The event {event} ({kind}) of the payment gateway waits for more than 15 minutes, or was given up."
