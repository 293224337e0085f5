"""Where a peer's webhooks arrive: they are kept, and a test hands them on to our route, once, twice or in another order."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

import requests
import stripe

from tests.peers.proxy import Object, Reply, answer, body_of, end, serving, url_of
from tests.running import until

SECRET = "whsec_of_the_peers"  # noqa: S105
PATIENCE = 30.0


@dataclass(frozen=True)
class Delivery:
    """A webhook as the peer sent it, signed by the peer."""

    body: bytes
    signature: str

    @property
    def event(self) -> Object:
        found: Object = json.loads(self.body)
        return found

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def about(self) -> Object:
        found: Object = self.event["data"]["object"]
        return found


class Hooks:
    """The address that a peer is given for its webhooks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._round = 0
        self._server = serving(self._take)
        self.url = f"{url_of(self._server)}/hook"
        self.listen()

    def listen(self, is_ours: Callable[[Object], bool] = lambda _event: True) -> None:
        """Begin anew; what an earlier test set off and comes late is not `is_ours`."""
        with self._lock:
            self._round += 1
            self.is_ours = is_ours
            self.arrived: list[Delivery] = []
            self.onward: Callable[[Delivery], int] | None = None
            self.is_down = False

    def close(self) -> None:
        end(self._server)

    def of(self, *types: str) -> list[Delivery]:
        """What has arrived of these types, in the order of its arrival."""
        with self._lock:
            return [one for one in self.arrived if one.type in types]

    def wait(self, *types: str, about: str | None = None) -> list[Delivery]:
        """One delivery of each type, in this order, once they have all arrived; `about` names somebody's customer."""

        def look() -> list[Delivery] | None:
            firsts = []
            for type_ in types:
                found = [one for one in self.of(type_) if about in (None, one.about.get("customer"))]
                firsts += found[:1]
            return firsts if len(firsts) == len(types) else None

        return until(look, PATIENCE, f"webhooks {', '.join(types)}", pause=0.02)

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            came_in, is_ours, onward, status = self._round, self.is_ours, self.onward, 503 if self.is_down else 200
        delivery = Delivery(body_of(handler), handler.headers.get("Stripe-Signature") or "")
        if is_ours(delivery.event) and came_in == self._round:
            status = onward(delivery) if onward else status
            with self._lock:
                if came_in == self._round:
                    self.arrived.append(delivery)
        answer(handler, Reply.of({"received": status == 200}, status))


def post(server: str, delivery: Delivery) -> requests.Response:
    """Hand a webhook to our route, as its sender signed it."""
    headers = {"Stripe-Signature": delivery.signature, "Content-Type": "application/json"}
    return requests.post(f"{server}/api/stripe/webhook", delivery.body, headers=headers, timeout=PATIENCE)


def signed(event: Object) -> Delivery:
    """An event that the test writes, signed by Stripe's own signer."""
    body = json.dumps(event)
    return Delivery(body.encode(), stripe.WebhookSignature.generate_signature_header(body, SECRET))


def stamped(delivery: Delivery, created: int) -> Delivery:
    """The relay: an envelope that lacks id and time gets both, and a signature over them."""
    return signed({"id": f"evt_{uuid.uuid4().hex}", "object": "event", "created": created, **delivery.event})


def told(type_: str, about: Object, created: int) -> Delivery:
    """An event that a peer never sends, though what it tells of did happen there."""
    return stamped(Delivery(json.dumps({"type": type_, "data": {"object": about}}).encode(), ""), created)


def twice(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """Every delivery followed by itself."""
    return [one for delivery in deliveries for one in (delivery, delivery)]
