"""What the way between our code and a peer may do: lose answers, fail, be slow. Asked again, it is under the same key."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from flask import Flask

from models.accounts import User
from models.base import db
from services import payments, price_list
from services.errors import Unavailable
from services.gateways import gateways
from services.payments import prices
from tests.factories import plan_id
from tests.peers.hooks import post, twice
from tests.peers.shop import (
    DECLINED_WHEN_CHARGED,
    FREE,
    ONE_PACK,
    Shop,
    bought,
    page_of,
    pay,
    plan_at_peer,
    relayed,
    subscribed,
)  # fmt: skip
from tests.till import at_once, faults, live, standing

TRIES = 3  # the first, and two more by the SDK
CHARGE, LOOK = "POST /v1/payment_intents", "GET /v1/payment_intents/.*"


def intents(shop: Shop) -> list[str]:
    """The payments that the peer carried out, whoever heard of them."""
    found = shop.peer.do("GET", "/v1/payment_intents", limit=100)["data"]
    return [str(one["id"]) for one in found if one["status"] == "succeeded"]


@contextlib.contextmanager
def meanwhile(shop: Shop, route: str, act: Callable[[], object]) -> Iterator[None]:
    """Within, `act` waits for an answer on `route` that the peer has given already; afterwards it has ended."""
    db.session.rollback()

    def run() -> None:
        with shop.app.app_context():
            act()

    with shop.proxy.held(route) as slow:
        actor = threading.Thread(target=run)
        actor.start()
        assert slow.acted.wait(30)
        yield
    actor.join(30)
    assert not actor.is_alive()
    db.session.rollback()


def buying(user: User, states: list[str]) -> Callable[[], object]:
    """Somebody who buys a pack in a thread of their own; how it went comes to `states`."""
    number = user.id
    return lambda: states.append(payments.buy_pack(db.session.get_one(User, number), 100).checkout.state)


# The answer is lost


def test_a_charge_whose_answer_is_lost_is_asked_for_again_under_the_same_key(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    """localstripe does not look at keys and charges twice; Stripe would not, and the pack is granted once in any case."""
    localstripe.give_card(alice)
    localstripe.proxy.lose(CHARGE)
    checkout = payments.buy_pack(alice, 100).checkout
    assert localstripe.proxy.keys(CHARGE) == [checkout.id] * 2 and len(intents(localstripe)) == 2
    first, second = localstripe.proxy.seen(CHARGE)
    assert first.form == second.form
    payments.catch_up()
    localstripe.handle()
    assert standing(alice).available == FREE + 100
    assert standing(alice).checkouts == (("pack", "paid"),) and faults() == []


def test_a_charge_of_which_nothing_is_heard_is_granted_once_when_its_event_is_found(
    app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    localstripe.proxy.lose(CHARGE, times=TRIES)
    with pytest.raises(Unavailable):
        payments.buy_pack(alice, 100)
    assert len(set(localstripe.proxy.keys(CHARGE))) == 1 and len(localstripe.proxy.keys(CHARGE)) == TRIES
    assert (standing(alice).available, standing(alice).checkouts) == (FREE, (("pack", "open"),))
    payments.catch_up()
    localstripe.handle()
    assert (standing(alice).available, standing(alice).checkouts) == (FREE + 100, (("pack", "paid"),))
    assert faults() == []


def test_asked_again_by_the_member_a_charge_of_which_nothing_was_heard_keeps_its_key(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    localstripe.proxy.lose(CHARGE, times=TRIES)
    with pytest.raises(Unavailable):
        payments.buy_pack(alice, 100)
    payments.buy_pack(alice, 100)
    assert len(set(localstripe.proxy.keys(CHARGE))) == 1
    assert standing(alice).available == FREE + 100


def test_a_member_is_not_told_that_nothing_was_charged_when_nobody_knows(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    localstripe.proxy.lose(CHARGE, times=TRIES)
    with pytest.raises(Unavailable) as silence:
        payments.buy_pack(alice, 100)
    assert len(intents(localstripe)) > 0
    assert "nothing was charged" not in silence.value.message.lower()


def test_a_page_whose_answer_is_lost_is_opened_again_under_the_same_key(
    sqlite_app: Flask, emulate: Shop, alice: User
) -> None:
    emulate.proxy.lose("POST /v1/checkout/sessions")
    pay(page_of(alice))
    assert len(emulate.proxy.keys("POST /v1/checkout/sessions")) == 2
    assert len(set(emulate.proxy.keys("POST /v1/checkout/sessions"))) == 1
    emulate.send(relayed(emulate, "checkout.session.completed"))
    assert bought(alice) == ONE_PACK and faults() == []


def test_a_refund_whose_answer_is_lost_is_asked_for_again_under_the_same_key(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    payments.buy_pack(alice, 100)
    (payment,) = payments.payments_of(alice.id)
    localstripe.proxy.lose("POST /v1/refunds")
    payments.refund_pack(payment.id, "refund:once")
    assert localstripe.proxy.keys("POST /v1/refunds") == ["refund:once"] * 2
    assert standing(alice).available == FREE and faults() == []


def test_a_peer_that_honours_keys_makes_one_customer_though_its_answer_was_lost(
    sqlite_app: Flask, remembering: Shop, alice: User
) -> None:
    remembering.proxy.lose("POST /v1/customers")
    made = remembering.customer(alice)
    first, second = remembering.proxy.keys("POST /v1/customers")
    assert first == second is not None
    found = remembering.peer.do("GET", "/v1/customers", limit=100)["data"]
    assert [one["id"] for one in found if one["email"] == alice.email] == [made]


def test_a_peer_that_honours_keys_makes_one_price_though_its_answer_was_lost(
    sqlite_app: Flask, remembering: Shop
) -> None:
    remembering.proxy.fail("GET /v1/prices", times=TRIES)
    with pytest.raises(Unavailable):
        payments.publish()
    key, name = f"trainyard:test:{time.time_ns()}", "100 credits"
    remembering.proxy.lose("POST /v1/prices", times=2)
    made = gateways().payments.create_price(key, name, 1000, None, {"trainyard": key})
    assert len(remembering.proxy.keys("POST /v1/prices")) == TRIES
    assert len(set(remembering.proxy.keys("POST /v1/prices"))) == 1
    found = remembering.peer.do("GET", "/v1/prices", limit=100)["data"]
    assert [one["id"] for one in found if one["lookup_key"] == key] == [made["id"]]


# The peer fails


def test_a_charge_that_fails_twice_goes_through_once(sqlite_app: Flask, localstripe: Shop, alice: User) -> None:
    localstripe.give_card(alice)
    localstripe.proxy.fail(CHARGE, times=2)
    checkout = payments.buy_pack(alice, 100).checkout
    assert localstripe.proxy.keys(CHARGE) == [checkout.id] * TRIES and len(intents(localstripe)) == 1
    assert standing(alice).available == FREE + 100 and faults() == []


def test_while_the_peer_fails_nothing_is_bought_and_afterwards_it_is(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    localstripe.proxy.fail(CHARGE, times=TRIES)
    visitor = localstripe.visitor(alice)
    asked = [
        visitor.post(f"{localstripe.url}/api/credits/purchase", json={"pack_size": 100}, timeout=30) for _ in range(2)
    ]
    assert [one.status_code for one in asked] == [503, 200]
    db.session.rollback()
    assert len(intents(localstripe)) == 1
    assert standing(alice).available == FREE + 100 and faults() == []


def test_a_webhook_whose_object_cannot_be_fetched_waits_and_is_handled_later(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    localstripe.proxy.fail(LOOK, times=2 * TRIES)
    with pytest.raises(Unavailable):
        payments.buy_pack(alice, 100)
    told = localstripe.hooks.wait("payment_intent.succeeded")
    localstripe.send(told)
    assert standing(alice).available == FREE and payments.oldest_pending() is not None
    localstripe.due_now()
    localstripe.handle()
    assert standing(alice).available == FREE + 100 and faults() == []
    localstripe.send(twice(told))
    assert standing(alice).available == FREE + 100 and payments.oldest_pending() is None


def test_one_webhook_that_comes_twice_at_the_same_moment_is_stored_and_handled_once(
    app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    localstripe.proxy.lose(CHARGE, times=TRIES)
    with pytest.raises(Unavailable):
        payments.buy_pack(alice, 100)
    (told,) = localstripe.hooks.wait("payment_intent.succeeded")
    answers = at_once(localstripe.app, *[lambda: post(localstripe.url, told).json()["known"]] * 2)
    assert sorted(answers) == [False, True]
    at_once(localstripe.app, payments.handle_due, payments.handle_due)
    assert standing(alice).available == FREE + 100 and len(standing(alice).paid) == 1 and faults() == []


# The peer is slow


def test_a_webhook_that_overtakes_the_answer_grants_the_pack_and_the_answer_adds_nothing(
    app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    states: list[str] = []
    with meanwhile(localstripe, CHARGE, buying(alice, states)):
        localstripe.send(localstripe.hooks.wait("payment_intent.succeeded"))
        assert standing(alice).available == FREE + 100 and states == []
    assert states == ["paid"]
    assert standing(alice).available == FREE + 100 and len(standing(alice).paid) == 1 and faults() == []


def test_while_one_answer_is_slow_others_buy(sqlite_app: Flask, localstripe: Shop, alice: User, bob: User) -> None:
    """Nothing here is locked while the gateway is asked."""
    for member in (alice, bob):
        localstripe.give_card(member)
    states: list[str] = []
    with meanwhile(localstripe, CHARGE, buying(alice, states)):
        assert payments.buy_pack(bob, 250).checkout.state == "paid"
        assert states == [] and standing(alice).available == FREE
    assert (standing(alice).available, standing(bob).available) == (FREE + 100, FREE + 250) and faults() == []


def test_a_look_that_began_before_a_refund_does_not_undo_it(app: Flask, localstripe: Shop, alice: User) -> None:
    """The older of two looks at one charge comes last."""
    localstripe.give_card(alice)
    payments.buy_pack(alice, 100)
    (charge,) = localstripe.charges(alice)
    about = {"id": charge["id"], "object": "charge"}
    with meanwhile(localstripe, "GET /v1/charges/.*", lambda: localstripe.tell("charge.refunded", about)):
        localstripe.peer.do("POST", "/v1/refunds", charge=charge["id"], amount=charge["amount"] // 4)
        localstripe.tell("charge.refunded", about)
        assert standing(alice).available == FREE + 75
    assert standing(alice).available == FREE + 75
    (payment,) = payments.payments_of(alice.id)
    assert payment.refunded_cents == charge["amount"] // 4 and faults() == []


def test_a_look_that_began_before_an_invoice_was_paid_does_not_open_it_again(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice, DECLINED_WHEN_CHARGED)
    made = subscribed(localstripe, alice, plan_at_peer(localstripe, "basic"))
    about = {"id": made["latest_invoice"], "object": "invoice"}
    localstripe.give_card(alice)
    with meanwhile(localstripe, "GET /v1/invoices/.*", lambda: localstripe.tell("invoice.payment_failed", about)):
        localstripe.peer.do("POST", f"/v1/invoices/{about['id']}/pay")
        localstripe.tell("invoice.paid", about)
        assert [payment.status for payment in payments.payments_of(alice.id)] == ["paid"]
    db.session.rollback()
    assert [payment.status for payment in payments.payments_of(alice.id)] == ["paid"] and faults() == []


def test_a_look_that_began_before_a_subscription_ended_does_not_begin_it_again(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    made = subscribed(localstripe, alice, plan_at_peer(localstripe, "basic"))
    about = {"id": made["id"], "object": "subscription"}
    localstripe.tell("customer.subscription.created", about)
    late = partial(localstripe.tell, "customer.subscription.updated", about)
    with meanwhile(localstripe, "GET /v1/subscriptions/.*", late):
        localstripe.peer.do("DELETE", f"/v1/subscriptions/{made['id']}")
        localstripe.tell("customer.subscription.deleted", about)
        assert live(alice).plan.name == "free"
    assert live(alice).plan.name == "free" and faults() == []


# What a key stands for


def test_every_request_that_changes_something_at_the_peer_carries_a_key(
    sqlite_app: Flask, localstripe: Shop, alice: User
) -> None:
    localstripe.give_card(alice)
    payments.buy_pack(alice, 100)
    changing = [call for call in localstripe.proxy.calls if call.method == "POST"]
    assert len(changing) == 2 and all(call.key for call in changing)
    assert len({call.key for call in changing}) == len(changing)


def test_a_plan_is_priced_under_a_key_that_names_the_amount(sqlite_app: Flask, emulate: Shop) -> None:
    plan = price_list.plan(plan_id("basic"))
    prices.plan_price(plan, "month")
    (key,) = emulate.proxy.keys("POST /v1/prices")
    assert key == f"price:trainyard:plan:basic:v{plan.version}:month:{plan.cents('month')}"
