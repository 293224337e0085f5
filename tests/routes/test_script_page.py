"""The page that orders a script: filled like an earlier training, refused in sentences, and buttons pressed too late."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.accounts import User
from models.base import db, now, transaction
from models.training_jobs import TrainingJob
from services import training_jobs
from tests.factories import make_agent, make_agent_job, on_plan
from tests.services.test_scripts import make_script, make_script_machine, script_order, with_walls

PAGE = "/training-jobs/new/script"
MANIFEST = (
    '[parameters.lr]\ntype = "float"\ndefault = 0.02\nargument = "--lr"\n'
    '[parameters.size]\ntype = "choice"\nchoices = ["small", "large"]\n'
    '[parameters.amp]\ntype = "flag"\ndefault = true\n'
)
SCRIPT = {"train.py": "print('loss: 1')", "fit.py": "", "yard.toml": MANIFEST}


class Fields(HTMLParser):
    """What a browser would send of the order form, each name with its first value."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sent: dict[str, str] = {}
        self.select: str | None = None
        self.area: str | None = None
        self.feed(html[html.index("data-script-form") :])

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        name, value = given.get("name") or "", given.get("value") or ""
        if tag == "input" and (given["type"] not in ("radio", "checkbox") or "checked" in given):
            self.sent.setdefault(name, value)
        elif tag == "select":
            self.select = name
        elif tag == "option" and "selected" in given:
            self.sent[self.select or ""] = value
        elif tag == "textarea":
            self.area = name

    def handle_data(self, data: str) -> None:
        if self.area:
            self.sent[self.area], self.area = data, None


def fields_of(browser: FlaskClient, like: int) -> dict[str, str]:
    page = browser.get(f"{PAGE}?like={like}")
    assert page.status_code == 200
    return Fields(page.text).sent


def ordered(browser: FlaskClient, fields: dict[str, str]) -> TrainingJob:
    """The job that comes of sending these fields."""
    answer = browser.post("/training-jobs/script", data=fields)
    assert answer.status_code == 303, answer.text
    return db.session.get_one(TrainingJob, int(answer.headers["Location"].rsplit("/", 1)[1]))


def same(job: TrainingJob) -> list[Any]:
    return [job.name, job.description, job.parameters, job.dataset_version_id, job.local_path, job.agent_id]


class TestLikeAnother:
    def test_a_script_on_a_machine_is_ordered_again_as_it_was(
        self, app: Flask, browser: FlaskClient, alice: User
    ) -> None:
        agent = make_script_machine(alice)
        parameters = {
            "entry": "trian.py", "arguments": ["--name", "two words", "it's", "--lr=1e-3"], "max_minutes": 7,
            "python": "~/venv/bin/python", "environment": ["HF_TOKEN", "WANDB_API_KEY"], "outputs": ["out/*.pt", "log/**"],
            "checkpoints": ["out/ckpt-*"], "resume": ["--resume", "{checkpoint}"],
        }  # fmt: skip
        job = training_jobs.create(
            alice,
            script_order(
                name="mnist", description="the second\nline", place={"agent": agent.id}, local_path="~/models/mnist",
                parameters=parameters,
            ),
        )  # fmt: skip
        again = ordered(browser, fields_of(browser, job.id))
        assert same(again) == same(job) and again.id != job.id
        mended = ordered(browser, {**fields_of(browser, job.id), "entry": "train.py"})
        assert mended.parameters == {**job.parameters, "entry": "train.py"}

    @pytest.mark.parametrize("amp", [True, False, None])
    def test_an_uploaded_script_keeps_its_settings(
        self, app: Flask, browser: FlaskClient, alice: User, amp: bool | None
    ) -> None:
        on_plan(alice, "basic")
        with_walls()
        make_script(alice, name="another")
        script = make_script(alice, SCRIPT)
        make_script(alice, name="the newest")
        given = {"lr": 0.5, "size": "large"} | ({} if amp is None else {"amp": amp})
        job = training_jobs.create(
            alice,
            script_order(
                dataset_id=script.dataset_id, parameters={"entry": "fit.py", "values": given, "max_minutes": 9}
            ),
        )
        again = ordered(browser, fields_of(browser, job.id))
        assert again.parameters["values"] == {"lr": 0.5, "size": "large", "amp": amp is not False}
        assert same(again)[3:] == same(job)[3:]
        assert {**again.parameters, "values": given} == job.parameters

    def test_what_the_page_has_no_field_for_is_said(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        agent = make_script_machine(alice)
        job = training_jobs.create(
            alice,
            script_order(place={"agent": agent.id}, local_path="~/models/mnist", parameters={"values": {"lr": 0.1}}),
        )
        page = browser.get(f"{PAGE}?like={job.id}").text
        assert "lr = 0.1" in page and "write them under Arguments" in page
        assert "write them under Arguments" not in browser.get(PAGE).text

    def test_a_script_that_is_gone_is_not_silently_another(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        on_plan(alice, "basic")
        with_walls()
        job = training_jobs.create(alice, script_order(dataset_id=make_script(alice).dataset_id))
        make_script(alice, name="another")
        with transaction():
            db.session.get_one(TrainingJob, job.id).dataset_version.dataset.deleted_at = now()
        assert "dataset_id" not in fields_of(browser, job.id)

    def test_only_a_script_of_ones_own_can_be_ordered_again(
        self, app: Flask, browser: FlaskClient, alice: User, bob: User
    ) -> None:
        machine = make_script_machine(bob)
        strangers = training_jobs.create(
            bob, script_order(place={"agent": machine.id}, local_path="~/models/x", parameters={})
        )
        language = make_agent_job(alice)
        for like in (strangers.id, language.id, 99_999, 0, -1, "x", "9" * 40, "٣"):
            assert browser.get(PAGE, query_string={"like": like}).status_code == 404
        assert browser.get(f"{PAGE}?like=").status_code == 200


class TestRefused:
    def test_a_missing_folder_is_asked_for_in_plain_words(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        agent = make_script_machine(alice)
        fields = {"source": "local", "local_path": " ", "place": f"agent:{agent.id}", "name": "mine"}
        page = browser.post("/training-jobs/script", data=fields)
        assert page.status_code == 422 and "local_path-wrong" in page.text
        assert "Name the folder of the script on your machine." in page.text
        assert "one of the two" not in page.text

    def test_a_missing_upload_is_asked_for_in_plain_words(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        page = browser.post("/training-jobs/script", data={"source": "dataset", "place": "server", "name": "mine"})
        assert page.status_code == 422 and "dataset_id-wrong" in page.text
        assert "No script is chosen. Choose one, or upload one first." in page.text

    def test_a_missing_file_of_the_wizard_too(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        agent = make_agent(alice)
        fields = {"source": "local", "place": f"agent:{agent.id}", "name": "mine"}
        page = browser.post("/training-jobs", data=fields)
        assert page.status_code == 422 and "Name the file on your machine." in page.text

    def test_a_file_elsewhere_is_answered_with_the_name_of_a_script(
        self, app: Flask, browser: FlaskClient, alice: User
    ) -> None:
        agent = make_script_machine(alice)
        fields = {"source": "local", "local_path": "~/models/x", "place": f"agent:{agent.id}", "name": "mine"}
        page = browser.post("/training-jobs/script", data={**fields, "entry": "../mnist/main.py"})
        assert page.status_code == 422 and "such as train.py or src/train.py." in page.text

    def test_the_address_of_a_refused_order_leads_back_to_the_form(
        self, app: Flask, browser: FlaskClient, alice: User
    ) -> None:
        gone_to = browser.get("/training-jobs/script")
        assert (gone_to.status_code, gone_to.headers["Location"]) == (302, PAGE)
        for refused in ("password", "payment-method"):
            assert browser.get(f"/account/{refused}").headers["Location"] == "/account"

    def test_every_field_that_is_wrong_is_named_at_once(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        agent = make_script_machine(alice)
        fields = {
            "source": "local", "local_path": "models/x", "place": f"agent:{agent.id}", "name": "mine",
            "arguments": "--note 'open", "resume": '--from "', "max_minutes": "-5",
        }  # fmt: skip
        page = browser.post("/training-jobs/script", data=fields)
        assert page.status_code == 422
        for name in ("local_path", "arguments", "resume", "max_minutes"):
            assert f'id="{name}-wrong"' in page.text


class TestPlaces:
    def test_the_price_is_that_of_one_start(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        assert "Resume and Try again set as much aside anew, and ask first." in browser.get(PAGE).text

    def test_a_machine_without_torch_is_ready_for_a_script(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        make_script_machine(alice)
        assert "Not ready" not in browser.get(PAGE).text and "</svg>Online</span>" in browser.get(PAGE).text
        assert "</svg>Not ready</span>" in browser.get("/training-jobs/new").text

    def test_a_machine_that_runs_no_scripts_is_not(self, app: Flask, browser: FlaskClient, alice: User) -> None:
        make_script_machine(alice, scripts=False)
        page = browser.get(PAGE).text
        assert "</svg>Not ready</span>" in page and "Its agent was started without --allow-scripts." in page


class TestTooLate:
    @pytest.mark.parametrize(
        ("verb", "told"),
        [
            ("resume", "Only a paused training can be resumed; this one is completed."),
            ("retry", "Only a failed training can be tried again; this one is completed."),
            ("stop", "This training is completed; there is nothing to stop."),
            ("cancel", "This training is completed already."),
        ],
    )
    def test_a_button_of_an_old_page_leads_to_the_job_and_says_why(
        self, app: Flask, browser: FlaskClient, alice: User, verb: str, told: str
    ) -> None:
        agent = make_script_machine(alice)
        job = training_jobs.create(
            alice, script_order(place={"agent": agent.id}, local_path="~/models/x", parameters={})
        )
        training_jobs.claim(job.id, 1, "agent")
        training_jobs.end(job.id, 1, training_jobs.Final("completed"))
        pressed = browser.post(f"/training-jobs/{job.id}/{verb}", data={})
        assert (pressed.status_code, pressed.headers["Location"]) == (303, f"/training-jobs/{job.id}")
        assert told in browser.get(f"/training-jobs/{job.id}").text
        assert told not in browser.get(f"/training-jobs/{job.id}").text
        assert browser.post(f"/api/training-jobs/{job.id}/{verb}").status_code == 409
        assert browser.post(f"/training-jobs/{job.id}/{verb}", json={}).status_code == 409

    def test_a_strangers_job_stays_missing(self, app: Flask, browser: FlaskClient, bob: User) -> None:
        job = make_agent_job(bob)
        assert browser.post(f"/training-jobs/{job.id}/resume", data={}).status_code == 404
