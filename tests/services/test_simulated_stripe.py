"""The simulated payment company, asked through Stripe's own SDK. The same answers, refusals, events and page flow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import stripe
from flask import Flask
from flask.testing import FlaskClient

from models.base import transaction
from services.errors import Conflict, NotFound, PaymentNeeded
from services.gateways import gateways
from services.gateways.simulated_stripe import SimulatedStripe, hosted

SECRET = "whsec_only_for_tests"
BEGIN = datetime(2027, 1, 31, 12, tzinfo=UTC)
PUBLIC_URL = "http://yard.example"


@dataclass
class Shop:
    """Stripe's SDK on a simulated company whose clock stands still until the test moves it."""

    simulator: SimulatedStripe
    at: datetime = BEGIN

    def __post_init__(self) -> None:
        self.simulator.clock = lambda: self.at
        self.stripe = stripe.StripeClient("sk_test_simulated", http_client=self.simulator).v1

    def customer(self, **given: Any) -> stripe.Customer:
        return self.stripe.customers.create({"email": "alice@example.com", **given})

    def price(self, cents: int, interval: str | None = "month", name: str = "Basic") -> str:
        product = self.stripe.products.create({"name": name})
        given: Any = {"product": product.id, "currency": "usd", "unit_amount": cents}
        return self.stripe.prices.create({**given, **({"recurring": {"interval": interval}} if interval else {})}).id

    def subscribe(self, customer: str, price: str, **given: Any) -> stripe.Subscription:
        return self.stripe.subscriptions.create({"customer": customer, "items": [{"price": price}], **given})

    def change(self, subscription: stripe.Subscription, price: str, **given: Any) -> stripe.Subscription:
        item = {"id": items(subscription)[0].id, "price": price}
        asked: Any = {"items": [item], "proration_behavior": "always_invoice", **given}
        return self.stripe.subscriptions.update(subscription.id, asked)

    def use_card(self, customer: str, kind: str) -> None:
        """Let every payment of a customer use a test card."""
        hosted.choose_card(self.simulator, self.portal(customer), kind)

    def portal(self, customer: str) -> str:
        return self.stripe.billing_portal.sessions.create({"customer": customer, "return_url": "/billing"}).id

    def checkout(self, mode: str, price: str, customer: str | None = None, **given: Any) -> stripe.checkout.Session:
        asked: Any = {"mode": mode, "line_items": [{"price": price, "quantity": 1}],
                      "success_url": f"{PUBLIC_URL}/done?session={{CHECKOUT_SESSION_ID}}",
                      "cancel_url": f"{PUBLIC_URL}/pricing", **given}  # fmt: skip
        return self.stripe.checkout.sessions.create({**asked, **({"customer": customer} if customer else {})})

    def advance(self, **later: Any) -> int:
        """Move the clock on and let time do its work."""
        self.at += timedelta(**later)
        return self.simulator.advance(self.at)

    def events(self, after: int = 0) -> list[str]:
        """Types of all events, oldest first."""
        found = [event.type for event in self.stripe.events.list({"limit": 100}).auto_paging_iter()]
        return found[::-1][after:]


@pytest.fixture
def shop(app: Flask) -> Shop:
    return Shop(SimulatedStripe(PUBLIC_URL, f"{PUBLIC_URL}/webhooks/stripe", lambda: SECRET, deliver=False))


def items(subscription: stripe.Subscription) -> list[stripe.SubscriptionItem]:
    return subscription["items"].data  # the attribute of this name is a method of mappings


def instant(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


# Customers and cards


def test_a_new_customer_has_the_working_test_card(shop: Shop) -> None:
    customer = shop.customer(metadata={"user_id": "7"})
    assert customer.metadata.to_dict() == {"user_id": "7"}
    card = shop.stripe.payment_methods.retrieve(customer.invoice_settings.default_payment_method)
    assert (card.card.brand, card.card.last4, card.customer) == ("visa", "4242", customer.id)
    assert shop.events() == ["customer.created", "payment_method.attached"]


def test_a_customer_can_be_given_another_card_and_lose_it(shop: Shop) -> None:
    customer = shop.customer()
    card = shop.stripe.payment_methods.attach("pm_card_visa_chargeDeclined", {"customer": customer.id})
    settings: Any = {"invoice_settings": {"default_payment_method": card.id}}
    changed = shop.stripe.customers.update(customer.id, settings)
    assert changed.invoice_settings.default_payment_method == card.id
    assert [each.card.last4 for each in shop.stripe.payment_methods.list({"customer": customer.id}).data] == [
        "0002",
        "4242",
    ]
    shop.stripe.payment_methods.detach(card.id)
    assert shop.stripe.customers.retrieve(customer.id).invoice_settings.default_payment_method is None
    assert shop.events()[-2:] == ["payment_method.detached", "customer.updated"]


def test_metadata_is_laid_over_and_an_empty_value_unsets(shop: Shop) -> None:
    customer = shop.customer(metadata={"a": "1", "b": "2", "0": "kept"})
    after = shop.stripe.customers.update(customer.id, {"metadata": {"a": "", "c": "3"}})
    assert after.metadata.to_dict() == {"b": "2", "0": "kept", "c": "3"}
    assert shop.customer(metadata={"0": "a", "1": "b"}).metadata.to_dict() == {"0": "a", "1": "b"}


def test_a_deleted_customer_ends_what_it_subscribed_to(shop: Shop) -> None:
    customer = shop.customer()
    subscription = shop.subscribe(customer.id, shop.price(999))
    shop.stripe.customers.delete(customer.id)
    assert shop.stripe.customers.retrieve(customer.id).deleted
    assert shop.stripe.subscriptions.retrieve(subscription.id).status == "canceled"


# Refusals


def test_unknown_ids_are_404_in_an_address_and_400_in_a_parameter(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_x'") as refused:
        shop.stripe.customers.retrieve("cus_x")
    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.subscribe("cus_x", shop.price(999))
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (400, "resource_missing", "customer")


def test_a_missing_parameter_is_named(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.stripe.payment_intents.create({"currency": "usd"})  # type: ignore[typeddict-item]
    assert (refused.value.code, refused.value.param) == ("parameter_missing", "amount")


def test_an_unknown_parameter_is_refused_instead_of_ignored(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="trial_period_days") as refused:
        shop.subscribe(shop.customer().id, shop.price(999), trial_period_days=7)
    assert refused.value.code == "parameter_unknown"


def test_another_api_version_is_refused(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="API version"):
        shop.stripe.customers.list({}, {"stripe_version": "2024-06-20"})


def test_the_gateway_cannot_be_called_inside_a_transaction(shop: Shop) -> None:
    with pytest.raises(RuntimeError, match="inside a transaction"), transaction():
        shop.customer()


# Idempotency


def test_the_same_key_gives_the_same_answer_and_no_second_effect(shop: Shop) -> None:
    first, second = (
        shop.stripe.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"}) for _ in range(2)
    )
    assert first.id == second.id
    assert len(shop.stripe.customers.list().data) == 1
    assert second.last_response.headers["Idempotent-Replayed"] == "true"


def test_the_same_key_with_other_parameters_is_refused(shop: Shop) -> None:
    shop.stripe.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError):
        shop.stripe.customers.create({"email": "b@example.com"}, {"idempotency_key": "k"})


def test_a_refusal_is_replayed_too(shop: Shop) -> None:
    customer = shop.customer()
    declined = shop.stripe.payment_methods.attach("pm_card_visa_chargeDeclined", {"customer": customer.id})
    charge: Any = {
        "customer": customer.id,
        "amount": 1000,
        "currency": "usd",
        "payment_method": declined.id,
        "confirm": True,
    }
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            shop.stripe.payment_intents.create(charge, {"idempotency_key": "k"})
    assert shop.events().count("payment_intent.payment_failed") == 1


def test_a_key_is_forgotten_after_a_day(shop: Shop) -> None:
    shop.at = datetime.now(UTC)
    first = shop.stripe.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"})
    shop.advance(hours=25)
    assert shop.stripe.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"}).id != first.id


# The catalogue


def test_prices_are_found_by_lookup_key_and_the_key_can_move(shop: Shop) -> None:
    product = shop.stripe.products.create({"name": "Basic", "id": "basic"})
    given: Any = {"product": product.id, "currency": "usd", "unit_amount": 999, "recurring": {"interval": "month"}}
    old = shop.stripe.prices.create({**given, "lookup_key": "basic_month"})
    with pytest.raises(stripe.InvalidRequestError, match="already uses that lookup key"):
        shop.stripe.prices.create({**given, "unit_amount": 1099, "lookup_key": "basic_month"})
    new = shop.stripe.prices.create(
        {**given, "unit_amount": 1099, "lookup_key": "basic_month", "transfer_lookup_key": True}
    )
    assert shop.stripe.prices.retrieve(old.id).lookup_key is None
    shop.stripe.prices.update(old.id, {"active": False})
    found = shop.stripe.prices.list({"lookup_keys": ["basic_month"], "active": True, "expand": ["data.product"]}).data
    assert [(price.id, price.product.name) for price in found] == [(new.id, "Basic")]
    assert [price.id for price in shop.stripe.prices.list({"product": "basic", "active": False}).data] == [old.id]


def test_an_archived_price_cannot_be_bought(shop: Shop) -> None:
    price = shop.price(999)
    shop.stripe.prices.update(price, {"active": False})
    with pytest.raises(stripe.InvalidRequestError, match="inactive"):
        shop.subscribe(shop.customer().id, price)


def test_lists_page_newest_first(shop: Shop) -> None:
    made = [shop.stripe.products.create({"name": f"Plan {number}"}).id for number in range(7)]
    page = shop.stripe.products.list({"limit": 3})
    assert [each.id for each in page.data] == made[:3:-1] and page.has_more
    assert [each.id for each in page.auto_paging_iter()] == made[::-1]
    before = shop.stripe.products.list({"limit": 3, "ending_before": page.data[2].id})
    assert [each.id for each in before.data] == made[:4:-1] and not before.has_more


# Checkout


def test_a_pack_is_paid_for_on_the_hosted_page(shop: Shop) -> None:
    customer = shop.customer()
    session = shop.checkout(
        "payment", shop.price(1000, None), customer.id, client_reference_id="purchase 1", metadata={"purchase": "1"},
        payment_intent_data={"metadata": {"purchase": "1"}},
    )  # fmt: skip
    assert session.url == f"{PUBLIC_URL}/simulated/checkout/{session.id}"
    assert (session.status, session.payment_status, session.amount_total) == ("open", "unpaid", 1000)
    outcome = hosted.pay(shop.simulator, session.id, "working")
    assert (outcome.state, outcome.url) == ("done", f"{PUBLIC_URL}/done?session={session.id}")
    paid = shop.stripe.checkout.sessions.retrieve(
        session.id, {"expand": ["payment_intent.latest_charge", "line_items"]}
    )
    assert (paid.status, paid.payment_status, paid.url) == ("complete", "paid", None)
    assert (paid.metadata.to_dict(), paid.client_reference_id) == ({"purchase": "1"}, "purchase 1")
    assert paid.line_items.data[0].price.unit_amount == 1000
    assert (paid.payment_intent.status, paid.payment_intent.metadata["purchase"]) == ("succeeded", "1")
    assert (paid.payment_intent.latest_charge.amount, paid.payment_intent.latest_charge.paid) == (1000, True)
    assert shop.events(4) == [
        "payment_intent.created", "charge.succeeded", "payment_intent.succeeded", "checkout.session.completed",
    ]  # fmt: skip


def test_what_is_left_out_by_default_must_be_expanded(shop: Shop) -> None:
    session = shop.checkout("payment", shop.price(1000, None))
    assert "line_items" not in shop.stripe.checkout.sessions.retrieve(session.id)
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        shop.stripe.checkout.sessions.retrieve(session.id, {"expand": ["nothing"]})


def test_paying_twice_charges_once(shop: Shop) -> None:
    session = shop.checkout("payment", shop.price(1000, None), shop.customer().id)
    assert [hosted.pay(shop.simulator, session.id, "working").state for _ in range(2)] == ["done", "done"]
    assert shop.events().count("charge.succeeded") == 1


def test_a_declined_card_leaves_the_session_open_for_another(shop: Shop) -> None:
    session = shop.checkout("payment", shop.price(1000, None), shop.customer().id)
    with pytest.raises(PaymentNeeded, match="Your card was declined. Nothing was charged"):
        hosted.pay(shop.simulator, session.id, "declined")
    assert shop.stripe.checkout.sessions.retrieve(session.id).status == "open"
    hosted.pay(shop.simulator, session.id, "working")
    paid = shop.stripe.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent"]})
    assert paid.payment_intent.status == "succeeded"
    assert len(shop.stripe.payment_intents.list().data) == 1


def test_a_card_that_needs_authentication_asks_once_more(shop: Shop) -> None:
    session = shop.checkout("subscription", shop.price(999), shop.customer().id)
    assert hosted.pay(shop.simulator, session.id, "needs_authentication").state == "confirm"
    with pytest.raises(PaymentNeeded, match="authenticate"):
        hosted.pay(shop.simulator, session.id, "needs_authentication", "no")
    assert hosted.pay(shop.simulator, session.id, "needs_authentication", "yes").state == "done"
    paid = shop.stripe.checkout.sessions.retrieve(session.id, {"expand": ["subscription"]})
    assert paid.subscription.status == "active"


def test_a_subscription_begins_when_checkout_is_paid(shop: Shop) -> None:
    session = shop.checkout(
        "subscription", shop.price(999), shop.customer().id, subscription_data={"metadata": {"user": "7"}}
    )
    with pytest.raises(PaymentNeeded):
        hosted.pay(shop.simulator, session.id, "declined")
    assert shop.stripe.subscriptions.list({"status": "all"}).data == []
    hosted.pay(shop.simulator, session.id, "working")
    paid = shop.stripe.checkout.sessions.retrieve(session.id, {"expand": ["subscription", "invoice.payments"]})
    subscription, invoice = paid.subscription, paid.invoice
    assert (subscription.status, subscription.metadata["user"]) == ("active", "7")
    assert instant(items(subscription)[0].current_period_end) == datetime(2027, 2, 28, 12, tzinfo=UTC)
    assert (invoice.status, invoice.amount_paid, invoice.billing_reason) == ("paid", 999, "subscription_create")
    assert invoice.parent.subscription_details.subscription == subscription.id
    assert invoice.payments.data[0].status == "paid"
    assert subscription.default_payment_method is not None


def test_a_session_nobody_pays_expires(shop: Shop) -> None:
    session = shop.checkout("payment", shop.price(1000, None), expires_at=int(BEGIN.timestamp()) + 3600)
    shop.advance(minutes=61)
    assert shop.stripe.checkout.sessions.retrieve(session.id).status == "expired"
    assert hosted.pay(shop.simulator, session.id, "working").state == "over"
    assert shop.events()[-1] == "checkout.session.expired"
    with pytest.raises(NotFound):
        hosted.pay(shop.simulator, "cs_test_unknown", "working")


def test_an_open_session_can_be_ended_by_us_once(shop: Shop) -> None:
    session = shop.checkout("payment", shop.price(1000, None))
    assert shop.stripe.checkout.sessions.expire(session.id).status == "expired"
    with pytest.raises(stripe.InvalidRequestError, match="can be expired"):
        shop.stripe.checkout.sessions.expire(session.id)


def test_a_price_may_be_described_in_place(shop: Shop) -> None:
    data = {"currency": "usd", "unit_amount": 2000, "product_data": {"name": "250 credits"}}
    session = shop.checkout("payment", "", line_items=[{"price_data": data, "quantity": 2}])
    assert session.amount_total == 4000
    assert hosted.checkout_page(shop.simulator, session.id).lines[0].words == "2 × 250 credits"


# Payment intents


def pay_off_session(shop: Shop, customer: str, card: str) -> stripe.PaymentIntent:
    method = shop.stripe.payment_methods.attach(card, {"customer": customer})
    return shop.stripe.payment_intents.create({
        "customer": customer, "amount": 2000, "currency": "usd", "payment_method": method.id, "off_session": True,
        "confirm": True, "metadata": {"purchase": "9"},
    })  # fmt: skip


def test_a_stored_card_is_charged_off_session(shop: Shop) -> None:
    intent = pay_off_session(shop, shop.customer().id, "pm_card_visa")
    charge = shop.stripe.charges.retrieve(intent.latest_charge)
    assert (intent.status, intent.amount_received) == ("succeeded", 2000)
    assert (charge.payment_intent, charge.metadata["purchase"]) == (intent.id, "9")


@pytest.mark.parametrize("card, code, decline", [
    ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
    ("pm_card_authenticationRequired", "authentication_required", "authentication_required"),
])  # fmt: skip
def test_a_card_that_fails_answers_402_with_the_payment_inside(shop: Shop, card: str, code: str, decline: str) -> None:
    with pytest.raises(stripe.CardError) as refused:
        pay_off_session(shop, shop.customer().id, card)
    error = refused.value.error
    assert (refused.value.http_status, refused.value.code, error.decline_code) == (402, code, decline)
    kept = shop.stripe.payment_intents.retrieve(error.payment_intent.id, {"expand": ["latest_charge"]})
    assert (kept.status, kept.last_payment_error.code) == ("requires_payment_method", code)
    assert (kept.latest_charge.status, kept.latest_charge.failure_code) == ("failed", code)
    assert shop.events()[-2:] == ["charge.failed", "payment_intent.payment_failed"]


def test_a_card_of_somebody_else_is_refused(shop: Shop) -> None:
    other = shop.customer().invoice_settings.default_payment_method
    with pytest.raises(stripe.InvalidRequestError, match="must be attached to the customer"):
        given: Any = {"customer": shop.customer().id, "amount": 2000, "currency": "usd", "payment_method": other}
        shop.stripe.payment_intents.create(given)


# Subscriptions and invoices


def test_a_subscription_is_paid_from_the_default_card(shop: Shop) -> None:
    subscription = shop.subscribe(
        shop.customer().id, shop.price(999), expand=["latest_invoice.payments"], metadata={"u": "1"}
    )
    invoice = subscription.latest_invoice
    assert (subscription.status, invoice.status, invoice.amount_paid) == ("active", "paid", 999)
    assert invoice.number.endswith("-0001") and invoice.invoice_pdf is None
    assert invoice.hosted_invoice_url == f"{PUBLIC_URL}/simulated/invoices/{invoice.id}"
    line = invoice.lines.data[0]
    assert line.description == "1 × Basic (at $9.99 / month)"
    assert (line.period.start, line.period.end) == (
        items(subscription)[0].current_period_start,
        items(subscription)[0].current_period_end,
    )
    assert shop.events(4) == [
        "customer.subscription.created", "invoice.created", "payment_intent.created", "invoice.finalized",
        "charge.succeeded", "payment_intent.succeeded", "invoice_payment.paid", "invoice.paid",
        "invoice.payment_succeeded", "customer.subscription.updated",
    ]  # fmt: skip


def test_an_incomplete_subscription_waits_for_its_page_and_then_dies(shop: Shop) -> None:
    customer, price = shop.customer().id, shop.price(999)
    shop.use_card(customer, "needs_authentication")
    first, second = (shop.subscribe(customer, price, expand=["latest_invoice"]) for _ in range(2))
    assert (first.status, first.latest_invoice.status) == ("incomplete", "open")
    assert hosted.pay_invoice(shop.simulator, first.latest_invoice.id, "needs_authentication").state == "confirm"
    hosted.pay_invoice(shop.simulator, first.latest_invoice.id, "needs_authentication", "yes")
    shop.advance(hours=24)
    assert shop.stripe.subscriptions.retrieve(first.id).status == "active"
    dead = shop.stripe.subscriptions.retrieve(second.id, {"expand": ["latest_invoice"]})
    assert (dead.status, dead.latest_invoice.status) == ("incomplete_expired", "void")


@pytest.mark.parametrize("card, code", [
    ("declined", "card_declined"), ("needs_authentication", "subscription_payment_intent_requires_action"),
])  # fmt: skip
def test_error_if_incomplete_leaves_nothing_behind(shop: Shop, card: str, code: str) -> None:
    customer, price = shop.customer().id, shop.price(999)
    shop.use_card(customer, card)
    told = len(shop.events())
    with pytest.raises(stripe.CardError) as refused:
        shop.subscribe(customer, price, payment_behavior="error_if_incomplete")
    assert refused.value.code == code
    assert shop.stripe.subscriptions.list({"customer": customer, "status": "all"}).data == []
    assert shop.events(told) == []


def test_without_a_card_nothing_is_begun(shop: Shop) -> None:
    customer, price = shop.customer().id, shop.price(999)
    shop.use_card(customer, "none")
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        shop.subscribe(customer, price)


def test_periods_are_counted_from_the_anchor(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(999))
    ends = [instant(items(subscription)[0].current_period_end).date().isoformat()]
    for _ in range(3):
        shop.advance(days=31)
        now = shop.stripe.subscriptions.retrieve(subscription.id)
        ends.append(instant(items(now)[0].current_period_end).date().isoformat())
    assert ends == ["2027-02-28", "2027-03-31", "2027-04-30", "2027-05-31"]


def test_months_without_a_clock_are_billed_one_by_one(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(999))
    assert shop.advance(days=100) == 3
    assert shop.advance() == 0
    invoices = shop.stripe.invoices.list({"subscription": subscription.id}).data
    assert [(each.billing_reason, each.status) for each in invoices] == [("subscription_cycle", "paid")] * 3 + [
        ("subscription_create", "paid")
    ]
    periods = [(each.lines.data[0].period.start, each.lines.data[0].period.end) for each in invoices[::-1]]
    assert all(earlier[1] == later[0] for earlier, later in zip(periods, periods[1:], strict=False))


def test_a_year_lasts_a_year(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(9900, "year"))
    assert instant(items(subscription)[0].current_period_end) == datetime(2028, 1, 31, 12, tzinfo=UTC)
    assert (shop.advance(days=364), shop.advance(days=1)) == (0, 1)


def test_a_failed_renewal_is_retried_and_heals(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(999))
    shop.use_card(customer, "declined")
    shop.advance(days=28)
    failed = shop.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert (failed.status, failed.latest_invoice.status, failed.latest_invoice.attempt_count) == ("past_due", "open", 1)
    assert instant(failed.latest_invoice.next_payment_attempt) == shop.at + timedelta(days=1)
    shop.use_card(customer, "working")
    assert shop.advance(days=1) == 1
    healed = shop.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert (healed.status, healed.latest_invoice.status) == ("active", "paid")
    assert instant(items(healed)[0].current_period_end) == datetime(2027, 3, 31, 12, tzinfo=UTC)


def test_after_three_failed_retries_a_subscription_ends(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(999))
    shop.use_card(customer, "declined")
    shop.advance(days=28)
    statuses = []
    for days in (1, 2, 2):
        assert (shop.advance(days=days - 1, hours=23), shop.advance(hours=1)) == (0, 1)
        statuses.append(shop.stripe.subscriptions.retrieve(subscription.id).status)
    assert statuses == ["past_due", "past_due", "canceled"]
    ended = shop.stripe.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert (ended.cancellation_details.reason, ended.latest_invoice.status) == ("payment_failed", "uncollectible")
    assert shop.events().count("invoice.payment_failed") == 4
    assert shop.advance(days=60) == 0


def test_an_open_renewal_is_paid_through_the_api_or_refused_with_402(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(999))
    shop.use_card(customer, "declined")
    shop.advance(days=28)
    invoice = shop.stripe.subscriptions.retrieve(subscription.id).latest_invoice
    with pytest.raises(stripe.CardError, match="declined"):
        shop.stripe.invoices.pay(invoice)
    assert shop.stripe.invoices.retrieve(invoice).attempt_count == 1
    shop.use_card(customer, "working")
    assert shop.stripe.invoices.pay(invoice).status == "paid"
    assert shop.stripe.subscriptions.retrieve(subscription.id).status == "active"
    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        shop.stripe.invoices.pay(invoice)


def test_a_renewal_nobody_confirms_fails_and_says_why(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(999))
    shop.use_card(customer, "needs_authentication")
    shop.advance(days=28)
    assert shop.events()[-3:] == [
        "invoice.payment_failed",
        "invoice.payment_action_required",
        "customer.subscription.updated",
    ]
    invoice = shop.stripe.subscriptions.retrieve(subscription.id).latest_invoice
    hosted.pay_invoice(shop.simulator, invoice, "needs_authentication", "yes")
    assert shop.stripe.subscriptions.retrieve(subscription.id).status == "active"


def test_cancel_at_period_end_can_be_undone_until_then(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(999))
    ending = shop.stripe.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    assert (ending.status, ending.cancel_at) == ("active", items(ending)[0].current_period_end)
    event = shop.stripe.events.list({"type": "customer.subscription.updated", "limit": 1}).data[0]
    assert event.data.previous_attributes["cancel_at_period_end"] is False
    back = shop.stripe.subscriptions.update(subscription.id, {"cancel_at_period_end": False})
    assert (back.cancel_at, back.canceled_at, back.cancellation_details.reason) == (None, None, None)
    shop.stripe.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    shop.advance(days=30)
    ended = shop.stripe.subscriptions.retrieve(subscription.id)
    assert (ended.status, ended.ended_at) == ("canceled", ending.cancel_at)
    assert shop.events()[-1] == "customer.subscription.deleted"


def test_cancelling_now_ends_at_once(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(999))
    assert shop.stripe.subscriptions.cancel(subscription.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError):
        shop.stripe.subscriptions.cancel(subscription.id)
    assert shop.stripe.subscriptions.list({"customer": customer}).data == []
    assert len(shop.stripe.subscriptions.list({"customer": customer, "status": "all"}).data) == 1
    assert shop.advance(days=90) == 0


# Changing the price


def test_an_upgrade_charges_the_difference_of_the_remaining_seconds(shop: Shop) -> None:
    customer, basic, pro = shop.customer().id, shop.price(999), shop.price(2999, name="Pro")
    subscription = shop.subscribe(customer, basic)
    start, end = items(subscription)[0].current_period_start, items(subscription)[0].current_period_end
    shop.at += timedelta(days=10, seconds=7)
    left, whole = end - int(shop.at.timestamp()), end - start
    expected = round(2999 * left / whole) - round(999 * left / whole)
    asked: Any = {"subscription": subscription.id, "subscription_details": {
        "items": [{"id": items(subscription)[0].id, "price": pro}], "proration_behavior": "always_invoice"}}  # fmt: skip
    preview = shop.stripe.invoices.create_preview(asked)
    changed = shop.change(subscription, pro, payment_behavior="pending_if_incomplete", expand=["latest_invoice"])
    invoice = changed.latest_invoice
    assert expected == preview.amount_due == invoice.amount_due == invoice.amount_paid == invoice.total
    assert [line.parent.subscription_item_details.proration for line in invoice.lines.data] == [True, True]
    assert (invoice.billing_reason, items(changed)[0].price.id) == ("subscription_update", pro)
    assert (items(changed)[0].current_period_end, changed.pending_update) == (end, None)
    assert shop.stripe.invoices.list({"customer": customer}).data[0].id == invoice.id


def test_a_preview_holds_for_the_moment_it_names(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(999))
    pro = shop.price(2999)
    shop.at += timedelta(days=3)
    moment = int(shop.at.timestamp())
    asked: Any = {"items": [{"id": items(subscription)[0].id, "price": pro}], "proration_behavior": "always_invoice",
                  "proration_date": moment}  # fmt: skip
    preview = shop.stripe.invoices.create_preview({"subscription": subscription.id, "subscription_details": asked})
    shop.at += timedelta(hours=5)
    changed = shop.change(subscription, pro, proration_date=moment, expand=["latest_invoice"])
    assert changed.latest_invoice.amount_paid == preview.amount_due


def test_an_upgrade_that_is_not_paid_stays_pending_and_leaves_the_old_price(shop: Shop) -> None:
    customer, basic, pro = shop.customer().id, shop.price(999), shop.price(2999)
    subscription = shop.subscribe(customer, basic)
    shop.use_card(customer, "declined")
    pending = shop.change(
        subscription, pro, payment_behavior="pending_if_incomplete", metadata={"plan": "pro"}, expand=["latest_invoice"]
    )
    assert (pending.status, items(pending)[0].price.id) == ("active", basic)
    assert pending.pending_update.subscription_items[0].price.id == pro
    assert pending.latest_invoice.status == "open"
    assert "plan" not in pending.metadata
    hosted.pay_invoice(shop.simulator, pending.latest_invoice.id, "working")
    applied = shop.stripe.subscriptions.retrieve(subscription.id)
    assert (items(applied)[0].price.id, applied.pending_update, applied.metadata["plan"]) == (pro, None, "pro")
    assert shop.events()[-2:] == ["customer.subscription.updated", "customer.subscription.pending_update_applied"]


def test_a_pending_upgrade_expires_after_23_hours(shop: Shop) -> None:
    customer, basic, pro = shop.customer().id, shop.price(999), shop.price(2999)
    subscription = shop.subscribe(customer, basic)
    shop.use_card(customer, "needs_authentication")
    pending = shop.change(subscription, pro, payment_behavior="pending_if_incomplete")
    assert "invoice.payment_action_required" in shop.events()
    assert shop.advance(hours=23) == 1
    after = shop.stripe.subscriptions.retrieve(subscription.id)
    assert (after.pending_update, items(after)[0].price.id) == (None, basic)
    assert shop.stripe.invoices.retrieve(pending.latest_invoice).status == "void"
    assert shop.events()[-1] == "customer.subscription.pending_update_expired"


def test_paying_an_older_invoice_does_not_make_the_pending_upgrade(shop: Shop) -> None:
    customer, basic, pro = shop.customer().id, shop.price(999), shop.price(2999)
    subscription = shop.subscribe(customer, basic)
    shop.use_card(customer, "declined")
    shop.advance(days=28)
    unpaid = shop.stripe.subscriptions.retrieve(subscription.id).latest_invoice
    shop.change(subscription, pro, payment_behavior="pending_if_incomplete")
    hosted.pay_invoice(shop.simulator, unpaid, "working")
    after = shop.stripe.subscriptions.retrieve(subscription.id)
    assert items(after)[0].price.id == basic and after.pending_update is not None
    assert shop.advance(hours=23) == 1
    assert shop.stripe.subscriptions.retrieve(subscription.id).pending_update is None


def test_a_pending_upgrade_expires_while_a_renewal_is_unpaid(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(999))
    shop.use_card(customer, "declined")
    shop.advance(days=28)
    shop.change(subscription, shop.price(2999), payment_behavior="pending_if_incomplete")
    shop.advance(hours=23)
    after = shop.stripe.subscriptions.retrieve(subscription.id)
    assert (after.status, after.pending_update) == ("past_due", None)


def test_a_balance_that_a_dropped_upgrade_counted_in_is_there_again(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(3000))
    shop.change(subscription, shop.price(1000))
    assert shop.stripe.customers.retrieve(customer).balance == -2000
    shop.use_card(customer, "declined")
    pending = shop.change(
        subscription, shop.price(5000), payment_behavior="pending_if_incomplete", expand=["latest_invoice"]
    )
    assert (pending.latest_invoice.total, pending.latest_invoice.amount_due) == (4000, 2000)
    assert shop.stripe.customers.retrieve(customer).balance == 0
    shop.advance(hours=23)
    assert shop.stripe.customers.retrieve(customer).balance == -2000


def test_another_attempt_replaces_a_pending_upgrade(shop: Shop) -> None:
    customer, basic, pro = shop.customer().id, shop.price(999), shop.price(2999)
    subscription = shop.subscribe(customer, basic)
    shop.use_card(customer, "declined")
    first = shop.change(subscription, pro, payment_behavior="pending_if_incomplete")
    shop.use_card(customer, "working")
    second = shop.change(subscription, pro, payment_behavior="pending_if_incomplete")
    assert items(second)[0].price.id == pro
    assert shop.stripe.invoices.retrieve(first.latest_invoice).status == "void"
    assert shop.stripe.invoices.retrieve(second.latest_invoice).status == "paid"


def test_error_if_incomplete_changes_nothing(shop: Shop) -> None:
    customer, basic, pro = shop.customer().id, shop.price(999), shop.price(2999)
    subscription = shop.subscribe(customer, basic)
    shop.use_card(customer, "declined")
    with pytest.raises(stripe.CardError):
        shop.change(subscription, pro, payment_behavior="error_if_incomplete")
    after = shop.stripe.subscriptions.retrieve(subscription.id)
    assert (items(after)[0].price.id, after.latest_invoice) == (basic, subscription.latest_invoice)


def test_a_change_without_proration_is_billed_from_the_next_period(shop: Shop) -> None:
    customer, pro, basic = shop.customer().id, shop.price(2999), shop.price(999)
    subscription = shop.subscribe(customer, pro)
    shop.change(subscription, basic, proration_behavior="none")
    assert len(shop.stripe.invoices.list({"customer": customer}).data) == 1
    shop.advance(days=28)
    assert shop.stripe.invoices.list({"customer": customer}).data[0].amount_paid == 999


def test_prorations_wait_for_the_next_invoice(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(1000))
    shop.at += timedelta(days=14)
    shop.change(subscription, shop.price(3000), proration_behavior="create_prorations")
    preview = shop.stripe.invoices.create_preview({"subscription": subscription.id})
    shop.advance(days=14)
    renewed = shop.stripe.invoices.list({"subscription": subscription.id}).data[0]
    assert renewed.amount_paid == preview.amount_due == 3000 - 500 + 1500
    assert len(renewed.lines.data) == 3
    shop.advance(days=31)
    assert shop.stripe.invoices.list({"subscription": subscription.id}).data[0].amount_paid == 3000


def test_a_downgrade_now_is_credited_to_later_invoices(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(3000))
    shop.at += timedelta(days=14)
    changed = shop.change(subscription, shop.price(1000), expand=["latest_invoice"])
    assert (changed.latest_invoice.total, changed.latest_invoice.amount_due) == (-1000, 0)
    assert shop.stripe.customers.retrieve(customer).balance == -1000
    shop.advance(days=14)
    assert shop.stripe.invoices.list({"customer": customer}).data[0].amount_paid == 0
    assert shop.stripe.customers.retrieve(customer).balance == 0


def test_less_than_the_least_charge_is_carried_over(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(1000))
    changed = shop.change(subscription, shop.price(1030), expand=["latest_invoice"])
    assert (changed.latest_invoice.amount_due, changed.latest_invoice.status) == (0, "paid")
    assert shop.stripe.customers.retrieve(customer).balance == 30
    shop.advance(days=28)
    assert shop.stripe.invoices.list({"customer": customer}).data[0].amount_paid == 1060


def test_from_month_to_year_begins_a_new_series(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(1000))
    shop.at += timedelta(days=14)
    changed = shop.change(subscription, shop.price(10000, "year"), expand=["latest_invoice"])
    assert changed.billing_cycle_anchor == int(shop.at.timestamp())
    assert changed.latest_invoice.amount_paid == 10000 - 500
    assert instant(items(changed)[0].current_period_end) == datetime(2028, 2, 14, 12, tzinfo=UTC)


def test_the_anchor_can_be_set_to_now(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(1000))
    shop.at += timedelta(days=7)
    changed = shop.change(
        subscription,
        shop.price(2000),
        billing_cycle_anchor={"type": "now"},
        proration_behavior="none",
        expand=["latest_invoice"],
    )
    assert changed.latest_invoice.amount_paid == 2000
    assert instant(items(changed)[0].current_period_end) == datetime(2027, 3, 7, 12, tzinfo=UTC)


def test_the_anchors_older_form_is_refused_as_stripe_does(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(1000))
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.change(subscription, shop.price(2000), billing_cycle_anchor="now")
    assert refused.value.param == "billing_cycle_anchor"


def test_two_upgrades_at_once_charge_once(app: Flask, shop: Shop) -> None:
    customer, basic, pro = shop.customer().id, shop.price(999), shop.price(2999)
    subscription = shop.subscribe(customer, basic)
    barrier, failures = threading.Barrier(4), []

    def upgrade() -> None:
        with app.app_context():
            barrier.wait()
            try:
                shop.change(subscription, pro, payment_behavior="error_if_incomplete")
            except Exception as error:  # told to the test
                failures.append(error)

    run_at_once(upgrade, 4)
    assert failures == []
    reasons = [invoice.billing_reason for invoice in shop.stripe.invoices.list({"customer": customer}).data]
    assert reasons == ["subscription_update", "subscription_create"]


def test_one_key_from_many_places_at_once_makes_one_customer(app: Flask, shop: Shop) -> None:
    ids: set[str] = set()

    def create() -> None:
        with app.app_context():
            ids.add(shop.stripe.customers.create({"email": "a@example.com"}, {"idempotency_key": "once"}).id)

    run_at_once(create, 6)
    assert len(ids) == 1 and len(shop.stripe.customers.list().data) == 1


def run_at_once(act: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=act) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Refunds and disputes


def test_refunds_add_up_and_never_exceed_the_charge(shop: Shop) -> None:
    intent = pay_off_session(shop, shop.customer().id, "pm_card_visa")
    shop.stripe.refunds.create({"payment_intent": intent.id, "amount": 500, "metadata": {"by": "admin"}})
    with pytest.raises(
        stripe.InvalidRequestError, match=r"\$15.01\) is greater than unrefunded amount on charge \(\$15.00"
    ):
        shop.stripe.refunds.create({"charge": intent.latest_charge, "amount": 1501})
    rest = shop.stripe.refunds.create({"charge": intent.latest_charge})
    charge = shop.stripe.charges.retrieve(intent.latest_charge, {"expand": ["refunds"]})
    assert (rest.amount, charge.amount_refunded, charge.refunded) == (1500, 2000, True)
    assert [refund.amount for refund in charge.refunds.data] == [1500, 500]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.stripe.refunds.create({"charge": intent.latest_charge})
    assert refused.value.code == "charge_already_refunded"
    assert shop.events()[-4:] == ["refund.created", "charge.refunded"] * 2


def test_a_refund_that_the_bank_sends_back_is_counted_no_more(shop: Shop) -> None:
    intent = pay_off_session(shop, shop.customer().id, "pm_card_visa")
    refund = shop.stripe.refunds.create({"charge": intent.latest_charge, "amount": 500})
    shop.simulator.fail_refund(refund.id)
    assert shop.stripe.charges.retrieve(intent.latest_charge).amount_refunded == 0
    assert shop.stripe.refunds.list({"charge": intent.latest_charge}).data[0].status == "failed"


@pytest.mark.parametrize("won, status", [(True, "won"), (False, "lost")])
def test_a_dispute_is_opened_and_decided(shop: Shop, won: bool, status: str) -> None:
    intent = pay_off_session(shop, shop.customer().id, "pm_card_visa")
    dispute = shop.simulator.open_dispute(intent.latest_charge)
    assert shop.stripe.charges.retrieve(intent.latest_charge).disputed
    assert shop.stripe.disputes.retrieve(dispute["id"]).status == "needs_response"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.stripe.refunds.create({"charge": intent.latest_charge})
    assert refused.value.code == "charge_disputed"
    shop.simulator.close_dispute(dispute["id"], won)
    assert shop.stripe.disputes.list({"charge": intent.latest_charge}).data[0].status == status
    assert ("charge.dispute.funds_reinstated" in shop.events()) is won


def test_the_invoice_of_a_payment_can_be_found(shop: Shop) -> None:
    subscription = shop.subscribe(shop.customer().id, shop.price(999), expand=["latest_invoice.payments"])
    intent = subscription.latest_invoice.payments.data[0].payment.payment_intent
    payment: Any = {"type": "payment_intent", "payment_intent": intent}
    found = shop.stripe.invoice_payments.list({"payment": payment}).data
    assert [each.invoice for each in found] == [subscription.latest_invoice.id]


# Events and their delivery


def test_events_are_listed_newest_first_and_by_type_and_time(shop: Shop) -> None:
    shop.customer()
    shop.at += timedelta(hours=1)
    later = shop.customer()
    since = shop.stripe.events.list({"created": {"gte": int(shop.at.timestamp())}, "types": ["customer.created"]}).data
    assert [event.data.object.id for event in since] == [later.id]
    assert [event.type for event in shop.stripe.events.list({"type": "payment_method.*", "limit": 1}).data] == [
        "payment_method.attached"
    ]
    assert shop.stripe.events.retrieve(since[0].id).type == "customer.created"


def test_the_webhook_receives_what_stripes_own_code_accepts(shop: Shop) -> None:
    shop.customer()
    taken: list[str] = []

    def webhook(body: bytes, signature: str) -> int:
        event = stripe.Webhook.construct_event(body, signature, SECRET)
        taken.append(event.type)
        return 200 if event.type == "customer.created" else 500

    assert shop.simulator.deliver_pending(webhook) == 1
    assert shop.simulator.deliver_pending(webhook) == 0
    assert taken == ["customer.created", "payment_method.attached", "payment_method.attached"]
    undelivered = shop.stripe.events.list({"delivery_success": False}).data
    assert [event.type for event in undelivered] == ["payment_method.attached"]


def test_events_are_posted_after_the_commit(app: Flask) -> None:
    arrived: list[tuple[str, str]] = []
    both = threading.Event()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            stripe.WebhookSignature.verify_header(body, self.headers["Stripe-Signature"], SECRET, 300)
            arrived.append((json.loads(body)["type"], self.headers["Content-Type"]))
            self.send_response(204)
            self.end_headers()
            if len(arrived) == 2:
                both.set()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/webhooks/stripe"
    shop = Shop(SimulatedStripe(PUBLIC_URL, url, lambda: SECRET))
    shop.customer()
    assert both.wait(20)
    server.shutdown()
    server.server_close()
    assert [kind for kind, _ in arrived] == ["customer.created", "payment_method.attached"]
    for thread in threading.enumerate():
        if thread.name == "webhook":
            thread.join(20)
    assert shop.simulator.deliver_pending(lambda *_: 200) == 0


def test_a_webhook_that_is_away_costs_nothing_but_the_delivery(app: Flask) -> None:
    shop = Shop(SimulatedStripe(PUBLIC_URL, "http://127.0.0.1:9/webhooks/stripe", lambda: SECRET))
    shop.customer()
    for thread in threading.enumerate():
        if thread.name == "webhook":
            thread.join(20)
    assert shop.simulator.deliver_pending(lambda *_: 200) == 2


# The portal


def test_the_portal_ends_and_resumes_a_subscription(shop: Shop) -> None:
    customer = shop.customer().id
    subscription = shop.subscribe(customer, shop.price(999))
    portal = shop.portal(customer)
    assert hosted.end_with_period(shop.simulator, portal, subscription.id, True).url == "/billing"
    assert hosted.portal_page(shop.simulator, portal).subscriptions[0].ends
    hosted.end_with_period(shop.simulator, portal, subscription.id, False)
    assert not shop.stripe.subscriptions.retrieve(subscription.id).cancel_at_period_end
    other = shop.subscribe(shop.customer().id, shop.price(999))
    with pytest.raises(Conflict, match="another customer"):
        hosted.end_with_period(shop.simulator, portal, other.id, True)


def test_a_card_chosen_in_the_portal_pays_the_next_renewal(shop: Shop) -> None:
    customer = shop.customer().id
    session = shop.checkout("subscription", shop.price(999), customer)
    hosted.pay(shop.simulator, session.id, "working")
    hosted.choose_card(shop.simulator, portal := shop.portal(customer), "declined")
    assert hosted.portal_page(shop.simulator, portal).card == "declined"
    shop.advance(days=28)
    assert shop.stripe.subscriptions.list({"customer": customer}).data[0].status == "past_due"


def test_a_portal_page_lasts_an_hour(shop: Shop) -> None:
    portal = shop.portal(shop.customer().id)
    shop.at += timedelta(hours=1)
    assert hosted.choose_card(shop.simulator, portal, "declined").state == "over"
    assert not hosted.portal_page(shop.simulator, portal).open


# The pages


@pytest.fixture
def site(sqlite_app: Flask) -> Shop:
    """The simulated company of the application itself, whose pages a browser opens."""
    simulator = gateways().payments.simulator
    assert simulator is not None
    simulator.deliver = False
    shop = Shop(simulator)
    shop.at = datetime.now(UTC)
    return shop


def path(url: str | None) -> str:
    return (url or "").removeprefix(gateways().settings.public_url)


def test_the_checkout_page_shows_what_is_bought_and_takes_the_payment(site: Shop, client: FlaskClient) -> None:
    session = site.checkout("subscription", site.price(2999, name="Pro"), site.customer().id)
    page = client.get(path(session.url))
    text = page.get_data(as_text=True)
    assert page.status_code == 200
    for said in ("Pro, one month", "$29.99", "No real card is asked for, and no money moves.", "4242", "0002", "3155"):
        assert said in text
    declined = client.post(path(session.url), data={"card": "declined"})
    assert declined.status_code == 402 and "Your card was declined" in declined.get_data(as_text=True)
    paid = client.post(path(session.url), data={"card": "working"})
    assert (paid.status_code, paid.location) == (303, f"{PUBLIC_URL}/done?session={session.id}")
    again = client.get(path(session.url))
    assert (again.status_code, again.location) == (303, f"{PUBLIC_URL}/done?session={session.id}")


def test_the_page_asks_for_confirmation(site: Shop, client: FlaskClient) -> None:
    session = site.checkout("payment", site.price(1000, None), site.customer().id)
    asked = client.post(path(session.url), data={"card": "needs_authentication"})
    assert asked.status_code == 200 and "Confirm" in asked.get_data(as_text=True)
    refused = client.post(path(session.url), data={"card": "needs_authentication", "confirmed": "no"})
    assert refused.status_code == 402
    assert client.post(path(session.url), data={"card": "needs_authentication", "confirmed": "yes"}).status_code == 303


def test_expired_and_unknown_pages_say_so(site: Shop, client: FlaskClient) -> None:
    session = site.checkout("payment", site.price(1000, None))
    url = path(session.url)
    site.stripe.checkout.sessions.expire(session.id)
    page = client.get(url)
    assert page.status_code == 410 and "This checkout page has expired" in page.get_data(as_text=True)
    assert client.post(url, data={"card": "working"}).status_code == 410
    for unknown in ("checkout/cs_test_x", "invoices/in_x", "portal/bps_x"):
        assert client.get(f"/simulated/{unknown}").status_code == 404


def test_an_open_invoice_is_paid_on_its_page(site: Shop, client: FlaskClient) -> None:
    customer = site.customer().id
    subscription = site.subscribe(customer, site.price(999))
    site.use_card(customer, "declined")
    changed = site.change(
        subscription, site.price(2999), payment_behavior="pending_if_incomplete", expand=["latest_invoice"]
    )
    url = path(changed.latest_invoice.hosted_invoice_url)
    text = client.get(url).get_data(as_text=True)
    assert "Unused time on Basic" in text and "To pay now" in text and "−$9.99" in text
    assert client.post(url, data={"card": "declined"}).status_code == 402
    assert client.post(url, data={"card": "working"}).status_code == 303
    assert "Paid" in client.get(url).get_data(as_text=True)


def test_the_portal_page_offers_card_invoices_and_cancelling(site: Shop, client: FlaskClient) -> None:
    customer = site.customer().id
    subscription = site.subscribe(customer, site.price(999))
    url = f"/simulated/portal/{site.portal(customer)}"
    text = client.get(url).get_data(as_text=True)
    for said in ("$9.99 each month", "Cancel at the period’s end", "-0001", "No card"):
        assert said in text
    done = client.post(f"{url}/cancel", data={"subscription": subscription.id})
    assert (done.status_code, done.location) == (303, "/billing")
    assert "Keep it after all" in client.get(url).get_data(as_text=True)
    assert client.post(f"{url}/resume", data={"subscription": subscription.id}).status_code == 303
    assert client.post(f"{url}/card", data={"card": "declined"}).status_code == 303
    assert client.post(f"{url}/card", data={"card": "stolen"}).status_code == 422
    assert hosted.portal_page(site.simulator, url.rpartition("/")[2]).card == "declined"


def test_programs_get_json(site: Shop, client: FlaskClient) -> None:
    session = site.checkout("payment", site.price(1000, None), site.customer().id)
    answer = client.post(path(session.url), json={"card": "working"})
    assert answer.get_json() == {"status": "done", "url": f"{PUBLIC_URL}/done?session={session.id}"}
