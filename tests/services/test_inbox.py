"""The gateway's events: forged, late, twice, out of order, never. Whatever comes, one state."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
import stripe
from flask import Flask
from sqlalchemy import select

from models.accounts import User
from models.base import db, transaction
from models.payments import GatewayEvent
from services import payments, price_list
from services.gateways import gateways
from services.payments import inbox, prices
from tests.conftest import Yard
from tests.factories import plan_id
from tests.till import Object, Standing, Till, faults, live, moved_clock, new_member, standing, utc

MOST = 24  # orders of more than four events are chosen with a seed


def event(number: int = 1, type_: str = "price.created", target: Any = None, **given: Any) -> Object:
    """An event as the gateway would write it."""
    body = {"id": f"evt_{number}", "object": "event", "type": type_, "created": int(utc(2027, 1, 31).timestamp()),
            "data": {"object": {"id": "x_1", "object": "price"} if target is None else target}}  # fmt: skip
    return {**body, **given}


def signed(body: bytes, secret: str, at: float | None = None) -> str:
    """Stripe's own signer."""
    return stripe.WebhookSignature.generate_signature_header(body.decode(), secret, int(at or time.time()))


def secret() -> str:
    return gateways().payments.webhook_secrets[0]


def stored(event_id: str = "evt_1") -> GatewayEvent | None:
    return db.session.get(GatewayEvent, event_id, populate_existing=True)


# What comes to the webhook


def test_a_signed_event_is_stored_once_and_known_the_second_time(app: Flask, till: Till) -> None:
    body = json.dumps(event()).encode()
    assert [till.post(body).json["known"] for _ in range(2)] == [False, True]
    row = stored()
    assert row is not None and (row.state, row.body) == ("pending", event())


@pytest.mark.parametrize("signature", ["", "t=1,v1=00", "nonsense", "v1=", "t=x,v1=y"])
def test_a_forged_event_is_refused_and_nothing_is_kept(sqlite_app: Flask, till: Till, signature: str) -> None:
    body = json.dumps(event()).encode()
    answer = sqlite_app.test_client().post("/api/stripe/webhook", data=body, headers={"Stripe-Signature": signature})
    assert 400 <= answer.status_code < 500 and stored() is None


def test_an_unsigned_event_is_refused(sqlite_app: Flask, till: Till) -> None:
    answer = sqlite_app.test_client().post("/api/stripe/webhook", data=json.dumps(event()))
    assert 400 <= answer.status_code < 500 and stored() is None


def test_one_changed_byte_makes_an_event_forged(sqlite_app: Flask, till: Till) -> None:
    body = json.dumps(event()).encode()
    header = signed(body, secret())
    assert till.post(body.replace(b"evt_1", b"evt_2"), header).status_code in (400, 422)


@pytest.mark.parametrize("age, status", [(0, 200), (290, 200), (310, 400)])
def test_a_signature_is_good_for_five_minutes(sqlite_app: Flask, till: Till, age: int, status: int) -> None:
    body = json.dumps(event()).encode()
    assert till.post(body, signed(body, secret(), time.time() - age)).status_code == status


def test_while_the_secret_changes_both_are_good_and_a_third_is_not(
    sqlite_app: Flask, till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways().payments, "webhook_secrets", ["whsec_old", "whsec_new"])
    for number, (with_secret, status) in enumerate([("whsec_old", 200), ("whsec_new", 200), ("whsec_third", 400)]):
        body = json.dumps(event(number)).encode()
        assert till.post(body, signed(body, with_secret)).status_code == status


def test_without_a_secret_the_webhook_is_off(sqlite_app: Flask, till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(event()).encode()
    for header in (signed(body, secret()), signed(body, "")):
        monkeypatch.setattr(gateways().payments, "webhook_secrets", [])
        answer = till.app.test_client().post("/api/stripe/webhook", data=body, headers={"Stripe-Signature": header})
        assert (answer.status_code, stored()) == (404, None)
        monkeypatch.undo()
        monkeypatch.setattr(gateways().payments, "webhook_secrets", ["whsec_of_the_next_round"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"7",
        b'"text"',
    ],
)
def test_a_signed_body_that_is_no_event_gets_a_clear_answer(sqlite_app: Flask, till: Till, body: bytes) -> None:
    payload = body.decode("latin-1")
    header = stripe.WebhookSignature.generate_signature_header(payload, secret())
    answer = till.app.test_client().post("/api/stripe/webhook", data=body, headers={"Stripe-Signature": header})
    assert 400 <= answer.status_code < 500
    assert db.session.query(GatewayEvent).count() == 0


@pytest.mark.parametrize("lacking", ["id", "created"])
def test_an_envelope_without_id_or_time_is_refused(sqlite_app: Flask, till: Till, lacking: str) -> None:
    body = event()
    del body[lacking]
    assert till.post(json.dumps(body).encode()).status_code in (400, 422)
    assert db.session.query(GatewayEvent).count() == 0


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"object": None},
        {"object": {}},
        {"object": []},
        [],
        {"object": "price"},
        "x",
    ],
)
def test_an_event_about_nothing_is_stored_and_put_aside(sqlite_app: Flask, till: Till, data: Any) -> None:
    for number, type_ in enumerate(
        ("price.created", "charge.refunded", "customer.subscription.updated", "refund.created")
    ):
        answer = till.post(json.dumps({**event(number, type_), "data": data}).encode())
        assert answer.status_code in (200, 400, 422)
    till.handle()
    assert db.session.query(GatewayEvent).filter_by(state="pending").count() == 0


def test_a_whole_event_with_the_decimals_of_a_price_is_taken(app: Flask, till: Till, carol: User) -> None:
    """As the gateway sends it, not cut down to what its handler looks at."""
    payments.upgrade(carol, plan_id("basic"))
    told = till.events()
    assert any("unit_amount_decimal" in json.dumps(one) for one in told)
    assert [till.post(json.dumps(one).encode()).status_code for one in told] == [200] * len(told)


def test_an_event_of_a_megabyte_is_taken(sqlite_app: Flask, till: Till) -> None:
    assert till.post(json.dumps(event(about="x" * 1_000_000)).encode()).status_code == 200


def test_an_unknown_kind_of_event_is_kept_and_ignored(app: Flask, till: Till) -> None:
    assert till.post(json.dumps(event(type_="wallet.exploded")).encode()).status_code == 200
    till.handle()
    row = stored()
    assert row is not None and (row.state, row.tries, row.error) == ("ignored", 1, None)


# What is handled, and what is tried again


def test_a_webhook_about_what_the_gateway_does_not_know_yet_is_tried_again_later(
    app: Flask, till: Till, carol: User
) -> None:
    till.post(json.dumps(event(1, "invoice.paid", {"id": "in_later", "object": "invoice"})).encode())
    till.handle()
    row = stored()
    assert row is not None and (row.state, row.tries) == ("pending", 1) and "in_later" in str(row.error)
    assert row.next_try_at is not None and row.next_try_at > till.clock.at


def test_what_fails_is_tried_again_ever_later_and_is_dead_after_the_last_try(app: Flask, till: Till) -> None:
    till.post(json.dumps(event(1, "charge.refunded", {"id": "ch_never", "object": "charge"})).encode())
    waits = []
    for _ in range(inbox.MOST_TRIES):
        till.handle()
        row = stored()
        assert row is not None
        if row.next_try_at is not None:
            waits.append(row.next_try_at - till.clock.at)
            till.clock.at = row.next_try_at
    assert row.state == "dead" and row.tries == inbox.MOST_TRIES and row.next_try_at is None
    assert waits == sorted(waits)
    assert any("evt_1" in sentence for sentence in faults())
    inbox.again("evt_1")
    till.handle()
    row = stored()
    assert row is not None and (row.state, row.tries) == ("pending", 1)


@pytest.mark.parametrize("trouble", [RuntimeError("boom"), TypeError("boom"), IndexError("boom")])
def test_a_handler_that_breaks_keeps_no_other_event_from_its_turn(
    app: Flask, till: Till, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def broken(_target: str, _also: Any) -> None:
        raise trouble

    monkeypatch.setitem(inbox.HANDLERS, "price.created", broken)
    till.post(json.dumps(event(1)).encode())
    till.post(json.dumps(event(2, "wallet.exploded")).encode())
    till.handle()
    first, second = stored("evt_1"), stored("evt_2")
    assert first is not None and second is not None
    assert (first.state, second.state) == ("pending", "ignored")
    assert "boom" in str(first.error)


def test_the_effect_and_its_mark_are_stored_together_or_not_at_all(
    app: Flask, till: Till, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    till.use_card(carol, "none")
    till.pay_page(str(payments.buy_pack(carol, 100).checkout_url))
    mark = inbox._mark

    def breaks(*_given: Any) -> None:
        raise ValueError("the power went")

    monkeypatch.setattr(inbox, "_mark", breaks)
    till.send(till.events("checkout.session.completed"))
    till.handle()
    assert (standing(carol).available, standing(carol).checkouts) == (20, (("pack", "open"),))
    monkeypatch.setattr(inbox, "_mark", mark)
    till.clock.advance(minutes=5)
    till.handle()
    assert standing(carol).available == 120 and faults() == []


def test_an_event_that_is_being_handled_is_left_to_whoever_has_it(
    app: Flask, till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def slow(target: str, also: Any) -> None:
        seen.append(target)
        assert payments.handle_due() == 0  # another clock, at the same time
        with transaction():
            also()

    monkeypatch.setitem(inbox.HANDLERS, "price.created", slow)
    till.post(json.dumps(event()).encode())
    assert payments.handle_due() == 1
    assert seen == ["x_1"]


def test_what_was_never_delivered_is_found_in_the_gateways_list(app: Flask, till: Till, carol: User) -> None:
    till.use_card(carol, "none")
    till.pay_page(str(payments.buy_pack(carol, 100).checkout_url))
    till.clock.advance(hours=1)
    assert payments.catch_up() > 0
    till.handle()
    assert standing(carol).available == 120
    assert payments.catch_up() == 0
    till.deliver()
    assert standing(carol).available == 120 and faults() == []


def test_an_old_event_that_was_missed_is_found_though_newer_ones_came(app: Flask, till: Till, carol: User) -> None:
    """The webhook was away for five hours; then one event came, before the hourly look at the list."""
    till.use_card(carol, "none")
    till.pay_page(str(payments.buy_pack(carol, 100).checkout_url))
    till.clock.advance(hours=5)
    dave = new_member("dave")
    payments.buy_pack(dave, 250)
    till.send(till.events("payment_intent.succeeded")[-1:])
    payments.catch_up()
    till.handle()
    assert standing(carol).available == 120 and faults() == []


# Every order


def orders(told: list[Object]) -> Iterator[list[Object]]:
    """Orders of events, each then sent a second time backwards."""
    every = list(itertools.permutations(told)) if len(told) <= 4 else []
    chance = random.Random(7)
    some = every or [chance.sample(told, len(told)) for _ in range(MOST)]
    for order in some:
        yield [*order, *reversed(order)]


def outcomes(yard: Yard, monkeypatch: pytest.MonkeyPatch, story: Any) -> set[Standing]:
    """How a story ends for every order of its events."""
    found: set[Standing] = set()
    number = 0
    while True:
        yard.reset()
        with yard.app.app_context():
            till = Till(yard.app, moved_clock(monkeypatch, utc(2027, 1, 31)))
            member = new_member("carol")
            told = story(till, member)
            every = list(orders(told))
            for one in every[number]:
                till.send([one])
                till.handle()
            till.clock.advance(minutes=30)
            till.handle()
            found.add(standing(member))
            assert faults() == [], [one["type"] for one in every[number]]
            db.session.remove()
        number += 1
        if number == len(every):
            return found


def of(told: list[Object], *types: str) -> list[Object]:
    return [one for one in told if one["type"] in types]


def test_the_events_of_a_purchase_end_in_one_state_in_every_order(
    sqlite_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(till: Till, member: User) -> list[Object]:
        till.use_card(member, "none")
        till.pay_page(str(payments.buy_pack(member, 100).checkout_url))
        till.stripe.refunds.create({"payment_intent": till.charges(member)[0]["payment_intent"], "amount": 250})
        names = ("checkout.session.completed", "payment_intent.succeeded", "charge.refunded", "refund.created")
        return of(till.events(), *names)

    found = outcomes(sqlite_yard, monkeypatch, story)
    assert {(one.available, one.paid[0][3]) for one in found} == {(95, 250)}
    assert len(found) == 1


def test_the_events_of_a_new_plan_end_in_one_state_in_every_order(
    sqlite_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(till: Till, member: User) -> list[Object]:
        till.use_card(member, "none")
        till.pay_page(str(payments.upgrade(member, plan_id("basic")).checkout_url))
        names = (
            "checkout.session.completed",
            "customer.subscription.created",
            "invoice.paid",
            "invoice.payment_succeeded",
        )
        return of(till.events(), *names)

    found = outcomes(sqlite_yard, monkeypatch, story)
    assert len(found) == 1
    assert {(one.plan, one.available) for one in found} == {("basic", 200)}


def test_the_events_of_an_upgrade_end_in_one_state_in_every_order(
    sqlite_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upgrade was made and the process died before it brought it over: only the events tell of it."""

    def story(till: Till, member: User) -> list[Object]:
        payments.upgrade(member, plan_id("basic"))
        before = len(till.events())
        till.clock.advance(days=14)
        item = till.stripe.subscriptions.retrieve(str(live(member).gateway_id))["items"].data[0].id
        gateway = gateways().payments
        price = prices.plan_price(price_list.plan(plan_id("pro")), "month")
        gateway.change_price(str(live(member).gateway_id), item, price, int(till.clock.at.timestamp()), False, "once")
        return [one for one in till.events()[before:] if one["type"].startswith(("customer.subscription", "invoice."))]

    found = outcomes(sqlite_yard, monkeypatch, story)
    assert len(found) == 1
    assert {(one.plan, one.available) for one in found} == {("pro", 200 + 400)}


def test_the_events_of_a_year_with_refunds_and_a_dispute_end_in_one_state_however_they_come(
    sqlite_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(till: Till, member: User) -> list[Object]:
        payments.buy_pack(member, 100)
        payments.buy_pack(member, 250)
        first, second = till.charges(member)
        till.stripe.refunds.create({"charge": first["id"], "amount": 300})
        dispute = till.simulator.open_dispute(second["id"])
        till.stripe.refunds.create({"charge": first["id"], "amount": 200})
        till.simulator.close_dispute(dispute["id"], won=False)
        return [one for one in till.events() if one["type"].startswith(("charge.", "refund.", "payment_intent."))]

    found = outcomes(sqlite_yard, monkeypatch, story)
    assert {(one.available, one.debt) for one in found} == {(70, 0)}
    assert len(found) == 1


def test_every_event_that_came_is_in_the_inbox(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    till.deliver()
    assert set(db.session.scalars(select(GatewayEvent.state))) <= {"handled", "ignored"}
    assert db.session.query(GatewayEvent).count() == len(till.events())
