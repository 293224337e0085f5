"""The simulated company as stripe-python sees it: an HTTP client that answers in this process, out of our database."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import stripe
import structlog
from flask import Flask, current_app

from models import base
from models.base import db, end_read, in_transaction, transaction
from models.simulated_payments import SimulatedRequest
from services.gateways.simulated_stripe import addresses, clock, events, portal, refunds, wire
from services.gateways.simulated_stripe.books import API_VERSION, Books, Thing, lock, new_id
from services.gateways.simulated_stripe.expansion import expanded
from services.gateways.simulated_stripe.wire import Refused

log = structlog.get_logger()


class SimulatedStripe(stripe.HTTPClient):
    """`stripe.StripeClient(key, http_client=SimulatedStripe(...))` talks to our own tables instead of to Stripe.

    `deliver`: whether a thread posts each event to `webhook_url` after its commit. `clock` says what time it is.
    """

    name = "simulated"

    def __init__(self, public_url: str, webhook_url: str, secret: Callable[[], str], deliver: bool = True) -> None:
        super().__init__()
        self.public_url, self.webhook_url = public_url.rstrip("/"), webhook_url
        self.deliver = deliver
        self.clock: Callable[[], datetime] = base.now
        self._secret = secret
        self._outbox: list[str] = []  # ids of events on their way to the webhook
        self._sending = False
        self._turn = threading.Lock()

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:  # fmt: skip
        """Answer one request of the SDK: body, status, headers."""
        address, verb, sent = urlsplit(url), method.upper(), dict(headers or {})
        encoded = (post_data or "") if verb == "POST" else address.query
        told = {"Content-Type": "application/json", "request-id": new_id("req", 14), "Stripe-Version": API_VERSION}
        if sent.get("Stripe-Version", API_VERSION) != API_VERSION:
            fault = wire.invalid(f"Invalid Stripe API version: the simulated gateway speaks {API_VERSION} alone.")
            return json.dumps(fault.body), fault.status, told
        if verb == "GET":
            with self.reading() as books:
                status, body = _answer(books, verb, address.path, encoded)
            return json.dumps(body), status, told
        key = sent.get("Idempotency-Key") if verb == "POST" else None
        with self.work(key=key) as books:
            known = db.session.get(SimulatedRequest, key) if key else None
            fingerprint = _fingerprint(verb, address.path, encoded)
            if known and known.fingerprint != fingerprint:
                return json.dumps(_reused(key)), 400, told
            if known:
                return known.body, known.status, {**told, "Idempotent-Replayed": "true"}
            status, body = _answer_or_undo(books, verb, address.path, encoded)
            text = json.dumps(body)
            if key:
                db.session.add(SimulatedRequest(key=key, fingerprint=fingerprint, status=status, body=text))
        return text, status, told

    def close(self) -> None:
        """Nothing is kept open."""

    @contextmanager
    def reading(self) -> Iterator[Books]:
        """Look into the books, as a foreign system would: nothing of the caller's session is touched."""
        with self._apart() as app, app.app_context():
            yield self._books(None, None)

    @contextmanager
    def work(self, at: datetime | None = None, key: str | None = None) -> Iterator[Books]:
        """One piece of work in the books: stored whole or not at all, one at a time, events sent after it."""
        with self._apart() as app:
            with app.app_context(), transaction():
                lock()
                books = self._books(at, key)
                yield books
            if books.told and self.deliver:
                self._send(app, books.told)

    def advance(self, now: datetime) -> int:
        """Let time do its work up to `now`: renewals, retries, ends, expiries. Answers how much was done; safe to
        repeat."""
        return clock.advance(self.work, now)

    def deliver_pending(self, send: events.Send) -> int:
        """Send every event that the webhook has not taken, oldest first; answers how many it took."""
        with self._apart() as app, app.app_context():
            return events.deliver(self._secret(), send)

    def choose_card(self, customer_id: str, kind: str) -> None:
        """Let a customer's payments use another test card, or `none`."""
        with self.work() as books:
            portal.choose_card(books, books.get("customer", customer_id), kind)

    def open_dispute(self, charge_id: str, amount: int | None = None) -> Thing:
        """Let the cardholder dispute a charge, of `amount` cents or all that was not refunded."""
        with self.work() as books:
            return refunds.open_dispute(books, charge_id, amount)

    def close_dispute(self, id: str, won: bool) -> Thing:
        """Let the bank decide a dispute; `won` is ours."""
        with self.work() as books:
            return refunds.close_dispute(books, id, won)

    def fail_refund(self, id: str) -> Thing:
        """Let the bank send a refund back."""
        with self.work() as books:
            return refunds.fail(books, id)

    @contextmanager
    def _apart(self) -> Iterator[Flask]:
        """Calling a payment company takes as long as it takes, simulated or not: never inside a transaction."""
        if in_transaction():
            raise RuntimeError("The payment gateway was called inside a transaction. Commit first, then call it.")
        end_read()
        yield current_app._get_current_object()  # type: ignore[attr-defined]

    def _books(self, at: datetime | None, key: str | None) -> Books:
        return Books((at or self.clock()).replace(microsecond=0), self.public_url, key)

    def _send(self, app: Flask, ids: list[str]) -> None:
        """Hand events to the one thread that posts them, in the order they happened."""
        with self._turn:
            self._outbox += ids
            starts, self._sending = not self._sending, True
        if starts:
            threading.Thread(target=self._post, args=(app,), name="webhook", daemon=True).start()

    def _post(self, app: Flask) -> None:
        while True:
            with self._turn:
                ids, self._outbox = self._outbox, []
                if not ids:
                    self._sending = False
                    return
            try:
                with app.app_context():
                    events.deliver(self._secret(), events.post(self.webhook_url), ids)
            except Exception:  # whoever listens asks for what is missing later
                log.exception("simulated_webhook_failed", events=len(ids))


def _answer(books: Books, method: str, path: str, encoded: str) -> tuple[int, Thing]:
    try:
        given = wire.parse(encoded)
        return 200, expanded(books, addresses.carry_out(books, method, path, given), given.texts("expand"))
    except Refused as refused:
        if method != "GET" and not refused.kept:
            raise
        return refused.status, refused.body


def _answer_or_undo(books: Books, method: str, path: str, encoded: str) -> tuple[int, Thing]:
    try:
        with db.session.begin_nested():
            return _answer(books, method, path, encoded)
    except Refused as refused:
        books.told.clear()
        return refused.status, refused.body


def _fingerprint(method: str, path: str, encoded: str) -> str:
    return hashlib.sha256(f"{method} {path}\n{encoded}".encode()).hexdigest()


def _reused(key: str | None) -> Thing:
    message = (
        "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key "
        f"other than '{key}' if you meant to execute a different request."
    )
    return {"error": {"message": message, "type": "idempotency_error"}}
