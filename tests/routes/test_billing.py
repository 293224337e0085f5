"""What programs are told about credits, purchases and payments: the addresses, statuses and shapes of docs/api.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import stripe
from flask import Flask
from flask.testing import FlaskClient

from models.base import db
from models.payments import Checkout, GatewayEvent
from services import credits, payments, price_list
from services.gateways import gateways
from services.gateways.payments import Payments
from services.reconcile import reconcile
from tests.factories import make_server_job, plan_id


def error_of(answer: Any) -> dict[str, Any]:
    return dict(answer.get_json()["error"])


def signed(body: bytes, secret: str | None = None, at: int | None = None) -> dict[str, str]:
    """The header with which the gateway signs `body`."""
    key = secret or gateways().payments.webhook_secrets[0]
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), key, timestamp=at)
    return {"Stripe-Signature": header, "Content-Type": "application/json"}


@pytest.fixture
def without_payments(app: Flask) -> Iterator[None]:
    """The yard sells nothing."""
    present = gateways()
    settings = replace(present.settings, payments="off", support_email="help@yard.example")
    app.extensions["gateways"] = replace(present, settings=settings, payments=Payments(settings))
    yield
    app.extensions["gateways"] = present


class TestPurchase:
    def test_a_pack_is_there_before_it_answers(self, app: Flask, browser: FlaskClient) -> None:
        answer = browser.post("/api/credits/purchase", json={"pack_size": 250})
        body = answer.get_json()
        assert (answer.status_code, body["credits_remaining"]) == (200, 270)
        assert (body["purchase"]["credits"], body["purchase"]["amount_cents"], body["purchase"]["state"]) == (
            250,
            2000,
            "paid",
        )
        assert reconcile() == []

    def test_the_same_key_buys_once(self, app: Flask, browser: FlaskClient) -> None:
        answers = [
            browser.post(
                "/api/credits/purchase", json={"pack_size": 100}, headers={"Idempotency-Key": "once"}
            ).get_json()
            for _ in range(3)
        ]
        assert answers[0] == answers[1] == answers[2]
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 120

    def test_without_a_card_there_is_a_page_and_asking_again_gives_the_same(
        self, app: Flask, browser: FlaskClient
    ) -> None:
        browser.post("/account/payment-method", json={"card": "none"})
        asked = [browser.post("/api/credits/purchase", json={"pack_size": 100}) for _ in range(2)]
        assert [answer.status_code for answer in asked] == [202, 202]
        assert asked[0].get_json() == asked[1].get_json()
        assert set(asked[0].get_json()) == {"checkout_url"}

    @pytest.mark.parametrize(
        "card, code", [("declined", "card_declined"), ("needs_authentication", "authentication_required")]
    )
    def test_a_refused_card_buys_nothing(self, app: Flask, browser: FlaskClient, card: str, code: str) -> None:
        browser.post("/account/payment-method", json={"card": card})
        refused = browser.post("/api/credits/purchase", json={"pack_size": 100})
        assert (refused.status_code, error_of(refused)["code"]) == (402, code)
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 20
        assert db.session.scalars(db.select(Checkout.state)).all() == ["declined"]

    def test_a_size_that_is_not_sold_is_named_with_those_that_are(
        self, sqlite_app: Flask, browser: FlaskClient
    ) -> None:
        refused = browser.post("/api/credits/purchase", json={"pack_size": 7})
        assert refused.status_code == 422
        assert "On offer: 100, 250, 500, 1,000" in error_of(refused)["fields"]["pack_size"]


class TestPlan:
    def test_a_plan_is_cancelled_and_kept_after_all(self, app: Flask, browser: FlaskClient) -> None:
        browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("basic")})
        cancelled = browser.post("/api/subscription/cancel").get_json()
        assert cancelled["cancel_at_period_end"] and cancelled["credits_remaining"] == 200
        assert not browser.post("/api/subscription/resume").get_json()["cancel_at_period_end"]
        again = browser.post("/api/subscription/resume")
        assert (again.status_code, error_of(again)["code"]) == (409, "nothing_to_resume")

    def test_there_is_nothing_to_cancel_on_the_free_plan(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        refused = browser.post("/api/subscription/cancel")
        assert (refused.status_code, error_of(refused)["code"]) == (409, "nothing_to_cancel")

    def test_the_sum_shown_before_is_what_a_year_costs(self, app: Flask, browser: FlaskClient) -> None:
        wanted = {"tier_id": plan_id("pro"), "interval": "year"}
        offer = browser.post("/api/subscription/preview", json=wanted).get_json()
        assert (offer["amount_cents"], offer["credits"], offer["scheduled_for"]) == (29990, 1000, None)
        assert browser.post("/api/subscription/upgrade", json=wanted).get_json()["credits_remaining"] == 1000
        assert browser.get("/api/subscription").get_json()["interval"] == "year"

    def test_an_archived_plan_is_not_sold(self, app: Flask, browser: FlaskClient) -> None:
        archived = plan_id("pro")
        price_list.archive(archived)
        refused = browser.post("/api/subscription/upgrade", json={"tier_id": archived})
        assert (refused.status_code, error_of(refused)["code"]) == (409, "plan_archived")

    def test_the_portal_is_a_page_of_the_gateway(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        url = browser.post("/api/stripe/create-portal-session").get_json()["portal_url"]
        assert "/simulated/portal/" in url

    def test_a_plan_can_be_bought_on_the_gateways_page(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        answer = browser.post("/api/stripe/create-subscription-checkout", json={"tier_id": plan_id("basic")})
        assert answer.status_code == 200 and "/simulated/checkout/" in answer.get_json()["checkout_url"]

    def test_a_page_of_somebody_else_is_not_found(self, sqlite_app: Flask, browser: FlaskClient, bob: Any) -> None:
        payments.choose_test_card(bob, "none")
        page = payments.buy_pack(bob, 100).checkout
        for way in ("done", "left"):
            assert browser.get(f"/checkout/{page.id}/{way}").status_code == 404


class TestUsage:
    def test_the_lines_of_the_history_add_up_to_the_balance(self, app: Flask, browser: FlaskClient, alice: Any) -> None:
        browser.post("/api/credits/purchase", json={"pack_size": 100})
        make_server_job(alice)
        browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("pro")})
        items, cursor = [], ""
        while cursor is not None:
            page = browser.get(
                f"/api/usage/history?limit=2&cursor={cursor}" if cursor else "/api/usage/history?limit=2"
            ).get_json()
            items += page["items"]
            cursor = page["next"]
        assert set(items[0]) >= {"at", "kind", "credits", "balance_after", "lot", "job_id", "note"}
        remaining = browser.get("/api/subscription").get_json()["credits_remaining"]
        assert sum(item["credits"] for item in items) == items[0]["balance_after"] == remaining

    def test_what_was_used_is_told_by_day_action_recipe_and_model(
        self, app: Flask, browser: FlaskClient, alice: Any
    ) -> None:
        usage = credits.Usage("message", "language", "yard-tiny")
        credits.spend(alice.id, 3, key="action:1", reason="A message", usage=usage)
        stats = browser.get("/api/usage/stats?days=7").get_json()
        assert stats["credits_used"] == 3 and len(stats["by_day"]) == 7 and stats["by_day"][-1]["credits"] == 3
        assert stats["by_action"] == [{"action": "message", "credits": 3, "quantity": 1}]
        assert stats["by_recipe"][0]["recipe"] == "language" and stats["by_model"][0]["model"] == "yard-tiny"

    @pytest.mark.parametrize("address", ["stats?days=0", "stats?days=x", "history?limit=0", "history?cursor=-1"])
    def test_what_cannot_be_is_refused(self, sqlite_app: Flask, browser: FlaskClient, address: str) -> None:
        assert browser.get(f"/api/usage/{address}").status_code == 422


class TestWebhook:
    BODY = json.dumps({"id": "evt_1", "object": "event", "type": "price.updated", "created": 1_800_000_000,
                       "data": {"object": {"id": "price_1", "object": "price"}}}).encode()  # fmt: skip

    def test_what_is_signed_is_stored_once(self, app: Flask, client: FlaskClient) -> None:
        answers = [client.post("/api/stripe/webhook", data=self.BODY, headers=signed(self.BODY)) for _ in range(2)]
        assert [answer.get_json()["known"] for answer in answers] == [False, True]
        assert db.session.scalars(db.select(GatewayEvent.id)).all() == ["evt_1"]

    @pytest.mark.parametrize("fault", ["forged", "stale", "missing", "not json"])
    def test_what_is_not_is_refused_and_leaves_nothing(self, app: Flask, client: FlaskClient, fault: str) -> None:
        headers = {
            "forged": lambda: signed(self.BODY, "whsec_other"), "stale": lambda: signed(self.BODY, at=1_700_000_000),
            "missing": dict, "not json": lambda: signed(b"{"),
        }[fault]()  # fmt: skip
        answer = client.post("/api/stripe/webhook", data=b"{" if fault == "not json" else self.BODY, headers=headers)
        assert answer.status_code == 400
        assert db.session.scalars(db.select(GatewayEvent)).all() == []


class TestWithoutPayments:
    def test_nothing_is_sold_and_the_refusal_says_whom_to_ask(
        self, app: Flask, without_payments: None, browser: FlaskClient
    ) -> None:
        asked = [
            browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("pro")}),
            browser.post("/api/credits/purchase", json={"pack_size": 100}),
            browser.post("/api/stripe/create-portal-session"),
        ]
        for answer in asked:
            assert (answer.status_code, error_of(answer)["code"]) == (403, "payments_off")
            assert "help@yard.example" in error_of(answer)["message"]

    def test_the_webhook_is_off_and_says_so(self, app: Flask, without_payments: None, client: FlaskClient) -> None:
        answer = client.post("/api/stripe/webhook", data=b"{}")
        assert (answer.status_code, error_of(answer)["code"]) == (404, "webhook_off")

    def test_pages_stand_without_a_till(self, app: Flask, without_payments: None, browser: FlaskClient) -> None:
        for path in ("/pricing", "/billing", "/account", "/dashboard"):
            assert browser.get(path).status_code == 200
