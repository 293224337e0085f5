"""From plan to plan: what is charged, what is granted, what waits for the end of what is paid for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.accounts import User
from models.base import db
from models.subscriptions import Subscription
from services import credits, payments, price_list, subscriptions
from services.errors import Conflict
from services.gateways.simulated_stripe import hosted
from services.payments import sync
from tests.factories import plan_id
from tests.till import Till, faults, ledger, live, standing, utc

FREE, BASIC, PRO, ENTERPRISE = 20, 200, 1000, 5000  # monthly credits
CENTS = {"basic": 999, "pro": 2999, "enterprise": 9999}
Order = list[str]


def on(user: User) -> tuple[str, str, int]:
    now = standing(user)
    return now.plan, now.interval, now.available


def gateways_view(till: Till, user: User) -> Any:
    """The subscription as the gateway has it."""
    return till.stripe.subscriptions.retrieve(str(live(user).gateway_id)).to_dict()


def yearly_cents(name: str) -> int:
    cents = price_list.plan(plan_id(name)).yearly_cents
    assert cents is not None
    return cents


# Upgrades


@pytest.mark.parametrize("days", [0, 1, 10, 27])
def test_an_upgrade_charges_what_the_preview_said_and_grants_the_share_of_the_rest(
    app: Flask, till: Till, carol: User, days: int
) -> None:
    payments.upgrade(carol, plan_id("basic"))
    till.wait(days=days, hours=5)
    offer = payments.preview(carol, plan_id("pro"))
    paid = till.paid_cents(carol)
    payments.upgrade(carol, plan_id("pro"))
    seconds, all_of_it = (28 - days) * 86400 - 5 * 3600, 28 * 86400
    assert offer.credits == 800 * seconds // all_of_it
    assert abs(offer.cents - 2000 * seconds / all_of_it) <= 1
    assert till.paid_cents(carol) - paid == offer.cents
    assert on(carol) == ("pro", "month", 200 + offer.credits)
    before = standing(carol)
    till.deliver()
    assert standing(carol) == before
    assert faults() == []


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(second=st.integers(0, 28 * 86400 - 1))
def test_at_whatever_second_credits_and_money_are_shares_of_the_same_rest(
    sqlite_app: Flask, till: Till, second: int
) -> None:
    from tests.till import new_member

    till.clock.at = utc(2027, 1, 31)
    member = new_member(f"member{second}x{till.clock.at:%S}{db.session.query(User).count()}")
    payments.upgrade(member, plan_id("basic"))
    till.clock.advance(seconds=second)
    offer = payments.preview(member, plan_id("enterprise"))
    assert offer.credits == 4800 * (28 * 86400 - second) // (28 * 86400)
    assert abs(offer.cents - 9000 * (28 * 86400 - second) / (28 * 86400)) <= 1


def test_an_upgrade_with_a_refused_card_changes_nothing(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    till.use_card(carol, "declined")
    before = standing(carol)
    with pytest.raises(Exception, match="declined"):
        payments.upgrade(carol, plan_id("pro"))
    till.deliver()
    after = standing(carol)
    assert (after.plan, after.available, after.operations) == (before.plan, before.available, before.operations)
    assert faults() == []


def test_the_present_and_an_archived_plan_are_refused(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    with pytest.raises(Conflict, match="already"):
        payments.upgrade(carol, plan_id("basic"))
    old = plan_id("pro")
    price_list.archive(old)
    with pytest.raises(Conflict, match="not offered"):
        payments.upgrade(carol, old)


def test_an_edited_plan_changes_nothing_for_whoever_has_it(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    price_list.edit(plan_id("basic"), {"price_cents": 1999, "monthly_credits": 50})
    till.wait(days=28)
    till.deliver()
    assert on(carol) == ("basic", "month", BASIC)
    assert till.paid_cents(carol) == 2 * CENTS["basic"]
    assert faults() == []


def test_an_upgrade_of_a_plan_that_ends_goes_on(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    payments.cancel(carol)
    payments.upgrade(carol, plan_id("pro"))
    till.wait_until(utc(2027, 2, 28))
    till.deliver()
    assert on(carol)[0] in ("pro", "free")
    assert faults() == []


# From month to year


def test_a_year_is_paid_at_once_less_what_is_left_of_the_month(app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    till.wait(days=14)
    offer = payments.preview(carol, plan_id("basic"), "year")
    paid = till.paid_cents(carol)
    payments.upgrade(carol, plan_id("basic"), "year")
    assert till.paid_cents(carol) - paid == offer.cents
    assert abs(offer.cents - (yearly_cents("basic") - 999 / 2)) <= 1
    assert on(carol) == ("basic", "year", BASIC)
    till.deliver()
    assert on(carol) == ("basic", "year", BASIC)
    assert faults() == []


def test_a_year_brings_its_credits_month_by_month_and_ends_when_the_gateway_says(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    payments.upgrade(carol, plan_id("basic"), "year")
    assert on(carol) == ("basic", "year", BASIC)
    for _ in range(11):
        till.wait_until(subscriptions.period(live(carol), till.clock.at)[1])
        till.deliver()
        assert on(carol) == ("basic", "year", BASIC)
    assert till.paid_cents(carol) == yearly_cents("basic")
    payments.cancel(carol)
    assert subscriptions.term_end(live(carol)) == utc(2028, 1, 31)
    till.wait_until(utc(2028, 1, 31))
    assert standing(carol).plan == "free"
    till.deliver()
    assert on(carol) == ("free", "month", FREE)
    assert faults() == []


def test_from_month_to_year_and_dearer_counts_from_the_gateways_anchor(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    """The gateway begins a new cycle, so the periods here begin anew with it (H3, I4)."""
    payments.upgrade(carol, plan_id("basic"))
    till.wait(days=14)
    payments.upgrade(carol, plan_id("pro"), "year")
    till.deliver()
    assert live(carol).anchor_at == datetime.fromtimestamp(
        gateways_view(till, carol)["billing_cycle_anchor"], utc(2027, 1, 1).tzinfo
    )
    assert standing(carol).available >= PRO
    assert faults() == []


# Downgrades, and undoing them


def test_a_downgrade_waits_for_the_end_of_the_month(app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("pro"))
    paid = till.paid_cents(carol)
    change = payments.upgrade(carol, plan_id("basic"))
    assert change.scheduled_for == utc(2027, 2, 28)
    till.deliver()
    assert on(carol) == ("pro", "month", PRO) and till.paid_cents(carol) == paid
    assert live(carol).pending_plan_id == plan_id("basic")
    till.clock.at = utc(2027, 2, 28)
    assert on(carol) == ("basic", "month", BASIC)
    till.simulator.advance(till.clock.at)
    till.deliver()
    assert on(carol) == ("basic", "month", BASIC)
    assert till.paid_cents(carol) - paid == CENTS["basic"]
    assert (live(carol).pending_plan_id, live(carol).term_ends_at) == (None, utc(2027, 3, 31))
    assert faults() == []


def test_a_downgrade_holds_when_the_gateway_renews_before_our_clock(app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("pro"))
    payments.upgrade(carol, plan_id("basic"))
    till.deliver()
    till.wait_until(utc(2027, 2, 28))
    till.deliver()
    assert on(carol) == ("basic", "month", BASIC)
    assert faults() == []


def test_a_downgrade_can_be_undone(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("pro"))
    payments.upgrade(carol, plan_id("basic"))
    payments.resume(carol)
    till.deliver()
    till.wait_until(utc(2027, 2, 28))
    till.deliver()
    assert on(carol) == ("pro", "month", PRO)
    assert till.paid_cents(carol) == 2 * CENTS["pro"]
    assert faults() == []


@pytest.mark.parametrize("before, after", [(("pro", "month"), ("basic", "year")), (("pro", "year"), ("pro", "month")),
                                           (("pro", "year"), ("basic", "month"))])  # fmt: skip
def test_another_interval_later_costs_nothing_now(
    sqlite_app: Flask, till: Till, carol: User, before: tuple[str, str], after: tuple[str, str]
) -> None:
    payments.upgrade(carol, plan_id(before[0]), before[1])
    paid, end = till.paid_cents(carol), subscriptions.term_end(live(carol))
    change = payments.upgrade(carol, plan_id(after[0]), after[1])
    till.deliver()
    assert change.scheduled_for == end
    assert till.paid_cents(carol) == paid
    assert on(carol)[:2] == before
    assert subscriptions.term_end(live(carol)) == end
    till.wait_until(end)
    till.deliver()
    payments.go_on()
    assert on(carol)[:2] == after
    assert faults() == []


# Cancelling


@pytest.mark.parametrize("first", ["clock", "gateway"])
def test_a_cancelled_plan_ends_with_its_month_and_free_goes_on_from_the_same_day(
    app: Flask, till: Till, carol: User, first: str
) -> None:
    payments.upgrade(carol, plan_id("basic"))
    till.wait(days=3)
    payments.cancel(carol)
    till.deliver()
    assert on(carol) == ("basic", "month", BASIC)
    if first == "clock":
        till.clock.at = utc(2027, 2, 28)
        assert on(carol) == ("free", "month", FREE)
    till.wait_until(utc(2027, 2, 28))
    till.deliver()
    assert on(carol) == ("free", "month", FREE)
    till.wait_until(utc(2027, 3, 31))
    assert on(carol) == ("free", "month", FREE)
    assert live(carol).anchor_at == utc(2027, 1, 31)
    assert [at for key, kind, *_, at in ledger(carol.id) if kind == "grant"][-2:] == [
        utc(2027, 2, 28),
        utc(2027, 3, 31),
    ]
    assert till.paid_cents(carol) == CENTS["basic"]
    assert faults() == []


def test_a_late_look_at_a_plan_that_ended_here_does_not_bring_it_back(app: Flask, till: Till, carol: User) -> None:
    """Our clock was a moment before the gateway's, and just then an old event was handled."""
    payments.upgrade(carol, plan_id("basic"))
    gateway_id = str(live(carol).gateway_id)
    payments.cancel(carol)
    till.clock.at = utc(2027, 2, 28)
    assert on(carol) == ("free", "month", FREE)
    sync.sync_subscription(gateway_id)
    assert on(carol) == ("free", "month", FREE)
    till.simulator.advance(till.clock.at)
    till.deliver()
    assert on(carol) == ("free", "month", FREE)
    assert faults() == []


def test_a_cancellation_can_be_undone_until_the_end(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    payments.cancel(carol)
    payments.cancel(carol)
    till.wait(days=20)
    payments.resume(carol)
    till.deliver()
    till.wait_until(utc(2027, 2, 28))
    till.deliver()
    assert on(carol) == ("basic", "month", BASIC)
    assert till.paid_cents(carol) == 2 * CENTS["basic"]
    with pytest.raises(Conflict, match="[Nn]othing"):
        payments.resume(carol)
    assert faults() == []


def test_a_plan_cancelled_in_the_portal_ends_here_too(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    portal = payments.portal_url(carol).rsplit("/", 1)[1]
    hosted.end_with_period(till.simulator, portal, str(live(carol).gateway_id), True)
    till.deliver()
    assert live(carol).cancel_at_period_end
    till.wait_until(utc(2027, 2, 28))
    till.deliver()
    assert on(carol) == ("free", "month", FREE)
    assert faults() == []


def test_after_a_cancelled_plan_one_can_come_back(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    payments.cancel(carol)
    till.wait_until(utc(2027, 2, 28))
    till.deliver()
    till.wait(days=2)
    payments.upgrade(carol, plan_id("basic"))
    till.deliver()
    assert on(carol) == ("basic", "month", BASIC)
    assert live(carol).anchor_at == utc(2027, 3, 2)
    assert till.paid_cents(carol) == 2 * CENTS["basic"]
    assert faults() == []


# What admins give


def test_a_plan_given_until_a_day_falls_back_to_free_with_its_period(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    payments.assign(carol.id, plan_id("pro"), utc(2027, 3, 31))
    assert on(carol) == ("pro", "month", PRO)
    till.clock.at = utc(2027, 3, 30)
    assert on(carol) == ("pro", "month", PRO)
    till.clock.at = utc(2027, 3, 31)
    assert on(carol) == ("free", "month", FREE)
    assert faults() == []


def test_whoever_pays_is_not_given_a_plan(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    with pytest.raises(Conflict, match="pays"):
        payments.assign(carol.id, plan_id("pro"), None)


def test_ending_a_plan_now_ends_it_at_the_gateway_too(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    gateway_id = str(live(carol).gateway_id)
    payments.end_plan_now(carol.id)
    till.deliver()
    assert standing(carol).plan == "free"
    assert till.stripe.subscriptions.retrieve(gateway_id).status == "canceled"
    assert faults() == []


def test_every_step_from_plan_to_plan_joins_in_the_revenue(sqlite_app: Flask, till: Till, carol: User) -> None:
    seen = []
    for act in (
        lambda: payments.upgrade(carol, plan_id("basic")), lambda: payments.upgrade(carol, plan_id("pro")),
        lambda: payments.upgrade(carol, plan_id("pro"), "year"), lambda: payments.end_plan_now(carol.id),
    ):  # fmt: skip
        till.wait(days=1)
        act()
        till.deliver()
        seen.append(subscriptions.recurring_cents())
    assert seen == [999, 2999, yearly_cents("pro") // 12, 0]
    assert db.session.query(Subscription).filter_by(user_id=carol.id, ended_at=None).count() == 1
    assert credits.wallet_of(carol.id).debt == 0
    assert faults() == []
