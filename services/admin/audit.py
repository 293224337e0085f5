"""The record of what admins did: written with the act, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from models.accounts import User
from models.admin import AuditEntry
from models.base import add, db, transaction
from services.errors import Forbidden, Invalid, NotFound

SHORTEST, LONGEST = 3, 180  # with its preamble a reason fits into a line of the ledger


@dataclass(frozen=True)
class Why:
    """Why an act is done, and which request asked for it."""

    reason: str
    request_id: str | None = None
    address: str | None = None


def audit(
    actor: User, act: str, why: Why, *, target: str, before: dict[str, Any], after: dict[str, Any], user_id: int | None = None
) -> AuditEntry:  # fmt: skip
    """Keep an act; called in the transaction of what it changes. Raises Invalid without a reason."""
    with transaction():
        return add(
            AuditEntry(
                actor_id=actor.id, act=act, user_id=user_id, target=target[:120], reason=checked(why), before=before,
                after=after, request_id=(why.request_id or "")[:64] or None, address=(why.address or "")[:64] or None,
            )
        )  # fmt: skip


def checked(why: Why) -> str:
    """The reason. Raises Invalid when there is none."""
    reason = " ".join(why.reason.split())
    if not SHORTEST <= len(reason) <= LONGEST:
        raise Invalid.of(reason=f"Say why, in {SHORTEST} to {LONGEST} characters. It is kept with what you do.")
    return reason


def entries(
    actor: User, limit: int, before: int | None = None, user_id: int | None = None
) -> tuple[list[dict[str, Any]], int | None]:
    """A page of the record, the newest first, and what to ask for next; with `user_id` what was done to one member."""
    require_admin(actor)
    query = (
        select(AuditEntry, User.username)
        .join(User, User.id == AuditEntry.actor_id)
        .order_by(AuditEntry.id.desc())
        .limit(limit + 1)
    )
    if user_id is not None:
        query = query.where(AuditEntry.user_id == user_id)
    if before is not None:
        query = query.where(AuditEntry.id < before)
    rows = db.session.execute(query).all()
    return [_line(*row) for row in rows[:limit]], rows[limit - 1][0].id if len(rows) > limit else None


def require_admin(actor: User) -> None:
    """Raise NotFound for members: these rooms do not exist for them."""
    if not actor.is_admin:
        raise NotFound("There is nothing at this address.")


def require_superadmin(actor: User) -> None:
    """Raise NotFound for members, Forbidden for admins."""
    require_admin(actor)
    if actor.role != "superadmin":
        raise Forbidden("Only superadmins change plans, prices and roles. Ask one of them.", code="superadmins_only")


def _line(entry: AuditEntry, username: str) -> dict[str, Any]:
    return {
        "id": entry.id, "at": entry.created_at, "actor": username, "act": entry.act, "user_id": entry.user_id,
        "target": entry.target, "reason": entry.reason, "before": entry.before, "after": entry.after,
        "request_id": entry.request_id, "address": entry.address,
    }  # fmt: skip
