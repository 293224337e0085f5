"""Renewals and messages of the payment gateway that need a hand."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from models.accounts import User
from models.base import db, now, transaction
from models.payments import GatewayEvent
from models.subscriptions import Subscription
from services import subscriptions
from services.admin.audit import Why, audit, require_admin
from services.errors import Conflict, NotFound
from services.payments import inbox

MOST_EVENTS = 50


def dead_events(actor: User) -> list[dict[str, Any]]:
    """Messages that were tried until they were given up, the newest first."""
    require_admin(actor)
    query = (
        select(GatewayEvent)
        .where(GatewayEvent.state == "dead")
        .order_by(GatewayEvent.happened_at.desc(), GatewayEvent.id)
        .limit(MOST_EVENTS)
    )
    return [
        {"id": event.id, "type": event.type, "object_id": event.object_id, "at": event.happened_at, "tries": event.tries,
         "error": event.error}
        for event in db.session.scalars(query)
    ]  # fmt: skip


def try_event_again(actor: User, event_id: str, why: Why) -> None:
    """Put a message that was given up back into the inbox. Raises NotFound, Conflict."""
    require_admin(actor)
    with transaction():
        event = db.session.get(GatewayEvent, event_id, populate_existing=True)
        if event is None:
            raise NotFound("There is no such message.")
        if event.state != "dead":
            raise Conflict("This message was not given up; there is nothing to try again.", code="nothing_to_change")
        before = {"state": event.state, "error": event.error}
        inbox.again(event_id)
        audit(actor, "try_event_again", why, target=event_id, before=before, after={"state": "pending"})


def force_renewal(actor: User, subscription_id: int, why: Why) -> int:
    """Open whatever is due of one subscription now. Answers how many periods were opened; 0 when nothing is due."""
    require_admin(actor)
    with transaction():
        found = db.session.get(Subscription, subscription_id, populate_existing=True)
        if found is None or found.ended_at is not None:
            sentence = f"There is no live subscription {subscription_id}."
            raise NotFound(sentence, fields={"name": sentence})
        before = _shown(found)
        opened = subscriptions.renew_due(found.user_id, now(), "admin")
        db.session.refresh(found)
        target = f"credit_reset_{found.id}"
        after = {**_shown(found), "opened": opened}
        audit(actor, "force_renewal", why, user_id=found.user_id, target=target, before=before, after=after)
        return opened


def _shown(subscription: Subscription) -> dict[str, Any]:
    at = subscription.next_reset_at
    return {"next_period": subscription.next_period, "next_reset_at": at.isoformat() if at else None}
