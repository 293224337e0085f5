"""What admins do: every act once, recorded with its reason, seen by the member; figures that add up on any day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from models.accounts import User
from models.admin import AuditEntry, ClockRun
from models.base import add, db, now, transaction
from models.payments import GatewayEvent, Payment
from models.plans import Plan
from models.subscriptions import PlanChange, Subscription
from models.training_jobs import TrainingJob
from models.usage import UsageDay
from services import accounts, admin, credits, payments, price_list, reconcile, subscriptions
from services.admin import Filter, Why
from services.errors import Conflict, Forbidden, Invalid, NotFound
from tests.conftest import PASSWORD
from tests.factories import on_plan, plan_id
from tests.till import Clock

ASKED = Why("asked by mail", "request-1", "192.0.2.7")


def person(name: str, role: str = "member") -> User:
    return accounts.sign_up(f"{name}@example.com", name, PASSWORD, role)


@pytest.fixture
def chief(request: pytest.FixtureRequest) -> User:
    """A superadmin."""
    request.getfixturevalue("app" if "app" in request.fixturenames else "sqlite_app")
    return person("chief", "superadmin")


@pytest.fixture
def clerk(request: pytest.FixtureRequest) -> User:
    """An admin."""
    request.getfixturevalue("app" if "app" in request.fixturenames else "sqlite_app")
    return person("clerk", "admin")


def record() -> list[AuditEntry]:
    return list(db.session.scalars(select(AuditEntry).order_by(AuditEntry.id)))


def broken() -> list[str]:
    """What is wrong with the ledger, but for alice and bob, whom a moved clock leaves overdue."""
    return [sentence for sentence in reconcile.reconcile() if "overdue" not in sentence]


def give_credits(actor: User, user: User, amount: int, nonce: str = "nonce-one", how: str = "add", **given: Any) -> Any:
    return admin.change_credits(actor, user.id, how, amount, nonce, ASKED, **given)


class TestCredits:
    def test_added_credits_are_a_line_the_member_sees_and_a_line_of_the_record(
        self, app: Flask, clerk: User, alice: User
    ) -> None:
        operation = give_credits(clerk, alice, 50)
        line = credits.statement(alice.id)[0]
        assert (line["change"], line["what"], line["balance_after"]) == (50, "By an admin: asked by mail", 70)
        entry = record()[-1]
        assert (entry.actor_id, entry.act, entry.user_id) == (clerk.id, "change_credits", alice.id)
        assert (entry.reason, entry.request_id, entry.address) == ("asked by mail", "request-1", "192.0.2.7")
        assert entry.before == {"available": 20, "held": 0, "debt": 0}
        assert entry.after == {"available": 70, "held": 0, "debt": 0, "operation": operation.id}
        assert reconcile.reconcile() == []

    def test_a_form_sent_twice_is_carried_out_once(self, app: Flask, clerk: User, alice: User) -> None:
        first, again = give_credits(clerk, alice, 50), give_credits(clerk, alice, 50)
        assert first.id == again.id and credits.spendable(alice.id) == 70
        assert [entry.act for entry in record()] == ["change_credits"]
        set_first = give_credits(clerk, alice, 30, "nonce-two", "set")
        assert give_credits(clerk, alice, 30, "nonce-two", "set").id == set_first.id
        assert credits.spendable(alice.id) == 30
        with pytest.raises(Conflict, match="sent already"):
            give_credits(clerk, alice, 31, "nonce-two", "set")

    def test_less_than_nothing_cannot_be_left(self, app: Flask, clerk: User, alice: User) -> None:
        with pytest.raises(Invalid, match="Only 20 credits are available, so 21 cannot be taken"):
            give_credits(clerk, alice, -21)
        assert record() == [] and give_credits(clerk, alice, -20).change == -20
        assert credits.spendable(alice.id) == 0 and reconcile.reconcile() == []

    def test_a_large_change_asks_for_the_username(self, app: Flask, clerk: User, alice: User) -> None:
        with pytest.raises(Invalid, match="Type alice") as refusal:
            give_credits(clerk, alice, 10_001)
        assert "confirm" in refusal.value.fields and record() == []
        give_credits(clerk, alice, 10_001, confirmed="alice")
        assert credits.spendable(alice.id) == 10_021

    def test_what_is_due_is_opened_before_credits_are_set(
        self, app: Flask, clock: Clock, clerk: User, carol: User
    ) -> None:
        clock.advance(days=28)
        give_credits(clerk, carol, 5, how="set")
        assert [line["change"] for line in credits.statement(carol.id)] == [-15, 20, -20, 20]
        assert credits.spendable(carol.id) == 5 and broken() == []

    @pytest.mark.parametrize("how, amount, nonce", [
        ("add", 0, "nonce-one"), ("set", 20, "nonce-one"), ("set", -1, "nonce-one"), ("add", 10**9, "nonce-one"),
        ("take", 1, "nonce-one"), ("add", 1, "short"), ("add", 1, "with:colons"),
    ])  # fmt: skip
    def test_what_makes_no_sense_is_refused(
        self, sqlite_app: Flask, clerk: User, alice: User, how: str, amount: int, nonce: str
    ) -> None:
        with pytest.raises(Invalid):
            give_credits(clerk, alice, amount, nonce, how)
        assert credits.spendable(alice.id) == 20

    @pytest.mark.parametrize("reason", ["", "  ", "ab", "x" * 181])
    def test_without_a_reason_nothing_happens(self, sqlite_app: Flask, clerk: User, alice: User, reason: str) -> None:
        with pytest.raises(Invalid, match="Say why"):
            admin.change_credits(clerk, alice.id, "add", 5, "nonce-one", Why(reason))
        assert credits.spendable(alice.id) == 20 and record() == []


class TestPlans:
    def test_a_plan_given_is_a_new_series_and_recorded(self, app: Flask, clerk: User, alice: User) -> None:
        until = now().date() + timedelta(days=40)
        given = admin.assign_plan(clerk, alice.id, plan_id("pro"), until, ASKED)
        assert (given.source, given.plan.name) == ("given", "pro") and credits.spendable(alice.id) == 1000
        entry = record()[-1]
        assert (entry.before["plan"], entry.after["plan"]) == ("free", "pro")
        assert entry.after["ends_at"].startswith(until.isoformat()) and reconcile.reconcile() == []
        with pytest.raises(Conflict, match="already"):
            admin.assign_plan(clerk, alice.id, plan_id("pro"), until, ASKED)

    def test_a_plan_that_is_paid_for_is_not_written_over_but_can_be_ended(
        self, app: Flask, clerk: User, alice: User
    ) -> None:
        payments.choose_test_card(alice, "working")
        payments.upgrade(alice, plan_id("basic"))
        with pytest.raises(Conflict, match="pays for a plan"):
            admin.assign_plan(clerk, alice.id, plan_id("pro"), None, ASKED)
        assert record() == []
        ended = admin.end_plan(clerk, alice.id, ASKED)
        assert ended.source == "free" and [entry.act for entry in record()] == ["end_plan_asked", "end_plan"]
        assert admin.assign_plan(clerk, alice.id, plan_id("pro"), None, ASKED).plan.name == "pro"
        assert reconcile.reconcile() == []

    def test_there_is_nothing_to_end_on_free(self, sqlite_app: Flask, clerk: User, alice: User) -> None:
        with pytest.raises(Conflict, match="nothing to end"):
            admin.end_plan(clerk, alice.id, ASKED)

    def test_a_day_that_is_over_is_no_end(self, sqlite_app: Flask, clerk: User, alice: User) -> None:
        with pytest.raises(Invalid, match="after today"):
            admin.assign_plan(clerk, alice.id, plan_id("pro"), now().date(), ASKED)

    def test_the_unspent_part_of_a_pack_goes_back_once(self, app: Flask, clerk: User, alice: User, bob: User) -> None:
        payments.choose_test_card(alice, "working")
        payments.buy_pack(alice, 100)
        give_credits(clerk, alice, -60)  # 20 of the plan, then 40 of the pack
        pack = db.session.scalars(select(Payment)).one()
        done = admin.refund(clerk, alice.id, pack.id, "nonce-refund", ASKED)
        assert done.refunded_cents == 600 and credits.spendable(alice.id) == 0
        with pytest.raises(Conflict):
            admin.refund(clerk, alice.id, pack.id, "nonce-another", ASKED)
        with pytest.raises(NotFound):
            admin.refund(clerk, bob.id, pack.id, "nonce-refund", ASKED)
        assert reconcile.reconcile() == []


class TestPeople:
    def test_a_member_is_suspended_and_let_in_again(self, app: Flask, clerk: User, alice: User) -> None:
        assert admin.set_suspended(clerk, alice.id, True, ASKED).suspended_at is not None
        with pytest.raises(Conflict, match="suspended already"):
            admin.set_suspended(clerk, alice.id, True, ASKED)
        assert admin.set_suspended(clerk, alice.id, False, ASKED).suspended_at is None
        assert [entry.act for entry in record()] == ["suspend", "unsuspend"]

    def test_nobody_suspends_themselves_and_admins_no_admins(self, sqlite_app: Flask, clerk: User, chief: User) -> None:
        with pytest.raises(Conflict, match="yourself"):
            admin.set_suspended(chief, chief.id, True, ASKED)
        with pytest.raises(Forbidden, match="superadmins"):
            admin.set_suspended(clerk, chief.id, True, ASKED)

    def test_superadmins_change_roles_but_not_their_own(
        self, app: Flask, chief: User, clerk: User, alice: User
    ) -> None:
        assert admin.set_role(chief, alice.id, "admin", ASKED).is_admin
        assert record()[-1].before == {"role": "member"} and record()[-1].after == {"role": "admin"}
        with pytest.raises(Conflict, match="own role"):
            admin.set_role(chief, chief.id, "member", ASKED)
        with pytest.raises(Forbidden):
            admin.set_role(clerk, alice.id, "member", ASKED)
        with pytest.raises(Invalid):
            admin.set_role(chief, alice.id, "king", ASKED)

    def test_for_a_member_there_is_nothing(self, sqlite_app: Flask, alice: User, bob: User) -> None:
        for verb in (lambda: admin.member_for(alice, bob.id), lambda: admin.figures(alice),
                     lambda: admin.page(alice, Filter(), 10), lambda: admin.set_role(alice, bob.id, "admin", ASKED),
                     lambda: give_credits(alice, alice, 50)):  # fmt: skip
            with pytest.raises(NotFound):
                verb()

    def test_the_record_cannot_be_changed(self, app: Flask, clerk: User, alice: User) -> None:
        give_credits(clerk, alice, 50)
        lines, following = admin.entries(clerk, 10)
        assert [(line["actor"], line["target"]) for line in lines] == [("clerk", "alice")] and following is None
        with pytest.raises(Exception, match="append-only"), transaction():
            record()[-1].reason = "another"


class TestFinding:
    def test_pages_follow_one_another_without_a_gap(self, app: Flask, clerk: User) -> None:
        for number in range(7):
            person(f"member{number}")
        seen, before = [], None
        while True:
            lines, before = admin.page(clerk, Filter(), 3, before)
            seen += [line["username"] for line in lines]
            if before is None:
                break
        assert seen == [f"member{n}" for n in range(6, -1, -1)] + ["clerk", "bob", "alice"]
        assert [line["username"] for line in admin.everybody(clerk, Filter())] == seen

    @pytest.mark.parametrize("chosen, found", [
        (Filter(search="ALI"), ["alice"]), (Filter(search="bob@exa"), ["bob"]), (Filter(search="example"), []),
        (Filter(search="%"), []), (Filter(search="a_i"), []), (Filter(plan="basic"), ["alice"]),
        (Filter(plan="free"), ["clerk", "bob"]), (Filter(source="given"), ["alice"]), (Filter(plan="basic", search="b"), []),
        (Filter(status="active"), ["clerk", "bob", "alice"]), (Filter(status="past_due"), []), (Filter(plan="gone"), []),
        (Filter(suspended=True), ["bob"]),
    ])  # fmt: skip
    def test_a_member_is_found_by_how_the_name_begins_and_by_filters(
        self, app: Flask, clerk: User, alice: User, bob: User, chosen: Filter, found: list[str]
    ) -> None:
        on_plan(alice, "basic")
        admin.set_suspended(clerk, bob.id, True, ASKED)
        assert [line["username"] for line in admin.page(clerk, chosen, 10)[0]] == found

    def test_a_filter_takes_every_version_of_a_plan(self, app: Flask, chief: User, alice: User, bob: User) -> None:
        on_plan(alice, "basic")
        admin.edit_plan(chief, plan_id("basic"), {"monthly_credits": 250}, ASKED)
        on_plan(bob, "basic")
        lines, _ = admin.page(chief, Filter(plan="basic"), 10)
        assert [(line["username"], line["plan_version"]) for line in lines] == [("bob", 2), ("alice", 1)]


class TestPriceList:
    def test_an_edit_is_a_new_version_and_whoever_has_the_old_one_keeps_it(
        self, app: Flask, chief: User, alice: User
    ) -> None:
        on_plan(alice, "basic")
        old = plan_id("basic")
        made = admin.edit_plan(chief, old, {"price_cents": 1299, "monthly_credits": 300}, ASKED)
        assert (made.version, made.price_cents, plan_id("basic")) == (2, 1299, made.id)
        assert subscriptions.current(alice).plan_id == old and credits.spendable(alice.id) == 200
        assert admin.members_by_plan()[old] == 1 and made.id not in admin.members_by_plan()
        assert record()[-1].before["price_cents"] == 999 and record()[-1].after["price_cents"] == 1299
        with pytest.raises(Conflict, match="Nothing was changed"):
            admin.edit_plan(chief, made.id, {"price_cents": 1299}, ASKED)

    def test_a_plan_is_made_archived_and_offered_again(self, app: Flask, chief: User) -> None:
        basic = price_list.plan(plan_id("basic"))
        values = {
            name: getattr(basic, name)
            for name in ("price_cents", "yearly_cents", "monthly_credits", "features", "limits")
        }
        made = admin.create_plan(chief, {**values, "name": "club", "display_name": "Club"}, ASKED)
        with pytest.raises(Conflict, match="already"):
            admin.create_plan(chief, {**values, "name": "club", "display_name": "Club"}, ASKED)
        admin.archive_plan(chief, made.id, ASKED)
        assert "club" not in [plan.name for plan in price_list.plans()]
        with pytest.raises(Conflict, match="archived already"):
            admin.archive_plan(chief, made.id, ASKED)
        admin.activate_plan(chief, made.id, ASKED)
        assert "club" in [plan.name for plan in price_list.plans()]
        assert [entry.act for entry in record()] == ["create_plan", "archive_plan", "activate_plan"]

    def test_a_free_plan_is_always_on_offer(self, app: Flask, chief: User) -> None:
        for verb in (lambda: admin.edit_plan(chief, plan_id("free"), {"price_cents": 100}, ASKED),
                     lambda: admin.archive_plan(chief, plan_id("free"), ASKED)):  # fmt: skip
            with pytest.raises(Conflict):
                verb()
        assert price_list.free_plan().name == "free" and record() == []

    def test_a_price_of_an_action_is_changed(self, app: Flask, chief: User, clerk: User) -> None:
        admin.set_price(chief, "image", 3, ASKED)
        assert price_list.price("image") == 3 and record()[-1].before == {"credits": 1}
        for action, credits_, error in (("image", 3, Conflict), ("image", -1, Invalid), ("dance", 1, NotFound)):
            with pytest.raises(error):
                admin.set_price(chief, action, credits_, ASKED)
        with pytest.raises(Forbidden):
            admin.set_price(clerk, "image", 4, ASKED)

    def test_admins_look_and_do_not_change(self, sqlite_app: Flask, clerk: User) -> None:
        assert admin.plan_for(clerk, plan_id("pro")).name == "pro"
        for verb in (lambda: admin.edit_plan(clerk, plan_id("pro"), {"price_cents": 1}, ASKED),
                     lambda: admin.archive_plan(clerk, plan_id("pro"), ASKED)):  # fmt: skip
            with pytest.raises(Forbidden):
                verb()


def step(user: User, days_ago: int, old: str | None, new: str, before: int, after: int) -> None:
    """A step between plans, written as it would have been then."""
    ids = {plan.name: plan.id for plan in db.session.scalars(select(Plan))}
    with transaction():
        subscription = db.session.scalars(select(Subscription).where(Subscription.user_id == user.id)).first()
        assert subscription is not None
        add(PlanChange(
            user_id=user.id, subscription_id=subscription.id, at=now() - timedelta(days=days_ago), source="gateway",
            from_plan_id=ids[old] if old else None, plan_id=ids[new], mrr_before=before, mrr_after=after,
        ))  # fmt: skip


def used(user: User, days_ago: int, credits_: int) -> None:
    with transaction():
        add(UsageDay(user_id=user.id, day=now().date() - timedelta(days=days_ago), action="image", recipe="",
                     base_model="", quantity=credits_, credits=credits_))  # fmt: skip


class TestFigures:
    def test_the_parts_of_the_movement_add_up_to_the_change(
        self, app: Flask, clerk: User, alice: User, bob: User
    ) -> None:
        step(alice, 60, "free", "basic", 0, 999)
        step(alice, 20, "basic", "pro", 999, 2999)
        step(alice, 3, "pro", "basic", 2999, 999)
        step(bob, 50, "free", "pro", 0, 2999)
        step(bob, 5, "pro", "free", 2999, 0)
        step(clerk, 1, "free", "enterprise", 0, 9999)
        moved = admin.movement()
        assert moved == {"before": 3998, "new": 9999, "expansion": 2000, "contraction": 2000, "churn": 2999,
                         "after": 10998, "change": 7000}  # fmt: skip
        assert moved["new"] + moved["expansion"] - moved["contraction"] - moved["churn"] == moved["change"]
        assert admin.figures(clerk)["mrr_cents"] == 10998

    def test_paying_members_count_and_given_plans_bring_nothing(
        self, app: Flask, clerk: User, alice: User, bob: User
    ) -> None:
        payments.choose_test_card(alice, "working")
        payments.upgrade(alice, plan_id("basic"))
        on_plan(bob, "pro")
        shown = admin.figures(clerk)
        assert (shown["members"], shown["paying"], shown["given"], shown["active"]) == (3, 1, 1, 2)
        assert shown["mrr_cents"] == 999 and shown["conversion"] == pytest.approx(1 / 3)

    def test_jobs_are_counted_by_state_and_by_outcome(self, app: Flask, clerk: User, alice: User) -> None:
        for state in ("completed", "completed", "completed", "failed", "queued"):
            with transaction():
                add(TrainingJob(user_id=alice.id, name="one", recipe="language", parameters={}, base_model="yard-tiny",
                                base_name="yard-tiny", state=state, finished_at=None if state == "queued" else now()))  # fmt: skip
        shown = admin.figures(clerk)
        assert shown["jobs"] == {"completed": 3, "failed": 1, "queued": 1} and shown["success_rate"] == 0.75
        assert shown["queue"] == {"server": 1, "machines": 0}

    def test_alerts_name_what_is_wrong_and_what_to_do(self, app: Flask, clerk: User, alice: User) -> None:
        long_ago = now() - timedelta(hours=1)
        with transaction():
            for number, state in (("1", "dead"), ("2", "pending"), ("3", "handled")):
                add(GatewayEvent(id=f"evt_{number}", type="invoice.paid", happened_at=long_ago, created_at=long_ago,
                                 body={}, state=state, tries=12))  # fmt: skip
            add(ClockRun(name="reconcile", every_seconds=86400, started_at=now(), failed_at=now(),
                         error="RuntimeError: 1 breaks: Wallet 7", count=0, total=0))  # fmt: skip
            subscriptions.live(alice.id).next_reset_at = long_ago
        found = admin.alerts()
        text = " ".join(alert.what for alert in found)
        assert "wait for more than 15 minutes: 1" in text and "given up: 1" in text
        assert "does not add up: RuntimeError: 1 breaks: Wallet 7" in text and "1 renewal is" in text
        assert all(alert.todo.endswith(".") for alert in found)
        assert [alert.what for alert in found if "entries of the clock do not run" in alert.what] == [found[0].what]

    def test_a_past_day_is_the_same_whenever_it_is_looked_at(
        self, app: Flask, clerk: User, alice: User, bob: User
    ) -> None:
        day = now().date() - timedelta(days=10)
        before = admin.distribution(clerk, day)
        step(alice, 20, None, "free", 0, 0)
        step(alice, 12, "free", "basic", 0, 999)
        used(alice, 10, 7)
        used(bob, 9, 5)
        with transaction():
            add(Payment(gateway_id="in_1", user_id=alice.id, kind="plan", what="Basic", status="paid", amount_cents=999,
                        refunded_cents=99, paid_at=now() - timedelta(days=10)))  # fmt: skip
        assert before == []
        first = (admin.distribution(clerk, day), admin.day(clerk, day))
        assert first[0] == [{"plan": "Basic", "version": 1, "members": 1, "share": 1.0, "mrr_cents": 999}]
        assert (first[1]["mrr_cents"], first[1]["credits"], first[1]["revenue_cents"]) == (999, 7, 900)
        step(alice, 2, "basic", "pro", 999, 2999)
        used(alice, 1, 50)
        assert (admin.distribution(clerk, day), admin.day(clerk, day)) == first
        assert admin.top_members(clerk, day) == [
            {"user_id": alice.id, "username": "alice", "email": "alice@example.com", "credits": 7, "days": 1}
        ]  # fmt: skip
        with pytest.raises(Invalid):
            admin.day(clerk, now().date() + timedelta(days=1))

    def test_plans_of_now_are_the_live_subscriptions(self, app: Flask, clerk: User, alice: User, bob: User) -> None:
        payments.choose_test_card(alice, "working")
        payments.upgrade(alice, plan_id("basic"))
        on_plan(bob, "pro")
        rows = {row["plan"]: (row["members"], row["mrr_cents"]) for row in admin.distribution(clerk)}
        assert rows == {"Free": (1, 0), "Basic": (1, 999), "Pro": (1, 0)}
        assert sum(cents for _, cents in rows.values()) == subscriptions.recurring_cents()
        live = admin.members_by_plan()
        assert {price_list.plan(number).display_name: count for number, count in live.items()} == {
            name: members for name, (members, _) in rows.items()
        }

    def test_twelve_months_carry_what_came_before_them(self, app: Flask, clerk: User, alice: User) -> None:
        step(alice, 800, "free", "basic", 0, 999)
        used(alice, 0, 11)
        with transaction():
            add(Payment(gateway_id="in_1", user_id=alice.id, kind="plan", what="Basic", status="paid", amount_cents=999,
                        paid_at=now()))  # fmt: skip
        rows = admin.months(clerk)
        assert len(rows) == 12 and rows[-1]["month"] == f"{now():%Y-%m}"
        assert {row["mrr_cents"] for row in rows} == {999}
        assert (rows[-1]["credits"], rows[-1]["revenue_cents"], rows[0]["credits"]) == (11, 999, 0)
        assert admin.months(clerk, date(2024, 1, 31))[0]["month"] == "2023-02"


class TestUpkeep:
    def test_a_message_that_was_given_up_is_tried_again(self, app: Flask, clerk: User) -> None:
        with transaction():
            add(
                GatewayEvent(
                    id="evt_1", type="invoice.paid", happened_at=now(), body={}, state="dead", tries=12, error="Later"
                )
            )
        assert [event["id"] for event in admin.dead_events(clerk)] == ["evt_1"]
        admin.try_event_again(clerk, "evt_1", ASKED)
        assert db.session.get_one(GatewayEvent, "evt_1").state == "pending" and record()[-1].target == "evt_1"
        with pytest.raises(Conflict):
            admin.try_event_again(clerk, "evt_1", ASKED)
        with pytest.raises(NotFound):
            admin.try_event_again(clerk, "evt_9", ASKED)

    def test_a_renewal_is_forced_when_it_is_due_and_only_then(
        self, app: Flask, clock: Clock, clerk: User, carol: User
    ) -> None:
        number = subscriptions.live(carol.id).id
        assert admin.force_renewal(clerk, number, ASKED) == 0
        clock.advance(days=28)
        assert admin.force_renewal(clerk, number, ASKED) == 1 and admin.force_renewal(clerk, number, ASKED) == 0
        assert [entry.after["opened"] for entry in record()] == [0, 1, 0] and broken() == []
        admin.assign_plan(clerk, carol.id, plan_id("pro"), None, ASKED)
        with pytest.raises(NotFound):
            admin.force_renewal(clerk, number, ASKED)
