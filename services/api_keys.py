"""API keys: making, listing, revoking, and finding whose key was sent."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import bindparam, select, update

from models.accounts import User
from models.api_keys import SCOPES, ApiKey
from models.base import add, after_commit, changed, db, now, transaction
from services import secrets
from services.errors import Conflict, Invalid, NotFound
from services.gateways import gateways

MOST_KEYS = 100
USED_EVERY = timedelta(seconds=60)  # how often "last used" is written
_BY_DIGEST = select(ApiKey).where(ApiKey.digest == bindparam("digest"))


def create(actor: User, name: str, scope: str = "full") -> tuple[ApiKey, str]:
    """Make a key; the second part is the key itself, which exists nowhere else. Raises Invalid or Conflict."""
    if scope not in SCOPES:
        raise Invalid.of(scope="The scope is `full` or `agent`.")
    if not name.strip() or len(name) > 80:
        raise Invalid.of(name="Give the key a name of 1 to 80 characters.")
    if len(list_for(actor)) >= MOST_KEYS:
        raise Conflict(f"You have {MOST_KEYS} keys. Revoke one that is not used any more.")
    key = secrets.new_key()
    with transaction():
        row = add(ApiKey(user_id=actor.id, name=name.strip(), scope=scope, prefix=key[:10], digest=secrets.digest(key)))
    return row, key


def list_for(actor: User) -> list[ApiKey]:
    """The keys of a member that still open something, newest first."""
    query = select(ApiKey).where(ApiKey.user_id == actor.id, ApiKey.revoked_at.is_(None)).order_by(ApiKey.id.desc())
    return list(db.session.scalars(query))


def get_for(actor: User, key_id: int) -> ApiKey:
    """One key of this member. Raises NotFound."""
    row = db.session.get(ApiKey, key_id)
    if row is None or row.user_id != actor.id or row.revoked_at is not None:
        raise NotFound("You have no such key.")
    return row


def revoke(actor: User, key_id: int) -> None:
    """End a key for good; the sockets opened with it are closed within seconds."""
    with transaction():
        row = get_for(actor, key_id)
        changed(update(ApiKey).where(ApiKey.id == row.id, ApiKey.revoked_at.is_(None)).values(revoked_at=now()))
        after_commit(gateways().hints.publish, f"key:{key_id}")


def identify(given: str) -> ApiKey | None:
    """The live key that was sent, with its owner; None for anything else."""
    if not secrets.looks_like_key(given):
        return None
    row = db.session.scalar(_BY_DIGEST, {"digest": secrets.digest(given)})
    if row is None or row.revoked_at is not None or row.user.suspended_at is not None:
        return None
    if row.last_used_at is None or now() - row.last_used_at > USED_EVERY:
        with transaction():
            row.last_used_at = now()
    return row


def revoke_exposed(given: str) -> bool:
    """End a key that was sent where others can read it, whoever sent it. Answers whether this can be a key at all."""
    if not secrets.looks_like_key(given):
        return False
    living = (ApiKey.digest == secrets.digest(given), ApiKey.revoked_at.is_(None))
    key_id = db.session.scalar(select(ApiKey.id).where(*living))
    if key_id is not None:
        with transaction():
            changed(update(ApiKey).where(*living).values(revoked_at=now()))
            after_commit(gateways().hints.publish, f"key:{key_id}")
    return True


def living(key_ids: Iterable[int]) -> set[int]:
    """Which of these keys, that opened sockets, still do."""
    query = select(ApiKey.id).join(User, User.id == ApiKey.user_id)
    alive = (ApiKey.id.in_(set(key_ids)), ApiKey.revoked_at.is_(None), User.suspended_at.is_(None))
    return set(db.session.scalars(query.where(*alive)))
