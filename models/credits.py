"""The ledger: a grant is an account (a lot), a hold is an account, everything else is a transfer.

Operations and transfers are append-only; the migration guards both with triggers. `balance` on an account and the two
figures on a wallet are caches: `services.reconcile` recomputes every one of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model

MONTHLY, GRANTED, PACK = 10, 20, 50  # burn order: lower priority numbers first
SYSTEM_ACCOUNTS = ("issued", "consumed", "expired")


class Wallet(Model):
    """The one lock row of a user: every operation raises `version` first."""

    __tablename__ = "wallets"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    version: Mapped[int] = mapped_column(default=0)
    available: Mapped[int] = mapped_column(default=0)
    held: Mapped[int] = mapped_column(default=0)


class LedgerAccount(Created, Model):
    """`lot` and `hold` belong to a user and keep a balance; the system's accounts keep none: they are the other side."""

    __tablename__ = "ledger_accounts"
    __table_args__ = (
        CheckConstraint("balance >= 0", name="not_negative"),
        Index("ix_ledger_accounts_user_kind", "user_id", "kind"),
        Index(
            "uq_ledger_accounts_hold", "job_id", "attempt", unique=True,
            sqlite_where=text("kind = 'hold'"), postgresql_where=text("kind = 'hold'"),
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    balance: Mapped[int | None]
    granted: Mapped[int | None]
    priority: Mapped[int | None]
    effective_at: Mapped[datetime | None] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    source: Mapped[str | None] = mapped_column(String(80))
    job_id: Mapped[int | None]
    attempt: Mapped[int | None]
    closed_at: Mapped[datetime | None] = mapped_column(Instant)


class LedgerOperation(Created, Model):
    """One thing that happened to one wallet, once: `key` is unique and a refusal is kept like a success."""

    __tablename__ = "ledger_operations"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(120), unique=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(12))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    job_id: Mapped[int | None] = mapped_column(index=True)
    attempt: Mapped[int | None]
    reason: Mapped[str] = mapped_column(String(200))
    outcome: Mapped[str] = mapped_column(String(8))  # done, refused
    amount: Mapped[int]
    available_after: Mapped[int]
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
