"""The door to Stripe, and to the simulated Stripe that stands in for it: the same SDK, the same calls, another transport.

Objects come back as plain dictionaries in Stripe's own shape (API version as pinned by the SDK). Every call that changes
something carries an idempotency key that its caller has stored before. A refused card is `CardRefused`; whatever keeps
the gateway from answering is `Unavailable`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import stripe
import structlog

from services.config import Settings, kept_secret
from services.errors import Unavailable
from services.gateways.simulated_stripe import SimulatedStripe

CURRENCY = "usd"
stripe.enable_telemetry = False  # nothing is written to the home folder or told of other requests
EVENT_PAGE = 100
TOLERANCE_SECONDS = 300  # as old as a signature may be; the SDK's own default
Object = dict[str, Any]
log = structlog.get_logger()


class CardRefused(Exception):
    """The bank said no; `needs_person` when it asks for the person to confirm."""

    def __init__(self, sentence: str, needs_person: bool = False) -> None:
        super().__init__(sentence)
        self.needs_person = needs_person


class ForgedEvent(Exception):
    """What came to the webhook is not signed by the gateway, or too old."""


class Payments:
    """Everything Trainyard asks of the payment gateway. `name` is `stripe` or `simulated`."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.payments
        self.is_on = settings.payments != "off"
        self.publishable_key = settings.stripe_publishable_key
        self.simulator: SimulatedStripe | None = None
        self.webhook_secrets = [one for one in settings.stripe_webhook_secret.split() if one]
        if self.name == "simulated":
            secret = kept_secret(settings.var_dir / "webhook-secret", "whsec_")
            self.webhook_secrets = [secret]
            hook = f"http://127.0.0.1:{settings.port}/api/stripe/webhook"
            self.simulator = SimulatedStripe(settings.public_url, hook, lambda: secret)
        if self.is_on:
            base = {"api": settings.stripe_api_base} if settings.stripe_api_base else None
            self._stripe = stripe.StripeClient(
                settings.stripe_secret_key or "sk_test_simulated", http_client=self.simulator, max_network_retries=2,
                **({"base_addresses": base} if base else {}),  # type: ignore[arg-type]
            ).v1  # fmt: skip

    # --- people and cards ---------------------------------------------------------------------------------------------

    def create_customer(self, user_id: int, email: str, key: str) -> str:
        """Make the gateway know somebody; answers its id for them."""
        with _answers():
            made = self._stripe.customers.create(
                {"email": email, "metadata": {"user_id": str(user_id)}}, {"idempotency_key": key}
            )
            return str(made.id)

    def card(self, customer: str) -> Object | None:
        """The payment method on file, or None: the customer's own, else the one a subscription was bought with."""
        with _answers():
            found = self._stripe.customers.retrieve(customer, {"expand": ["invoice_settings.default_payment_method"]})
            settings = found.to_dict().get("invoice_settings") or {}
            method = settings.get("default_payment_method")
            if not isinstance(method, dict):
                given: Any = {"customer": customer, "limit": 1, "expand": ["data.default_payment_method"]}
                owned = self._stripe.subscriptions.list(given).data
                method = owned[0].to_dict().get("default_payment_method") if owned else None
            return method if isinstance(method, dict) else None

    def portal_url(self, customer: str, return_url: str) -> str:
        """A page of the gateway's where somebody changes their card and sees invoices."""
        with _answers():
            session = self._stripe.billing_portal.sessions.create({"customer": customer, "return_url": return_url})
            return str(session.url)

    # --- the price list -----------------------------------------------------------------------------------------------

    def find_prices(self, lookup_keys: list[str]) -> dict[str, Object]:
        """The active prices with these lookup keys (at most ten at a time)."""
        with _answers():
            found = self._stripe.prices.list({"lookup_keys": lookup_keys, "active": True, "limit": 100})
            return {str(price.lookup_key): price.to_dict() for price in found.data}

    def create_price(
        self, lookup_key: str, name: str, cents: int, interval: str | None, metadata: dict[str, str]
    ) -> Object:
        """A product with one price; `interval` is month, year, or None for what is bought once."""
        given: Object = {
            "currency": CURRENCY, "unit_amount": cents, "lookup_key": lookup_key, "transfer_lookup_key": True,
            "product_data": {"name": name, "metadata": metadata}, "metadata": metadata,
        }  # fmt: skip
        if interval:
            given["recurring"] = {"interval": interval}
        with _answers():
            made = self._stripe.prices.create(given, {"idempotency_key": f"price:{lookup_key}:{cents}"})  # type: ignore[arg-type]
            return made.to_dict()

    def retire_price(self, price_id: str) -> None:
        """Sell nothing at this price any more."""
        with _answers():
            self._stripe.prices.update(price_id, {"active": False})

    def active_prices(self, prefix: str) -> list[Object]:
        """Every active price whose lookup key begins with `prefix`."""
        with _answers():
            pages = self._stripe.prices.list({"active": True, "limit": 100})
            return [one.to_dict() for one in pages.auto_paging_iter() if (one.lookup_key or "").startswith(prefix)]

    # --- buying -------------------------------------------------------------------------------------------------------

    def open_checkout(self, given: Object, key: str) -> Object:
        """A hosted page on which somebody pays; `given` as `checkout.sessions.create` takes it."""
        with _answers():
            return self._stripe.checkout.sessions.create(given, {"idempotency_key": key}).to_dict()  # type: ignore[arg-type]

    def close_checkout(self, session_id: str) -> None:
        """Let nobody pay on a hosted page any more; one that is paid or closed stays as it is."""
        with contextlib.suppress(_Missing, Unavailable), _answers():
            self._stripe.checkout.sessions.expire(session_id)

    def charge(self, customer: str, card: str, cents: int, metadata: dict[str, str], what: str, key: str) -> Object:
        """Charge the card on file at once, nobody being there to confirm. Raises CardRefused."""
        given = {
            "customer": customer, "payment_method": card, "amount": cents, "currency": CURRENCY, "confirm": True,
            "off_session": True, "metadata": metadata, "description": what,
        }  # fmt: skip
        with _answers():
            made = self._stripe.payment_intents.create(given, {"idempotency_key": key}).to_dict()  # type: ignore[arg-type]
        if made["status"] == "requires_action":
            raise CardRefused("The bank asks for the person to confirm.", needs_person=True)
        return made

    def subscribe(self, customer: str, price: str, metadata: dict[str, str], key: str) -> Object:
        """Begin a subscription with the card on file; nothing is left behind when it is refused. Raises CardRefused."""
        given = {
            "customer": customer, "items": [{"price": price}], "metadata": metadata, "off_session": True,
            "payment_behavior": "error_if_incomplete", "expand": ["latest_invoice"],
        }  # fmt: skip
        with _answers():
            return self._stripe.subscriptions.create(given, {"idempotency_key": key}).to_dict()  # type: ignore[arg-type]

    def preview(self, subscription: str, item: str, price: str, at: int, restart: bool) -> int:
        """Cents that a change of price at the second `at` would charge now."""
        details: Object = {"items": [{"id": item, "price": price}], "proration_behavior": "always_invoice"}
        details |= {"billing_cycle_anchor": {"type": "now"}} if restart else {"proration_date": at}
        with _answers():
            given: Any = {"subscription": subscription, "subscription_details": details}
            return int(self._stripe.invoices.create_preview(given).amount_due)

    def change_price(self, subscription: str, item: str, price: str, at: int, restart: bool, key: str) -> Object:
        """Take another price now and charge the difference at once; refused, the old one stays. Raises CardRefused."""
        given: Object = {
            "items": [{"id": item, "price": price}], "proration_behavior": "always_invoice",
            "payment_behavior": "error_if_incomplete", "expand": ["latest_invoice"], "off_session": True,
            "cancel_at_period_end": False,
        }  # fmt: skip
        given |= {"billing_cycle_anchor": {"type": "now"}} if restart else {"proration_date": at}
        return self._update(subscription, given, key)

    def change_price_later(self, subscription: str, item: str, price: str, key: str) -> Object:
        """Charge another price from the next invoice on; nothing is charged or given back now."""
        return self._update(subscription, {"items": [{"id": item, "price": price}], "proration_behavior": "none"}, key)

    def cancel_at_end(self, subscription: str, wanted: bool, key: str) -> Object:
        """Let a subscription end with what is paid for, or go on after all."""
        return self._update(subscription, {"cancel_at_period_end": wanted}, key)

    def cancel_now(self, subscription: str) -> None:
        """End a subscription at once; one that has ended stays so."""
        with contextlib.suppress(_Missing), _answers():
            self._stripe.subscriptions.cancel(subscription)

    def refund(self, payment: Object, cents: int, key: str) -> Object:
        """Give money back for one charge; `payment` is {"charge": id} or {"payment_intent": id}."""
        with _answers():
            return self._stripe.refunds.create({**payment, "amount": cents}, {"idempotency_key": key}).to_dict()  # type: ignore[arg-type]

    # --- looking --------------------------------------------------------------------------------------------------------

    def retrieve(self, kind: str, gateway_id: str, expand: list[str] | None = None) -> Object | None:
        """The present state of an object; `kind` as in `READERS`. None when there is none."""
        service: Any = self._stripe
        for part in READERS[kind].split("."):
            service = getattr(service, part)
        try:
            with _answers():
                return service.retrieve(gateway_id, {"expand": expand} if expand else None).to_dict()  # type: ignore[no-any-return]
        except _Missing:
            return None

    def events_since(self, at: datetime) -> Iterator[Object]:
        """What happened since, the newest first."""
        with _answers():
            given: Any = {"created": {"gte": int(at.timestamp())}, "limit": EVENT_PAGE}
            for event in self._stripe.events.list(given).auto_paging_iter():
                yield json.loads(json.dumps(event.to_dict(), default=str))  # the SDK makes Decimals of some fields

    def opened(self, body: bytes, signature: str | None) -> Object:
        """The event in a webhook's raw body, once one of our secrets has signed it. Raises ForgedEvent."""
        for secret in self.webhook_secrets:
            with contextlib.suppress(stripe.SignatureVerificationError, ValueError):
                stripe.WebhookSignature.verify_header(body.decode(), signature or "", secret, TOLERANCE_SECONDS)
                event = json.loads(body)
                if isinstance(event, dict):
                    return event
        raise ForgedEvent

    def _update(self, subscription: str, given: Object, key: str) -> Object:
        with _answers():
            return self._stripe.subscriptions.update(subscription, given, {"idempotency_key": key}).to_dict()  # type: ignore[arg-type]


READERS = {
    "checkout": "checkout.sessions", "subscription": "subscriptions", "invoice": "invoices", "charge": "charges",
    "payment_intent": "payment_intents", "dispute": "disputes", "customer": "customers",
}  # fmt: skip


class _Missing(Unavailable):
    """The gateway knows no such object; where that is no answer, it is an outage to whoever asked."""


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """Turn the SDK's errors into ours."""
    try:
        yield
    except stripe.CardError as error:
        needs_person = error.code in ("authentication_required", "subscription_payment_intent_requires_action")
        raise CardRefused(error.user_message or "The card was refused.", needs_person) from None
    except stripe.InvalidRequestError as error:
        if error.http_status == 404:
            raise _Missing("The payment service does not know this. Nothing was charged; tell the operator.") from None
        log.error("payment_gateway_refused", error=str(error))
        raise Unavailable("The payment service refused the request. Nothing was charged; tell the operator.") from None
    except stripe.StripeError as error:
        log.error("payment_gateway_silent", error=f"{type(error).__name__}: {error}")
        raise Unavailable(
            "The payment service does not answer just now. What it charged all the same appears here by itself; try again soon."
        ) from None


def instant(seconds: int | None) -> datetime | None:
    """A moment as the gateway writes it (seconds since the epoch)."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
