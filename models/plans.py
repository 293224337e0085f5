"""The price list: plans with their limits, credit packs, and what each action costs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model

INTERVALS = ("month", "year")


class Plan(Created, Model):
    """One version of a plan. A change of the list makes a new version; the old row stays for those who have it."""

    __tablename__ = "plans"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        Index(
            "uq_plans_offered", "name", unique=True,
            sqlite_where=text("archived_at IS NULL"), postgresql_where=text("archived_at IS NULL"),
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    version: Mapped[int] = mapped_column(default=1)
    display_name: Mapped[str] = mapped_column(String(80))
    rank: Mapped[int]  # its price by the month: what is dearer is more
    price_cents: Mapped[int]
    yearly_cents: Mapped[int | None]
    monthly_credits: Mapped[int]
    features: Mapped[list[str]] = mapped_column(JSON)
    limits: Mapped[dict[str, Any]] = mapped_column(JSON)
    archived_at: Mapped[datetime | None] = mapped_column(Instant)

    @property
    def is_paid(self) -> bool:
        return self.price_cents > 0

    def cents(self, interval: str) -> int | None:
        """What one month or year costs; None when the plan is not sold so."""
        return self.price_cents if interval == "month" else self.yearly_cents

    def monthly_value(self, interval: str) -> int:
        """Cents a month that somebody on this plan brings, a year spread over its months (research: billing P1)."""
        return self.price_cents if interval == "month" else (self.yearly_cents or 0) // 12


class Pack(Created, Model):
    """Credits bought once. `credits` is what the API calls its size."""

    __tablename__ = "packs"
    __table_args__ = (
        Index(
            "uq_packs_offered", "credits", unique=True,
            sqlite_where=text("archived_at IS NULL"), postgresql_where=text("archived_at IS NULL"),
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    credits: Mapped[int]
    price_cents: Mapped[int]
    archived_at: Mapped[datetime | None] = mapped_column(Instant)


class ActionPrice(Model):
    """Credits for one unit of an action, such as a minute of server training on one class of accelerator."""

    __tablename__ = "action_prices"

    action: Mapped[str] = mapped_column(String(60), primary_key=True)
    credits: Mapped[int]


class GatewayPrice(Created, Model):
    """What the payment gateway calls a price of ours. `lookup_key` names the same thing on both sides."""

    __tablename__ = "gateway_prices"

    gateway: Mapped[str] = mapped_column(String(10), primary_key=True)  # stripe, simulated
    lookup_key: Mapped[str] = mapped_column(String(120), primary_key=True)
    price_id: Mapped[str] = mapped_column(String(80), index=True)
    plan_id: Mapped[int | None]
    interval: Mapped[str | None] = mapped_column(String(5))
    pack_id: Mapped[int | None]
