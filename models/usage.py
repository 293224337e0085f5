"""What credits were spent on, for analysis: one row for each charge, and the same in sums for each day."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import Date, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model


class UsageRecord(Created, Model):
    """One charge, or the giving back of charges (negative). Written together with its ledger operation."""

    __tablename__ = "usage_records"
    __table_args__ = (Index("ix_usage_records_at", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    operation_id: Mapped[int] = mapped_column(ForeignKey("ledger_operations.id"), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    job_id: Mapped[int | None]
    at: Mapped[datetime] = mapped_column(Instant)
    action: Mapped[str] = mapped_column(String(60))
    recipe: Mapped[str | None] = mapped_column(String(40))
    base_model: Mapped[str | None] = mapped_column(String(200))
    quantity: Mapped[int]
    credits: Mapped[int]


class UsageDay(Model):
    """The sum of one user's usage of one kind on one day, in UTC. Kept up to date with every record."""

    __tablename__ = "usage_days"
    __table_args__ = (Index("ix_usage_days_day", "day"),)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    action: Mapped[str] = mapped_column(String(60), primary_key=True)
    recipe: Mapped[str] = mapped_column(String(40), primary_key=True)
    base_model: Mapped[str] = mapped_column(String(200), primary_key=True)
    quantity: Mapped[int]
    credits: Mapped[int]
