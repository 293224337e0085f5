"""Our code and emulate: the catalogue, the hosted page from the click to the credits, and what may go wrong around it."""

from __future__ import annotations

import pytest
import requests
from flask import Flask
from sqlalchemy import delete

from models.accounts import User
from models.base import db, transaction
from models.payments import GatewayEvent
from models.plans import INTERVALS, GatewayPrice
from services import payments, price_list
from services.gateways import gateways
from tests.peers.hooks import post, twice
from tests.peers.shop import FREE, NOT_YET, ONE_PACK, Shop, bought, page_of, pay, press, relayed
from tests.till import at_once, faults, standing


def test_the_price_list_is_made_at_the_peer_once(sqlite_app: Flask, emulate: Shop) -> None:
    done = payments.publish()
    plans = [(plan, interval) for plan in price_list.plans() for interval in INTERVALS if plan.cents(interval)]
    assert len(done["added"]) == len(plans) + len(price_list.packs()) > 0 and done["retired"] == []
    assert payments.publish() == {"added": [], "retired": []}
    with transaction():
        db.session.execute(delete(GatewayPrice))  # another server on the same account: found again by lookup key
    assert payments.publish() == {"added": [], "retired": []}
    kept = {price["lookup_key"]: price["unit_amount"] for price in gateways().payments.active_prices("trainyard:")}
    assert {key: kept[key] for key in done["added"]} == kept
    assert sorted(kept.values()) == sorted(
        [plan.cents(interval) for plan, interval in plans] + [pack.price_cents for pack in price_list.packs()]
    )
    assert len(emulate.proxy.seen("POST /v1/prices")) == len(done["added"])


def test_a_pack_is_paid_on_the_hosted_page_and_granted_by_the_way_back(app: Flask, emulate: Shop, alice: User) -> None:
    visitor = emulate.visitor(alice)
    back = pay(page_of(alice))
    assert back.startswith(f"{emulate.url}/checkout/")
    assert bought(alice) == NOT_YET
    landed = visitor.get(back, timeout=30)
    assert landed.status_code == 200 and landed.url == f"{emulate.url}/billing"
    assert bought(alice) == ONE_PACK
    visitor.get(back, timeout=30)
    emulate.send(twice(relayed(emulate, "checkout.session.completed")))
    assert bought(alice) == ONE_PACK and faults() == []


def test_a_member_who_never_comes_back_gets_the_pack_by_the_webhook(
    sqlite_app: Flask, emulate: Shop, alice: User
) -> None:
    pay(page_of(alice))
    emulate.send(twice(relayed(emulate, "checkout.session.completed")))
    assert bought(alice) == ONE_PACK and faults() == []


def test_a_paid_page_that_nobody_told_of_is_found_when_all_are_compared(
    sqlite_app: Flask, emulate: Shop, alice: User
) -> None:
    page = page_of(alice)
    assert payments.compare() == 1 and bought(alice) == NOT_YET
    pay(page)
    assert payments.compare() == 1 and bought(alice) == ONE_PACK
    assert payments.compare() == 0 and faults() == []


def test_coming_back_without_having_paid_grants_nothing(sqlite_app: Flask, emulate: Shop, alice: User) -> None:
    checkout = payments.buy_pack(alice, 100).checkout
    landed = emulate.visitor(alice).get(f"{emulate.url}/checkout/{checkout.id}/done", timeout=30)
    assert landed.status_code == 200 and "on its way" in landed.text
    assert bought(alice) == NOT_YET


def test_what_one_paid_is_not_to_be_had_by_another_with_the_address(
    sqlite_app: Flask, emulate: Shop, alice: User, bob: User
) -> None:
    back = pay(page_of(alice))
    assert emulate.visitor(bob).get(back, timeout=30).status_code == 404
    assert standing(bob).available == FREE and bought(alice) == NOT_YET


def test_a_page_that_expires_closes_the_checkout(sqlite_app: Flask, emulate: Shop, alice: User) -> None:
    bought_page = payments.buy_pack(alice, 100).checkout
    emulate.peer.do("POST", f"/v1/checkout/sessions/{bought_page.session_id}/expire")
    told = relayed(emulate, "checkout.session.expired")
    emulate.send(twice(told))
    assert bought(alice) == (FREE, [], (("pack", "expired"),)) and faults() == []
    assert page_of(alice) != bought_page.url


def test_a_double_click_on_pay_pays_once(sqlite_app: Flask, emulate: Shop, alice: User) -> None:
    page = page_of(alice)
    leads = at_once(emulate.app, lambda: press(page), lambda: press(page))
    (back,) = [one for one in leads if one.startswith(emulate.url)]
    emulate.visitor(alice).get(back, timeout=30)
    emulate.send(relayed(emulate, "checkout.session.completed"))
    assert len(emulate.hooks.of("checkout.session.completed")) == 1
    assert bought(alice) == ONE_PACK and faults() == []


def test_asking_twice_for_a_pack_leads_to_one_page(sqlite_app: Flask, emulate: Shop, alice: User) -> None:
    assert page_of(alice) == page_of(alice)
    assert len(emulate.proxy.seen("POST /v1/checkout/sessions")) == 1


def test_a_double_click_on_buy_is_one_purchase_under_one_key(app: Flask, emulate: Shop, alice: User) -> None:
    """The peer opens a page for each click, since it does not look at keys; both pages are for one purchase."""
    emulate.customer(alice)
    number = alice.id
    opened = at_once(emulate.app, *[lambda: page_of(db.session.get_one(User, number))] * 2)
    assert all(str(one).startswith(emulate.peer.url) for one in opened), opened
    assert len(set(emulate.proxy.keys("POST /v1/checkout/sessions"))) == 1
    pay(opened[0])
    emulate.send(relayed(emulate, "checkout.session.completed"))
    assert bought(alice) == ONE_PACK and faults() == []


def test_the_success_page_and_the_webhook_at_once_grant_one_pack(app: Flask, emulate: Shop, alice: User) -> None:
    visitor = emulate.visitor(alice)
    back = pay(page_of(alice))
    (told,) = relayed(emulate, "checkout.session.completed")

    def webhook() -> None:
        assert post(emulate.url, told).status_code == 200
        payments.handle_due()

    at_once(emulate.app, lambda: visitor.get(back, timeout=30), webhook, lambda: visitor.get(back, timeout=30))
    emulate.handle()
    assert bought(alice) == ONE_PACK and faults() == []
    row = db.session.get(GatewayEvent, told.event["id"])
    assert row is not None


def test_an_envelope_without_id_is_refused_though_its_signature_is_good(
    sqlite_app: Flask, emulate: Shop, alice: User
) -> None:
    """As emulate sends it: signed with our secret, and without id and time."""
    pay(page_of(alice))
    (bare,) = emulate.hooks.wait("checkout.session.completed")
    assert sorted(bare.event) == ["data", "type"]
    refused = post(emulate.url, bare)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "bad_event"
    assert db.session.query(GatewayEvent).count() == 0 and bought(alice) == NOT_YET


@pytest.mark.parametrize("size", [100, 250])
def test_the_hosted_page_asks_what_our_price_list_says(
    sqlite_app: Flask, emulate: Shop, alice: User, size: int
) -> None:
    pack = price_list.pack(size)
    shown = requests.get(page_of(alice, size), timeout=30).text
    assert f"Pay ${pack.price_cents / 100:.2f}" in shown and f"{pack.credits:,} credits" in shown
