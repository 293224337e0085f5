"""Forms and sessions: other sites, resubmissions, numbers that are none, text that is code, old cookies, forged names."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from argon2.exceptions import VerifyMismatchError
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from structlog.testing import capture_logs
from werkzeug.routing import BuildError

from models.accounts import PasswordReset, User
from models.base import db, now, transaction
from models.idempotency import IdempotentRequest
from models.training_jobs import TrainingJob
from routes import limits
from services import accounts, credits
from services.gateways import gateways
from tests.conftest import PASSWORD, member
from tests.factories import make_agent, make_dataset, on_plan
from tests.routes.test_contract import error_of

PURCHASE = {"pack_size": 100}


@pytest.fixture
def clerk(sqlite_app: Flask, browser: FlaskClient) -> FlaskClient:
    """Alice, as a superadmin."""
    with transaction():
        db.session.execute(update(User).where(User.username == "alice").values(role="superadmin"))
    return browser


def everything() -> dict[str, list[Any]]:
    """Every row there is."""
    return {table.name: list(db.session.execute(table.select())) for table in db.metadata.sorted_tables}


def joined(app: Flask, name: str) -> FlaskClient:
    client = app.test_client()
    assert client.post("/login", json={"email": f"{name}@example.com", "password": PASSWORD}).status_code == 200
    return client


class TestOtherSites:
    @pytest.mark.parametrize("headers", [
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "nonsense"}, {"Origin": "null"},
        {"Origin": "https://evil.example"}, {"Origin": "http://localhost.evil.example"}, {"Origin": "http://localhost:81"},
        {"Origin": "file://"}, {"Origin": ""}, {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    ])  # fmt: skip
    @pytest.mark.parametrize("path", ["/api/credits/purchase", "/logout", "/keys", "/account/password"])
    def test_what_another_site_sends_is_not_carried_out(
        self, sqlite_app: Flask, browser: FlaskClient, path: str, headers: dict[str, str]
    ) -> None:
        refused = browser.post(path, data=PURCHASE, headers={**headers, "Accept": "application/json"})
        assert refused.status_code == 403 and error_of(refused)["code"] == "foreign_site"
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 20
        assert browser.get("/api/keys").get_json() == []

    def test_no_address_changes_anything_when_it_is_only_looked_at(self, sqlite_app: Flask, clerk: FlaskClient) -> None:
        """Every address that acts is asked with GET: 405, or a page of its own, and no row is another one afterwards."""
        before, adapter, refused = everything(), sqlite_app.url_map.bind("localhost"), 0
        for rule in sqlite_app.url_map.iter_rules():
            if "POST" not in rule.methods:
                continue
            values = {name: 1 if f"int:{name}" in rule.rule else "x" for name in rule.arguments}
            try:
                path = adapter.build(rule.endpoint, values, method="POST")
            except (BuildError, ValueError):  # a part of it is one of a few words
                continue
            answer = clerk.get(path)
            assert answer.status_code in (200, 302, 303, 404, 405, 410), path
            refused += answer.status_code == 405
        assert refused > 40 and everything() == before


class TestResubmission:
    def test_a_form_sent_twice_has_one_effect_and_leads_to_the_same_page(
        self, app: Flask, browser: FlaskClient
    ) -> None:
        form = {**PURCHASE, "_idempotency_key": "one-form"}
        answers = [browser.post("/credits/purchase", data=form) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [303] * 3
        assert len({answer.headers["Location"] for answer in answers}) == 1
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 120

    def test_a_request_whose_answer_was_lost_is_not_done_twice_and_says_so(
        self, app: Flask, browser: FlaskClient
    ) -> None:
        ask: dict[str, Any] = {"json": {"name": "laptop"}, "headers": {"Idempotency-Key": "lost"}}
        assert browser.post("/api/keys", **ask).status_code == 201
        for age, code in ((timedelta(0), "key_in_use"), (timedelta(hours=1), "answer_lost")):
            with transaction():  # as a crash right after the commit leaves it
                db.session.execute(update(IdempotentRequest).values(status=None, body=None, created_at=now() - age))
            refused = browser.post("/api/keys", **ask)
            assert (refused.status_code, error_of(refused)["code"]) == (409, code)
        assert len(browser.get("/api/keys").get_json()) == 1

    @pytest.mark.parametrize("key", ["a" * 256, "line\tbreak", "del\x7f"])
    def test_a_key_of_a_request_is_short_and_printable(self, sqlite_app: Flask, browser: FlaskClient, key: str) -> None:
        refused = browser.post("/api/keys", json={"name": "x"}, headers={"Idempotency-Key": key})
        assert refused.status_code == 422 and browser.get("/api/keys").get_json() == []


NOT_WHOLE = [
    "-1",
    "0",
    "1e309",
    "NaN",
    "Infinity",
    "1,5",
    "1.5",
    "٣",
    "３",
    "9223372036854775808",
    "0x10",
    "1e3",
    "ten",
    "--1",
    "1 000",
]


class TestNumbers:
    @pytest.mark.parametrize("number", [*NOT_WHOLE, -1, 0, 1.5, 2**63, 10**400, True, None, [], {}])
    def test_a_pack_is_bought_by_a_size_that_is_sold(
        self, sqlite_app: Flask, browser: FlaskClient, number: object
    ) -> None:
        refused = browser.post("/api/credits/purchase", json={"pack_size": number})
        assert refused.status_code == 422 and "pack_size" in error_of(refused)["fields"]
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 20

    @pytest.mark.parametrize(
        "body", ['{"pack_size": 1e309}', '{"pack_size": NaN}', '{"pack_size": -Infinity}', '{"pack_size": 0x10}']
    )
    def test_what_json_calls_no_number_is_none(self, sqlite_app: Flask, browser: FlaskClient, body: str) -> None:
        refused = browser.post("/api/credits/purchase", data=body, content_type="application/json")
        assert refused.status_code in (400, 422) and error_of(refused)
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 20

    @pytest.mark.parametrize("number", ["1e309", "NaN", "1,5", "1.5", "٣", "9223372036854775808", "0x10", "ten"])
    def test_in_a_form_the_sentence_stands_beside_the_field_and_the_others_keep_their_values(
        self, sqlite_app: Flask, clerk: FlaskClient, number: str
    ) -> None:
        bob = member("bob")
        given = {"how": "add", "amount": number, "reason": "a gift for <b>bob</b>"}
        page = clerk.post(f"/admin/subscriptions/{bob.id}/credits", data=given)
        assert page.status_code == 422
        assert "a gift for &lt;b&gt;bob&lt;/b&gt;" in page.text and 'id="amount-wrong"' in page.text
        assert credits.spendable(bob.id) == 20


LITERALLY = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}${7*7}<%= 7*7 %>", "'; DROP TABLE users; --", "👩‍👩‍👧 ok",
    "zero\u200bwidth", "Ünïcödé ﷽ 你好", "&amp;&lt;", "a\\nb", "%s%n%x", "null", "../../x",
]  # fmt: skip


class TestText:
    @pytest.mark.parametrize("text", LITERALLY)
    def test_what_looks_like_code_is_stored_and_shown_as_text(
        self, sqlite_app: Flask, browser: FlaskClient, text: str
    ) -> None:
        assert browser.post("/api/keys", json={"name": text}).status_code == 201
        assert browser.get("/api/keys").get_json()[0]["name"] == text
        page = browser.get("/account").text
        assert "<script>alert" not in page and "<img src=x" not in page and ">49" not in page
        assert db.session.scalar(select(func.count(User.id))) == 2

    @pytest.mark.parametrize("text", ["a" * 81, "a" * 900_000, "", "   ", "nul \0", "half \ud800", "\udfff"])
    @pytest.mark.parametrize("as_form", [False, True])
    def test_what_is_no_name_is_refused(
        self, sqlite_app: Flask, browser: FlaskClient, text: str, as_form: bool
    ) -> None:
        if as_form and not text.isprintable() and "\0" not in text:
            return  # a form's text is read as UTF-8, and half a character becomes the sign for one that is none
        if as_form:
            refused = browser.post("/api/keys", data={"name": text.encode("utf-8", "surrogatepass")})
        else:
            refused = browser.post("/api/keys", json={"name": text})
        assert refused.status_code in (413, 422) and error_of(refused)
        assert [key["name"] for key in browser.get("/api/keys").get_json() if len(key["name"]) > 80] == []

    def test_a_password_of_a_megabyte_costs_no_more_than_another(self, sqlite_app: Flask, client: FlaskClient) -> None:
        given = {"email": "alice@example.com", "password": "x" * 900_000}
        assert client.post("/login", json=given).status_code == 401
        assert client.post("/signup", json={**given, "email": "n@example.com", "username": "new"}).status_code == 422

    def test_fields_nobody_asked_for_change_nothing(self, app: Flask, client: FlaskClient) -> None:
        extra = {
            "role": "superadmin", "is_admin": True, "credits": 10**6, "user_id": 1, "id": 77, "plan": "enterprise",
            "__class__": "x", "password_hash": "x", "suspended_at": "2000-01-01",
        }  # fmt: skip
        made = client.post("/signup", json={"email": "n@example.com", "username": "new", "password": PASSWORD, **extra})
        assert made.status_code == 201 and made.get_json()["role"] == "member" and made.get_json()["id"] != 77
        assert client.get("/api/subscription").get_json()["credits_remaining"] == 20
        changed = client.post(
            "/account/password", json={"current_password": PASSWORD, "new_password": "another one", **extra}
        )
        assert changed.status_code == 200 and changed.get_json()["role"] == "member"

    @pytest.mark.parametrize("way", ["json", "data"])
    def test_fields_nobody_asked_for_are_logged_by_name(self, sqlite_app: Flask, client: FlaskClient, way: str) -> None:
        given = {"email": "alice@example.com", "password": PASSWORD, "_idempotency_key": "once" * 8}
        with capture_logs() as lines:
            assert (
                client.post("/login", **{way: {**given, "is_admin": "secret value", "x" * 900: "1"}}).status_code < 400
            )
        (line,) = [line for line in lines if line["event"] == "unknown_fields"]
        assert set(line["fields"]) >= {"is_admin", "x" * 60} and line["path"] == "/login"
        assert "secret value" not in str(lines) and PASSWORD not in str(lines)

    def test_a_refusal_is_a_line_of_the_log_without_the_secret_of_a_link(
        self, sqlite_app: Flask, client: FlaskClient
    ) -> None:
        with capture_logs() as lines:
            client.post("/signup", data={"email": "nobody", "username": "n", "password": PASSWORD})
            client.post("/password/reset/the-secret", json={"password": PASSWORD})
        refused = [(line["status"], line["path"]) for line in lines if line["event"] == "refused"]
        assert refused == [(422, "/signup"), (410, "/password/reset/...")]
        assert "the-secret" not in str(lines)


class TestForeignIds:
    def test_what_belongs_to_somebody_else_does_not_exist_in_any_field(self, app: Flask) -> None:
        alice, bob = member("alice"), joined(app, "bob")
        dataset, agent = make_dataset(alice), make_agent(alice)
        on_plan(member("bob"), "basic")
        body = {
            "name": "mine", "recipe": "language", "base_model": "yard-tiny", "place": "server",
            "parameters": {"method": "full", "max_steps": 5}, "dataset_id": dataset.dataset_id,
        }  # fmt: skip
        theirs = bob.post("/api/training-jobs", json=body)
        none = bob.post("/api/training-jobs", json={**body, "dataset_id": 999_999})
        assert theirs.status_code == none.status_code in (404, 422) and theirs.get_json() == none.get_json()
        own = make_dataset(member("bob"), "own")
        on_machine = {**body, "dataset_id": own.dataset_id}
        theirs = bob.post("/api/training-jobs", json={**on_machine, "place": {"agent": agent.id}})
        none = bob.post("/api/training-jobs", json={**on_machine, "place": {"agent": 999_999}})
        assert theirs.status_code == none.status_code in (404, 422) and theirs.get_json() == none.get_json()
        theirs = bob.post("/api/training-jobs", json={**on_machine, "base_model": "model:1"})
        none = bob.post("/api/training-jobs", json={**on_machine, "base_model": "model:999999"})
        assert theirs.status_code == none.status_code in (404, 422)
        assert db.session.scalar(select(func.count(TrainingJob.id))) == 0
        assert credits.spendable(member("bob").id) == 200


class TestDoors:
    def test_one_account_is_not_guessed_at_from_many_addresses(self, sqlite_app: Flask, client: FlaskClient) -> None:
        wrong = {"email": "alice@example.com", "password": "wrong password"}
        most = int(limits.LOG_IN_FAILED.partition(" ")[0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(accounts, "hasher", Hasty())
            codes = [
                client.post("/login", json=wrong, environ_base={"REMOTE_ADDR": f"10.0.{number}.7"}).status_code
                for number in range(most + 5)
            ]
        assert codes == [401] * most + [429] * 5
        bob = client.post("/login", json={"email": "bob@example.com", "password": PASSWORD})
        assert bob.status_code == 200

    def test_many_accounts_are_not_guessed_at_from_one_address(self, sqlite_app: Flask, client: FlaskClient) -> None:
        most = int(limits.LOG_IN_BY_ADDRESS.partition(" ")[0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(accounts, "hasher", Hasty())
            answers = [
                client.post("/login", json={"email": f"{number}@example.com", "password": "wrong"})
                for number in range(most + 5)
            ]
        assert [answer.status_code for answer in answers] == [401] * most + [429] * 5
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 60

    def test_who_logs_in_often_and_rightly_is_no_guesser(self, sqlite_app: Flask, client: FlaskClient) -> None:
        for _ in range(3):
            assert client.post("/login", json={"email": "alice@example.com", "password": PASSWORD}).status_code == 200

    @pytest.mark.parametrize(
        "body", ["[" * 100_000, '{"email": ' * 5000, "\xff", '{"email": {"a": 1}}', '{"email": null}', "7"]
    )
    def test_a_body_that_is_none_does_not_turn_the_counting_off(
        self, sqlite_app: Flask, client: FlaskClient, body: str
    ) -> None:
        for _ in range(3):
            refused = client.post("/login", data=body.encode("latin-1"), content_type="application/json")
            assert refused.status_code in (400, 422) and error_of(refused)
        assert not limits.limiter._storage_dead

    def test_an_unknown_person_costs_the_same_work(self, sqlite_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        """Counted, not timed: one check of a password, whether there is such a member or not."""
        hasty = Hasty()
        monkeypatch.setattr(accounts, "hasher", hasty)
        client = sqlite_app.test_client()
        for email in ("alice@example.com", "nobody@example.com"):
            assert client.post("/login", json={"email": email, "password": "wrong"}).status_code == 401
        parameters = [digest.rsplit("$", 2)[0] for digest in hasty.asked]
        assert len(parameters) == 2 and parameters[0] == parameters[1]


class TestSessions:
    def test_logging_in_begins_a_session_that_no_one_knew_before(self, sqlite_app: Flask, client: FlaskClient) -> None:
        given = {"email": "alice@example.com", "password": PASSWORD}
        cookies = []
        for _ in range(2):
            client.post("/login", json=given)
            cookies.append(client.get_cookie("session").value)  # type: ignore[union-attr]
        assert cookies[0] != cookies[1]
        planted = sqlite_app.test_client()
        planted.set_cookie("session", "planted-by-somebody")
        planted.post("/login", json=given)
        assert planted.get_cookie("session").value != "planted-by-somebody"  # type: ignore[union-attr]

    @pytest.mark.parametrize("value", [
        "", "x", "a.b.c", "eyJfdXNlcl9pZCI6IjEifQ.aaaa.bbbb", "." * 5000, "%00", '"', "eyJfdXNlcl9pZCI6IjEifQ",
    ])  # fmt: skip
    def test_a_cookie_that_was_made_up_opens_nothing(self, sqlite_app: Flask, value: str) -> None:
        client = sqlite_app.test_client()
        client.set_cookie("session", value)
        assert client.get("/api/subscription").status_code == 401

    def test_after_a_new_password_only_the_session_that_set_it_goes_on(
        self, sqlite_app: Flask, browser: FlaskClient
    ) -> None:
        other = joined(sqlite_app, "alice")
        copy = sqlite_app.test_client()
        copy.set_cookie("session", browser.get_cookie("session").value)  # type: ignore[union-attr]
        given = {"current_password": PASSWORD, "new_password": "another password"}
        assert browser.post("/account/password", json=given).status_code == 200
        codes = [client.get("/api/subscription").status_code for client in (browser, other, copy)]
        assert codes == [200, 401, 401]

    def test_a_suspended_members_cookie_and_key_open_nothing(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        key = browser.post("/api/keys", json={"name": "x"}).get_json()["key"]
        with transaction():
            db.session.execute(update(User).where(User.username == "alice").values(suspended_at=now()))
        headers = {"Authorization": f"Bearer {key}"}
        assert browser.get("/api/subscription").status_code == 401
        assert sqlite_app.test_client().get("/api/subscription", headers=headers).status_code == 401


class TestLinks:
    def asked(self, client: FlaskClient, **headers: str) -> str:
        """The link that was mailed."""
        folder = gateways().settings.outbox_dir
        before = set(folder.iterdir()) if folder.exists() else set()
        client.post("/password/forgot", json={"email": "alice@example.com"}, headers=headers)
        (mail,) = set(folder.iterdir()) - before
        return next(line for line in mail.read_text().splitlines() if "/password/reset/" in line)

    def test_a_link_works_once_and_for_a_while(self, sqlite_app: Flask, client: FlaskClient) -> None:
        path = "/password/reset/" + self.asked(client).rpartition("/")[2]
        assert client.post(path, json={"password": "another password"}).status_code == 200
        assert client.post(path, json={"password": "a third password"}).status_code == 410
        assert client.get(path).status_code == 410
        late = "/password/reset/" + self.asked(client).rpartition("/")[2]
        with transaction():
            db.session.execute(update(PasswordReset).values(expires_at=now() - timedelta(seconds=1)))
        refused = client.post(late, json={"password": "a fourth password"})
        assert refused.status_code == 410 and error_of(refused)["code"] == "link_expired"
        assert client.post("/password/reset/nonsense", json={"password": "a fifth password"}).status_code == 410

    def test_a_forged_host_gets_into_no_mail(self, sqlite_app: Flask, client: FlaskClient) -> None:
        for headers in (
            {"Host": "evil.example"},
            {"X-Forwarded-Host": "evil.example"},
            {"Forwarded": "host=evil.example"},
        ):
            assert self.asked(client, **headers).startswith(gateways().settings.public_url)

    @pytest.mark.parametrize("target", [
        "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "/%09/evil.example", "javascript:alert(1)", "/%0d%0aX: y",
        "https:evil.example", "///evil.example", "/%00", "evil.example", "",
    ])  # fmt: skip
    def test_the_way_on_leads_to_no_other_site(self, sqlite_app: Flask, client: FlaskClient, target: str) -> None:
        given = {"email": "alice@example.com", "password": PASSWORD}
        answer = client.post(f"/login?next={target}", data=given)
        assert answer.status_code == 303 and answer.headers["Location"] == "/dashboard"


class Hasty:
    """Finds every password wrong without the work, and remembers against what it was held."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def verify(self, digest: str, password: str) -> bool:
        self.asked.append(digest)
        raise VerifyMismatchError


def test_the_only_key_that_is_no_secret_is_the_one_in_an_address(app: Flask, browser: FlaskClient) -> None:
    made = browser.post("/api/keys", json={"name": "careless"}).get_json()
    program = app.test_client()
    for path in (f"/api/subscription?api_key={made['key']}", "/api/subscription"):
        headers = {"Authorization": f"Bearer {made['key']}"}
        assert program.get(path, headers=headers).status_code == 401
    assert browser.get("/api/keys").get_json() == []
    refused = program.get(f"/?a=1&a={made['key']}")
    assert refused.status_code == 401 and made["key"] not in refused.text
    assert browser.get("/?a=ty_not-a-key").status_code == 200
