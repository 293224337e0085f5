"""The books of the simulated payment company: its objects, what happened to them, the requests it has answered.

They stand in for Stripe's own database. No other table points here and none of these points out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model


class SimulatedObject(Model):
    """One customer, price, invoice and so on, as Stripe would answer it. `sequence` orders lists, newest last."""

    __tablename__ = "simulated_objects"
    __table_args__ = (Index(None, "kind", "sequence"),)

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, unique=True)
    kind: Mapped[str] = mapped_column(String(40))
    customer: Mapped[str | None] = mapped_column(String(255), index=True)
    parent: Mapped[str | None] = mapped_column(String(255), index=True)  # such as the charge of a refund
    created_at: Mapped[datetime] = mapped_column(Instant)
    due_at: Mapped[datetime | None] = mapped_column(Instant, index=True)  # when time alone changes it
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class SimulatedEvent(Model):
    """One thing that happened, and whether the webhook took it."""

    __tablename__ = "simulated_events"
    __table_args__ = (
        Index(
            "ix_simulated_events_undelivered", "sequence",
            sqlite_where=text("delivered_at IS NULL"), postgresql_where=text("delivered_at IS NULL"),
        ),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, unique=True)
    type: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)
    delivered_at: Mapped[datetime | None] = mapped_column(Instant)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class SimulatedRequest(Created, Model):
    """The stored answer to a request that named an Idempotency-Key."""

    __tablename__ = "simulated_requests"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    body: Mapped[str] = mapped_column(Text)
