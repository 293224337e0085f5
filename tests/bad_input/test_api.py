"""Programs that ask wrongly: bodies that are none, pages that do not exist, addresses inside fields, jobs that cannot be."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from models.agents import Agent
from models.base import db, now, transaction
from models.training_jobs import TrainingJob
from routes import limits
from routes.answers import DEEPEST
from services import agents, api_keys, credits, training_jobs
from services.errors import Invalid
from tests.conftest import member
from tests.factories import hello, make_agent, make_agent_job, make_dataset, make_server_job, on_plan
from tests.routes.test_contract import error_of

JSON = {"content_type": "application/json"}


def nested(depth: int) -> str:
    """A key whose name is fine and which carries so many objects inside one another."""
    return '{"name": "x", "more": ' + '{"a": ' * (depth - 1) + "1" + "}" * depth


class TestKeys:
    @pytest.mark.parametrize("header", [
        "", "Bearer", "Bearer ", "Bearer x", "Basic YWxpY2U6cGFzcw==", "Bearer ty_" + "a" * 49, "Bearer ty_" + "a" * 10_000,
        "ty_x", "Bearer tj_1_1_" + "0" * 64, "Bearer \xff\xfe", "Bearer null", "Bearer ty_a b",
    ])  # fmt: skip
    @pytest.mark.parametrize("path", ["/api/keys", "/api/training-jobs/1", "/api/uploads", "/api/admin/dashboard"])
    def test_what_is_no_key_opens_nothing(self, sqlite_app: Flask, client: FlaskClient, path: str, header: str) -> None:
        method = client.post if path == "/api/uploads" else client.get
        refused = method(path, headers={"Authorization": header})
        assert refused.status_code == 401 and error_of(refused)["code"] == "unauthorized"
        assert refused.headers["WWW-Authenticate"] == "Bearer"

    def test_a_key_for_machines_opens_machines_only(
        self, sqlite_app: Flask, browser: FlaskClient, client: FlaskClient
    ) -> None:
        key = browser.post("/api/keys", json={"name": "box", "scope": "agent"}).get_json()["key"]
        headers = {"Authorization": f"Bearer {key}"}
        for path in ("/api/keys", "/api/training-jobs", "/api/datasets", "/api/subscription"):
            refused = client.get(path, headers=headers)
            assert refused.status_code == 403 and error_of(refused)["code"] == "wrong_scope"
        assert client.post("/api/credits/purchase", json={"pack_size": 100}, headers=headers).status_code == 403

    def test_a_token_of_an_attempt_opens_that_attempt_and_nothing_else(
        self, sqlite_app: Flask, client: FlaskClient
    ) -> None:
        job = make_server_job(member("alice"))
        training_jobs.claim(job.id, 1, "test")
        headers = {"Authorization": f"Bearer {training_jobs.spec_of(job).token}"}
        assert client.get(f"/api/agents/jobs/{job.id}/attempts/1/data", headers=headers).status_code == 200
        for path in (f"/api/agents/jobs/{job.id}/attempts/2/data", f"/api/agents/jobs/{job.id + 1}/attempts/1/data"):
            assert client.get(path, headers=headers).status_code == 404
        for path in ("/api/keys", f"/api/training-jobs/{job.id}", "/api/datasets"):
            assert client.get(path, headers=headers).status_code == 401


class TestPace:
    def test_a_key_that_asks_too_fast_waits_and_the_others_do_not(
        self, sqlite_app: Flask, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = SimpleNamespace(time=lambda: 1_800_000_000.0)
        monkeypatch.setattr("limits.storage.redis.time", clock)
        keys = [browser.post("/api/keys", json={"name": name}).get_json()["key"] for name in ("hasty", "calm")]
        hasty, calm = ({"Authorization": f"Bearer {key}"} for key in keys)
        program, most = sqlite_app.test_client(), int(limits.BY_KEY.partition(" ")[0])
        codes = [program.get("/api/keys", headers=hasty).status_code for _ in range(most + 10)]
        assert codes == [200] * most + [429] * 10
        refused = program.get("/api/keys", headers=hasty)
        assert refused.headers["Retry-After"] == "1" and error_of(refused)["code"] == "too_many_requests"
        assert program.get("/api/keys", headers=calm).status_code == browser.get("/api/keys").status_code == 200
        clock.time = lambda: 1_800_000_001.1
        assert program.get("/api/keys", headers=hasty).status_code == 200

    def test_who_sends_no_key_is_not_counted(
        self, sqlite_app: Flask, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = SimpleNamespace(time=lambda: 1_800_000_000.0)
        monkeypatch.setattr("limits.storage.redis.time", clock)
        visitor, most = sqlite_app.test_client(), int(limits.BY_KEY.partition(" ")[0])
        assert {visitor.get("/healthz").status_code for _ in range(most + 10)} == {200}
        assert browser.get("/api/keys").status_code == 200


class TestBodies:
    @pytest.mark.parametrize("body", [
        "", "{", "nonsense", '"text"', "7", "null", "[]", '{"name": "a", "name": "b"}', '{"name": {"b": 1, "b": 2}}', '{"name": NaN}',
        '{"name": Infinity}', '{"name": "x"} more', "{'name': 'x'}", "[" * 100_000, '{"a":' * 10_000, nested(DEEPEST + 1),
        '{"name": "x", "n": ' + "9" * 5000 + "}", "\ufeff{}x", '{"name": "\x01"}',
    ])  # fmt: skip
    @pytest.mark.parametrize("path", ["/api/keys", "/login", "/signup", "/api/uploads", "/api/training-jobs"])
    def test_what_is_no_object_of_json_is_said_to_be_none(
        self, sqlite_app: Flask, browser: FlaskClient, path: str, body: str
    ) -> None:
        refused = browser.post(path, data=body.encode("utf-8", "surrogatepass"), **JSON)
        assert refused.status_code == 400 and error_of(refused)["code"] == "not_json"
        assert browser.get("/api/keys").get_json() == []

    def test_as_deep_as_allowed_is_allowed(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        assert browser.post("/api/keys", data=nested(DEEPEST), **JSON).status_code == 201

    @pytest.mark.parametrize(
        "kind",
        ["application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"],
    )
    def test_ten_megabytes_are_too_much(self, sqlite_app: Flask, browser: FlaskClient, kind: str) -> None:
        refused = browser.post("/api/keys", data=b'{"name": "' + b"a" * 10_000_000 + b'"}', content_type=kind)
        assert refused.status_code == 413 and error_of(refused)
        assert browser.get("/api/keys").get_json() == []

    @pytest.mark.parametrize("kind", ["text/plain", "application/xml", "image/png", "application/x-pickle"])
    def test_another_kind_of_body_is_refused(self, sqlite_app: Flask, browser: FlaskClient, kind: str) -> None:
        refused = browser.post("/api/keys", data=b"name=x", content_type=kind)
        assert refused.status_code in (400, 415) and error_of(refused)

    @given(st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ))  # fmt: skip
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_value_of_json_is_a_bug(self, sqlite_app: Flask, browser: FlaskClient, value: Any) -> None:
        for path, name in (
            ("/api/keys", "name"), ("/api/training-jobs", "parameters"), ("/api/datasets", "mapping"), ("/api/uploads", "size"),
            ("/api/subscription/upgrade", "tier_id"), ("/api/training-jobs/quote", "place"),
        ):  # fmt: skip
            body = json.dumps({"name": 7, name: value} if name != "name" else {name: value, "scope": 7})
            refused = browser.post(path, data=body, **JSON)
            assert refused.status_code in (400, 401, 404, 422), (path, body, refused.text[:200])


class TestAddresses:
    @pytest.mark.parametrize(
        "path", ["/api/nothing", "/api/", "/api/keys/1/2/3", "/API/keys", "/api/keys/x", "/api/keys/-1"]
    )
    def test_what_is_not_there_is_said_in_json(self, sqlite_app: Flask, browser: FlaskClient, path: str) -> None:
        refused = browser.get(path, headers={"Accept": "application/json"})
        assert refused.status_code in (404, 405) and error_of(refused)

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "NONSENSE"])
    def test_a_method_that_is_not_taken_names_those_that_are(
        self, sqlite_app: Flask, browser: FlaskClient, method: str
    ) -> None:
        refused = browser.open("/api/keys", method=method)
        assert refused.status_code == 405 and {"GET", "POST"} <= set(refused.headers["Allow"].split(", "))
        assert error_of(refused)["code"] == "method_not_allowed"

    @pytest.mark.parametrize(
        "accept", ["image/webp", "text/csv;q=0.1", "nonsense", "*/*", "application/json;q=0", "a/b, c/d;q=2"]
    )
    def test_whoever_wants_something_else_gets_the_natural_kind(
        self, sqlite_app: Flask, browser: FlaskClient, accept: str
    ) -> None:
        assert browser.get("/api/keys", headers={"Accept": accept}).mimetype == "application/json"
        assert browser.get("/pricing", headers={"Accept": accept}).mimetype == "text/html"

    @pytest.mark.parametrize("path", [
        "/api/keys", "/api/training-jobs", "/api/datasets", "/api/agents", "/api/models", "/api/usage/history",
    ])  # fmt: skip
    @pytest.mark.parametrize("query, status", [
        ("limit=-1", 422), ("limit=0", 422), ("limit=ten", 422), ("limit=1.5", 422), ("limit=1e9", 422), ("limit=٣", 422),
        ("limit=" + "9" * 30, 422), ("limit=999999999", 200), ("limit=201", 200), ("before=-1", 422), ("before=x", 422),
        ("before=%00", 422), ("before=" + "9" * 30, 422), ("before=1&before=x", 200), ("limit=", 422),
    ])  # fmt: skip
    def test_a_page_that_cannot_be_is_refused_and_a_large_one_made_smaller(
        self, sqlite_app: Flask, browser: FlaskClient, path: str, query: str, status: int
    ) -> None:
        name = "cursor" if path.startswith("/api/usage") else "before"
        answer = browser.get(f"{path}?{query.replace('before', name)}")
        assert answer.status_code == status, answer.text[:300]
        if status == 422:
            assert error_of(answer)["fields"]


@pytest.fixture
def inner_server() -> Iterator[socket.socket]:
    """Something on loopback that nobody outside may reach through us."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.3)
        yield listening


class TestAddressesInFields:
    @pytest.mark.parametrize("form", [
        "http://127.0.0.1:{port}/x", "http://localhost:{port}", "http://[::ffff:127.0.0.1]:{port}/", "http://2130706433:{port}/a",
        "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "//127.0.0.1:{port}/x", "hub:http://127.0.0.1:{port}",
        "../../etc/passwd", "folder:/etc", "127.0.0.1:{port}/x", "org/model@127.0.0.1:{port}", "org/../../x", "org/model?x=http://y",
        "org/model\r\nX: y", "org/\u202emodel",
    ])  # fmt: skip
    def test_a_base_model_is_no_address_and_nothing_is_fetched_for_it(
        self, sqlite_app: Flask, browser: FlaskClient, inner_server: socket.socket, form: str
    ) -> None:
        dataset = make_dataset(on_plan(member("alice"), "basic"))
        name = form.format(port=inner_server.getsockname()[1])
        body = {
            "name": "x", "recipe": "language", "dataset_id": dataset.dataset_id, "base_model": name, "place": "server",
            "parameters": {"method": "full", "max_steps": 5},
        }  # fmt: skip
        refused = browser.post("/api/training-jobs", json=body)
        assert refused.status_code == 422 and "base_model" in error_of(refused)["fields"]
        with pytest.raises(TimeoutError):
            inner_server.accept()
        assert db.session.scalar(select(func.count(TrainingJob.id))) == 0


class TestJobs:
    @pytest.fixture
    def order(self, sqlite_app: Flask) -> dict[str, Any]:
        """An order for a machine of alice's; nothing is wrong with it."""
        dataset, agent = make_dataset(member("alice")), make_agent(member("alice"))
        return {
            "name": "x", "recipe": "language", "dataset_id": dataset.dataset_id, "base_model": "yard-tiny",
            "place": {"agent": agent.id}, "parameters": {"method": "full", "max_steps": 5},
        }  # fmt: skip

    def test_there_is_nothing_wrong_with_it(self, browser: FlaskClient, order: dict[str, Any]) -> None:
        assert browser.post("/api/training-jobs", json=order).status_code == 201

    @pytest.mark.parametrize("change", [
        {"recipe": "magic"}, {"recipe": "../language"}, {"recipe": 7}, {"place": "moon"}, {"place": {"agent": "1"}}, {"place": {}},
        {"place": {"agent": -1}}, {"parameters": {"max_steps": 0}}, {"parameters": {"max_steps": 10**12}},
        {"parameters": {"max_steps": "5; rm -rf /"}}, {"parameters": {"learning_rate": 1e300}}, {"parameters": {"batch_size": -1}},
        {"parameters": {"no such": 1}}, {"local_path": "/etc/passwd", "dataset_id": None},
        {"local_path": "/home/alice/models/../../../etc/passwd", "dataset_id": None},
        {"local_path": "relative.jsonl", "dataset_id": None}, {"local_path": "/home/alice/models/\0", "dataset_id": None},
        {"local_path": "/home/alice/models/x" + "a" * 5000, "dataset_id": None}, {"base_model": "folder:/etc"}, {"name": "a" * 500},
    ])  # fmt: skip
    def test_what_cannot_be_done_is_refused_with_a_reason_and_without_a_job(
        self, browser: FlaskClient, order: dict[str, Any], change: dict[str, Any]
    ) -> None:
        refused = browser.post("/api/training-jobs", json={**order, **change})
        assert refused.status_code in (404, 409, 422) and error_of(refused)
        assert browser.get("/api/training-jobs").get_json() == []
        assert credits.spendable(member("alice").id) == 20

    def test_a_machine_that_lacks_something_is_refused(self, browser: FlaskClient, order: dict[str, Any]) -> None:
        with transaction():
            db.session.execute(update(Agent).values(ready=False, missing=["torch"], advice="Run pip install torch."))
        refused = browser.post("/api/training-jobs", json=order)
        assert refused.status_code in (409, 422) and "torch" in error_of(refused)["message"]
        assert browser.get("/api/training-jobs").get_json() == []


class TestWhatMachinesTell:
    """A machine is a member's own program: what it sends is text from outside like any other."""

    def job(self) -> Any:
        job = make_agent_job(member("alice"))
        training_jobs.claim(job.id, 1, f"agent {job.agent_id}")
        return job

    def test_markup_and_secrets_of_a_log_are_text_of_no_page(self, app: Flask, browser: FlaskClient) -> None:
        job, line = self.job(), "<script>alert(1)</script><img src=x onerror=y> {{7*7}} \u202e evil \0 \ud800\n"
        training_jobs.record(job.id, 1, "log", 1, [{"text": line}])
        logs = browser.get(f"/api/training-jobs/{job.id}/logs")
        assert logs.mimetype == "text/plain" and logs.headers["X-Content-Type-Options"] == "nosniff"
        assert "{{7*7}}" in logs.text and "\0" not in logs.text
        page = browser.get(f"/training-jobs/{job.id}").text
        assert "<script>alert(1)" not in page and "<img src=x" not in page

    @pytest.mark.parametrize("values", [
        {"loss": [10**400]}, {"loss": ["NaN"]}, {"loss": [None]}, {"loss": [True]}, {"loss": [{}]}, {"loss": [[1]]}, {"loss": [1e308]},
    ])  # fmt: skip
    def test_a_number_that_is_none_becomes_a_gap(self, app: Flask, browser: FlaskClient, values: Any) -> None:
        job = self.job()
        training_jobs.record(job.id, 1, "metrics", 1, [{"steps": [1], "values": values}])
        told = browser.get(f"/api/training-jobs/{job.id}/metrics")
        assert told.status_code == 200 and told.get_json()["series"].get("loss", []) in ([[1, None]], [])

    def test_a_step_that_goes_back_is_drawn_at_its_step(self, app: Flask, browser: FlaskClient) -> None:
        job = self.job()
        training_jobs.record(job.id, 1, "metrics", 1, [{"steps": [5, 3, 4], "values": {"loss": [1.0, 3.0, 2.0]}}])
        series = browser.get(f"/api/training-jobs/{job.id}/metrics").get_json()["series"]["loss"]
        assert sorted(series) == [[3, 3.0], [4, 2.0], [5, 1.0]]

    def test_a_long_curve_is_told_in_as_many_points_as_are_wanted(self, app: Flask, browser: FlaskClient) -> None:
        job = self.job()
        for first in range(1, 41):
            item = {"steps": [first], "values": {"loss": [1 / first]}}
            training_jobs.record(job.id, 1, "metrics", first, [item])
        series = browser.get(f"/api/training-jobs/{job.id}/metrics?points=10").get_json()["series"]["loss"]
        assert len(series) <= 12 and [series[0][0], series[-1]] == [1, [40, 1 / 40]]

    @pytest.mark.parametrize("points", ["", "0", "-1", "many", "1e3", "99999999", "\u0661"])
    def test_points_that_are_no_number_are_refused(self, app: Flask, browser: FlaskClient, points: str) -> None:
        told = browser.get(f"/api/training-jobs/{self.job().id}/metrics", query_string={"points": points})
        assert told.status_code == 422 and "points" in told.get_json()["error"]["fields"]

    @pytest.mark.parametrize("item", [
        None, [], "x", {}, {"steps": 1, "values": {}}, {"steps": [1], "values": []}, {"steps": ["1"], "values": {}}, {"steps": [-1], "values": {}},
        {"steps": [2**31], "values": {}}, {"steps": [True], "values": {}}, {"steps": [1], "values": {"loss": []}},
        {"steps": [1], "values": {"a" * 10_000: [1]}}, {"steps": [1], "values": {f"n{i}": [1] for i in range(100_000)}},
    ])  # fmt: skip
    def test_metrics_of_another_shape_are_refused_whole(self, app: Flask, browser: FlaskClient, item: Any) -> None:
        job = self.job()
        with pytest.raises(Invalid) as refused:
            training_jobs.record(job.id, 1, "metrics", 1, [item])
        assert len(refused.value.message) < 300
        assert browser.get(f"/api/training-jobs/{job.id}/metrics").get_json() == {"series": {}}

    @pytest.mark.parametrize("change", [
        {"name": "<script>alert(1)</script>"}, {"machine": {"os": "<img src=x onerror=y>", "gpus": [{"name": "<b>x</b>"}]}},
        {"version": "{{7*7}}<i>"}, {"missing": ["<script>alert(1)</script>"], "ready": False, "advice": "<script>alert(1)</script>"},
        {"machine": {"gpus": "none", "memory_bytes": "much", "roots": 7, "disk_free_bytes": None}}, {"machine": {"gpus": [7, None]}},
        {"machine": {"memory_bytes": 10**30, "disk_free_bytes": -5, "gpus": [{"memory_bytes": "x", "name": None}]}},
    ])  # fmt: skip
    def test_a_machine_describes_itself_in_text(
        self, sqlite_app: Flask, browser: FlaskClient, change: dict[str, Any]
    ) -> None:
        key, _ = api_keys.create(member("alice"), "box", "agent")
        agents.enrol(key.user_id, key.id, hello(**change), session="s")
        page = browser.get("/agents")
        assert page.status_code == 200, page.text[:300]
        assert not any(code in page.text for code in ("<script>alert", "<img src=x", "<b>x</b>", "49<i>"))
        assert browser.get("/api/agents").status_code == 200


def test_a_page_that_is_refused_is_a_page_without_a_trace(sqlite_app: Flask, browser: FlaskClient) -> None:
    for path in ("/training-jobs/999999", "/nothing", "/datasets/999999", "/models/999999"):
        page = browser.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 404 and page.mimetype == "text/html"
        assert not any(word in page.text for word in ("Traceback", "sqlalchemy", "/site-packages/", "werkzeug"))


def test_a_bug_is_answered_with_a_reference_and_not_with_its_words(
    sqlite_app: Flask, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError(f"password={'x' * 5} at {now()}")

    monkeypatch.setattr(api_keys, "create", broken)
    refused = browser.post("/api/keys", json={"name": "x"})
    assert refused.status_code == 500 and "password" not in refused.text
    assert error_of(refused)["code"] == "internal_error" and len(error_of(refused)["reference"]) == 10
