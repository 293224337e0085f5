"""Models over HTTP: bringing one along, its page, putting it away."""

from __future__ import annotations

import io
import os
import zipfile
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.http import parse_options_header

from models.accounts import User
from services import training_jobs, uploads
from tests import safetensors_files
from tests.factories import make_agent_job, on_plan

FILES = (("model.safetensors", safetensors_files.file()), ("config.json", b'{"model_type": "gpt2"}'))


def order(owner: User, *files: tuple[str, bytes], **more: Any) -> dict[str, Any]:
    given = [
        {"name": name, "upload": uploads.receive(owner, name, io.BytesIO(content)).id}
        for name, content in files or FILES
    ]
    return {"name": "mine", "files": given, **more}


def running_attempt(owner: User) -> tuple[dict[str, str], int]:
    """The header that opens the first attempt of a job on a machine of hers, and the job's number."""
    job = make_agent_job(owner)
    spec = training_jobs.claim(job.id, job.attempt, "test")
    assert spec is not None
    return {"Authorization": f"Bearer {spec.token}"}, job.id


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


@pytest.mark.parametrize(
    "name", ["epoch=3-step=400.ckpt", "my model.pt", "outputs/2026-05-01/12-00-00/checkpoints/a+b [1],(2)@3~.pt"]
)
def test_a_file_with_a_trainers_name_comes_home_from_an_attempt(
    sqlite_app: Flask, alice: User, browser: FlaskClient, client: FlaskClient, name: str
) -> None:
    token, job = running_attempt(alice)
    upload = client.post("/api/uploads", json={"name": name, "size": 7}, headers=token).get_json()["id"]
    offset = {**token, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert client.patch(f"/api/uploads/{upload}", data=b"weights", headers=offset).status_code == 204
    assert client.post(f"/api/uploads/{upload}/complete", headers=token).status_code == 200
    delivery = {"files": [{"name": name, "upload": upload}]}
    made = client.post(f"/api/agents/jobs/{job}/attempts/1/artifacts", json=delivery, headers=token)
    assert made.status_code == 201, made.get_json()
    (file,) = browser.get(f"/api/training-jobs/{job}/artifacts").get_json()
    assert file["name"] == name and not set(" []") & set(file["url"])
    answer = browser.get(file["url"])
    assert answer.data == b"weights"
    shown = parse_options_header(answer.headers["Content-Disposition"])
    assert shown == ("attachment", {"filename": name.rpartition("/")[2]})
    number = made.get_json()["model_version_id"]
    page = browser.get(f"/models/{number}", headers={"Accept": "text/html"}).text
    assert f'href="{file["url"]}"' in page and f'<th scope="row">{name}</th>' in page
    with zipfile.ZipFile(io.BytesIO(browser.get(f"/models/{number}/files").data)) as archive:
        assert archive.namelist() == [f"first/{name}"]


@pytest.mark.parametrize("name", ["../a.pt", "a/../b.pt", ".a.pt", "a\\b.pt", "a:b.pt", "a ", "a" * 101, "a/" * 8 + "a", "a/" + "b" * 99 + "/" + "c" * 99 + "/d"])  # fmt: skip
def test_a_name_that_is_not_safe_everywhere_is_not_delivered(
    sqlite_app: Flask, alice: User, client: FlaskClient, name: str
) -> None:
    token, job = running_attempt(alice)
    delivery = {"files": [{"name": name, "upload": "x"}]}
    refused = client.post(f"/api/agents/jobs/{job}/attempts/1/artifacts", json=delivery, headers=token)
    assert refused.status_code == 422 and "not a name for an artifact" in refused.get_json()["error"]["message"]
