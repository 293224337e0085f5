"""The outward contract as a program meets it: shapes, codes, sentences, once and only once."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.accounts import User
from models.base import db, transaction
from services import api_keys, credits, training_jobs
from services.gateways import gateways
from tests.conftest import PASSWORD, member
from tests.factories import make_agent, make_agent_job, make_dataset, make_server_job, on_plan, plan_id, rows_file


def error_of(response: Any) -> dict[str, Any]:
    """The one error shape, checked."""
    error = response.get_json()["error"]
    assert (
        isinstance(error["code"], str)
        and error["message"].endswith((".", "}", ")"))
        and "Traceback" not in error["message"]
    )
    return dict(error)


def post_file(client: FlaskClient, content: bytes, name: str = "rows.jsonl", **fields: str) -> Any:
    data = {"file": (io.BytesIO(content), name), "name": "rows", **fields}
    return client.post("/api/datasets", data=data, content_type="multipart/form-data")


class TestPeople:
    def test_signing_up_gives_a_session_and_twenty_credits(self, app: Flask, client: FlaskClient) -> None:
        made = client.post("/signup", json={"email": "New@Example.com ", "username": "new", "password": PASSWORD})
        assert made.status_code == 201 and made.get_json()["email"] == "new@example.com"
        assert client.get("/api/subscription").get_json()["credits_remaining"] == 20

    def test_signing_up_twice_with_one_key_is_one_member_with_a_session(self, app: Flask, client: FlaskClient) -> None:
        body = {"email": "once@example.com", "username": "once", "password": PASSWORD}
        first = client.post("/signup", json=body, headers={"Idempotency-Key": "s1"})
        again = app.test_client()
        second = again.post("/signup", json=body, headers={"Idempotency-Key": "s1"})
        assert first.status_code == second.status_code == 201 and first.get_json() == second.get_json()
        assert again.get("/api/subscription").get_json()["credits_remaining"] == 20

    @pytest.mark.parametrize("body, field", [
        ({"email": "nobody", "username": "new", "password": PASSWORD}, "email"),
        ({"email": "a@b.com", "username": "a b", "password": PASSWORD}, "username"),
        ({"email": "a@b.com", "username": "new", "password": "short"}, "password"),
        ({"email": "a@b.com", "username": "new"}, "password"),
    ])  # fmt: skip
    def test_a_field_that_cannot_be_used_is_named(
        self, sqlite_app: Flask, client: FlaskClient, body: Any, field: str
    ) -> None:
        answer = client.post("/signup", json=body)
        assert answer.status_code == 422 and field in error_of(answer)["fields"]

    @pytest.mark.parametrize("given, told", [
        ("nobody", "An e-mail address must have an @-sign."), ("nobody@", "There must be something after the @-sign."),
    ])  # fmt: skip
    def test_an_address_that_is_none_is_told_in_one_sentence_with_the_spelling_of_its_label(
        self, sqlite_app: Flask, client: FlaskClient, given: str, told: str
    ) -> None:
        form = {"email": given, "username": "new", "password": PASSWORD}
        page = client.post("/signup", data=form, headers={"Accept": "text/html"}).get_data(as_text=True)
        assert f'<a href="#email">{told}</a>' in page and f"<span>{told}</span>" in page
        assert ">E-mail" in page and "Email" not in page and "email address" not in page

    def test_a_taken_address_is_a_conflict(self, app: Flask, client: FlaskClient) -> None:
        answer = client.post("/signup", json={"email": "alice@example.com", "username": "other", "password": PASSWORD})
        assert answer.status_code == 409 and error_of(answer)["code"] == "taken"

    def test_a_wrong_password_and_an_unknown_person_sound_the_same(
        self, sqlite_app: Flask, client: FlaskClient
    ) -> None:
        wrong = client.post("/login", json={"email": "alice@example.com", "password": "wrong password"})
        unknown = client.post("/login", json={"email": "nobody@example.com", "password": "wrong password"})
        assert wrong.status_code == unknown.status_code == 401
        assert error_of(wrong) == error_of(unknown)

    def test_guessing_is_slowed_down(self, sqlite_app: Flask, client: FlaskClient) -> None:
        codes = [
            client.post("/login", json={"email": "alice@example.com", "password": "x"}).status_code for _ in range(12)
        ]
        assert codes[:10] == [401] * 10 and codes[10:] == [429, 429]

    def test_after_logging_out_a_copied_cookie_opens_nothing(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        copy = sqlite_app.test_client()
        copy.set_cookie("session", browser.get_cookie("session").value)  # type: ignore[union-attr]
        assert copy.get("/api/subscription").status_code == 200
        assert browser.post("/logout", json={}).status_code == 200
        assert copy.get("/api/subscription").status_code == 401

    def test_where_somebody_goes_after_logging_in_is_a_page_of_ours(
        self, sqlite_app: Flask, client: FlaskClient
    ) -> None:
        given = {"email": "alice@example.com", "password": PASSWORD}
        for target, ours in (
            ("/agents", "/agents"),
            ("//evil.example", "/dashboard"),
            ("/%09/evil.example", "/dashboard"),
            ("/%0d/x", "/dashboard"),
            ("https://evil.example", "/dashboard"),
            ("/%5Cevil", "/dashboard"),
        ):
            assert client.post(f"/login?next={target}", data=given).headers["Location"] == ours
            client.post("/logout", json={})

    def test_the_hidden_key_of_a_form_opens_no_session_for_somebody_else(
        self, sqlite_app: Flask, client: FlaskClient
    ) -> None:
        form = {"email": "first@example.com", "username": "first", "password": PASSWORD, "_idempotency_key": "k"}
        assert client.post("/signup", data=form).status_code == 303
        other = sqlite_app.test_client()
        assert (
            other.post("/signup", data={**form, "email": "second@example.com", "username": "second"}).status_code == 409
        )
        assert other.get("/api/subscription").status_code == 401

    def test_after_logging_out_the_cookie_opens_nothing(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        assert browser.post("/logout", json={}).status_code == 200
        assert browser.get("/api/subscription").status_code == 401

    def test_a_new_password_comes_by_mail_works_once_and_ends_other_sessions(
        self, sqlite_app: Flask, browser: FlaskClient, client: FlaskClient
    ) -> None:
        assert client.post("/password/forgot", json={"email": "alice@example.com"}).status_code == 200
        assert client.post("/password/forgot", json={"email": "nobody@example.com"}).status_code == 200
        (mail,) = gateways().settings.outbox_dir.iterdir()
        link = next(line for line in mail.read_text().splitlines() if "/password/reset/" in line)
        path = "/password/reset/" + link.rpartition("/")[2]
        assert client.post(path, json={"password": "another password"}).status_code == 200
        assert client.post(path, json={"password": "a third password"}).status_code == 410
        assert browser.get("/api/subscription").status_code == 401
        assert (
            client.post("/login", json={"email": "alice@example.com", "password": "another password"}).status_code
            == 200
        )


class TestKeys:
    def test_a_key_is_shown_once_and_stored_hashed(self, app: Flask, browser: FlaskClient) -> None:
        made = browser.post("/api/keys", json={"name": "laptop"})
        assert made.status_code == 201 and set(made.get_json()) >= {"id", "name", "scope", "key"}
        listed = browser.get("/api/keys").get_json()
        assert [key["name"] for key in listed] == ["laptop"] and "key" not in listed[0]
        key = made.get_json()["key"]
        stored = db.session.execute(db.text("SELECT digest, prefix FROM api_keys")).one()
        assert key not in str(stored) and key.startswith(stored.prefix) and len(key) >= 43 + 3

    def test_a_key_stands_for_its_owner_until_it_is_revoked(
        self, app: Flask, browser: FlaskClient, client: FlaskClient
    ) -> None:
        made = browser.post("/api/keys", json={"name": "laptop", "scope": "full"}).get_json()
        headers = {"Authorization": f"Bearer {made['key']}"}
        assert client.get("/api/subscription", headers=headers).status_code == 200
        assert browser.get("/api/keys").get_json()[0]["last_used_at"] is not None
        assert browser.delete(f"/api/keys/{made['id']}").status_code == 204
        refused = client.get("/api/subscription", headers=headers)
        assert refused.status_code == 401 and "revoked" in error_of(refused)["message"]

    def test_a_key_for_agents_does_not_open_the_account(
        self, sqlite_app: Flask, browser: FlaskClient, client: FlaskClient
    ) -> None:
        key = browser.post("/api/keys", json={"name": "box", "scope": "agent"}).get_json()["key"]
        refused = client.get("/api/subscription", headers={"Authorization": f"Bearer {key}"})
        assert refused.status_code == 403 and error_of(refused)["code"] == "wrong_scope"

    def test_a_key_asked_for_twice_is_one_key_and_is_not_kept_readable(self, app: Flask, browser: FlaskClient) -> None:
        ask = {"json": {"name": "laptop"}, "headers": {"Idempotency-Key": "k1"}}
        first, second = browser.post("/api/keys", **ask), browser.post("/api/keys", **ask)
        assert first.get_json() == second.get_json() and len(browser.get("/api/keys").get_json()) == 1
        kept = db.session.execute(db.text("SELECT body FROM idempotent_requests")).scalar_one()
        assert first.get_json()["key"] not in kept


class TestPlans:
    def test_the_price_list_is_public(self, app: Flask, client: FlaskClient) -> None:
        tiers = client.get("/api/subscription/tiers").get_json()
        prices = [
            (tier["name"], tier["monthly_price"], tier["monthly_price_cents"], tier["monthly_credits"])
            for tier in tiers
        ]
        assert prices == [
            ("free", 0, 0, 20),
            ("basic", 9.99, 999, 200),
            ("pro", 29.99, 2999, 1000),
            ("enterprise", 99.99, 9999, 5000),
        ]
        assert set(tiers[0]) == {
            "id", "name", "display_name", "monthly_price", "monthly_price_cents", "yearly_price_cents", "monthly_credits",
            "features", "limits", "rank",
        }  # fmt: skip

    def test_an_upgrade_is_granted_before_it_answers(self, app: Flask, browser: FlaskClient) -> None:
        answer = browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("pro")})
        body = answer.get_json()
        assert answer.status_code == 200 and body["credits_remaining"] == 1000
        assert body["subscription"]["tier"]["name"] == "pro"
        assert (body["subscription"]["days_until_reset"], body["subscription"]["status"]) in [
            (d, "active") for d in (28, 29, 30, 31)
        ]

    def test_between_paid_plans_the_rest_of_the_period_is_added(self, app: Flask, browser: FlaskClient) -> None:
        browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("basic")})
        body = browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("pro")}).get_json()
        assert 990 <= body["credits_remaining"] <= 1000

    def test_the_present_plan_is_a_conflict_and_a_lower_one_waits(self, app: Flask, browser: FlaskClient) -> None:
        browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("pro")})
        assert browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("pro")}).status_code == 409
        lower = browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("basic")})
        assert (
            lower.status_code == 200
            and lower.get_json()["scheduled_for"] == lower.get_json()["subscription"]["period_end"]
        )
        assert lower.get_json()["credits_remaining"] == 1000

    def test_a_declined_card_changes_nothing(self, app: Flask, browser: FlaskClient) -> None:
        browser.post("/account/payment-method", json={"card": "declined"})
        refused = browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("pro")})
        assert refused.status_code == 402 and error_of(refused)["code"] == "card_declined"
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 20

    def test_without_a_payment_method_there_is_a_checkout(self, app: Flask, browser: FlaskClient) -> None:
        browser.post("/account/payment-method", json={"card": "none"})
        waiting = browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("basic")})
        assert waiting.status_code == 202
        path = "/" + waiting.get_json()["checkout_url"].partition("://")[2].partition("/")[2]
        for _ in range(2):
            paid = browser.post(path, json={"card": "working"})
            assert paid.status_code == 200
            assert browser.get("/" + paid.get_json()["url"].partition("://")[2].partition("/")[2]).status_code == 302
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 200

    def test_a_checkout_page_of_another_plan_is_closed_by_the_one_that_was_paid(
        self, app: Flask, browser: FlaskClient
    ) -> None:
        browser.post("/account/payment-method", json={"card": "none"})
        asked = [
            browser.post("/api/subscription/upgrade", json={"tier_id": plan_id(n)}).get_json()
            for n in ("enterprise", "enterprise", "pro")
        ]
        first, again, pro = ["/" + one["checkout_url"].partition("://")[2].partition("/")[2] for one in asked]
        assert first == again != pro
        paid = browser.post(pro, json={"card": "working"}).get_json()
        browser.get("/" + paid["url"].partition("://")[2].partition("/")[2])
        late = browser.post(first, json={"card": "working"})
        assert late.status_code == 410
        assert browser.get("/api/subscription").get_json()["credits_remaining"] == 1000

    def test_an_unknown_plan_is_not_found(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        assert browser.post("/api/subscription/upgrade", json={"tier_id": 999}).status_code == 404


class TestData:
    def test_a_file_becomes_a_data_set_with_its_counts(self, app: Flask, browser: FlaskClient) -> None:
        made = post_file(browser, rows_file(40))
        body = made.get_json()
        assert made.status_code == 201
        assert (body["format"], body["rows"], body["bad_rows"], body["version"]) == ("prompt_completion", 40, [], 1)
        again = post_file(browser, rows_file(40)).get_json()
        assert (again["id"], again["version"]) == (body["id"], 1)
        assert post_file(browser, rows_file(41)).get_json()["version"] == 2
        whole = browser.get(f"/api/datasets/{body['id']}").get_json()
        assert len(whole["versions"]) == 2 and 0 <= whole["quality"]["score"] <= 100

    def test_unknown_columns_ask_for_a_mapping_and_one_mends_it(self, app: Flask, browser: FlaskClient) -> None:
        content = b"\n".join(json.dumps({"question": f"q{i}?", "answer": f"a{i}."}).encode() for i in range(5))
        refused = post_file(browser, content)
        assert refused.status_code == 422 and error_of(refused)["columns"] == ["question", "answer"]
        mapped = post_file(browser, content, mapping='{"prompt": "question", "completion": "answer"}')
        assert mapped.status_code == 201 and mapped.get_json()["rows"] == 5
        wrong = post_file(browser, content, mapping='{"prompt": "nothing", "completion": "answer"}')
        assert wrong.status_code == 422 and "nothing" in error_of(wrong)["message"]

    def test_a_broken_line_is_named_and_the_others_stay(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        lines = rows_file(7000).split(b"\n")
        lines[6173] = b'{"prompt": "half'
        body = post_file(browser, b"\n".join(lines)).get_json()
        assert body["rows"] == 6999 and [row["line"] for row in body["bad_rows"]] == [6174]

    @pytest.mark.parametrize("content, name", [
        (b"", "empty.jsonl"), (b"\n\n", "blank.jsonl"), (b"PK\x03\x04" + b"\0" * 100, "bomb.zip"), (b"PK\x03\x04" + b"\0" * 50, "rows.jsonl"),
        (b"\x7fELF" + bytes(range(256)), "program.jsonl"), (b'{"prompt": "\xff\xfe", "completion": "b"}', "broken.jsonl"),
        (b"[1, 2", "half.json"), (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "picture.csv"),
    ])  # fmt: skip
    def test_what_cannot_be_data_is_refused_with_a_sentence(
        self, sqlite_app: Flask, browser: FlaskClient, content: bytes, name: str
    ) -> None:
        refused = post_file(browser, content, name)
        assert refused.status_code == 422 and len(error_of(refused)["message"]) > 20
        assert browser.get("/api/datasets").get_json() == []

    def test_a_file_above_the_plans_limit_is_refused_before_it_is_read(
        self, sqlite_app: Flask, browser: FlaskClient
    ) -> None:
        announced = {"CONTENT_TYPE": "multipart/form-data; boundary=x", "CONTENT_LENGTH": "2000000000"}
        refused = browser.post("/api/datasets", environ_overrides=announced)
        assert refused.status_code == 413 and "100.0 MB" in error_of(refused)["message"]
        assert browser.post("/api/uploads", json={"name": "big", "size": 2 * 10**9}).status_code == 413

    def test_an_upload_goes_on_where_it_was_interrupted(self, app: Flask, browser: FlaskClient) -> None:
        content = rows_file(40)
        made = browser.post("/api/uploads", json={"name": "rows.jsonl", "size": len(content)}).get_json()
        url = f"/api/uploads/{made['id']}"
        octets = {"Content-Type": "application/octet-stream"}
        assert browser.patch(url, data=content[:100], headers={**octets, "Upload-Offset": "0"}).status_code == 204
        assert browser.head(url).headers["Upload-Offset"] == "100"
        wrong = browser.patch(url, data=content[50:], headers={**octets, "Upload-Offset": "50"})
        assert wrong.status_code == 409 and wrong.headers["Upload-Offset"] == "100"
        assert browser.post(f"{url}/complete").status_code == 409
        beyond = browser.patch(url, data=content[100:] + b"more", headers={**octets, "Upload-Offset": "100"})
        assert beyond.status_code == 413
        assert browser.patch(url, data=content[100:], headers={**octets, "Upload-Offset": "100"}).status_code == 204
        assert browser.post(f"{url}/complete").status_code == 200
        made = browser.post("/api/datasets", json={"name": "rows", "upload": made["id"]})
        assert made.status_code == 201 and made.get_json()["rows"] == 40

    def test_bytes_that_changed_on_the_way_are_refused(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        made = browser.post("/api/uploads", json={"name": "rows.jsonl", "size": 4, "sha256": "0" * 64}).get_json()
        url = f"/api/uploads/{made['id']}"
        browser.patch(url, data=b"abcd", headers={"Upload-Offset": "0", "Content-Type": "application/octet-stream"})
        refused = browser.post(f"{url}/complete")
        assert refused.status_code == 422 and error_of(refused)["code"] == "damaged"
        assert browser.head(url).headers["Upload-Offset"] == "0"

    def test_half_open_uploads_have_an_end(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        codes = [browser.post("/api/uploads", json={"name": "x", "size": 5}).status_code for _ in range(11)]
        assert codes == [201] * 10 + [429]


class TestJobs:
    def body(self, dataset: int, **more: Any) -> dict[str, Any]:
        values = {"name": "first", "recipe": "language", "dataset_id": dataset, "base_model": "yard-tiny", "place": "server",
                  "parameters": {"method": "full", "max_steps": 5}}  # fmt: skip
        return {**values, **more}

    def test_a_job_has_the_promised_fields(self, app: Flask, browser: FlaskClient) -> None:
        alice = on_plan(member("alice"), "basic")
        dataset = make_dataset(alice).dataset_id
        quote = browser.post("/api/training-jobs/quote", json=self.body(dataset)).get_json()
        assert set(quote) == {"credits", "minutes", "at_most"}
        made = browser.post("/api/training-jobs", json=self.body(dataset))
        assert made.status_code == 201
        job = browser.get(f"/api/training-jobs/{made.get_json()['id']}").get_json()
        assert set(job) >= {
            "id", "name", "status", "stage", "progress", "step", "total_steps", "loss", "eta_seconds", "place", "attempt",
            "disconnected_since", "credits", "error", "model_version_id", "debugData", "created_at", "started_at", "finished_at",
        }  # fmt: skip
        assert set(job["credits"]) >= {"quoted", "held", "charged", "refunded"}
        assert set(job["debugData"]) >= {"attempts", "timings", "resolved_parameters", "versions", "last_events"}
        assert [one["id"] for one in browser.get("/api/training-jobs").get_json()] == [job["id"]]

    def test_a_free_member_gets_402_and_nothing_happens(self, app: Flask, browser: FlaskClient) -> None:
        dataset = make_dataset(member("alice")).dataset_id
        for path in ("/api/training-jobs", "/api/training-jobs/quote"):
            refused = browser.post(path, json=self.body(dataset))
            assert refused.status_code == 402 and len(error_of(refused)["ways"]) == 2
        assert browser.get("/api/training-jobs").get_json() == []

    def test_the_page_of_a_free_member_offers_both_ways_on(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        dataset = make_dataset(member("alice")).dataset_id
        answer = browser.post(
            "/training-jobs", data={"name": "first", "source": "dataset", "dataset_id": dataset, "place": "server"}
        )
        assert answer.status_code == 402 and 'href="/agents"' in answer.text and 'href="/pricing"' in answer.text

    @pytest.mark.parametrize("change, field", [
        ({"parameters": {"learning_rate": -1}}, "parameters.learning_rate"), ({"recipe": "magic"}, "recipe"),
        ({"name": ""}, "name"), ({"base_model": "no such model"}, "base_model"), ({"base_model": "model:77"}, "base_model"),
        ({"dataset_id": None}, "dataset_id"), ({"place": "moon"}, "place"), ({"parameters": 7}, "parameters"),
    ])  # fmt: skip
    def test_a_bad_field_is_named_and_nothing_is_charged(
        self, sqlite_app: Flask, browser: FlaskClient, change: Any, field: str
    ) -> None:
        dataset = make_dataset(on_plan(member("alice"), "basic")).dataset_id
        refused = browser.post("/api/training-jobs", json=self.body(dataset, **change))
        assert refused.status_code == 422
        assert any(name.startswith(field) for name in error_of(refused)["fields"])
        assert browser.get("/api/training-jobs").get_json() == [] and credits.spendable(member("alice").id) == 200

    def test_an_unreachable_hub_is_said_within_seconds(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        dataset = make_dataset(on_plan(member("alice"), "basic")).dataset_id
        refused = browser.post("/api/training-jobs", json=self.body(dataset, base_model="org/model"))
        assert refused.status_code == 503 and error_of(refused)["code"] == "hub_unreachable"
        assert credits.spendable(member("alice").id) == 200

    def test_the_same_order_sent_twice_is_one_job(self, app: Flask, browser: FlaskClient) -> None:
        dataset = make_dataset(on_plan(member("alice"), "basic")).dataset_id
        headers = {"Idempotency-Key": "order-1"}
        first = browser.post("/api/training-jobs", json=self.body(dataset), headers=headers)
        second = browser.post("/api/training-jobs", json=self.body(dataset), headers=headers)
        assert first.status_code == second.status_code == 201 and first.get_json() == second.get_json()
        assert second.headers["Idempotent-Replay"] == "true"
        other = browser.post("/api/training-jobs", json=self.body(dataset, name="other"), headers=headers)
        assert other.status_code == 409 and error_of(other)["code"] == "key_reused"
        assert len(browser.get("/api/training-jobs").get_json()) == 1

    def test_metrics_logs_and_events_tell_the_same_story(self, app: Flask, browser: FlaskClient) -> None:
        job = make_server_job(member("alice"))
        training_jobs.claim(job.id, 1, "test")
        training_jobs.record(job.id, 1, "log", 1, [{"text": "hello\n"}])
        training_jobs.record(job.id, 1, "metrics", 1, [{"steps": [1, 2], "values": {"loss": [2.0, 1.5]}}])
        training_jobs.cancel(member("alice"), job.id)
        url = f"/api/training-jobs/{job.id}"
        assert browser.get(f"{url}/metrics").get_json() == {"series": {"loss": [[1, 2.0], [2, 1.5]]}}
        assert browser.get(f"{url}/logs").text == "hello\n"
        stream = browser.get(f"{url}/events").text
        names = [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]
        assert names.count("log") == names.count("metrics") == 1 and names[-1] == "end"
        numbers = [int(line.removeprefix("id: ")) for line in stream.splitlines() if line.startswith("id: ")]
        rest = browser.get(f"{url}/events", headers={"Last-Event-ID": str(numbers[-1])}).text
        assert "event: log" not in rest and "event: end" in rest

    def test_verbs_answer_the_job_or_a_conflict(self, app: Flask, browser: FlaskClient) -> None:
        job = make_server_job(member("alice"))
        url = f"/api/training-jobs/{job.id}"
        assert browser.post(f"{url}/stop").get_json()["status"] == "paused"
        assert browser.post(f"{url}/retry").status_code == 409
        assert browser.post(f"{url}/resume").get_json()["status"] == "queued"
        assert browser.post(f"{url}/cancel").get_json()["status"] == "cancelled"
        assert browser.post(f"{url}/resume").status_code == 409

    def test_lists_page_by_the_last_id(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        alice = member("alice")
        dataset = make_dataset(alice)
        agent = make_agent(alice)
        for number in range(5):
            browser.post(
                "/api/training-jobs",
                json=self.body(dataset.dataset_id, name=f"job {number}", place={"agent": agent.id}),
            )
        first = browser.get("/api/training-jobs?limit=2").get_json()
        assert [job["name"] for job in first] == ["job 4", "job 3"]
        second = browser.get(f"/api/training-jobs?limit=2&before={first[-1]['id']}").get_json()
        assert [job["name"] for job in second] == ["job 2", "job 1"]
        assert browser.get("/api/training-jobs?limit=-1").status_code == 422


class TestDoors:
    def test_other_sites_cannot_act_for_a_member(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
        ):
            assert browser.post("/api/keys", json={"name": "x"}, headers=headers).status_code == 403
        for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}, {}):
            assert browser.post("/api/keys", json={"name": "x"}, headers=headers).status_code == 201

    @pytest.mark.parametrize("path", ["/api/training-jobs/", "/api/agents/", "/api/datasets/", "/api/models/"])
    def test_a_number_that_can_be_no_id_is_not_found(self, app: Flask, browser: FlaskClient, path: str) -> None:
        assert browser.get(f"{path}99999999999999999999999").status_code == 404

    @pytest.mark.parametrize("text", ["half \ud800", "nul \0"])
    def test_text_that_is_none_is_refused(
        self, app: Flask, browser: FlaskClient, client: FlaskClient, text: str
    ) -> None:
        assert browser.post("/api/keys", json={"name": text}).status_code == 422
        assert client.post("/login", json={"email": text, "password": text}).status_code == 422
        assert (
            browser.post(
                "/api/training-jobs", json={"name": "x", "place": "server", "parameters": {"method": text}}
            ).status_code
            == 422
        )

    @pytest.mark.parametrize("body", ["{", "[]", '{"email": 1, "email": 2}', "NaN", "[" * 5000, '"text"'])
    def test_a_body_that_is_no_object_is_said_to_be_none(
        self, sqlite_app: Flask, client: FlaskClient, body: str
    ) -> None:
        refused = client.post("/signup", data=body, content_type="application/json")
        assert refused.status_code == 400 and error_of(refused)["code"] == "not_json"

    def test_unknown_addresses_and_methods_answer_in_the_same_shape(
        self, sqlite_app: Flask, client: FlaskClient
    ) -> None:
        assert error_of(client.get("/api/nothing"))["code"] == "not_found"
        wrong = client.delete("/api/subscription/tiers")
        assert wrong.status_code == 405 and "GET" in wrong.headers["Allow"]

    def test_headers_forbid_what_pages_do_not_need(self, sqlite_app: Flask, client: FlaskClient) -> None:
        headers = client.get("/api/subscription/tiers").headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        cookie = client.post("/signup", json={"email": "c@d.com", "username": "cookie", "password": PASSWORD}).headers[
            "Set-Cookie"
        ]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie

    def test_an_answer_to_an_old_request_does_not_bring_back_an_old_session(
        self, sqlite_app: Flask, browser: FlaskClient
    ) -> None:
        page = {"Accept": "text/html"}
        for path, headers in (("/static/css/trainyard.css", {}), ("/api/subscription", {}), ("/dashboard", page)):
            answer = browser.get(path, headers=headers)
            assert answer.status_code == 200 and "Set-Cookie" not in answer.headers, path

    def test_a_session_is_begun_anew_once_a_day_with_a_page(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        with browser.session_transaction() as session:
            session["day"] -= 1
        page = {"Accept": "text/html"}
        assert "Set-Cookie" not in browser.get("/static/css/trainyard.css").headers
        assert "Set-Cookie" not in browser.get("/api/subscription").headers
        assert "Expires=" in browser.get("/dashboard", headers=page).headers["Set-Cookie"]
        assert "Set-Cookie" not in browser.get("/dashboard", headers=page).headers

    def test_a_stranger_gets_404_for_every_foreign_id(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        """Walks the URL map: whatever takes an id of alice's answers bob as if it did not exist."""
        alice = member("alice")
        job = make_agent_job(alice)
        upload = browser.post("/api/uploads", json={"name": "x", "size": 5}).get_json()["id"]
        browser.post("/account/payment-method", json={"card": "none"})
        checkout = browser.post("/api/subscription/upgrade", json={"tier_id": plan_id("pro")}).get_json()[
            "checkout_url"
        ]
        key, _ = api_keys.create(alice, "mine")
        version = published(job)
        ids = {"agents": job.agent_id, "api_keys": key.id, "datasets": job.dataset_version.dataset_id, "model_versions": version,
               "training_jobs": job.id, "uploads": upload, "subscriptions": checkout.rpartition("/")[2]}  # fmt: skip
        bob = sqlite_app.test_client()
        bob.post("/login", json={"email": "bob@example.com", "password": PASSWORD})
        walked = 0
        for rule in sqlite_app.url_map.iter_rules():
            stem = rule.endpoint.partition(".")[0].removeprefix("api_")
            if "id" not in rule.arguments or stem not in ids:
                continue
            of_an_upload = rule.endpoint.endswith(".map_columns")
            values = {"id": ids["uploads" if of_an_upload else stem], "name": "model.safetensors", "number": 1}
            path = sqlite_app.url_map.bind("localhost").build(rule.endpoint, {n: values[n] for n in rule.arguments})
            for method in rule.methods - {"OPTIONS"}:
                headers = {"Upload-Offset": "0"} if method == "PATCH" else {"Accept": "application/json"}
                mine = {"json": {}} if method == "POST" else {}
                assert bob.open(path, method=method, headers=headers, **mine).status_code == 404, (method, path)
                walked += 1
        assert walked > 40
        assert training_jobs.get_for(alice, job.id).state == "queued"


def published(job: Any) -> int:
    """A model version of a job, so that there is one to be foreign."""
    from services import model_versions
    from services.model_versions import NewFile

    path = gateways().settings.var_dir / "weights"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    with model_versions.kept([NewFile("model.safetensors", path, 7, "0" * 64)]) as files, transaction():
        return model_versions.publish(job, files).id


def test_a_downloaded_file_is_an_attachment_that_runs_nothing(sqlite_app: Flask, browser: FlaskClient) -> None:
    alice: User = member("alice")
    version = published(make_agent_job(alice))
    answer = browser.get(f"/api/models/{version}/files/model.safetensors")
    assert answer.data == b"weights" and "attachment" in answer.headers["Content-Disposition"]
    assert "sandbox" in answer.headers["Content-Security-Policy"]
