"""Mail on its way out: stored in the transaction that has something to tell, sent after it, tried again until it is away."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import structlog
from flask import current_app
from sqlalchemy import select, update

from models.base import add, after_commit, changed, db, now, transaction
from models.notices import OutgoingMail
from services.gateways import gateways

FIRST_AGAIN = timedelta(minutes=1)
MOST_TRIES = 8
AT_ONCE = 200
log = structlog.get_logger()


def put(to: str, subject: str, text: str) -> None:
    """Send one plain-text message when the present transaction is stored."""
    with transaction():
        mail = add(OutgoingMail(to=to, subject=subject, text=text, next_try_at=now() + FIRST_AGAIN))
        after_commit(_send_soon, mail.id)


def send_soon() -> None:
    """Send what was stored in numbers; with SMTP that is left to the clock."""
    if not gateways().mail.is_slow:
        send_due()


def send_due() -> int:
    """Try again what is not away yet; an entry of the clock. Answers how many went."""
    due = (
        select(OutgoingMail.id)
        .where(OutgoingMail.sent_at.is_(None), OutgoingMail.next_try_at <= now())
        .order_by(OutgoingMail.next_try_at)
        .limit(AT_ONCE)
    )
    return sum(_send(mail_id) for mail_id in db.session.scalars(due).all())


def _send_soon(mail_id: int) -> None:
    """At once into the outbox folder; SMTP in a thread, so that no request waits and none tells who has an account."""
    if not gateways().mail.is_slow:
        _send(mail_id)
        return
    app = current_app._get_current_object()  # type: ignore[attr-defined]

    def work() -> None:
        with app.app_context():
            _send(mail_id)

    threading.Thread(target=work, daemon=True).start()


def _send(mail_id: int) -> bool:
    """Send one message that nobody else is sending; whether it went."""
    mail = _claimed(mail_id)
    if mail is None:
        return False
    try:
        gateways().mail.send(mail.to, mail.subject, mail.text)
        error = None
    except OSError as trouble:  # smtplib's errors are OSErrors
        log.warning("mail_not_sent", mail=mail_id, tries=mail.tries, error=type(trouble).__name__)
        error = f"{type(trouble).__name__}: {trouble}"[:300]
    with transaction():
        values = {"error": error} if error else {"error": None, "sent_at": now()}
        db.session.execute(update(OutgoingMail).where(OutgoingMail.id == mail_id).values(**values))
    return error is None


def _claimed(mail_id: int) -> OutgoingMail | None:
    """Put off the next try, longer each time; None when somebody else did so first, or it went."""
    with transaction():
        mail = db.session.get(OutgoingMail, mail_id)
        if mail is None or mail.sent_at is not None or mail.tries >= MOST_TRIES:
            return None
        moved = update(OutgoingMail).where(OutgoingMail.id == mail_id, OutgoingMail.tries == mail.tries)
        if not changed(moved.values(tries=mail.tries + 1, next_try_at=_next_try(mail.tries + 1))):
            return None
        db.session.refresh(mail)
        return mail


def _next_try(tries: int) -> datetime | None:
    return now() + FIRST_AGAIN * 4 ** (tries - 1) if tries < MOST_TRIES else None
