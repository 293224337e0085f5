"""One user on one plan, with the date its periods are counted from."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Created, Instant, Model
from models.plans import Plan


class Subscription(Created, Model):
    """At most one is live for a user (`ended_at` empty). The anchor never changes within a series."""

    __tablename__ = "subscriptions"
    __table_args__ = (
        Index(
            "uq_subscriptions_live", "user_id", unique=True,
            sqlite_where=text("ended_at IS NULL"), postgresql_where=text("ended_at IS NULL"),
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    pending_plan_id: Mapped[int | None] = mapped_column(ForeignKey("plans.id"))
    status: Mapped[str] = mapped_column(String(12), default="active")
    anchor_at: Mapped[datetime] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)

    plan: Mapped[Plan] = relationship(foreign_keys=[plan_id], lazy="joined")
    pending_plan: Mapped[Plan | None] = relationship(foreign_keys=[pending_plan_id], lazy="joined")


class Checkout(Created, Model):
    """The intent to buy a plan, stored before the payment gateway is asked. `id` is its idempotency key there."""

    __tablename__ = "checkouts"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id"))
    from_plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    amount_cents: Mapped[int]
    state: Mapped[str] = mapped_column(String(10), default="open")  # open, paid, declined, expired
    payment_id: Mapped[str | None] = mapped_column(String(80))
    settled_at: Mapped[datetime | None] = mapped_column(Instant)

    plan: Mapped[Plan] = relationship(foreign_keys=[plan_id], lazy="joined")
