"""One effect for one `Idempotency-Key`: the row is stored in the transaction of the effect, the answer right after."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from models.base import add, before_next_commit, changed, db, now, transaction
from models.idempotency import IdempotentRequest
from services.errors import Conflict, Invalid

LONGEST_KEY = 255
BUSY = "The same request is being carried out right now. Ask again in a moment."
KEPT = timedelta(days=1)
LONGEST_REQUEST = timedelta(minutes=5)


def known(scope: str, key: str, fingerprint: str) -> IdempotentRequest | None:
    """The stored answer to a request that was sent before.

    Raises Conflict when the key served for something else (`key_reused`), when that request is being carried out right now
    (`key_in_use`), or when it was and nobody knows its answer (`answer_lost`): then it is not done a second time.
    """
    if not key.isprintable() or len(key) > LONGEST_KEY:
        raise Invalid(f"An Idempotency-Key is at most {LONGEST_KEY} printable characters.")
    row = db.session.scalar(
        select(IdempotentRequest).where(IdempotentRequest.scope == scope, IdempotentRequest.key == key)
    )
    if row is None:
        before_next_commit(lambda: _remember(scope, key, fingerprint))
        return None
    if row.fingerprint != fingerprint:
        raise Conflict("This Idempotency-Key was used for another request. Choose a new key.", code="key_reused")
    if row.status is None:
        raise _unanswered(row)
    return row


def answered(scope: str, key: str, fingerprint: str, *, status: int, location: str | None, body: str) -> None:
    """Keep the answer, also of a request that changed nothing."""
    values = {"status": status, "location": location, "body": body}
    db.session().info.pop("joining", None)
    try:
        with transaction():
            if not changed(
                update(IdempotentRequest)
                .where(
                    IdempotentRequest.scope == scope, IdempotentRequest.key == key,
                    IdempotentRequest.fingerprint == fingerprint, IdempotentRequest.status.is_(None),
                )
                .values(**values)
            ):  # fmt: skip
                add(IdempotentRequest(scope=scope, key=key, fingerprint=fingerprint, **values))
    except IntegrityError:
        return  # another request with the same key answered first


def forget_old() -> int:
    """Remove what was asked more than a day ago: nobody repeats it, and the answers may hold secrets."""
    with transaction():
        gone = db.session.execute(delete(IdempotentRequest).where(IdempotentRequest.created_at < now() - KEPT))
    return int(gone.rowcount)  # type: ignore[attr-defined]


def _unanswered(row: IdempotentRequest) -> Conflict:
    if now() - row.created_at < LONGEST_REQUEST:
        return Conflict(BUSY, code="key_in_use")
    return Conflict(
        "The first request with this Idempotency-Key was begun and its answer was lost. Look whether it did what you "
        "wanted; if not, send it again with a new key.",
        code="answer_lost",
    )


def _remember(scope: str, key: str, fingerprint: str) -> None:
    try:
        add(IdempotentRequest(scope=scope, key=key, fingerprint=fingerprint))
    except IntegrityError:
        raise Conflict(BUSY, code="key_in_use") from None
