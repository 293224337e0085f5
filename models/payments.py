"""Money: what somebody wanted to buy, what was paid for it, and what the gateway told us."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Created, Instant, Model
from models.plans import Pack, Plan


class Checkout(Created, Model):
    """The intent to buy a plan or a pack, stored before the gateway is asked. `id` is its idempotency key there.

    `from_plan_id` and `subscription_id` are what its amount was reckoned from; `credits` and `amount_cents` are what was
    offered, whatever the price list says later. States: open, paid, declined, expired.
    """

    __tablename__ = "checkouts"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    kind: Mapped[str] = mapped_column(String(4))  # plan, pack
    plan_id: Mapped[int | None] = mapped_column(ForeignKey("plans.id"))
    interval: Mapped[str | None] = mapped_column(String(5))
    pack_id: Mapped[int | None] = mapped_column(ForeignKey("packs.id"))
    credits: Mapped[int]
    amount_cents: Mapped[int]
    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id"))
    from_plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    by_card: Mapped[bool] = mapped_column(default=False, server_default=false())  # on file; otherwise on a hosted page
    state: Mapped[str] = mapped_column(String(10), default="open")
    session_id: Mapped[str | None] = mapped_column(String(120), unique=True)
    url: Mapped[str | None] = mapped_column(String(2000))
    settled_at: Mapped[datetime | None] = mapped_column(Instant)

    plan: Mapped[Plan | None] = relationship(foreign_keys=[plan_id], lazy="joined")
    pack: Mapped[Pack | None] = relationship(foreign_keys=[pack_id], lazy="joined")


class Payment(Created, Model):
    """Money that moved, or should have: one invoice of a subscription, or the payment of one pack."""

    __tablename__ = "payments"
    __table_args__ = (
        CheckConstraint("refunded_cents >= 0 AND refunded_cents <= amount_cents", name="refunded"),
        Index("ix_payments_user_id_id", "user_id", "id"),
        Index("ix_payments_paid_at", "paid_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    gateway_id: Mapped[str] = mapped_column(String(80), unique=True)  # in_... or pi_...
    intent_id: Mapped[str | None] = mapped_column(String(80), index=True)
    charge_id: Mapped[str | None] = mapped_column(String(80), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[str] = mapped_column(String(4))  # plan, pack
    checkout_id: Mapped[str | None] = mapped_column(ForeignKey("checkouts.id"))
    subscription_id: Mapped[int | None] = mapped_column(ForeignKey("subscriptions.id"))
    what: Mapped[str] = mapped_column(String(120))
    number: Mapped[str | None] = mapped_column(String(40))
    url: Mapped[str | None] = mapped_column(String(2000))
    status: Mapped[str] = mapped_column(String(20))  # open, paid, void, uncollectible, failed
    amount_cents: Mapped[int]
    refunded_cents: Mapped[int] = mapped_column(default=0)
    lost_cents: Mapped[int] = mapped_column(default=0)  # in a dispute
    dispute_id: Mapped[str | None] = mapped_column(String(80))
    dispute_status: Mapped[str | None] = mapped_column(String(30))
    paid_at: Mapped[datetime | None] = mapped_column(Instant)
    version: Mapped[int] = mapped_column(default=0, server_default="0")  # raised with every look that is written

    @property
    def gone_cents(self) -> int:
        """What went back of it: refunds and a lost dispute, together never more than was paid."""
        return min(self.amount_cents, self.refunded_cents + self.lost_cents)


class GatewayEvent(Created, Model):
    """The inbox: what the gateway said, once, kept as it came. `handled_at` is set together with the effect."""

    __tablename__ = "gateway_events"
    __table_args__ = (Index("ix_gateway_events_due", "state", "next_try_at"),)

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    type: Mapped[str] = mapped_column(String(80))
    object_id: Mapped[str | None] = mapped_column(String(120))
    happened_at: Mapped[datetime] = mapped_column(Instant)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(8), default="pending")  # pending, handled, ignored, dead
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(String(1000))
    handled_at: Mapped[datetime | None] = mapped_column(Instant)
