"""Money through the simulated gateway: what is charged is what was said, and what is bought is granted once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import stripe
from flask import Flask
from sqlalchemy import select

from models.accounts import User
from models.base import db, transaction
from models.credits import LedgerAccount
from models.notices import OutgoingMail
from models.payments import Checkout, Payment
from models.subscriptions import Subscription
from services import credits, payments, subscriptions
from services.errors import Conflict, Invalid, PaymentNeeded, Unavailable
from services.gateways import gateways
from services.payments import refunds, sync
from tests.factories import plan_id
from tests.till import PASSWORD, Till, at_once, faults, live, new_member, standing

USAGE = credits.Usage("message")
BASIC, PRO, PACK = 999, 2999, 1000  # cents; a pack of 100


def spend(user: User, amount: int, key: str = "spent") -> bool:
    return not credits.spend(user.id, amount, key=key, reason="test", usage=USAGE).refused


def pack_payment(user: User) -> Payment:
    return db.session.scalars(select(Payment).where(Payment.user_id == user.id, Payment.kind == "pack")).one()


def charge_of(payment: Payment) -> str:
    assert payment.charge_id is not None
    return payment.charge_id


def refund(till: Till, payment: Payment, cents: int) -> stripe.Refund:
    return till.stripe.refunds.create({"charge": charge_of(payment), "amount": cents})


def as_member(user_id: int, act: Callable[[User], Any]) -> Callable[[], Any]:
    return lambda: act(db.session.get_one(User, user_id))


def bugs(answers: list[Any]) -> list[Any]:
    """What was raised that is no refusal of ours."""
    return [one for one in answers if isinstance(one, Exception) and not hasattr(one, "message")]


# Plans


def test_a_plan_is_paid_with_the_card_on_file_and_its_credits_are_there_at_once(
    app: Flask, till: Till, carol: User
) -> None:
    change = payments.upgrade(carol, plan_id("basic"))
    assert (change.checkout_url, change.subscription.plan.name, change.subscription.source) == (
        None,
        "basic",
        "gateway",
    )
    assert credits.spendable(carol.id) == 200
    assert till.paid_cents(carol) == BASIC
    before = standing(carol)
    till.deliver()
    assert standing(carol) == before
    assert faults() == []


@pytest.mark.parametrize(
    "card, code", [("declined", "card_declined"), ("needs_authentication", "authentication_required")]
)
def test_a_card_that_is_refused_changes_nothing_and_charges_nothing(
    sqlite_app: Flask, till: Till, carol: User, card: str, code: str
) -> None:
    till.use_card(carol, card)
    with pytest.raises(PaymentNeeded) as refused:
        payments.upgrade(carol, plan_id("basic"))
    assert refused.value.code == code
    till.deliver()
    now = standing(carol)
    assert (now.plan, now.available, till.paid_cents(carol)) == ("free", 20, 0)
    assert faults() == []


def test_after_a_refused_card_another_one_works(sqlite_app: Flask, till: Till, carol: User) -> None:
    till.use_card(carol, "declined")
    with pytest.raises(PaymentNeeded):
        payments.upgrade(carol, plan_id("basic"))
    till.use_card(carol, "working")
    payments.upgrade(carol, plan_id("basic"))
    till.deliver()
    assert (standing(carol).plan, till.paid_cents(carol)) == ("basic", BASIC)
    assert faults() == []


def test_without_a_card_a_plan_is_bought_on_a_page_and_asking_twice_gives_the_same_page(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    till.use_card(carol, "none")
    url = payments.upgrade(carol, plan_id("basic")).checkout_url
    assert url is not None and payments.upgrade(carol, plan_id("basic")).checkout_url == url
    assert standing(carol).plan == "free"
    till.pay_page(url)
    checkout = db.session.scalars(select(Checkout).where(Checkout.user_id == carol.id)).one()
    assert payments.settle_checkout(carol, checkout.id).state == "paid"
    assert (standing(carol).plan, standing(carol).available) == ("basic", 200)
    before = standing(carol)
    till.deliver()
    assert (standing(carol).plan, standing(carol).available) == (before.plan, 200)
    assert till.paid_cents(carol) == BASIC
    assert faults() == []


def test_two_tabs_that_upgrade_at_once_are_charged_once(app: Flask, till: Till, carol: User) -> None:
    basic = plan_id("basic")
    payments.publish()
    payments.portal_url(carol)
    answers = at_once(app, *[as_member(carol.id, lambda user: payments.upgrade(user, basic))] * 2)
    till.deliver()
    assert bugs(answers) == []
    assert (standing(carol).plan, till.paid_cents(carol)) == ("basic", BASIC)
    assert faults() == []


def test_whoever_buys_a_plan_is_not_told_that_the_credits_of_the_one_before_are_gone(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    payments.upgrade(carol, plan_id("basic"))
    till.deliver()
    assert standing(carol).available == 200
    subjects = db.session.scalars(select(OutgoingMail.subject)).all()
    assert [subject for subject in subjects if "left" in subject] == []


def test_a_tab_that_was_slow_does_not_buy_the_plan_a_second_time(
    app: Flask, till: Till, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first tab finishes while the second waits for the gateway to say which card there is."""
    basic, user_id = plan_id("basic"), carol.id
    gateway, card = gateways().payments, gateways().payments.card
    payments.portal_url(carol)

    def slow(customer: str) -> Any:
        monkeypatch.setattr(gateway, "card", card)
        assert bugs(at_once(app, as_member(user_id, lambda user: payments.upgrade(user, basic)))) == []
        return card(customer)

    monkeypatch.setattr(gateway, "card", slow)
    try:
        payments.upgrade(carol, basic)
    except Conflict:
        pass
    till.deliver()
    assert till.paid_cents(carol) == BASIC
    assert (standing(carol).plan, standing(carol).available) == ("basic", 200)
    assert faults() == []


def test_a_page_left_open_cannot_be_paid_once_the_plan_was_bought_with_a_card(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    till.use_card(carol, "none")
    url = payments.upgrade(carol, plan_id("basic")).checkout_url
    assert url is not None
    till.use_card(carol, "working")
    payments.upgrade(carol, plan_id("basic"))
    till.pay_page(url)
    till.deliver()
    assert till.paid_cents(carol) == BASIC
    assert faults() == []


# Packs


def test_a_pack_is_granted_before_the_answer_and_events_add_nothing(app: Flask, till: Till, carol: User) -> None:
    assert payments.buy_pack(carol, 100).checkout.state == "paid"
    before = standing(carol)
    assert (before.available, till.paid_cents(carol)) == (120, PACK)
    till.deliver()
    assert standing(carol) == before
    assert faults() == []


def test_a_pack_asked_for_twice_with_one_key_is_bought_once(sqlite_app: Flask, till: Till, carol: User) -> None:
    client = sqlite_app.test_client()
    assert client.post("/login", json={"email": carol.email, "password": PASSWORD}).status_code == 200
    asked = {"json": {"pack_size": 100}, "headers": {"Idempotency-Key": "one", "Accept": "application/json"}}
    answers = [client.post("/api/credits/purchase", **asked) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200]
    assert answers[0].json == answers[1].json and answers[0].json["credits_remaining"] == 120
    assert till.paid_cents(carol) == PACK


def test_a_pack_that_is_declined_is_not_granted(sqlite_app: Flask, till: Till, carol: User) -> None:
    till.use_card(carol, "declined")
    with pytest.raises(PaymentNeeded, match="declined"):
        payments.buy_pack(carol, 100)
    till.deliver()
    assert standing(carol).checkouts == (("pack", "declined"),)
    assert standing(carol).available == 20 and faults() == []


def test_a_payment_that_works_after_all_is_a_purchase(sqlite_app: Flask, till: Till, carol: User) -> None:
    """The bank asked for the person, who confirms the very same payment later, at the gateway."""
    till.use_card(carol, "needs_authentication")
    with pytest.raises(PaymentNeeded):
        payments.buy_pack(carol, 100)
    intent = till.stripe.payment_intents.list({"customer": str(carol.customer_id)}).data[0].id
    till.stripe.payment_intents.confirm(intent, {"payment_method": "pm_card_visa"})
    till.deliver()
    assert standing(carol).available == 120
    assert faults() == []


def test_a_size_that_is_not_sold_is_refused(sqlite_app: Flask, till: Till, carol: User) -> None:
    with pytest.raises(Invalid, match="no pack of 101"):
        payments.buy_pack(carol, 101)


def test_a_pack_without_a_card_is_paid_on_a_page(sqlite_app: Flask, till: Till, carol: User) -> None:
    till.use_card(carol, "none")
    bought = payments.buy_pack(carol, 100)
    assert bought.checkout_url and credits.spendable(carol.id) == 20
    till.pay_page(bought.checkout_url)
    till.deliver()
    assert payments.settle_checkout(carol, bought.checkout.id).state == "paid"
    assert standing(carol).available == 120 and faults() == []


def test_the_success_page_and_the_webhook_at_once_grant_once(app: Flask, till: Till, carol: User) -> None:
    till.use_card(carol, "none")
    bought = payments.buy_pack(carol, 100)
    till.pay_page(str(bought.checkout_url))
    till.send(till.events())
    checkout_id = bought.checkout.id
    page = as_member(carol.id, lambda user: payments.settle_checkout(user, checkout_id))
    answers = at_once(app, page, page, payments.handle_due, payments.handle_due)
    assert bugs(answers) == []
    till.handle()
    assert standing(carol).available == 120 and faults() == []


# Refunds


def test_half_a_pack_refunded_takes_half_its_credits(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    refund(till, pack_payment(carol), 500)
    till.deliver()
    assert (standing(carol).available, pack_payment(carol).refunded_cents) == (70, 500)
    assert faults() == []


def test_a_spent_pack_that_is_refunded_leaves_a_debt_which_the_next_credits_pay(
    app: Flask, till: Till, carol: User
) -> None:
    payments.buy_pack(carol, 100)
    assert spend(carol, 90)
    refund(till, pack_payment(carol), PACK)
    till.deliver()
    now = standing(carol)
    assert (now.available, now.debt, now.balance) == (0, -70, -70)
    assert not spend(carol, 1, key="refused")
    credits.adjust(carol.id, 100, key="a gift", reason="gift")
    assert (standing(carol).available, standing(carol).debt) == (30, 0)
    assert faults() == []


def test_refund_events_twice_and_backwards_take_back_once(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    till.deliver()
    for _ in range(4):
        refund(till, pack_payment(carol), 111)
    told = till.events("charge.refunded", "refund.")
    till.send([*reversed(told), *told])
    till.handle()
    assert standing(carol).available == 120 - 44  # 444 of 1,000 cents: 44 credits, not 4 times 11 rounded
    assert faults() == []


def test_a_refund_the_bank_sends_back_returns_the_credits(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    given = refund(till, pack_payment(carol), 500)
    till.deliver()
    assert standing(carol).available == 70
    till.simulator.fail_refund(given.id)
    till.deliver()
    assert (standing(carol).available, till.paid_cents(carol)) == (120, PACK)
    assert faults() == []


def test_a_refund_that_is_heard_of_before_the_purchase_counts(sqlite_app: Flask, till: Till, carol: User) -> None:
    till.use_card(carol, "none")
    till.pay_page(str(payments.buy_pack(carol, 100).checkout_url))
    charge = till.charges(carol)[0]["id"]
    till.stripe.refunds.create({"charge": charge, "amount": 500})
    told = till.events()
    till.send([event for event in told if "refund" in event["type"]])
    till.handle()
    till.clock.advance(seconds=30)
    till.deliver()
    till.clock.advance(days=1)
    till.handle()
    assert standing(carol).available == 70
    assert faults() == []


def test_the_refund_button_gives_back_the_part_that_is_not_spent(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    assert spend(carol, 80)  # the 20 of the month, 60 of the pack
    payments.refund_pack(pack_payment(carol).id, "button")
    till.deliver()
    assert (standing(carol).available, standing(carol).debt, pack_payment(carol).refunded_cents) == (0, 0, 400)
    with pytest.raises(Conflict):
        payments.refund_pack(pack_payment(carol).id, "button again")
    assert faults() == []


def test_a_refund_takes_the_credits_back_at_once_even_if_the_charge_was_not_named_before(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    payments.buy_pack(carol, 100)
    with transaction():
        pack_payment(carol).charge_id = None
    payments.refund_pack(pack_payment(carol).id, "button")
    assert (standing(carol).available, pack_payment(carol).refunded_cents) == (20, 1000)
    with pytest.raises(Conflict):
        payments.refund_pack(pack_payment(carol).id, "button again")


def test_the_refund_button_pressed_twice_gives_back_once(app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    number = pack_payment(carol).id
    answers = at_once(app, *[lambda: payments.refund_pack(number, "one form")] * 2)
    assert bugs(answers) == []
    till.deliver()
    assert (standing(carol).available, till.paid_cents(carol)) == (20, 0)
    assert faults() == []


# Disputes


def test_a_dispute_freezes_the_pack_and_won_lets_it_go(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    dispute = till.simulator.open_dispute(charge_of(pack_payment(carol)))
    till.deliver()
    assert (standing(carol).available, standing(carol).balance) == (20, 120)
    assert not spend(carol, 21, key="refused")
    till.simulator.close_dispute(dispute["id"], won=True)
    till.deliver()
    assert standing(carol).available == 120 and faults() == []


def test_a_dispute_that_is_lost_takes_the_pack(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    assert spend(carol, 50)
    dispute = till.simulator.open_dispute(charge_of(pack_payment(carol)))
    till.deliver()
    till.simulator.close_dispute(dispute["id"], won=False)
    till.deliver()
    assert (standing(carol).available, standing(carol).debt) == (0, -30)
    assert faults() == []


def test_a_refund_and_a_lost_dispute_take_the_pack_once(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    refund(till, pack_payment(carol), 400)
    dispute = till.simulator.open_dispute(charge_of(pack_payment(carol)))
    till.deliver()
    till.simulator.close_dispute(dispute["id"], won=False)
    till.deliver()
    till.send(reversed(till.events()))
    till.handle()
    assert (standing(carol).balance, standing(carol).debt) == (20, 0)
    assert faults() == []


def test_a_lost_dispute_over_half_the_money_takes_half_the_credits(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    dispute = till.simulator.open_dispute(charge_of(pack_payment(carol)), 500)
    till.simulator.close_dispute(dispute["id"], won=False)
    till.deliver()
    assert standing(carol).available == 70 and faults() == []


def test_money_lost_in_a_dispute_is_booked_as_gone(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.buy_pack(carol, 100)
    dispute = till.simulator.open_dispute(charge_of(pack_payment(carol)))
    till.simulator.close_dispute(dispute["id"], won=False)
    till.deliver()
    kinds = [(kind, amount) for kind, amount, _ in standing(carol).operations if kind.startswith("sale")]
    assert kinds == [("sale", PACK), ("sale_refund", PACK)]


def test_a_lost_dispute_over_a_plan_ends_it(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("pro"))
    till.deliver()
    charge = till.charges(carol)[0]["id"]
    dispute = till.simulator.open_dispute(charge)
    till.simulator.close_dispute(dispute["id"], won=False)
    till.deliver()
    assert (standing(carol).plan, standing(carol).source) == ("free", "free")
    assert faults() == []


# Renewals that fail


def test_a_renewal_that_fails_has_a_week_of_grace_and_is_retried_until_it_works(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    payments.upgrade(carol, plan_id("basic"))
    payments.buy_pack(carol, 100)
    till.use_card(carol, "declined")
    till.wait(days=28)  # 28 February
    till.deliver()
    now = standing(carol)
    assert (now.plan, now.status, now.available) == ("basic", "past_due", 300)
    grace = live(carol).grace_until
    till.wait(days=1)
    till.deliver()
    assert live(carol).grace_until == grace
    till.use_card(carol, "working")
    till.wait(days=3)
    till.deliver()
    now = standing(carol)
    assert (now.status, now.available, live(carol).grace_until) == ("active", 300, None)
    assert till.paid_cents(carol) == 2 * BASIC + PACK
    assert faults() == []


def test_after_grace_monthly_credits_wait_and_packs_can_be_spent(sqlite_app: Flask, till: Till, carol: User) -> None:
    payments.upgrade(carol, plan_id("basic"))
    payments.buy_pack(carol, 100)
    till.use_card(carol, "declined")
    till.clock.advance(days=28)
    subscription = live(carol)
    sync.sync_subscription(str(subscription.gateway_id))
    till.simulator.advance(till.clock.at)
    sync.sync_subscription(str(subscription.gateway_id))
    till.clock.advance(days=6, hours=23)
    assert credits.spendable(carol.id) == 300
    till.clock.advance(hours=1)
    assert credits.spendable(carol.id) == 100
    assert spend(carol, 100) and not spend(carol, 1, key="refused")


def test_a_renewal_that_never_works_ends_the_plan_and_voids_what_was_not_paid_for(
    app: Flask, till: Till, carol: User
) -> None:
    payments.upgrade(carol, plan_id("basic"))
    payments.buy_pack(carol, 100)
    anchor = live(carol).anchor_at
    till.use_card(carol, "declined")
    till.wait(days=28)
    till.deliver()
    for _ in range(6):
        till.wait(days=1)
        till.deliver()
    now = standing(carol)
    assert (now.plan, now.status, now.source) == ("free", "active", "free")
    assert (now.available, live(carol).anchor_at) == (100, anchor)
    assert faults() == []
    till.wait(days=31)
    assert standing(carol).available == 120
    assert faults() == []


# Two that bring over the same thing


def test_a_new_subscription_brought_over_from_many_places_at_once_begins_once(
    app: Flask, till: Till, carol: User
) -> None:
    till.use_card(carol, "none")
    url = payments.upgrade(carol, plan_id("basic")).checkout_url
    till.pay_page(str(url))
    gateway_id = till.stripe.subscriptions.list({"customer": str(carol.customer_id)}).data[0].id
    answers = at_once(app, *[lambda: sync.sync_subscription(gateway_id)] * 4)
    assert [one for one in answers if isinstance(one, Exception) and not isinstance(one, Unavailable)] == []
    till.deliver()
    assert (standing(carol).plan, standing(carol).available) == ("basic", 200)
    assert faults() == []


def test_a_subscription_that_is_brought_over_while_we_look_is_no_second_one(
    app: Flask, till: Till, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook is handled while the member's own request waits for the gateway's answer about the same subscription."""
    till.use_card(carol, "none")
    till.pay_page(str(payments.upgrade(carol, plan_id("basic")).checkout_url))
    gateway_id = till.stripe.subscriptions.list({"customer": str(carol.customer_id)}).data[0].id
    gateway, retrieve = gateways().payments, gateways().payments.retrieve

    def slow(*asked: Any) -> Any:
        found = retrieve(*asked)
        monkeypatch.setattr(gateway, "retrieve", retrieve)
        assert at_once(app, lambda: sync.sync_subscription(gateway_id)) == [None]
        return found

    monkeypatch.setattr(gateway, "retrieve", slow)
    sync.sync_subscription(gateway_id)
    till.deliver()
    assert (standing(carol).plan, standing(carol).available, till.paid_cents(carol)) == ("basic", 200, BASIC)
    assert faults() == []


def test_two_first_purchases_at_once_make_the_price_once(app: Flask, till: Till, carol: User) -> None:
    basic, ids = plan_id("basic"), [carol.id, new_member("dave").id]
    for number in ids:
        payments.portal_url(db.session.get_one(User, number))
    answers = at_once(app, *[as_member(number, lambda user: payments.upgrade(user, basic)) for number in ids])
    assert bugs(answers) == []
    assert [live(db.session.get_one(User, number)).plan.name for number in ids] == ["basic", "basic"]


@pytest.mark.parametrize("app", ["postgres"], indirect=True)
def test_webhooks_and_a_member_who_changes_their_mind_do_not_block_each_other(
    app: Flask, till: Till, carol: User
) -> None:
    payments.upgrade(carol, plan_id("basic"))
    gateway_id, user_id = str(live(carol).gateway_id), carol.id

    def look() -> None:
        for _ in range(15):
            sync.sync_subscription(gateway_id)

    def hesitate() -> None:
        for _ in range(15):
            for verb in (subscriptions.cancel_at_end, subscriptions.keep):
                verb(db.session.scalars(select(Subscription).where(Subscription.gateway_id == gateway_id)).one())
                db.session.rollback()

    answers = at_once(app, look, hesitate, look)
    assert [one for one in answers if isinstance(one, Exception) and not isinstance(one, Unavailable)] == []
    assert db.session.scalar(select(LedgerAccount.id).where(LedgerAccount.user_id == user_id).limit(1))
    assert faults() == []


def test_nothing_of_the_refunds_asks_the_gateway_inside_a_transaction(
    sqlite_app: Flask, till: Till, carol: User
) -> None:
    payments.upgrade(carol, plan_id("basic"))
    charge = till.charges(carol)[0]["id"]
    refunds.sync_charge(charge)
    assert faults() == []
