"""The months before today: members who joined, paid, used and left, and what admins did, on a clock that is moved."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from models.accounts import User
from models.base import db, now
from services import accounts, admin, catalogues, credits, payments, subscriptions
from services.admin import Why
from services.gateways import gateways
from tests import factories
from tests.till import Clock, moved_clock

DAYS = 80
# username -> the day of joining, the plan chosen then, and how many credits a day are used at most
MEMBERS = {
    "carol": (1, "pro", 24), "dave": (3, "basic", 9), "erin": (8, None, 12), "grace": (14, "enterprise", 70),
    "heidi": (20, None, 6), "ivan": (24, "basic", 5), "judy": (31, None, 4), "mallory": (45, None, 1),
    "frank": (47, "basic", 6), "laura": (55, None, 0), "niaj": (73, "basic", 8),
}  # fmt: skip


class Past:
    """Who lives in it, and the verbs that the story below is told in."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.dice = random.Random(7)
        accounts.sign_up("olga@example.com", "olga", password, "superadmin")

    @property
    def chief(self) -> User:
        """The admin who acts here."""
        return self.member("olga")

    def member(self, name: str) -> User:
        """One member, as the database knows them now."""
        return db.session.scalars(db.select(User).where(User.username == name)).one()

    def join(self, name: str, plan: str | None) -> None:
        """Sign up, and buy a plan with the test card that works."""
        user = accounts.sign_up(f"{name}@example.com", name, self.password)
        if plan:
            payments.upgrade(user, factories.plan_id(plan))

    def use(self, name: str, most: int, day: int) -> None:
        """Spend some credits, where there are so many."""
        user, amount = self.member(name), self.dice.randint(0, most)
        action, words = self.dice.choice([("message", "Messages"), ("image", "Images")])
        if 0 < amount <= credits.spendable(user.id):
            usage = credits.Usage(action, quantity=amount)
            credits.spend(user.id, amount, key=f"use:{name}:{day}", reason=words, usage=usage)

    def credit(self, name: str, amount: int, reason: str) -> None:
        """Let the admin give credits, or take some."""
        nonce = f"{name}-{amount}-{reason}".replace(" ", "-")
        admin.change_credits(self.chief, self.member(name).id, "add", amount, nonce, Why(reason))


def live_through(password: str, owner: str) -> None:
    """Fill the yard with the past; `owner` joins late in it and works on today."""
    simulator = gateways().payments.simulator
    assert simulator is not None
    simulator.deliver, delivered = False, simulator.deliver
    with pytest.MonkeyPatch.context() as patch:
        clock = moved_clock(patch, now() - timedelta(days=DAYS))
        past = Past(password)
        story = _story(past)
        members = {**MEMBERS, owner: (57, "pro", 22)}
        for day in range(DAYS):
            for name, (joined, plan, most) in members.items():
                if joined == day:
                    past.join(name, plan)
                elif joined < day:
                    past.use(name, most, day)
            if day in story:
                story[day]()
            _night(clock)
    simulator.deliver = delivered


def _night(clock: Clock) -> None:
    """A day goes by, and the yard's clock does what is due."""
    before: datetime = clock.at
    simulator = gateways().payments.simulator
    assert simulator is not None
    simulator.advance(clock.advance(days=1))
    payments.catch_up(before)
    payments.handle_due()
    subscriptions.renew_overdue()


def _story(past: Past) -> dict[int, Callable[[], object]]:
    member, plan = past.member, factories.plan_id
    return {
        12: lambda: admin.assign_plan(
            past.chief, member("erin").id, plan("pro"), None, Why("partner of the workshop in spring")
        ),
        26: lambda: past.credit("heidi", 100, "first prize of the workshop"),
        35: lambda: payments.cancel(member("ivan")),
        40: lambda: payments.upgrade(member("grace"), plan("pro")),
        46: lambda: payments.buy_pack(member("judy"), 250),
        50: lambda: admin.archive_plan(
            past.chief, admin.create_plan(past.chief, _team(), Why("asked for by two schools")).id, Why("nobody chose it")
        ),
        51: lambda: admin.set_suspended(past.chief, member("mallory").id, True, Why("three accounts from one address")),
        52: lambda: admin.refund(
            past.chief, member("judy").id, payments.payments_of(member("judy").id)[0].id, "refund-of-judy", Why("bought twice")
        ),
        60: lambda: payments.choose_test_card(member("frank"), "declined"),
        62: lambda: payments.upgrade(member("dave"), plan("pro")),
        66: lambda: admin.set_role(past.chief, member("laura").id, "admin", Why("looks after members from now on")),
        70: lambda: past.credit("dave", 40, "made good for the outage on Monday"),
        74: lambda: admin.force_renewal(
            past.chief, subscriptions.current(member("carol")).id, Why("asked whether a renewal was missed")
        ),
        77: lambda: payments.buy_pack(member("alice"), 100),
        78: lambda: past.credit("erin", -15, "counted twice last week"),
    }  # fmt: skip


def _team() -> dict[str, object]:
    basic = next(one for one in catalogues.DEFAULT["plans"] if one["name"] == "basic")
    return {**basic, "name": "team", "display_name": "Team", "price_cents": 4999, "yearly_cents": None}
