"""The inbox: every event of the gateway's, verified on its raw body, stored once, answered, then handled by looking again.

A handler's effect and the mark on the event are written together. What fails is tried again, later each time, and after
a day or so set aside as dead, which the admin's page shows. Events that never came are fetched from the gateway's list.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from models.base import add, changed, db, end_read, now, transaction
from models.payments import Checkout, GatewayEvent
from models.subscriptions import Subscription
from services.errors import DomainError, Forged, NotFound
from services.gateways import gateways
from services.gateways.payments import ForgedEvent, Object, instant
from services.payments import refunds, sync
from services.payments.shapes import id_of
from services.payments.sync import Also, Later

FIRST_AGAIN = timedelta(seconds=10)
MOST_TRIES = 12  # the last of them about a day and a half after the first
AT_ONCE = 100
LOOK_BACK = timedelta(days=3)  # as long as Stripe tries to deliver
OVERLAP = timedelta(hours=1)
LEASE = timedelta(minutes=2)
log = structlog.get_logger()

Handler = Callable[[str, Also], None]
HANDLERS: dict[str, Handler] = {
    "checkout.session.": sync.sync_checkout,
    "customer.subscription.": sync.sync_subscription,
    "invoice.": sync.sync_invoice,
    "payment_intent.succeeded": sync.sync_intent,
    "charge.refunded": refunds.sync_charge,
    "charge.dispute.": refunds.sync_dispute,
}
BY_CHARGE = ("refund.", "charge.refund.")  # their object names the charge to look at


def receive(body: bytes, signature: str | None) -> bool:
    """Take in what came to the webhook; False when it was known. Raises NotFound without a secret, Forged."""
    payments = gateways().payments
    if not payments.webhook_secrets:
        raise NotFound("The webhook is off: STRIPE_WEBHOOK_SECRET is not set.", code="webhook_off")
    try:
        event = payments.opened(body, signature)
    except ForgedEvent:
        raise Forged("This is not signed by the payment service, or too old.", code="bad_signature") from None
    return store(event)


def store(event: Object) -> bool:
    """Keep an event once; it is handled as soon as it is stored. False when it was known."""
    happened = instant(event.get("created"))
    if not event.get("id") or happened is None:
        raise Forged("An event needs an id and the time at which it was created.", code="bad_event")
    target = _object_of(event)
    row = GatewayEvent(
        id=str(event["id"])[:80], type=str(event.get("type"))[:80], object_id=id_of(target), happened_at=happened,
        body=event, next_try_at=now(),
    )  # fmt: skip
    try:
        with transaction():
            if db.session.get(GatewayEvent, row.id) is not None:
                return False
            add(row)
    except IntegrityError:
        return False  # the same delivery came twice at once
    return True


def handle_due() -> int:
    """Handle what waits in the inbox, the oldest first. Answers how many are done."""
    due = (
        select(GatewayEvent.id)
        .where(GatewayEvent.state == "pending", GatewayEvent.next_try_at <= now())
        .order_by(GatewayEvent.happened_at, GatewayEvent.id)
        .limit(AT_ONCE)
    )
    return sum(_handle(event_id) for event_id in db.session.scalars(due).all())


def catch_up(last_look: datetime | None = None) -> int:
    """Fetch what the gateway says happened since the last look and never came. Answers how many events were new."""
    payments = gateways().payments
    if not payments.is_on:
        return 0
    since = max(now() - LOOK_BACK, last_look - OVERLAP) if last_look else now() - LOOK_BACK
    end_read()
    events = list(payments.events_since(since))
    return sum(store(event) for event in reversed(events))


def compare() -> int:
    """Bring over every paid subscription and every page that stands open, whether or not an event came. Answers how many
    were looked at; one that the gateway cannot answer for is left for tomorrow."""
    if not gateways().payments.is_on:
        return 0
    paid = select(Subscription.gateway_id).where(Subscription.ended_at.is_(None), Subscription.source == "gateway")
    pages = select(Checkout.session_id).where(Checkout.state == "open", Checkout.session_id.is_not(None))
    looks: list[tuple[Callable[[str], None], str]] = [
        (sync.sync_subscription, one) for one in db.session.scalars(paid) if one
    ]
    looks += [(sync.sync_checkout, one) for one in db.session.scalars(pages) if one]
    for look, gateway_id in looks:
        end_read()
        try:
            look(gateway_id)
        except (DomainError, Later, ValueError) as error:
            log.warning("comparison_failed", gateway_id=gateway_id, error=str(error))
    return len(looks)


def oldest_pending() -> datetime | None:
    """Since when the oldest event has been waiting."""
    return db.session.scalar(select(func.min(GatewayEvent.created_at)).where(GatewayEvent.state == "pending"))


def again(event_id: str) -> None:
    """Try a dead event once more: what an admin may do."""
    with transaction():
        dead = update(GatewayEvent).where(GatewayEvent.id == event_id, GatewayEvent.state == "dead")
        changed(dead.values(state="pending", tries=0, next_try_at=now()))


def _handle(event_id: str) -> bool:
    event = _claimed(event_id)
    if event is None:
        return False
    done = partial(_mark, event_id, "handled", None)
    try:
        handler, target = _way(event.type, event.body)
        if handler is None or target is None:
            with transaction():
                _mark(event_id, "ignored", None)
        else:
            handler(target, done)
    except Exception as error:  # whatever it is, it is tried again, and the others go on
        db.session.rollback()
        _fail(event, f"{type(error).__name__}: {getattr(error, 'message', error)}")
        return False
    return True


def _way(type_: str, body: Object) -> tuple[Handler | None, str | None]:
    target = _object_of(body)
    if type_.startswith(BY_CHARGE):
        return refunds.sync_charge, id_of(target.get("charge"))
    handler = next((verb for prefix, verb in HANDLERS.items() if type_.startswith(prefix)), None)
    return handler, id_of(target)


def _object_of(event: Object) -> Object:
    """What an event is about; nothing when it does not say."""
    data = event.get("data")
    target = data.get("object") if isinstance(data, dict) else None
    return target if isinstance(target, dict) else {}


def _claimed(event_id: str) -> GatewayEvent | None:
    """Take an event for two minutes; None when somebody else has it or it is done."""
    with transaction():
        event = db.session.get(GatewayEvent, event_id, populate_existing=True)
        if event is None or event.state != "pending":
            return None
        free = update(GatewayEvent).where(
            GatewayEvent.id == event_id, GatewayEvent.state == "pending", GatewayEvent.tries == event.tries
        )
        if not changed(free.values(tries=event.tries + 1, next_try_at=now() + LEASE)):
            return None
        db.session.refresh(event)
        return event


def _mark(event_id: str, state: str, error: str | None) -> None:
    done = update(GatewayEvent).where(GatewayEvent.id == event_id)
    changed(done.values(state=state, error=error, handled_at=now()))


def _fail(event: GatewayEvent, error: str) -> None:
    is_dead = event.tries >= MOST_TRIES
    log.warning("gateway_event_failed", event_id=event.id, type=event.type, tries=event.tries, error=error)
    with transaction():
        failed = update(GatewayEvent).where(GatewayEvent.id == event.id)
        changed(
            failed.values(
                state="dead" if is_dead else "pending", error=error[:1000],
                next_try_at=None if is_dead else now() + FIRST_AGAIN * 2 ** event.tries,
            )
        )  # fmt: skip
