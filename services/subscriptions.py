"""Which plan a member is on, what it allows, and changing it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update

from models.accounts import User
from models.base import add, changed, db, now, transaction
from models.credits import MONTHLY
from models.model_versions import TrainedModel
from models.plans import Plan
from models.subscriptions import Checkout, Subscription
from models.training_jobs import OPEN_STATES, TrainingJob
from services import calendar, credits, price_list
from services.errors import Conflict, NotFound, PaymentNeeded
from services.gateways import gateways

CHECKOUT_LASTS = timedelta(hours=1)


@dataclass(frozen=True)
class Change:
    """What asking for another plan led to: done, waiting at a checkout page, or put off to a date."""

    subscription: Subscription
    checkout: Checkout | None = None
    scheduled_for: datetime | None = None


def begin_free(user: User) -> Subscription:
    """Put a new member on the Free plan and grant its first credits."""
    with transaction():
        return _begin(user.id, price_list.free_plan())


def current(actor: User) -> Subscription:
    """The live subscription; everybody has one."""
    return db.session.scalars(
        select(Subscription).where(Subscription.user_id == actor.id, Subscription.ended_at.is_(None))
    ).one()


def period(subscription: Subscription, at: datetime) -> tuple[datetime, datetime]:
    """The bounds of the period that holds `at`."""
    k = calendar.index_at(subscription.anchor_at, at)
    return calendar.start(subscription.anchor_at, k), calendar.start(subscription.anchor_at, k + 1)


def limit(actor: User, name: str) -> Any:
    """What a member's plan allows of one thing of `price_list.LIMITS`."""
    return current(actor).plan.limits[name]


def limits_with_use(actor: User) -> list[dict[str, Any]]:
    """Each limit of the plan that can be used up, with what is used."""
    limits = current(actor).plan.limits
    models = select(func.count(TrainedModel.id)).where(
        TrainedModel.user_id == actor.id, TrainedModel.deleted_at.is_(None)
    )
    jobs = select(func.count(TrainingJob.id)).where(
        TrainingJob.user_id == actor.id, TrainingJob.agent_id.is_(None), TrainingJob.state.in_(OPEN_STATES),
        TrainingJob.state != "paused",
    )  # fmt: skip
    used = {"models": db.session.scalar(models), "server_jobs": db.session.scalar(jobs), "upload_bytes": None}
    return [
        {"name": name, "label": price_list.LIMITS[name], "used": used[name], "limit": limits[name],
         "unit": "bytes" if name == "upload_bytes" else ""}
        for name in ("upload_bytes", "models", "server_jobs")
    ]  # fmt: skip


def upgrade(actor: User, plan_id: int) -> Change:
    """Move to another plan: a dearer one now and paid, a cheaper one at the period's end.

    Raises NotFound, Conflict for the present or an archived plan, PaymentNeeded when the card is declined.
    """
    with transaction():
        subscription, wanted = current(actor), price_list.plan(plan_id)
        if wanted.archived_at is not None:
            raise Conflict(f"The plan {wanted.display_name} is not offered any more.", code="plan_archived")
        if wanted.id == subscription.plan_id:
            raise Conflict(f"You are on the plan {wanted.display_name} already.", code="present_plan")
        if wanted.rank < subscription.plan.rank:
            subscription.pending_plan_id = wanted.id
            return Change(subscription, scheduled_for=period(subscription, now())[1])
        checkout = _checkout(subscription, wanted)
    if actor.payment_method == "none":
        return Change(subscription, checkout=checkout)
    return Change(pay(actor, checkout.id))


def get_for(actor: User, checkout_id: str) -> Checkout:
    """One checkout of this member. Raises NotFound."""
    checkout = db.session.get(Checkout, checkout_id)
    if checkout is None or checkout.user_id != actor.id:
        raise NotFound("There is no such checkout.")
    return checkout


def pay(actor: User, checkout_id: str, card: str | None = None) -> Subscription:
    """Charge `card`, or the method on file, for a checkout and carry it out. Safe to call again.

    Raises Conflict when the plan was reached by another way meanwhile, PaymentNeeded when the card is declined.
    """
    checkout = get_for(actor, checkout_id)
    if checkout.state == "open":
        if current(actor).plan.rank >= checkout.plan.rank:
            raise Conflict(f"You are on the plan {current(actor).plan.display_name} already.", code="present_plan")
        if _is_stale(checkout, current(actor)):
            raise Conflict(
                "The price may have changed since you asked. Choose the plan again.", code="checkout_expired"
            )
        payment = gateways().payments.charge(card or actor.payment_method, checkout.amount_cents, key=checkout.id)
        _settle(checkout.id, payment.id, payment.status)
        checkout = get_for(actor, checkout_id)
    if checkout.state == "declined":
        raise PaymentNeeded(
            "Your card was declined and nothing was charged. Use another card and try again.", code="card_declined"
        )
    return current(actor)


def _checkout(subscription: Subscription, wanted: Plan) -> Checkout:
    """The open checkout for this change, or a new one: asking twice is paid once."""
    query = select(Checkout).where(
        Checkout.user_id == subscription.user_id, Checkout.plan_id == wanted.id, Checkout.state == "open"
    )  # fmt: skip
    for known in db.session.scalars(query):
        if not _is_stale(known, subscription):
            return known
    return add(
        Checkout(
            id=str(uuid.uuid4()), user_id=subscription.user_id, plan_id=wanted.id, subscription_id=subscription.id,
            from_plan_id=subscription.plan_id, amount_cents=_amount(subscription, wanted),
        )
    )  # fmt: skip


def _is_stale(checkout: Checkout, subscription: Subscription) -> bool:
    """Whether the amount of a checkout is that of another plan, another period, or of more than an hour ago."""
    same_start = (checkout.subscription_id, checkout.from_plan_id) == (subscription.id, subscription.plan_id)
    same_period = period(subscription, checkout.created_at) == period(subscription, now()) if same_start else False
    return not same_period or now() - checkout.created_at > CHECKOUT_LASTS


def _settle(checkout_id: str, payment_id: str, status: str) -> None:
    """Record how the payment ended and, once, what it bought."""
    with transaction():
        if not changed(
            update(Checkout)
            .where(Checkout.id == checkout_id, Checkout.state == "open")
            .values(state=status, payment_id=payment_id, settled_at=now())
        ):
            return
        if status == "paid":
            _carry_out(db.session.get_one(Checkout, checkout_id))


def _carry_out(checkout: Checkout) -> None:
    present = db.session.scalars(
        select(Subscription).where(Subscription.user_id == checkout.user_id, Subscription.ended_at.is_(None))
    ).one()
    if not present.plan.is_paid:
        present.ended_at = now()
        db.session.flush()
        credits.expire_lots(checkout.user_id, priority=MONTHLY, reason=f"{present.plan.display_name} credits ended")
        _begin(checkout.user_id, checkout.plan)
        return
    start, end = period(present, now())
    more = checkout.plan.monthly_credits - present.plan.monthly_credits
    credits.grant(
        checkout.user_id, _share(more, start, end), key=f"upgrade:{checkout.id}", priority=MONTHLY,
        reason=f"{checkout.plan.display_name}: credits for the rest of the period", expires_at=end,
    )  # fmt: skip
    present.plan_id, present.pending_plan_id = checkout.plan_id, None


def _begin(user_id: int, plan: Plan) -> Subscription:
    """Start a series: the anchor is now and the full allotment is granted."""
    subscription = add(Subscription(user_id=user_id, plan_id=plan.id, anchor_at=now()))
    credits.grant(
        user_id, plan.monthly_credits, key=f"period:{subscription.id}:0", priority=MONTHLY,
        reason=f"{plan.display_name}: monthly credits", expires_at=calendar.start(subscription.anchor_at, 1),
    )  # fmt: skip
    return subscription


def _amount(subscription: Subscription, wanted: Plan) -> int:
    """Cents due now: the whole price for a new series, the rest of the period's difference between paid plans."""
    if not subscription.plan.is_paid:
        return wanted.price_cents
    return _share(wanted.price_cents - subscription.plan.price_cents, *period(subscription, now()))


def _share(whole: int, start: datetime, end: datetime) -> int:
    """The part of `whole` that belongs to what is left of the period, rounded down."""
    left, all_of_it = int((end - now()).total_seconds()), int((end - start).total_seconds())
    return whole * left // all_of_it
