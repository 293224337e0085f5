"""Models over HTTP: bringing one along, its page, putting it away."""

from __future__ import annotations

import io
import os
import zipfile
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.accounts import User
from services import uploads
from tests import safetensors_files
from tests.factories import on_plan

FILES = (("model.safetensors", safetensors_files.file()), ("config.json", b'{"model_type": "gpt2"}'))


def order(owner: User, *files: tuple[str, bytes], **more: Any) -> dict[str, Any]:
    given = [
        {"name": name, "upload": uploads.receive(owner, name, io.BytesIO(content)).id}
        for name, content in files or FILES
    ]
    return {"name": "mine", "files": given, **more}


def test_a_model_is_brought_along_and_shown(sqlite_app: Flask, alice: User, browser: FlaskClient) -> None:
    answer = browser.post("/api/models", json=order(alice, description="Writes sums.", base_model="org/parent"))
    assert answer.status_code == 201
    made = answer.get_json()
    assert (made["name"], made["version"], made["job_id"], made["recipe"]) == ("mine", 1, None, None)
    assert (made["base_model"], made["description"], made["parameters"]) == ("org/parent", "Writes sums.", 4)
    assert [file["name"] for file in made["artifacts"]] == ["config.json", "model.safetensors"]
    assert browser.get("/api/models").get_json()[0]["id"] == made["id"]
    weights = browser.get(f"/api/models/{made['id']}/files/model.safetensors")
    assert weights.data == safetensors_files.file()


def test_all_files_come_in_one_zip(sqlite_app: Flask, alice: User, browser: FlaskClient) -> None:
    bytes_ = 3 << 20  # more than one piece
    weights = {"a": safetensors_files.tensor(0, bytes_, shape=[bytes_ // 4])}
    large = safetensors_files.file(weights, os.urandom(bytes_))
    made = browser.post("/api/models", json=order(alice, ("model.safetensors", large), FILES[1])).get_json()
    answer = browser.get(f"/models/{made['id']}/files")
    assert answer.headers["Content-Disposition"] == "attachment; filename=mine-1.zip"
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "mine/config.json": FILES[1][1], "mine/model.safetensors": large,
        }  # fmt: skip
    assert f"/models/{made['id']}/files" in browser.get(f"/models/{made['id']}", headers={"Accept": "text/html"}).text


def test_the_same_request_again_is_the_same_model(sqlite_app: Flask, alice: User, browser: FlaskClient) -> None:
    body, headers = order(alice), {"Idempotency-Key": "once"}
    first = browser.post("/api/models", json=body, headers=headers).get_json()
    again = browser.post("/api/models", json=body, headers=headers)
    assert again.headers["Idempotent-Replay"] == "true" and again.get_json() == first
    assert browser.post("/api/models", json=order(alice)).get_json()["id"] == first["id"]


@pytest.mark.parametrize(
    ("status", "code", "name", "content"),
    [
        (415, "can_run_code", "model.bin", b"x"),
        (415, "can_run_code", "notes.dat", b"\x80\x04"),
        (422, "bad_weights", "more.safetensors", b"short"),
        (422, "invalid", "config.json", b"{"),
    ],
)
def test_what_is_refused_says_why(
    sqlite_app: Flask, alice: User, browser: FlaskClient, status: int, code: str, name: str, content: bytes
) -> None:
    answer = browser.post("/api/models", json=order(alice, FILES[0], (name, content)))
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert name in error["fields"]["files"]
    assert browser.get("/api/models").get_json() == []


@pytest.mark.parametrize("body", [{}, {"name": "x"}, {"name": "x", "files": "a"}, {"name": "x", "files": [{"name": "a"}]}, {"name": 7, "files": []}])  # fmt: skip
def test_a_request_of_another_shape_is_refused(sqlite_app: Flask, browser: FlaskClient, body: dict[str, Any]) -> None:
    answer = browser.post("/api/models", json=body)
    assert answer.status_code == 422 and answer.get_json()["error"]["fields"]


def test_one_model_more_than_the_plan_keeps_asks_for_a_plan(
    sqlite_app: Flask, alice: User, browser: FlaskClient
) -> None:
    made = browser.post("/api/models", json=order(alice)).get_json()
    refused = browser.post("/api/models", json=order(alice, name="second"))
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (402, "models_full")
    assert browser.delete(f"/api/models/{made['id']}").status_code == 204
    assert browser.post("/api/models", json=order(alice, name="second")).status_code == 201


def test_a_deleted_model_is_not_there(sqlite_app: Flask, alice: User, browser: FlaskClient) -> None:
    made = browser.post("/api/models", json=order(alice)).get_json()["id"]
    assert browser.delete(f"/api/models/{made}").status_code == 204
    for answer in (browser.get(f"/api/models/{made}"), browser.delete(f"/api/models/{made}")):
        assert answer.status_code == 404
    assert browser.get(f"/api/models/{made}/files/config.json").status_code == 404


def test_the_pages_cope_with_a_model_that_no_job_made(sqlite_app: Flask, alice: User, browser: FlaskClient) -> None:
    on_plan(alice, "basic")
    bare = order(alice, FILES[0], name="bare weights")
    for body in (order(alice, description="Writes <sums>."), bare):
        browser.post("/api/models", json=body)
    whole, alone = (browser.get("/api/models").get_json()[n]["id"] for n in (1, 0))
    page = browser.get(f"/models/{whole}").get_data(as_text=True)
    assert "Writes &lt;sums&gt;." in page and "brought along" in page and "Whole model" in page
    assert "AutoModelForCausalLM" in page and f"/models/{whole}/delete" in page and "None" not in page
    assert "load_file" in browser.get(f"/models/{alone}").get_data(as_text=True)
    for address in ("/ai-training?tab=models", "/dashboard"):
        listed = browser.get(address).get_data(as_text=True)
        assert "bare weights" in listed and "None" not in listed


def test_a_training_is_offered_to_begin_from_whole_models_alone(
    sqlite_app: Flask, alice: User, browser: FlaskClient
) -> None:
    on_plan(alice, "basic")
    for body in (order(alice, name="whole"), order(alice, FILES[0], name="bare weights")):
        browser.post("/api/models", json=body)
    whole, bare = (browser.get("/api/models").get_json()[n]["id"] for n in (1, 0))
    wizard = browser.get(f"/training-jobs/new?base_model=model:{whole}").get_data(as_text=True)
    assert "whole, version 1" in wizard and "bare weights" not in wizard
    assert "Train on from it" in browser.get(f"/models/{whole}").get_data(as_text=True)
    assert "Train on from it" not in browser.get(f"/models/{bare}").get_data(as_text=True)


def test_the_button_on_the_page_deletes(sqlite_app: Flask, alice: User, browser: FlaskClient) -> None:
    made = browser.post("/api/models", json=order(alice)).get_json()["id"]
    answer = browser.post(f"/models/{made}/delete", data={})
    assert answer.status_code == 303 and answer.headers["Location"].endswith("tab=models")
    assert "The model is deleted." in browser.get(answer.headers["Location"]).get_data(as_text=True)
    assert browser.get(f"/models/{made}").status_code == 404
