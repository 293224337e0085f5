"""The price list: plans with their limits, and what each action costs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model


class Plan(Created, Model):
    """A row of the price list. Archived rows stay for those who have them."""

    __tablename__ = "plans"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    display_name: Mapped[str] = mapped_column(String(80))
    rank: Mapped[int]
    price_cents: Mapped[int]
    monthly_credits: Mapped[int]
    features: Mapped[list[str]] = mapped_column(JSON)
    limits: Mapped[dict[str, Any]] = mapped_column(JSON)
    archived_at: Mapped[datetime | None] = mapped_column(Instant)

    @property
    def is_paid(self) -> bool:
        return self.price_cents > 0


class ActionPrice(Model):
    """Credits for one unit of an action, such as a minute of server training on one class of accelerator."""

    __tablename__ = "action_prices"

    action: Mapped[str] = mapped_column(String(60), primary_key=True)
    credits: Mapped[int]
