"""What has happened, for those who ask, and for the webhook: signed as Stripe signs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from fnmatch import fnmatchcase

import stripe
import structlog
from sqlalchemy import select, update

from models.base import changed, db, end_read, now, transaction
from models.simulated_payments import SimulatedEvent
from services.gateways.simulated_stripe.books import Books, Thing, page
from services.gateways.simulated_stripe.wire import Params, no_such

WEBHOOK_SECONDS = 15  # how long the webhook may take to answer
Send = Callable[[bytes, str], int]  # body and Stripe-Signature header -> HTTP status
log = structlog.get_logger()


def retrieve(books: Books, given: Params, id: str) -> Thing:
    """GET /v1/events/:id"""
    event = db.session.get(SimulatedEvent, id)
    if event is None:
        raise no_such("event", id, "id")
    return event.data


def listed(books: Books, given: Params) -> Thing:
    """GET /v1/events, newest first, by `type` (`charge.*` too), `types`, `created` and `delivery_success`"""
    query = select(SimulatedEvent.data)
    if "delivery_success" in given:
        arrived = SimulatedEvent.delivered_at.is_not(None)
        query = query.where(arrived if given.flag("delivery_success") else ~arrived)
    if types := given.texts("types"):
        query = query.where(SimulatedEvent.type.in_(types))
    pattern = given.text("type") or "*"
    return page(query, SimulatedEvent, "/v1/events", given, lambda event: fnmatchcase(event["type"], pattern))


def deliver(secret: str, send: Send, ids: list[str] | None = None) -> int:
    """Send events that the webhook has not taken, oldest first, each once; answers how many it took.

    `ids` are the only ones to send. What the webhook refuses or does not answer stays undelivered.
    """
    query = select(SimulatedEvent).where(SimulatedEvent.delivered_at.is_(None)).order_by(SimulatedEvent.sequence)
    if ids is not None:
        query = query.where(SimulatedEvent.id.in_(ids))
    waiting = [(event.id, json.dumps(event.data)) for event in db.session.scalars(query)]
    end_read()
    taken = 0
    for id, body in waiting:
        header = stripe.WebhookSignature.generate_signature_header(body, secret)
        if 200 <= send(body.encode(), header) < 300:
            taken += _mark(id)
    return taken


def post(url: str) -> Send:
    """The way to a webhook over HTTP; what cannot be reached is logged and answers 0."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def send(body: bytes, signature: str) -> int:
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}
        try:
            request = urllib.request.Request(url, body, headers)  # noqa: S310 - our own address, from the settings
            with opener.open(request, timeout=WEBHOOK_SECONDS) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            log.warning("simulated_webhook_refused", url=url, status=error.code)
            return int(error.code)
        except (OSError, ValueError) as error:
            log.debug("simulated_webhook_unreachable", url=url, error=str(error))
            return 0

    return send


def _mark(id: str) -> bool:
    with transaction():
        return changed(
            update(SimulatedEvent)
            .where(SimulatedEvent.id == id, SimulatedEvent.delivered_at.is_(None))
            .values(delivered_at=now())
        )
