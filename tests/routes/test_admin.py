"""The admin's panel over HTTP: who may enter, every page, every form, and files that say what the screen says."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.accounts import User
from models.admin import AuditEntry, ClockRun
from models.base import add, db, now, transaction
from models.payments import GatewayEvent, Payment
from services import accounts, clock, credits, payments, price_list, subscriptions
from tests.conftest import PASSWORD
from tests.factories import on_plan, plan_id

PAGES = (
    "/admin/dashboard", "/admin/subscriptions/", "/admin/subscriptions/1", "/admin/subscriptions/1/plan",
    "/admin/subscriptions/1/credits", "/admin/subscriptions/1/end-plan", "/admin/subscriptions/1/suspend",
    "/admin/subscriptions/1/role", "/admin/subscriptions/plans", "/admin/subscriptions/plans/1",
    "/admin/subscriptions/plans/prices", "/admin/subscriptions/scheduled-jobs", "/admin/subscriptions/reports",
    "/admin/subscriptions/reports/plans.csv", "/admin/subscriptions/reports/members.csv", "/admin/audit",
)  # fmt: skip
SUPERADMIN_PAGES = ("/admin/subscriptions/plans/new", "/admin/subscriptions/plans/2/archive")
FORMS = (
    "/admin/subscriptions/1/plan", "/admin/subscriptions/1/credits", "/admin/subscriptions/1/end-plan",
    "/admin/subscriptions/1/suspend", "/admin/subscriptions/1/unsuspend", "/admin/subscriptions/1/role",
    "/admin/subscriptions/1/payments/1/refund", "/admin/subscriptions/plans", "/admin/subscriptions/plans/1",
    "/admin/subscriptions/plans/1/archive", "/admin/subscriptions/plans/1/activate", "/admin/subscriptions/plans/prices",
    "/admin/subscriptions/scheduled-jobs/force", "/admin/subscriptions/scheduled-jobs/events/evt_1/again",
)  # fmt: skip


def logged_in(app: Flask, role: str, name: str | None = None) -> FlaskClient:
    accounts.sign_up(f"{name or role}@example.com", name or role, PASSWORD, role)
    client = app.test_client()
    given = {"email": f"{name or role}@example.com", "password": PASSWORD}
    assert client.post("/login", json=given).status_code == 200
    return client


@pytest.fixture
def clerk(request: pytest.FixtureRequest) -> FlaskClient:
    """An admin, logged in."""
    return logged_in(request.getfixturevalue("app" if "app" in request.fixturenames else "sqlite_app"), "admin")


@pytest.fixture
def chief(request: pytest.FixtureRequest) -> FlaskClient:
    """A superadmin, logged in."""
    return logged_in(request.getfixturevalue("app" if "app" in request.fixturenames else "sqlite_app"), "superadmin")


def rows_of(answer: Any) -> list[list[str]]:
    assert answer.status_code == 200 and answer.mimetype == "text/csv"
    return list(csv.reader(io.StringIO(answer.get_data(as_text=True))))


class TestWhoMayEnter:
    def test_for_a_member_no_address_exists(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        for path in (*PAGES, *SUPERADMIN_PAGES):
            for address in (path, f"/api{path}"):
                assert browser.get(address).status_code == 404, address
        for path in FORMS:
            assert browser.post(path, data={"reason": "because"}).status_code == 404, path

    def test_a_visitor_is_led_to_the_door_and_a_program_is_told(self, sqlite_app: Flask, client: FlaskClient) -> None:
        answer = client.get("/admin/dashboard")
        assert answer.status_code == 302 and "/login" in answer.headers["Location"]
        assert client.get("/api/admin/dashboard").status_code == 401
        assert client.post("/admin/subscriptions/1/credits", data={"amount": "5"}).status_code == 401

    def test_every_page_opens_for_an_admin(self, app: Flask, clerk: FlaskClient) -> None:
        for path in PAGES:
            for address in (path, f"/api{path}"):
                answer = clerk.get(address)
                assert answer.status_code == 200, (address, answer.get_data(as_text=True)[:300])
                html = answer.get_data(as_text=True)
                assert "style=" not in html and "<style" not in html and "onclick" not in html

    def test_what_changes_the_price_list_is_for_superadmins(self, sqlite_app: Flask, clerk: FlaskClient) -> None:
        for path in SUPERADMIN_PAGES:
            assert clerk.get(path).status_code == 403, path
        changes = {"/admin/subscriptions/plans": {}, "/admin/subscriptions/plans/prices": {"action": "image", "credits": 5},
                   f"/admin/subscriptions/plans/{plan_id('pro')}/archive": {}, "/admin/subscriptions/1/role": {"role": "admin"}}  # fmt: skip
        for path, given in changes.items():
            assert clerk.post(path, json={"reason": "because", **given}).status_code == 403, path
        assert price_list.price("image") == 1

    def test_pages_of_the_price_list_open_for_a_superadmin(self, sqlite_app: Flask, chief: FlaskClient) -> None:
        for path in (*PAGES, *SUPERADMIN_PAGES):
            assert chief.get(path).status_code == 200, path

    @pytest.mark.parametrize("path", ["/admin/subscriptions/999", "/admin/subscriptions/999/plan",
                                      "/admin/subscriptions/1/dance", "/admin/subscriptions/plans/999",
                                      "/admin/subscriptions/reports/everything.csv"])  # fmt: skip
    def test_what_does_not_exist_is_not_found(self, sqlite_app: Flask, clerk: FlaskClient, path: str) -> None:
        assert clerk.get(path).status_code == 404


class TestMembers:
    def test_credits_are_changed_once_however_often_the_form_is_sent(
        self, app: Flask, clerk: FlaskClient, alice: User
    ) -> None:
        page = clerk.get(f"/admin/subscriptions/{alice.id}/credits").get_data(as_text=True)
        nonce = re.search(r'name="nonce" value="(\w+)"', page)
        assert nonce is not None
        given = {"how": "add", "amount": "30", "reason": "a present", "nonce": nonce[1]}
        for _ in range(2):
            answer = clerk.post(f"/admin/subscriptions/{alice.id}/credits", data=given)
            assert answer.status_code == 303 and answer.headers["Location"].endswith(f"/admin/subscriptions/{alice.id}")
        assert credits.spendable(alice.id) == 50
        page = clerk.get(f"/admin/subscriptions/{alice.id}").get_data(as_text=True)
        assert "By an admin: a present" in page and "+30" in page and "change credits" in page
        entry = db.session.scalars(db.select(AuditEntry)).one()
        assert entry.request_id and entry.address == "127.0.0.1"

    def test_taking_more_than_there_is_shows_the_form_again_with_the_sentence(
        self, app: Flask, clerk: FlaskClient, alice: User
    ) -> None:
        given = {"how": "add", "amount": "-21", "reason": "too much", "nonce": "nonce-nonce"}
        answer = clerk.post(f"/admin/subscriptions/{alice.id}/credits", data=given)
        page = answer.get_data(as_text=True)
        assert answer.status_code == 422 and "Only 20 credits are available, so 21 cannot be taken." in page
        assert 'value="too much"' in page and 'value="nonce-nonce"' in page and credits.spendable(alice.id) == 20

    def test_a_large_change_asks_for_the_username_first(
        self, sqlite_app: Flask, clerk: FlaskClient, alice: User
    ) -> None:
        path, given = f"/admin/subscriptions/{alice.id}/credits", {"how": "set", "amount": "20000", "reason": "a prize"}
        answer = clerk.post(path, data={**given, "nonce": "nonce-nonce"})
        assert answer.status_code == 422 and 'name="confirm"' in answer.get_data(as_text=True)
        assert clerk.post(path, data={**given, "nonce": "nonce-nonce", "confirm": "alice"}).status_code == 303
        assert credits.spendable(alice.id) == 20_000

    def test_a_plan_is_given_with_a_reason(self, app: Flask, clerk: FlaskClient, alice: User) -> None:
        path, given = f"/admin/subscriptions/{alice.id}/plan", {"plan_id": plan_id("pro")}
        assert clerk.post(path, data=given).status_code == 422
        assert clerk.post(path, data={**given, "reason": "a partner", "ends_on": "2001-01-01"}).status_code == 422
        assert clerk.post(path, data={**given, "reason": "a partner"}).status_code == 303
        assert subscriptions.current(alice).plan.name == "pro"
        shown = clerk.get(f"/api/admin/subscriptions/{alice.id}").get_json()
        assert (shown["subscription"]["plan"], shown["subscription"]["source"], shown["available"]) == (
            "pro",
            "given",
            1000,
        )

    def test_a_paid_plan_is_not_written_over_and_the_way_out_is_offered(
        self, app: Flask, clerk: FlaskClient, alice: User
    ) -> None:
        payments.choose_test_card(alice, "working")
        payments.upgrade(alice, plan_id("basic"))
        path = f"/admin/subscriptions/{alice.id}"
        assert "never written over" in clerk.get(f"{path}/plan").get_data(as_text=True)
        answer = clerk.post(f"{path}/plan", data={"plan_id": plan_id("pro"), "reason": "a partner"})
        assert answer.status_code == 409 and f"{path}/end-plan" in answer.get_data(as_text=True)
        assert clerk.post(f"{path}/end-plan", data={"reason": "asked to stop"}).status_code == 303
        assert subscriptions.current(alice).source == "free"

    def test_a_pack_is_refunded(self, app: Flask, clerk: FlaskClient, alice: User) -> None:
        payments.choose_test_card(alice, "working")
        payments.buy_pack(alice, 100)
        pack = db.session.scalars(db.select(Payment)).one()
        path = f"/admin/subscriptions/{alice.id}/payments/{pack.id}/refund"
        assert path in clerk.get(f"/admin/subscriptions/{alice.id}").get_data(as_text=True)
        assert "what is not spent" in clerk.get(path).get_data(as_text=True)
        assert clerk.post(path, data={"reason": "changed mind", "nonce": "nonce-nonce"}).status_code == 303
        page = clerk.get(f"/admin/subscriptions/{alice.id}").get_data(as_text=True)
        assert path not in page and "$10.00" in page and credits.spendable(alice.id) == 20
        assert "Nothing of this payment" in clerk.get(path).get_data(as_text=True)

    def test_a_member_is_suspended_and_shown_so(self, sqlite_app: Flask, clerk: FlaskClient, alice: User) -> None:
        path = f"/admin/subscriptions/{alice.id}"
        assert clerk.post(f"{path}/suspend", data={"reason": "sends spam"}).status_code == 303
        assert "Suspended" in clerk.get("/admin/subscriptions/?suspended=1").get_data(as_text=True)
        assert clerk.post(f"{path}/suspend", data={"reason": "sends spam"}).status_code == 409
        assert clerk.post(f"{path}/unsuspend", data={"reason": "was a mistake"}).status_code == 303

    def test_a_superadmin_makes_an_admin(self, sqlite_app: Flask, chief: FlaskClient, alice: User) -> None:
        path = f"/admin/subscriptions/{alice.id}/role"
        assert chief.post(path, data={"role": "admin", "reason": "joins the team"}).status_code == 303
        assert chief.get(f"/api/admin/subscriptions/{alice.id}").get_json()["person"]["role"] == "admin"

    def test_members_are_found_and_paged(self, app: Flask, clerk: FlaskClient, alice: User) -> None:
        on_plan(alice, "basic")
        first = clerk.get("/api/admin/subscriptions/?limit=2").get_json()
        rest = clerk.get(f"/api/admin/subscriptions/?limit=2&before={first['next']}").get_json()
        assert [one["username"] for one in first["items"] + rest["items"]] == ["admin", "bob", "alice"]
        assert rest["next"] is None
        page = clerk.get("/admin/subscriptions/?limit=1").get_data(as_text=True)
        assert "Next page" in page and "before=" in page
        assert "Nobody fits" in clerk.get("/admin/subscriptions/?search=zz&plan=pro").get_data(as_text=True)
        found = clerk.get("/api/admin/subscriptions/?search=Ali&source=given").get_json()["items"]
        assert [(one["username"], one["plan"]) for one in found] == [("alice", "basic")]
        assert clerk.get("/admin/subscriptions/?search=%00'%22<&status=%00").status_code == 200


PLAN = {
    "display_name": "Club", "price": "12.50", "yearly_price": "", "monthly_credits": "120", "features": "One\nTwo\n",
    "upload_bytes": "1000", "models": "2", "server_jobs": "1", "image_side": "512", "v1_requests": "10",
    "accelerators": "cpu, cuda", "queue": "none", "v1_api": "all", "private_models": "true", "reason": "a new offer",
}  # fmt: skip


class TestPriceList:
    def test_a_plan_is_made_changed_archived_and_offered_again(self, app: Flask, chief: FlaskClient) -> None:
        assert chief.post("/admin/subscriptions/plans", data={**PLAN, "name": "club"}).status_code == 303
        club = next(plan for plan in price_list.plans() if plan.name == "club")
        assert (club.price_cents, club.yearly_cents, club.features) == (1250, None, ["One", "Two"])
        assert club.limits["accelerators"] == ["cpu", "cuda"] and club.limits["queue"] is None
        path = f"/admin/subscriptions/plans/{club.id}"
        assert chief.post(path, data=PLAN).status_code == 409
        assert chief.post(path, data={**PLAN, "price": "15"}).status_code == 303
        db.session.expire_all()
        assert [(p.version, p.archived_at is None) for p in price_list.all_plans() if p.name == "club"] == [
            (2, True),
            (1, False),
        ]
        assert chief.post(f"{path}/activate", data={"reason": "was better"}).status_code == 303
        assert chief.post(f"{path}/archive", data={"reason": "no more"}).status_code == 303
        assert "club" not in [plan.name for plan in price_list.plans()]
        assert "Archived" in chief.get("/admin/subscriptions/plans").get_data(as_text=True)

    @pytest.mark.parametrize("wrong", [
        {"price": "-1"}, {"price": "1.999"}, {"price": "x"}, {"monthly_credits": "-5"}, {"monthly_credits": "1.5"},
        {"queue": "soon"}, {"name": "Not A Name"}, {"name": ""}, {"reason": ""}, {"display_name": ""}, {"price": "NaN"},
    ])  # fmt: skip
    def test_a_plan_that_cannot_be_shows_the_form_again(
        self, sqlite_app: Flask, chief: FlaskClient, wrong: Any
    ) -> None:
        answer = chief.post("/admin/subscriptions/plans", data={**PLAN, "name": "club", **wrong})
        assert answer.status_code == 422 and 'role="alert"' in answer.get_data(as_text=True)
        assert len(price_list.plans()) == 4

    def test_a_price_of_an_action_is_changed(self, sqlite_app: Flask, chief: FlaskClient) -> None:
        given = {"action": "image", "credits": "4", "reason": "costs us more"}
        assert chief.post("/admin/subscriptions/plans/prices", data=given).status_code == 303
        assert price_list.price("image") == 4
        assert chief.post("/admin/subscriptions/plans/prices", data={**given, "credits": "-4"}).status_code == 422


class TestScheduledJobs:
    def test_renewals_to_come_have_exact_times_and_job_ids(self, app: Flask, clerk: FlaskClient, alice: User) -> None:
        subscription = subscriptions.current(alice)
        assert subscription.next_reset_at is not None
        page = clerk.get("/admin/subscriptions/scheduled-jobs").get_data(as_text=True)
        assert f"credit_reset_{subscription.id}" in page
        assert subscription.next_reset_at.strftime("%Y-%m-%d %H:%M:%S") in page
        assert all(entry.name in page and entry.about in page for entry in clock.SCHEDULE)
        assert "do not run" in page  # no clock runs here

    @pytest.mark.parametrize("name", [entry.name for entry in clock.SCHEDULE])
    def test_every_entry_can_be_forced_and_its_count_is_told(
        self, sqlite_app: Flask, clerk: FlaskClient, name: str
    ) -> None:
        given = {"name": name, "reason": "to see"}
        told = clerk.post("/api/admin/subscriptions/scheduled-jobs/force", json=given).get_json()
        assert told["ok"] and told["name"] == name and clock.runs()[name].error is None
        page = clerk.post("/admin/subscriptions/scheduled-jobs/force", data=given, follow_redirects=True)
        assert f"{name} ran and did" in page.get_data(as_text=True)

    def test_an_entry_that_fails_is_told_with_its_error(
        self, sqlite_app: Flask, clerk: FlaskClient, alice: User
    ) -> None:
        with transaction():
            credits.wallet_of(alice.id).available = 77
        answer = clerk.post("/admin/subscriptions/scheduled-jobs/force", data={"name": "reconcile", "reason": "to see"})
        assert answer.status_code == 303
        assert "reconcile failed: RuntimeError" in clerk.get(answer.headers["Location"]).get_data(as_text=True)
        assert "does not add up" in clerk.get("/admin/dashboard").get_data(as_text=True)
        assert db.session.get_one(ClockRun, "reconcile").failed_at is not None

    def test_a_renewal_that_is_not_due_is_left_alone(self, app: Flask, clerk: FlaskClient, alice: User) -> None:
        name = f"credit_reset_{subscriptions.current(alice).id}"
        given = {"name": name, "reason": "to see"}
        told = clerk.post("/api/admin/subscriptions/scheduled-jobs/force", json=given).get_json()
        assert told["count"] == 0 and "has not come" in told["sentence"] and credits.spendable(alice.id) == 20

    @pytest.mark.parametrize("name", ["dance", "credit_reset_999", "credit_reset_x", "credit_reset_99999999999999"])
    def test_what_is_not_scheduled_cannot_be_forced(self, sqlite_app: Flask, clerk: FlaskClient, name: str) -> None:
        given = {"name": name, "reason": "to see"}
        assert clerk.post("/admin/subscriptions/scheduled-jobs/force", data=given).status_code == 404
        assert clerk.post("/admin/subscriptions/scheduled-jobs/force", data={"name": "reconcile"}).status_code == 422

    def test_a_message_that_was_given_up_is_tried_again(self, app: Flask, clerk: FlaskClient) -> None:
        with transaction():
            add(
                GatewayEvent(
                    id="evt_1", type="invoice.paid", happened_at=now(), body={}, state="dead", tries=12, error="Later"
                )
            )
        path = "/admin/subscriptions/scheduled-jobs/events/evt_1/again"
        assert path in clerk.get("/admin/subscriptions/scheduled-jobs").get_data(as_text=True)
        assert clerk.post(path, data={"reason": "repaired"}).status_code == 303
        assert clerk.post(path, data={"reason": "repaired"}).status_code == 409

    @pytest.mark.parametrize("after", ["x", "2026-01-01", "2026-01-01T00:00:00+00:00~x", "2026-01-01T00:00:00~1"])
    def test_a_page_that_cannot_be_is_refused(self, sqlite_app: Flask, clerk: FlaskClient, after: str) -> None:
        assert clerk.get("/admin/subscriptions/scheduled-jobs", query_string={"after": after}).status_code == 422


class TestReports:
    def test_files_say_what_the_screen_says(self, app: Flask, clerk: FlaskClient, alice: User) -> None:
        payments.choose_test_card(alice, "working")
        payments.upgrade(alice, plan_id("basic"))
        shown = clerk.get("/api/admin/subscriptions/reports").get_json()
        page = clerk.get("/admin/subscriptions/reports").get_data(as_text=True)
        header, *rows = rows_of(clerk.get("/admin/subscriptions/reports/plans.csv"))
        assert header == ["plan", "version", "members", "share_percent", "mrr_usd"]
        assert rows == [["Free", "1", "2", "66.7", "0.00"], ["Basic", "1", "1", "33.3", "9.99"]]
        assert [[row["plan"], str(row["members"])] for row in shown["plans"]] == [[row[0], row[2]] for row in rows]
        assert "66.7%" in page and "33.3%" in page and "$9.99" in page
        months = rows_of(clerk.get("/admin/subscriptions/reports/months.csv"))[1:]
        assert [row[0] for row in months] == [row["month"] for row in shown["months"]]
        assert months[-1][1:] == ["9.99", "0", "9.99"]
        day = rows_of(clerk.get("/admin/subscriptions/reports/day.csv"))[1]
        assert day == [shown["day"]["day"], "3", "3", "9.99", "0", "1", "9.99"]

    def test_every_member_is_in_the_file_and_no_cell_is_a_formula(self, app: Flask, clerk: FlaskClient) -> None:
        with transaction():
            for number, name in enumerate(("=1+1", "+1", "-1", "@sum", "\tx", "\rx", "plain")):
                add(User(email=f"f{number}@example.com", username=name, password_hash="x"))
        header, *rows = rows_of(clerk.get("/admin/subscriptions/reports/members.csv"))
        names = [row[header.index("username")] for row in rows]
        assert names == ["plain", "'\rx", "'\tx", "'@sum", "'-1", "'+1", "'=1+1", "admin", "bob", "alice"]
        chosen = rows_of(clerk.get("/admin/subscriptions/reports/members.csv?search=ali"))
        assert [row[1] for row in chosen[1:]] == ["alice"]

    @pytest.mark.parametrize("day, status", [("2026-02-30", 422), ("tomorrow", 422), ("9999-01-01", 422), ("1999-01-01", 422),
                                             ("2020-02-29", 200), ("", 200)])  # fmt: skip
    def test_any_past_day_can_be_looked_at(self, sqlite_app: Flask, clerk: FlaskClient, day: str, status: int) -> None:
        assert clerk.get("/admin/subscriptions/reports", query_string={"day": day}).status_code == status
        assert clerk.get("/admin/subscriptions/reports/day.csv", query_string={"day": day}).status_code == status

    def test_the_record_holds_every_act(self, sqlite_app: Flask, clerk: FlaskClient, alice: User) -> None:
        given = {"how": "add", "amount": "5", "reason": "a <b>present</b>", "nonce": "nonce-nonce"}
        clerk.post(f"/admin/subscriptions/{alice.id}/credits", data=given, headers={"X-Request-ID": "req-7"})
        line = clerk.get("/api/admin/audit").get_json()["items"][0]
        assert (line["actor"], line["act"], line["reason"]) == ("admin", "change_credits", "a <b>present</b>")
        assert line["request_id"] == "req-7" and line["after"]["available"] == 25
        assert "a &lt;b&gt;present&lt;/b&gt;" in clerk.get("/admin/audit").get_data(as_text=True)
