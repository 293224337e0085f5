"""A yard that sells, the peer that takes the money, and what lies between them; what a member does on a hosted page."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import requests
from flask import Flask
from sqlalchemy import update

from models import base
from models.accounts import User
from models.base import add, db, transaction
from models.payments import GatewayEvent
from models.plans import GatewayPrice
from services import payments, price_list
from services.payments import customers
from tests.factories import plan_id
from tests.peers import hooks as webhooks
from tests.peers.hooks import Delivery, Hooks, stamped
from tests.peers.proxy import Object, Proxy
from tests.peers.servers import Peer
from tests.till import PASSWORD, standing

WORKING, DECLINED_WHEN_CHARGED, DECLINED_WHEN_KEPT, NEEDS_AUTHENTICATION = (
    "4242424242424242", "4000000000000341", "4000000000000002", "4000002500003155",
)  # fmt: skip
FREE = 20  # credits that the Free plan gives each month
ONE_PACK: Any = (FREE + 100, [("pack", "paid", 1000)], (("pack", "paid"),))
NOT_YET: Any = (FREE, [], (("pack", "open"),))


@dataclass
class Shop:
    """A yard that sells, the peer that takes the money, and what lies between them."""

    app: Flask
    url: str
    peer: Peer
    proxy: Proxy
    hooks: Hooks

    # --- webhooks -----------------------------------------------------------------------------------------------------

    def send(self, deliveries: Iterable[Delivery]) -> None:
        """Hand webhooks to our route in this order; each is handled before the next comes."""
        for delivery in deliveries:
            assert webhooks.post(self.url, delivery).status_code == 200
            db.session.rollback()  # what the test has read is stale now
            self.handle()

    def tell(self, type_: str, about: Object) -> None:
        """Tell our route of what happened at a peer that sends no such event."""
        self.send([webhooks.told(type_, about, int(time.time()))])

    def handle(self) -> None:
        """Handle the inbox until nothing is due."""
        while payments.handle_due():
            pass
        db.session.rollback()

    def due_now(self) -> None:
        """Let what is to be tried again later be due at once."""
        with transaction():
            db.session.execute(update(GatewayEvent).values(next_try_at=base.now()))

    # --- a member -----------------------------------------------------------------------------------------------------

    def visitor(self, user: User) -> requests.Session:
        """Somebody's browser, logged in."""
        session = requests.Session()
        session.trust_env = False
        answered = session.post(f"{self.url}/login", json={"email": user.email, "password": PASSWORD}, timeout=30)
        assert answered.status_code == 200
        return session

    def customer(self, user: User) -> str:
        """What the peer calls somebody; they are made known to it at first."""
        return customers.of(user)

    def give_card(self, user: User, number: str = WORKING) -> str:
        """Put a card on file at the peer, as a hosted page does."""
        card = self.new_card(number)
        customer = self.customer(user)
        self.peer.do("POST", f"/v1/payment_methods/{card}/attach", customer=customer)
        self.peer.do("POST", f"/v1/customers/{customer}", invoice_settings__default_payment_method=card)
        return card

    def new_card(self, number: str) -> str:
        fields = {"card__number": number, "card__exp_month": 12, "card__exp_year": 2030, "card__cvc": "123"}
        return str(self.peer.do("POST", "/v1/payment_methods", type="card", **fields)["id"])

    def charges(self, user: User) -> list[Object]:
        """Every charge at the peer that succeeded."""
        found = self.peer.do("GET", "/v1/charges", customer=self.customer(user), limit=100)["data"]
        return [one for one in found if one["status"] == "succeeded"]


def bought(user: User) -> tuple[int, list[tuple[str, str, int]], tuple[tuple[str, str], ...]]:
    """Credits, payments and checkouts of a member."""
    now = standing(user)
    return now.available, [(kind, status, cents) for kind, status, cents, _, _ in now.paid], now.checkouts


def page_of(user: User, size: int = 100) -> str:
    """The hosted page on which somebody may pay a pack."""
    url = payments.buy_pack(user, size).checkout_url
    assert url is not None
    return url


def pay(page: str) -> str:
    """Look at a hosted page and press its button; where it leads."""
    shown = requests.get(page, timeout=30)
    assert shown.status_code == 200 and f'action="{"".join(page.partition("/checkout")[1:])}/complete"' in shown.text
    return press(page)


def press(page: str) -> str:
    answered = requests.post(f"{page}/complete", timeout=30, allow_redirects=False)
    assert answered.status_code == 302
    return answered.headers["Location"]


def relayed(shop: Shop, type_: str) -> list[Delivery]:
    """What the peer sent of this type, with the id and the time that it leaves out."""
    return [stamped(one, int(time.time())) for one in shop.hooks.wait(type_)]


def plan_at_peer(shop: Shop, name: str, interval: str = "month") -> str:
    """A plan as localstripe keeps plans, known here as the price of one of ours."""
    plan = price_list.plan(plan_id(name))
    made = shop.peer.do(
        "POST", "/v1/plans", id=f"plan_{name}_{uuid.uuid4().hex}", amount=plan.cents(interval), currency="usd",
        interval=interval, product__name=plan.display_name,
    )["id"]  # fmt: skip
    with transaction():
        key = f"trainyard:peer:{made}"
        add(GatewayPrice(gateway="stripe", lookup_key=key, price_id=str(made), plan_id=plan.id, interval=interval))
    return str(made)


def subscribed(shop: Shop, user: User, plan: str) -> Object:
    """A subscription that began at the peer, paid with the card on file."""
    customer = shop.customer(user)
    return shop.peer.do("POST", "/v1/subscriptions", customer=customer, items__0__plan=plan)
