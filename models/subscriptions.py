"""One user on one plan, the periods its credits come in, and every change of plan there was."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Created, Instant, Model
from models.plans import Plan

SOURCES = ("free", "gateway", "given")


class Subscription(Created, Model):
    """At most one is live for a user (`ended_at` empty). The anchor never changes within a series.

    `status` is the gateway's own word. `next_period` is the period that opens at `next_reset_at`; that instant is empty
    while no period may open (unpaid, ended). `term_ends_at` is the end of what is paid for (month or year), `lease_until`
    the claim of whoever renews just now, `version` rises with every change that came from the gateway.
    """

    __tablename__ = "subscriptions"
    __table_args__ = (
        Index(
            "uq_subscriptions_live", "user_id", unique=True,
            sqlite_where=text("ended_at IS NULL"), postgresql_where=text("ended_at IS NULL"),
        ),
        Index("ix_subscriptions_due", "next_reset_at", "id"),
        *(
            Index(
                f"ix_subscriptions_live_{column}", column, "user_id",
                sqlite_where=text("ended_at IS NULL"), postgresql_where=text("ended_at IS NULL"),
            )
            for column in ("plan_id", "status", "source")
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    interval: Mapped[str] = mapped_column(String(5), default="month")
    pending_plan_id: Mapped[int | None] = mapped_column(ForeignKey("plans.id"))
    pending_interval: Mapped[str | None] = mapped_column(String(5))
    source: Mapped[str] = mapped_column(String(8), default="free")
    status: Mapped[str] = mapped_column(String(20), default="active")
    anchor_at: Mapped[datetime] = mapped_column(Instant)
    next_period: Mapped[int] = mapped_column(default=0)
    next_reset_at: Mapped[datetime | None] = mapped_column(Instant)
    lease_until: Mapped[datetime | None] = mapped_column(Instant)
    term_ends_at: Mapped[datetime | None] = mapped_column(Instant)
    cancel_at_period_end: Mapped[bool] = mapped_column(default=False)
    grace_until: Mapped[datetime | None] = mapped_column(Instant)
    gateway_id: Mapped[str | None] = mapped_column(String(80), unique=True)
    version: Mapped[int] = mapped_column(default=0)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)

    plan: Mapped[Plan] = relationship(foreign_keys=[plan_id], lazy="joined")
    pending_plan: Mapped[Plan | None] = relationship(foreign_keys=[pending_plan_id], lazy="joined")

    def is_entitled(self, at: datetime) -> bool:
        """Whether monthly credits may be spent at `at` (research: billing G1)."""
        if self.status == "past_due":
            return self.grace_until is not None and at < self.grace_until
        return self.status in ("active", "trialing")


class CreditPeriod(Created, Model):
    """Period k of a subscription, opened once: the unit of a renewal."""

    __tablename__ = "credit_periods"
    __table_args__ = (UniqueConstraint("subscription_id", "k"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id"))
    k: Mapped[int]
    starts_at: Mapped[datetime] = mapped_column(Instant)
    ends_at: Mapped[datetime] = mapped_column(Instant)
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    allotment: Mapped[int]
    opened_by: Mapped[str] = mapped_column(String(12))  # signup, member, clock, sweep, admin, gateway


class PlanChange(Created, Model):
    """One step of a user from plan to plan. The recurring revenue of any day is the sum of all steps until then."""

    __tablename__ = "plan_changes"
    __table_args__ = (Index("ix_plan_changes_user_id_id", "user_id", "id"), Index("ix_plan_changes_at", "at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id"))
    at: Mapped[datetime] = mapped_column(Instant)
    from_plan_id: Mapped[int | None] = mapped_column(ForeignKey("plans.id"))
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"))
    source: Mapped[str] = mapped_column(String(8))
    mrr_before: Mapped[int]  # cents a month
    mrr_after: Mapped[int]
