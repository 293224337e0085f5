"""Every member: finding one among many, looking at one, and what an admin may do to one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import func, select, update

from models.accounts import ROLES, User
from models.base import changed, db, end_read, now, transaction
from models.credits import LedgerOperation, Wallet
from models.payments import Payment
from models.plans import Plan
from models.subscriptions import Subscription
from models.usage import UsageDay
from services import credits, payments, subscriptions, usage
from services.admin.audit import Why, audit, checked, require_admin, require_superadmin
from services.errors import Conflict, Forbidden, Invalid, NotFound

LARGE = 10_000  # a change of credits beyond this asks for a typed confirmation
MOST = 100_000_000
USE_DAYS = 30
AT_ONCE = 1000
NONCE = re.compile(r"[A-Za-z0-9_-]{8,80}")


@dataclass(frozen=True)
class Filter:
    """Which members: those whose username or address begins so, on a plan (by name), in a status, from a source."""

    search: str = ""
    plan: str = ""
    status: str = ""
    source: str = ""
    suspended: bool = False


def page(actor: User, chosen: Filter, limit: int, before: int | None = None) -> tuple[list[dict[str, Any]], int | None]:
    """A page of members, the newest first, and what to ask for next."""
    require_admin(actor)
    rows = db.session.execute(_query(chosen, before).limit(limit + 1)).mappings().all()
    used = _used([row["id"] for row in rows[:limit]])
    lines = [{**row, "used": used.get(row["id"], 0)} for row in rows[:limit]]
    return lines, lines[-1]["id"] if len(rows) > limit else None


def everybody(actor: User, chosen: Filter) -> Iterator[dict[str, Any]]:
    """Every member of a choice, read some at a time; the connection is given back in between."""
    before: int | None = None
    while True:
        lines, before = page(actor, chosen, AT_ONCE, before)
        end_read()
        yield from lines
        if before is None:
            return


def member_for(actor: User, user_id: int) -> User:
    """One member, for an admin. Raises NotFound."""
    require_admin(actor)
    found = db.session.get(User, user_id)
    if found is None:
        raise NotFound("There is no such member.")
    return found


def names(user_ids: Sequence[int]) -> dict[int, str]:
    """Usernames by id."""
    rows = db.session.execute(select(User.id, User.username).where(User.id.in_(user_ids)))
    return {row.id: row.username for row in rows}


def look_at(actor: User, user_id: int) -> dict[str, Any]:
    """One member with plan, credits, lots, use and payments; what is due of the plan is opened first."""
    user = member_for(actor, user_id)
    subscription = subscriptions.live(user.id)
    wallet = credits.wallet_of(user.id)
    return {
        "user": user, "subscription": subscription, "term_ends_at": subscriptions.term_end(subscription),
        "available": credits.spendable(user.id), "held": credits.held(user.id), "debt": -wallet.debt,
        "lots": credits.lots_of(user.id), "usage": usage.stats(user.id, USE_DAYS), "payments": payments.payments_of(user.id),
    }  # fmt: skip


def assign_plan(actor: User, user_id: int, plan_id: int, ends_on: date | None, why: Why) -> Subscription:
    """Put a member on a plan without payment, until the first renewal on or after a day (None: for good).

    A new series begins. Raises Invalid, NotFound, and Conflict while the member pays, or has just this plan.
    """
    user = member_for(actor, user_id)
    ends_at = datetime.combine(ends_on, time(), UTC) if ends_on else None
    if ends_at is not None and ends_at <= now():
        raise Invalid.of(ends_on="Choose a day after today, or none.")
    with transaction():
        credits.lock(user.id)
        present = subscriptions.live(user.id)
        if present.plan_id == plan_id and present.source != "gateway" and present.term_ends_at == ends_at:
            raise Conflict(f"This member is on the plan {present.plan.display_name} already.", code="present_plan")
        before = _shown_plan(present)
        given = payments.assign(user.id, plan_id, ends_at)
        audit(
            actor, "assign_plan", why, user_id=user.id, target=user.username, before=before, after=_shown_plan(given)
        )  # fmt: skip
        return given


def end_plan(actor: User, user_id: int, why: Why) -> Subscription:
    """End a member's plan at once, at the gateway too, and go on with Free. Raises Conflict on Free.

    The gateway is asked between two lines of the record: that it was asked, and what became of it.
    """
    user = member_for(actor, user_id)
    present = subscriptions.live(user.id)
    if present.source == "free":
        raise Conflict("This member is on the free plan; there is nothing to end.", code="nothing_to_end")
    before = _shown_plan(present)
    audit(actor, "end_plan_asked", why, user_id=user.id, target=user.username, before=before, after={})
    payments.end_plan_now(user.id)
    with transaction():
        ended = subscriptions.live(user.id)
        audit(actor, "end_plan", why, user_id=user.id, target=user.username, before=before, after=_shown_plan(ended))
    return ended


def change_credits(
    actor: User, user_id: int, how: str, amount: int, nonce: str, why: Why, confirmed: str = ""
) -> LedgerOperation:  # fmt: skip
    """Add credits (a negative amount takes some), or set what can be spent to an amount; once for each `nonce`.

    Raises Invalid: nothing to change, more to take than there is, or a large change that was not confirmed by typing the
    member's username.
    """
    user, key = member_for(actor, user_id), f"admin:{nonce}"
    if not NONCE.fullmatch(nonce):
        raise Invalid.of(nonce="Send a nonce of 8 to 80 letters and digits, a new one for each change.")
    if how not in ("add", "set") or not -MOST <= amount <= MOST or (how == "set" and amount < 0):
        raise Invalid.of(amount=f"Give a whole number up to {MOST:,}; only credits to add may be negative.")
    subscriptions.live(user.id)
    with transaction():
        wallet = credits.lock(user.id)
        if done := db.session.scalar(select(LedgerOperation).where(LedgerOperation.key == key)):
            return _same(done, user, how, amount)
        change = _change(user, wallet, how, amount)
        if abs(change) > LARGE and confirmed.strip() != user.username:
            raise Invalid.of(confirm=f"This changes {abs(change):,} credits. Type {user.username} to confirm it.")
        before = _shown_credits(user)
        operation = credits.adjust(user.id, change, key=key, reason=f"By an admin: {checked(why)}")
        after = {**_shown_credits(user), "operation": operation.id}
        audit(actor, "change_credits", why, user_id=user.id, target=user.username, before=before, after=after)
        return operation


def refund(actor: User, user_id: int, payment_id: int, nonce: str, why: Why) -> Payment:
    """Give back the money for the part of a pack that is not spent; those credits go. Raises NotFound, Conflict."""
    user, payment = member_for(actor, user_id), db.session.get(Payment, payment_id)
    if payment is None or payment.user_id != user.id:
        raise NotFound("This member has no such payment.")
    if not NONCE.fullmatch(nonce):
        raise Invalid.of(nonce="Send a nonce of 8 to 80 letters and digits, a new one for each refund.")
    before, target = _shown_payment(payment), f"{user.username}: {payment.what}"
    audit(actor, "refund_asked", why, user_id=user.id, target=target, before=before, after={})
    done = payments.refund_pack(payment.id, f"admin:{nonce}")
    audit(actor, "refund", why, user_id=user.id, target=target, before=before, after=_shown_payment(done))
    return done


def set_suspended(actor: User, user_id: int, wanted: bool, why: Why) -> User:
    """Keep a member out, or let them in again. Raises Conflict for oneself, Forbidden for other admins."""
    user = member_for(actor, user_id)
    if user.id == actor.id:
        raise Conflict("You cannot suspend yourself.", code="yourself")
    if user.is_admin and actor.role != "superadmin":
        raise Forbidden("Only superadmins suspend admins.", code="superadmins_only")
    with transaction():
        was = User.suspended_at.is_(None) if wanted else User.suspended_at.is_not(None)
        step = update(User).where(User.id == user_id, was).values(suspended_at=now() if wanted else None)
        if not changed(step):
            state = "suspended already" if wanted else "not suspended"
            raise Conflict(f"{user.username} is {state}.", code="nothing_to_change")
        act = "suspend" if wanted else "unsuspend"
        audit(
            actor, act, why, user_id=user_id, target=user.username, before={"suspended": not wanted},
            after={"suspended": wanted},
        )  # fmt: skip
    return member_for(actor, user_id)


def set_role(actor: User, user_id: int, role: str, why: Why) -> User:
    """Make somebody a member, an admin or a superadmin; never oneself, so that a superadmin is always left."""
    require_superadmin(actor)
    user = member_for(actor, user_id)
    if role not in ROLES:
        raise Invalid.of(role=f"Choose one of {', '.join(ROLES)}.")
    if user.id == actor.id:
        raise Conflict("Nobody changes their own role. Ask another superadmin.", code="yourself")
    with transaction():
        before = user.role
        step = update(User).where(User.id == user_id, User.role == before, User.role != role)
        if not changed(step.values(role=role)):
            raise Conflict(f"{user.username} is {role} already.", code="nothing_to_change")
        audit(
            actor, "set_role", why, user_id=user_id, target=user.username, before={"role": before}, after={"role": role}
        )  # fmt: skip
    return member_for(actor, user_id)


def _query(chosen: Filter, before: int | None) -> Any:
    """Members in the order of their ids; where the subscription decides, its indexes drive."""
    by_subscription = bool(chosen.plan or chosen.status or chosen.source)
    number: Any = Subscription.user_id if by_subscription else User.id
    live = (Subscription.user_id == User.id) & Subscription.ended_at.is_(None)
    query = select(
        User.id, User.username, User.email, User.role, User.suspended_at, User.created_at,
        Plan.name.label("plan"), Plan.display_name.label("plan_name"), Plan.version.label("plan_version"),
        Subscription.source, Subscription.status, Subscription.interval, Subscription.next_reset_at,
        Subscription.cancel_at_period_end, Wallet.available, Wallet.held,
    )  # fmt: skip
    if by_subscription:
        query = query.select_from(Subscription).join(User, live)
    else:
        query = query.select_from(User).outerjoin(Subscription, live)
    query = query.outerjoin(Plan, Plan.id == Subscription.plan_id).outerjoin(Wallet, Wallet.user_id == User.id)
    query = query.where(*_conditions(chosen)).order_by(number.desc())
    return query.where(number < before) if before is not None else query


def _conditions(chosen: Filter) -> Iterator[Any]:
    if chosen.search:
        begin = chosen.search.strip().lower()
        named, addressed = func.lower(User.username), User.email
        yield named.startswith(begin, autoescape=True) | addressed.startswith(begin, autoescape=True)
    if chosen.plan:
        versions = db.session.scalars(select(Plan.id).where(Plan.name == chosen.plan)).all()
        yield Subscription.plan_id == versions[0] if len(versions) == 1 else Subscription.plan_id.in_(versions)
    if chosen.status:
        yield Subscription.status == chosen.status
    if chosen.source:
        yield Subscription.source == chosen.source
    if chosen.suspended:
        yield User.suspended_at.is_not(None)


def _used(user_ids: Sequence[int]) -> dict[int, int]:
    first = now().date() - timedelta(days=USE_DAYS - 1)
    query = select(UsageDay.user_id, func.sum(UsageDay.credits)).where(
        UsageDay.user_id.in_(user_ids), UsageDay.day >= first
    )  # fmt: skip
    return {row[0]: int(row[1]) for row in db.session.execute(query.group_by(UsageDay.user_id))}


def _change(user: User, wallet: Wallet, how: str, amount: int) -> int:
    if how == "add":
        if amount == 0:
            raise Invalid.of(amount="Nothing would change. Give how many credits to add, or to take with a minus.")
        return amount
    if wallet.debt < 0:
        raise Invalid.of(
            amount=f"This member owes {-wallet.debt:,} credits. Add credits instead; the debt is paid from them first."
        )
    change = amount - credits.spendable(user.id)
    if change == 0:
        raise Invalid.of(amount=f"This member can spend {amount:,} credits already.")
    return change


def _same(done: LedgerOperation, user: User, how: str, amount: int) -> LedgerOperation:
    """A form that was sent twice: the first answer again, unless it asked for something else."""
    result = done.change if how == "add" else done.available_after
    if done.user_id != user.id or result != amount:
        raise Conflict("This form was sent already, with other values. Open it again.", code="nonce_used")
    return done


def _shown_plan(subscription: Subscription) -> dict[str, Any]:
    ends = subscription.term_ends_at
    return {
        "subscription": subscription.id, "plan": subscription.plan.name, "version": subscription.plan.version,
        "source": subscription.source, "status": subscription.status, "ends_at": ends.isoformat() if ends else None,
    }  # fmt: skip


def _shown_credits(user: User) -> dict[str, Any]:
    wallet = credits.wallet_of(user.id)
    return {"available": wallet.available, "held": wallet.held, "debt": -wallet.debt}


def _shown_payment(payment: Payment) -> dict[str, Any]:
    return {
        "payment": payment.id, "amount_cents": payment.amount_cents, "refunded_cents": payment.refunded_cents,
        "status": payment.status,
    }  # fmt: skip
