"""Our code and localstripe: packs charged to cards on file, refusals, refunds, missed events, subscriptions."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from models.accounts import User
from models.base import db
from models.payments import Checkout, GatewayEvent, Payment
from services import payments, price_list
from services.errors import PaymentNeeded, Unavailable
from services.gateways.payments import instant
from tests.factories import plan_id
from tests.peers.hooks import Delivery, post, twice
from tests.peers.proxy import Object
from tests.peers.shop import (
    DECLINED_WHEN_CHARGED,
    DECLINED_WHEN_KEPT,
    FREE,
    NEEDS_AUTHENTICATION,
    Shop,
    plan_at_peer,
    subscribed,
)  # fmt: skip
from tests.till import faults, live, standing

SUBSCRIPTION_EVENTS = (
    "invoice.created", "payment_intent.succeeded", "invoice.payment_succeeded", "customer.subscription.created",
)  # fmt: skip
UNTOUCHED = ("free", FREE, ())


def kept(user: User) -> tuple[str, int, tuple[Any, ...]]:
    """Plan, credits and payments of a member."""
    now = standing(user)
    return now.plan, now.available, now.paid


def only_payment(user: User) -> Payment:
    return db.session.scalars(select(Payment).where(Payment.user_id == user.id)).one()


def pack_cents() -> int:
    return price_list.pack(100).price_cents


# Packs


def test_a_pack_is_charged_to_the_card_on_file_and_granted_once_whoever_tells_of_it(
    app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    bought = payments.buy_pack(alice, 100)
    assert (bought.checkout.state, bought.checkout_url) == ("paid", None)
    before = standing(alice)
    assert (before.available, before.paid) == (FREE + 100, (("pack", "paid", pack_cents(), 0, None),))
    localstripe.send(twice(localstripe.hooks.wait("payment_intent.succeeded")))
    assert payments.catch_up() > 0
    localstripe.handle()
    assert standing(alice) == before and faults() == []
    (charge,) = localstripe.charges(alice)
    intent = localstripe.peer.do("GET", f"/v1/payment_intents/{charge['payment_intent']}")
    assert intent["metadata"] == {"user_id": str(alice.id), "checkout_id": bought.checkout.id}
    assert (charge["amount"], charge["currency"]) == (pack_cents(), "usd")
    assert localstripe.proxy.keys("POST /v1/payment_intents") == [bought.checkout.id]


def test_the_card_on_file_is_shown_in_words(sqlite_app: Flask, localstripe: Shop, alice: User) -> None:
    localstripe.give_card(alice)
    assert payments.card_of(alice) == {"brand": "visa", "last4": "4242", "until": "12/2030"}


def test_a_card_that_is_declined_when_charged_buys_nothing(sqlite_app: Flask, localstripe: Shop, alice: User) -> None:
    localstripe.give_card(alice, DECLINED_WHEN_CHARGED)
    with pytest.raises(PaymentNeeded) as refusal:
        payments.buy_pack(alice, 100)
    assert refusal.value.code == "card_declined"
    localstripe.send(localstripe.hooks.wait("payment_intent.payment_failed"))
    assert kept(alice) == UNTOUCHED and standing(alice).checkouts == (("pack", "declined"),)
    assert localstripe.charges(alice) == [] and faults() == []


def test_after_a_declined_card_another_one_buys_the_pack(sqlite_app: Flask, localstripe: Shop, alice: User) -> None:
    localstripe.give_card(alice, DECLINED_WHEN_CHARGED)
    with pytest.raises(PaymentNeeded):
        payments.buy_pack(alice, 100)
    localstripe.give_card(alice)
    assert payments.buy_pack(alice, 100).checkout.state == "paid"
    first, second = localstripe.proxy.keys("POST /v1/payment_intents")
    assert first != second and len(localstripe.charges(alice)) == 1
    assert standing(alice).available == FREE + 100


def test_a_card_that_the_bank_lets_nobody_keep_leaves_the_member_without_one(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    """Without a card the way is a hosted page, which localstripe has not: the verb says so and nothing is bought."""
    card = localstripe.new_card(DECLINED_WHEN_KEPT)
    customer = localstripe.customer(alice)
    refused = localstripe.peer.ask("POST", f"/v1/payment_methods/{card}/attach", customer=customer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "card_declined")
    assert payments.card_of(alice) is None
    with pytest.raises(Unavailable):
        payments.buy_pack(alice, 100)
    assert kept(alice) == UNTOUCHED and localstripe.charges(alice) == []


def test_a_card_that_needs_its_person_is_told_to_them(sqlite_app: Flask, localstripe: Shop, alice: User) -> None:
    localstripe.give_card(alice, NEEDS_AUTHENTICATION)
    with pytest.raises(PaymentNeeded) as refusal:
        payments.buy_pack(alice, 100)
    assert refusal.value.code == "authentication_required"
    assert kept(alice) == UNTOUCHED and localstripe.charges(alice) == []


@pytest.mark.parametrize("confirmed", [True, False])
def test_what_waits_for_its_person_is_granted_when_they_confirm_and_not_before(
    sqlite_app: Flask, localstripe: Shop, alice: User, confirmed: bool
) -> None:
    localstripe.give_card(alice, NEEDS_AUTHENTICATION)
    with contextlib.suppress(PaymentNeeded):
        payments.buy_pack(alice, 100)
    assert kept(alice) == UNTOUCHED
    (intent,) = localstripe.peer.do("GET", "/v1/payment_intents")["data"]
    assert intent["status"] == "requires_action"
    localstripe.peer.do(
        "POST", f"/v1/payment_intents/{intent['id']}/_authenticate", client_secret=intent["client_secret"],
        success=str(confirmed).lower(),
    )  # fmt: skip
    payments.catch_up()
    localstripe.handle()
    assert standing(alice).available == (FREE + 100 if confirmed else FREE)
    assert len(localstripe.charges(alice)) == int(confirmed) and faults() == []


# Money that goes back


def test_a_partial_refund_takes_back_its_share_however_often_it_is_told(
    app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    payments.buy_pack(alice, 100)
    (charge,) = localstripe.charges(alice)
    for quarters in (1, 2):
        localstripe.peer.do("POST", "/v1/refunds", charge=charge["id"], amount=pack_cents() // 4)
        for _ in range(2):
            localstripe.tell("charge.refunded", {"id": charge["id"], "object": "charge"})
        assert standing(alice).available == FREE + 100 - 25 * quarters
        assert only_payment(alice).refunded_cents == pack_cents() // 4 * quarters
    assert faults() == []


def test_our_own_refund_goes_out_under_its_key_and_takes_the_pack_back(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    payments.buy_pack(alice, 100)
    refunded = payments.refund_pack(only_payment(alice).id, "refund:by-hand")
    assert refunded.refunded_cents == pack_cents()
    assert localstripe.proxy.keys("POST /v1/refunds") == ["refund:by-hand"]
    assert [charge["amount_refunded"] for charge in localstripe.charges(alice)] == [pack_cents()]
    assert standing(alice).available == FREE and faults() == []


# What was missed


def test_what_happened_while_our_webhook_was_down_is_found_in_the_list_of_events(
    app: Flask, localstripe: Shop, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    localstripe.hooks.is_down = True
    localstripe.give_card(alice)
    localstripe.proxy.fail("GET /v1/payment_intents/.*", times=3)
    with pytest.raises(Unavailable):
        payments.buy_pack(alice, 100)  # charged, and then nothing more was heard of it
    assert standing(alice).available == FREE and len(localstripe.charges(alice)) == 1
    monkeypatch.setattr("services.gateways.payments.EVENT_PAGE", 1)
    known = payments.catch_up()
    pages = len(localstripe.proxy.seen("GET /v1/events"))
    assert known == pages > 1
    localstripe.handle()
    assert standing(alice).available == FREE + 100 and faults() == []
    assert payments.catch_up() == 0
    localstripe.send(twice(localstripe.hooks.wait("payment_intent.succeeded")))  # it came through after all
    assert standing(alice).available == FREE + 100


def test_a_webhook_of_the_peers_own_signing_reaches_the_route_by_itself(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    answers: list[int] = []

    def onward(delivery: Delivery) -> int:
        answers.append(post(localstripe.url, delivery).status_code)
        return answers[-1]

    localstripe.hooks.onward = onward
    localstripe.give_card(alice)
    payments.buy_pack(alice, 100)
    (delivery,) = localstripe.hooks.wait("payment_intent.succeeded")
    localstripe.handle()
    assert set(answers) == {200}
    row = db.session.get(GatewayEvent, delivery.event["id"])
    assert row is not None and (row.object_id, row.body) == (delivery.about["id"], delivery.event)


# Subscriptions


def test_a_subscription_and_its_invoice_are_brought_over_from_their_webhooks(
    app: Flask, localstripe: Shop, alice: User
) -> None:
    """Its period stands at the top and its item names a plan: the older shape, which the reader takes as well."""
    localstripe.give_card(alice)
    made = subscribed(localstripe, alice, plan_at_peer(localstripe, "basic"))
    assert "price" not in made["items"]["data"][0] and "current_period_end" not in made["items"]["data"][0]
    localstripe.send(twice(localstripe.hooks.wait(*SUBSCRIPTION_EVENTS)))
    price = price_list.plan(plan_id("basic")).cents("month")
    assert kept(alice) == ("basic", 200, (("plan", "paid", price, 0, None),))
    subscription = live(alice)
    assert (subscription.gateway_id, subscription.status) == (made["id"], "active")
    assert subscription.term_ends_at == instant(made["current_period_end"])
    (charge,) = localstripe.charges(alice)
    assert (only_payment(alice).charge_id, only_payment(alice).intent_id) == (charge["id"], charge["payment_intent"])
    assert faults() == []


def test_a_subscription_that_ends_at_the_peer_ends_here(sqlite_app: Flask, localstripe: Shop, alice: User) -> None:
    localstripe.give_card(alice)
    made = subscribed(localstripe, alice, plan_at_peer(localstripe, "basic"))
    localstripe.send(localstripe.hooks.wait("customer.subscription.created"))
    assert live(alice).plan.name == "basic"
    localstripe.peer.do("DELETE", f"/v1/subscriptions/{made['id']}")
    localstripe.send(localstripe.hooks.wait("customer.subscription.deleted"))
    assert (live(alice).plan.name, live(alice).source) == ("free", "free") and faults() == []


def test_a_subscription_that_was_never_paid_for_begins_nothing(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice, DECLINED_WHEN_CHARGED)
    made = subscribed(localstripe, alice, plan_at_peer(localstripe, "basic"))
    assert made["status"] == "incomplete"
    localstripe.send(localstripe.hooks.wait("customer.subscription.created"))
    assert standing(alice).plan == "free" and standing(alice).available == FREE and faults() == []


def test_a_dearer_plan_that_no_webhook_told_of_is_found_when_all_are_compared(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    basic, pro = plan_at_peer(localstripe, "basic"), plan_at_peer(localstripe, "pro")
    made = subscribed(localstripe, alice, basic)
    localstripe.tell("customer.subscription.created", {"id": made["id"], "object": "subscription"})
    localstripe.peer.do("POST", f"/v1/subscriptions/{made['id']}", items__0__plan=pro)
    assert live(alice).plan.name == "basic" and payments.compare() == 1
    assert live(alice).plan.name == "pro" and faults() == []
    credits = standing(alice).available
    payments.compare()
    assert standing(alice).available == credits > 200


def test_what_the_item_says_goes_before_what_the_subscription_says(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    """The shape since 2025-03-31, whatever is left of the older one."""
    localstripe.give_card(alice)
    basic, pro = plan_at_peer(localstripe, "basic"), plan_at_peer(localstripe, "pro")
    made = subscribed(localstripe, alice, basic)
    start, end = made["current_period_start"], made["current_period_end"] + 86400

    def newer(subscription: Object) -> None:
        item = subscription["items"]["data"][0]
        item |= {"current_period_start": start, "current_period_end": end, "price": {"id": pro, "object": "price"}}

    localstripe.proxy.change("GET /v1/subscriptions/.*", newer)
    localstripe.tell("customer.subscription.created", {"id": made["id"], "object": "subscription"})
    assert (live(alice).plan.name, live(alice).term_ends_at) == ("pro", instant(end))


@pytest.mark.parametrize(
    "lacking, said", [(("current_period_start", "current_period_end"), "no period"), (("plan",), "none of ours")]
)
def test_a_subscription_that_does_not_say_what_it_is_waits_until_it_does(
    sqlite_app: Flask, localstripe: Shop, alice: User, lacking: tuple[str, ...], said: str
) -> None:
    localstripe.give_card(alice)
    made = subscribed(localstripe, alice, plan_at_peer(localstripe, "basic"))

    def without(subscription: Object) -> None:
        for place, name in itertools.product((subscription, subscription["items"]["data"][0]), lacking):
            place.pop(name, None)

    localstripe.proxy.change("GET /v1/subscriptions/.*", without)
    localstripe.tell("customer.subscription.created", {"id": made["id"], "object": "subscription"})
    row = db.session.scalars(select(GatewayEvent)).one()
    assert (row.state, row.tries) == ("pending", 1) and said in str(row.error)
    assert standing(alice).plan == "free"
    localstripe.due_now()
    localstripe.handle()
    assert standing(alice).plan == "basic" and faults() == []


def test_webhooks_twice_and_in_either_order_end_in_one_state(
    app: Flask, localstripe: Shop, alice: User, bob: User
) -> None:
    """Two members do the same; one's webhooks come as they happened, the other's backwards, and each of them twice."""
    plan = plan_at_peer(localstripe, "basic")
    members = (alice, bob)
    for member in members:
        localstripe.give_card(member)
        subscribed(localstripe, member, plan)
        payments.buy_pack(member, 250)
    found = []
    for member, order in zip(members, (1, -1), strict=True):
        told = localstripe.hooks.wait(*SUBSCRIPTION_EVENTS, about=localstripe.customer(member))
        localstripe.send(twice(told[::order]))
        found.append(standing(member))
    assert found[0] == found[1] and found[0].available == 200 + 250 and faults() == []
    states = set(db.session.scalars(select(GatewayEvent.state)))
    assert states == {"handled"} and db.session.query(Checkout).filter_by(state="open").count() == 0
