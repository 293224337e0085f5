"""The ledger: a grant is an account (a lot), a hold is an account, everything else is a transfer.

Operations and transfers are append-only; the migrations guard both with triggers. `balance` on an account and the
figures on a wallet are caches: `services.reconcile` recomputes every one of them. Credits and US cents are two units
that never mix: a sale is one operation in cents and one in credits.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model

MONTHLY, GRANTED, PACK = 10, 20, 50  # burn order: lower priority numbers first
SYSTEM_ACCOUNTS = {
    "issued": "credit", "consumed": "credit", "expired": "credit", "revoked": "credit", "gateway": "cent", "platform": "cent",
}  # fmt: skip


class Wallet(Model):
    """The one lock row of a user: every operation raises `version` first.

    Monthly lots can be spent until `monthly_until` (empty: no limit), which is how a plan that is not paid for gates them.
    `low_at` is a fifth of what the member had when the period opened; `low_since` is set while the balance is at or below
    it. `balance` is what all open lots hold, frozen and gated ones too, less the debt. `head` is the hash of the newest
    operation.
    """

    __tablename__ = "wallets"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    version: Mapped[int] = mapped_column(default=0)
    available: Mapped[int] = mapped_column(default=0)
    held: Mapped[int] = mapped_column(default=0)
    balance: Mapped[int] = mapped_column(default=0)
    debt: Mapped[int] = mapped_column(default=0)
    monthly_until: Mapped[datetime | None] = mapped_column(Instant)
    low_at: Mapped[int] = mapped_column(default=0)
    low_since: Mapped[datetime | None] = mapped_column(Instant)
    head: Mapped[str] = mapped_column(String(64), default="")


class LedgerAccount(Created, Model):
    """`lot`, `hold` and `debt` belong to a user and keep a balance; the system's accounts keep none: they are the other
    side. A frozen lot keeps its credits and none of them can be spent. A debt is never above 0.
    """

    __tablename__ = "ledger_accounts"
    __table_args__ = (
        CheckConstraint("(kind = 'debt' AND balance <= 0) OR (kind <> 'debt' AND balance >= 0)", name="sign"),
        Index("ix_ledger_accounts_user_kind", "user_id", "kind"),
        Index(
            "uq_ledger_accounts_hold", "job_id", "attempt", unique=True,
            sqlite_where=text("kind = 'hold'"), postgresql_where=text("kind = 'hold'"),
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    unit: Mapped[str] = mapped_column(String(6), default="credit")
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    balance: Mapped[int | None]
    granted: Mapped[int | None]
    priority: Mapped[int | None]
    effective_at: Mapped[datetime | None] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    source: Mapped[str | None] = mapped_column(String(80))
    job_id: Mapped[int | None]
    attempt: Mapped[int | None]
    frozen_at: Mapped[datetime | None] = mapped_column(Instant)
    closed_at: Mapped[datetime | None] = mapped_column(Instant)


class LedgerOperation(Created, Model):
    """One thing that happened to one wallet, once: `key` is unique and a refusal is kept like a success.

    `change` is what it did to the sum of the member's lots less their debt; holds are outside of it, so all changes of a
    member add up to `balance_after`. `hash` covers the operation, its transfers and the hash before it.
    """

    __tablename__ = "ledger_operations"
    __table_args__ = (
        Index("ix_ledger_operations_user_id_event_at", "user_id", "event_at"),
        Index("ix_ledger_operations_user_id_id", "user_id", "id"),
        Index(
            "ix_ledger_operations_job_id", "job_id",
            sqlite_where=text("job_id IS NOT NULL"), postgresql_where=text("job_id IS NOT NULL"),
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(120), unique=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(12))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    job_id: Mapped[int | None]
    attempt: Mapped[int | None]
    reason: Mapped[str] = mapped_column(String(200))
    outcome: Mapped[str] = mapped_column(String(8))  # done, refused
    amount: Mapped[int]
    change: Mapped[int] = mapped_column(default=0)
    balance_after: Mapped[int] = mapped_column(default=0)
    available_after: Mapped[int]
    hash: Mapped[str] = mapped_column(String(64), default="")
    event_at: Mapped[datetime] = mapped_column(Instant)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)

    @property
    def refused(self) -> bool:
        return self.outcome == "refused"


class LedgerTransfer(Model):
    """Whole credits from one account to another."""

    __tablename__ = "ledger_transfers"
    __table_args__ = (
        UniqueConstraint("operation_id", "seq"),
        CheckConstraint("amount > 0", name="positive"),
        CheckConstraint("from_id <> to_id", name="two_accounts"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    operation_id: Mapped[int] = mapped_column(ForeignKey("ledger_operations.id"))
    seq: Mapped[int]
    from_id: Mapped[int] = mapped_column(ForeignKey("ledger_accounts.id"), index=True)
    to_id: Mapped[int] = mapped_column(ForeignKey("ledger_accounts.id"), index=True)
    amount: Mapped[int]
