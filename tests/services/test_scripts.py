"""Scripts as jobs: what may be ordered where, what they cost, what they show. On SQLite and on PostgreSQL."""

from __future__ import annotations

import base64
import io
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from models.accounts import User
from models.agents import Agent
from models.base import db, transaction
from models.datasets import DatasetVersion
from models.training_jobs import TrainingEvent, TrainingJob
from services import (
    agents,
    api_keys,
    credits,
    datasets,
    model_versions,
    script_inspection,
    training_jobs,
    uploads,
    workers,
)
from services.errors import Invalid, NotFound, Unavailable
from services.model_versions import NewFile
from services.reconcile import reconcile
from services.training_jobs import Order, samples
from tests.factories import hello, make_dataset, on_plan, order
from tests.routes.test_contract import post_file
from tests.services.test_training_jobs import begin, fresh, minutes_later

SCRIPT = {"train.py": "print('loss: 1')", "yard.toml": '[parameters.lr]\ntype = "float"\nmaximum = 1.0\n'}


def zipped(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


def with_manifest() -> bytes:
    """A sound archive whose yard.toml is deflated, as every packing program leaves it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.py", "print('loss: 1')")
        archive.writestr("yard.toml", "entry = 'train.py'\n" + "# what it does\n" * 20)
    return packed.getvalue()


def make_script(owner: User, files: dict[str, str] | None = None, name: str = "my script") -> DatasetVersion:
    upload = uploads.receive(owner, "project.zip", io.BytesIO(zipped(SCRIPT if files is None else files)))
    return datasets.create(owner, upload, name, "script", None)


def script_order(**given: Any) -> Order:
    values: dict[str, Any] = {
        "name": "mine", "recipe": "script", "base_model": "yard-tiny", "place": "server", "parameters": {"max_minutes": 30},
    }  # fmt: skip
    return Order(**{**values, **given})


def with_walls(lane: int | None = 2) -> None:
    """A worker of the server reports what it can wall off."""
    told = {"lane": lane, "lane_name": f"lane {lane}", "walls": [], "todo": ["Install bubblewrap."], "facts": {}}
    workers.report("worker-1", "here", 1, "cpu", told)


def make_script_machine(owner: User, scripts: bool = True) -> Agent:
    key, _ = api_keys.create(owner, "key", "agent")
    machine = {**hello()["machine"], "scripts": scripts}
    return agents.enrol(key.user_id, key.id, hello(machine=machine, ready=False, missing=["torch"]), session="s")


def kept_samples(job: TrainingJob) -> list[int]:
    """The numbers of the job's records of samples that hold something, newest first."""
    query = select(TrainingEvent.number, TrainingEvent.payload)
    query = query.where(TrainingEvent.job_id == job.id, TrainingEvent.stream == "samples")
    return [number for number, payload in db.session.execute(query.order_by(TrainingEvent.number.desc())) if payload]


@pytest.fixture
def boxed(app: Flask, alice: User) -> TrainingJob:
    """A script of alice's, ordered for the server, half an hour at most."""
    on_plan(alice, "basic")
    with_walls()
    return training_jobs.create(alice, script_order(dataset_id=make_script(alice).dataset_id))


class TestUploading:
    def test_a_zip_is_looked_into(self, app: Flask, alice: User) -> None:
        version = make_script(alice, {"project/train.py": "", "project/lib/util.py": "", "project/data.csv": "1"})
        assert (version.format, version.rows) == ("script", 3)
        assert version.quality["scripts"] == ["lib/util.py", "train.py"] or set(version.quality["scripts"]) == {
            "train.py", "lib/util.py",
        }  # fmt: skip
        assert datasets.preview(version) == []

    def test_a_zip_of_macos_is_looked_into_as_if_its_finder_had_added_nothing(self, tmp_path: Path) -> None:
        own = {"proj/train.py": "", "proj/yard.toml": "outputs = ['out/*']"}
        finders = {"__MACOSX/proj/._train.py": "", "__MACOSX/._proj": "", ".DS_Store": "", "proj/._train.py": ""}
        path = tmp_path / "proj.zip"
        path.write_bytes(zipped({**own, **finders}))
        found = script_inspection.answer(path)
        assert (found["rows"], found["quality"]["scripts"]) == (2, ["train.py"])
        assert found["quality"]["manifest"] == own["proj/yard.toml"]

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            ({"README.md": "nothing"}, "no Python file"),
            ({"../train.py": ""}, "train.py"),
            ({"train.py": "", "yard.toml": "entry = 'other.py'"}, "no file other.py"),
            ({"train.py": "", "yard.toml": "speed = 1"}, "no key 'speed'"),
            ({"train.py": "", "yard.toml": "requirements = 'reqs.txt'"}, "there is no file reqs.txt"),
        ],
    )
    def test_what_cannot_run_is_refused_in_a_sentence(
        self, app: Flask, alice: User, files: dict[str, str], told: str
    ) -> None:
        with pytest.raises(Invalid) as refusal:
            make_script(alice, files)
        assert told in refusal.value.fields["file"]
        assert datasets.list_for(alice) == []

    @pytest.mark.parametrize("damage", [
        lambda whole, at: whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :],
        lambda whole, at: whole.replace(b"yard.toml", b"Yard.toml", 1),
    ], ids=["a damaged yard.toml", "a name that differs from the directory's"])  # fmt: skip
    def test_a_damaged_archive_is_refused_and_not_our_fault(
        self, sqlite_app: Flask, browser: FlaskClient, damage: Callable[[bytes, int], bytes]
    ) -> None:
        whole = with_manifest()
        damaged = damage(whole, whole.index(b"yard.toml") + len("yard.toml"))
        refused = post_file(browser, damaged, "project.zip", kind="script")
        assert refused.status_code == 422 and "damaged" in refused.get_json()["error"]["fields"]["file"]
        assert post_file(browser, whole, "project.zip", kind="script").status_code == 201

    @pytest.mark.parametrize("change", [0x01, 0x20, 0x80, 0xFF])
    def test_whichever_byte_of_an_archive_is_another_it_is_taken_or_refused(self, tmp_path: Path, change: int) -> None:
        whole, path = with_manifest(), tmp_path / "project.zip"
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
            found = script_inspection.answer(path)
            assert found.get("error") or found["rows"]

    def test_an_archive_that_needs_too_much_memory_is_refused(
        self, app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = subprocess.CompletedProcess([], 1, "", "Traceback (most recent call last):\nMemoryError\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: ran)
        with pytest.raises(Invalid, match="more memory"):
            make_script(alice)

    def test_data_is_no_script_and_a_script_no_data(self, app: Flask, alice: User) -> None:
        with pytest.raises(Invalid, match="zip"):
            upload = uploads.receive(alice, "rows.jsonl", io.BytesIO(b'{"prompt": "a", "completion": "b"}\n'))
            datasets.create(alice, upload, "rows", "script", None)
        make_script(alice, name="mine")
        with pytest.raises(Invalid, match="already"):
            make_dataset(alice, "mine")


class TestOrdering:
    def test_on_the_server_the_minutes_are_set_aside(self, app: Flask, alice: User, boxed: TrainingJob) -> None:
        assert (boxed.quoted, boxed.at_most, boxed.base_model) == (30, 30, "none")
        assert credits.spendable(alice.id) == 170

    @pytest.mark.parametrize("lane", [None, 0])
    def test_without_walls_the_server_refuses_and_says_what_to_install(
        self, app: Flask, alice: User, lane: int | None
    ) -> None:
        on_plan(alice, "basic")
        if lane is not None:
            with_walls(lane)
        with pytest.raises(Unavailable) as refusal:
            training_jobs.create(alice, script_order(dataset_id=make_script(alice).dataset_id))
        assert refusal.value.message
        assert training_jobs.list_for(alice) == [] and credits.spendable(alice.id) == 200

    @pytest.mark.parametrize(
        ("parameters", "field"),
        [
            ({"entry": "other.py"}, "parameters.entry"),
            ({"entry": "../train.py"}, "parameters.entry"),
            ({"values": {"lr": 3}}, "parameters.values.lr"),
            ({"values": {"speed": 3}}, "parameters.values.speed"),
            ({"python": "/usr/bin/python3"}, "parameters.python"),
            ({"environment": ["HF_TOKEN"]}, "parameters.environment"),
            ({"environment": ["A=B"]}, "parameters.environment"),
            ({"outputs": ["/etc/*"]}, "parameters.outputs"),
            ({"max_minutes": 0}, "parameters.max_minutes"),
            ({"max_minutes": 6 * 60 + 1}, "parameters.max_minutes"),
            ({"arguments": "--x"}, "parameters.arguments"),
            ({"learning_rate": 1}, "parameters.learning_rate"),
        ],
    )
    def test_what_cannot_be_is_named(self, app: Flask, alice: User, parameters: dict[str, Any], field: str) -> None:
        on_plan(alice, "basic")
        with_walls()
        with pytest.raises(Invalid) as refusal:
            training_jobs.create(alice, script_order(dataset_id=make_script(alice).dataset_id, parameters=parameters))
        assert list(refusal.value.fields) == [field]

    def test_a_machine_runs_a_folder_of_its_own_even_without_torch(self, app: Flask, alice: User) -> None:
        agent = make_script_machine(alice)
        job = training_jobs.create(
            alice, script_order(place={"agent": agent.id}, local_path="/home/alice/models/project", parameters={})
        )
        spec = training_jobs.spec_of(job)
        assert (spec.data, spec.base_model) == ({"kind": "local", "path": "/home/alice/models/project"}, "none")
        assert credits.spendable(alice.id) == 20

    def test_a_machine_that_allows_no_scripts_gets_none(self, app: Flask, alice: User) -> None:
        agent = make_script_machine(alice, scripts=False)
        with pytest.raises(Invalid) as refusal:
            training_jobs.create(
                alice, script_order(place={"agent": agent.id}, local_path="/home/alice/models/project")
            )
        assert "--allow-scripts" in refusal.value.fields["place"]

    def test_what_the_server_keeps_never_runs_on_a_machine(self, app: Flask, alice: User) -> None:
        agent = make_script_machine(alice)
        with pytest.raises(Invalid, match="never what a server sends"):
            training_jobs.create(
                alice, script_order(place={"agent": agent.id}, dataset_id=make_script(alice).dataset_id)
            )

    def test_a_script_is_not_trained_on_and_data_does_not_run(self, app: Flask, alice: User) -> None:
        on_plan(alice, "basic")
        with_walls()
        with pytest.raises(Invalid, match="is a script"):
            training_jobs.create(alice, order(make_script(alice)))
        with pytest.raises(Invalid, match="is data"):
            training_jobs.create(alice, script_order(dataset_id=make_dataset(alice).dataset_id))

    def test_somebody_elses_script_does_not_exist(self, app: Flask, alice: User, bob: User) -> None:
        on_plan(alice, "basic")
        with_walls()
        with pytest.raises(NotFound):
            training_jobs.create(alice, script_order(dataset_id=make_script(bob).dataset_id))


class TestPaying:
    def test_a_silent_script_is_paid_by_the_clock(self, app: Flask, alice: User, boxed: TrainingJob) -> None:
        job = begin(boxed)
        training_jobs.renew(job.id, 1)
        assert fresh(job).charged == 0  # getting ready is not training
        training_jobs.record(job.id, 1, "event", 1, [{"kind": "stage", "stage": "train", "message": "It runs."}])
        assert fresh(job).charged == 1
        minutes_later(job, 2.5)
        training_jobs.renew(job.id, 1)
        training_jobs.renew(job.id, 1)
        assert fresh(job).charged == 3
        training_jobs.end(job.id, 1, training_jobs.Final("failed", "member_code", "Exit code 1."))
        assert fresh(job).state == "failed" and fresh(job).charged - fresh(job).refunded == 3
        assert credits.spendable(alice.id) == 197
        assert reconcile() == []

    def test_the_time_that_was_asked_for_is_the_most_it_costs(
        self, app: Flask, alice: User, boxed: TrainingJob
    ) -> None:
        job = begin(boxed)
        training_jobs.record(job.id, 1, "event", 1, [{"kind": "stage", "stage": "train"}])
        minutes_later(job, 45)
        assert training_jobs.renew(job.id, 1) == "stop"
        training_jobs.end(job.id, 1, training_jobs.Final("stopped"))
        assert (fresh(job).state, fresh(job).error_cause, fresh(job).charged) == ("paused", "time_limit", 30)
        training_jobs.resume(alice, job.id)
        assert fresh(job).at_most == 60 and credits.spendable(alice.id) == 140

    def test_a_fault_of_ours_is_paid_back(self, app: Flask, alice: User, boxed: TrainingJob) -> None:
        job = begin(boxed)
        training_jobs.record(job.id, 1, "event", 1, [{"kind": "stage", "stage": "train"}])
        training_jobs.end(job.id, 1, training_jobs.Final("failed", "platform", "The sandbox broke."))
        assert (fresh(job).state, fresh(job).attempt) == ("queued", 2)
        assert fresh(job).charged - fresh(job).refunded == 0


class TestShowing:
    def piece(self, number: int, of: int, data: bytes, name: str = "step-4.png") -> dict[str, Any]:
        told = {"name": name, "step": 4, "type": "png", "bytes": 6, "piece": number, "pieces": of}
        return {**told, "data": base64.b64encode(data).decode()}

    def test_a_sample_is_shown_once_it_is_whole(self, app: Flask, alice: User, boxed: TrainingJob) -> None:
        job = begin(boxed)
        training_jobs.record(job.id, 1, "samples", 1, [self.piece(0, 2, b"abc")])
        assert training_jobs.samples_of(job.id) == ([], None)
        text = {"name": "a.txt", "step": 7, "type": "text", "bytes": 5, "piece": 0, "pieces": 1, "text": "hello"}
        training_jobs.record(job.id, 1, "samples", 2, [self.piece(1, 2, b"def"), text])
        (newest, image), _ = training_jobs.samples_of(job.id)
        assert (newest["text"], newest["step"], newest["kind"]) == ("hello", 7, "text")
        assert training_jobs.image_of(job.id, image["number"]) == (b"abcdef", "image/png")
        with pytest.raises(NotFound):
            training_jobs.image_of(job.id, newest["number"])
        assert training_jobs.samples_of(job.id, before=newest["number"]) == ([image], None)

    def test_pieces_without_an_end_hide_no_sample_behind_them(
        self, app: Flask, alice: User, boxed: TrainingJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(samples, "LOOKED_THROUGH", 10)
        job = begin(boxed)
        whole = [self.piece(0, 1, b"abc", f"{number}.png") for number in range(4)]
        training_jobs.record(job.id, 1, "samples", 1, [*whole[:2], *[self.piece(0, 2, b"abc")] * 35, *whole[2:]])
        names, looks, following = list[str](), 0, None
        while looks == 0 or following is not None:
            items, following = training_jobs.samples_of(job.id, 3, following)
            names, looks = names + [item["name"] for item in items], looks + 1
        assert names == ["3.png", "2.png", "1.png", "0.png"] and looks == 4

    def test_only_the_first_pieces_of_an_attempt_are_kept_and_the_page_says_so(
        self, app: Flask, boxed: TrainingJob, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(samples, "MOST_PIECES", 3)
        job = begin(boxed)
        text = {"name": "a.txt", "step": 7, "type": "text", "bytes": 5, "piece": 0, "pieces": 1, "text": "hello"}
        assert training_jobs.record(job.id, 1, "samples", 1, [text, text]) == 2
        assert "Only the first samples" not in browser.get(f"/training-jobs/{job.id}").text
        assert training_jobs.record(job.id, 1, "samples", 3, [text, text, text]) == 5
        assert training_jobs.record(job.id, 1, "samples", 6, [text]) == 6
        assert [sample["number"] for sample in training_jobs.samples_of(job.id)[0]] == kept_samples(job)
        assert len(kept_samples(job)) == 3
        assert browser.get(f"/training-jobs/{job.id}").text.count("Only the first samples of an attempt are kept") == 1

    def test_only_so_many_bytes_of_an_attempt_are_kept_and_no_sample_in_parts(
        self, app: Flask, alice: User, boxed: TrainingJob, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(samples, "MOST_BYTES", 5_000)
        job = begin(boxed)
        large = [self.piece(number, 3, b"a" * (2_000 if number < 2 else 10)) for number in range(3)]
        small = {"name": "a.txt", "step": 7, "type": "text", "bytes": 5, "piece": 0, "pieces": 1, "text": "hello"}
        assert training_jobs.record(job.id, 1, "samples", 1, [small, *large, small]) == 5
        assert [sample["name"] for sample in training_jobs.samples_of(job.id)[0]] == ["a.txt"]
        assert "Only the first samples of an attempt are kept" in browser.get(f"/training-jobs/{job.id}").text
        training_jobs.stop(alice, job.id)
        training_jobs.end(job.id, 1, training_jobs.Final("stopped"))
        training_jobs.resume(alice, job.id)
        begin(job)
        assert training_jobs.record(job.id, 2, "samples", 1, [small]) == 1
        assert len(training_jobs.samples_of(job.id)[0]) == 2

    @pytest.mark.parametrize("change", [
        {"type": "svg"}, {"piece": 2}, {"pieces": 10_000}, {"data": "<script>"}, {"data": None}, {"piece": True},
    ])  # fmt: skip
    def test_what_is_no_sample_is_refused(self, app: Flask, alice: User, boxed: TrainingJob, change: Any) -> None:
        job = begin(boxed)
        with pytest.raises(Invalid):
            training_jobs.record(job.id, 1, "samples", 1, [{**self.piece(0, 2, b"abc"), **change}])

    def test_a_reading_that_is_wrong_is_put_away(self, app: Flask, alice: User, bob: User, boxed: TrainingJob) -> None:
        job = begin(boxed)
        rule = {"rule": "pairs", "label": "", "example": "", "names": ["loss"], "points": 3}
        training_jobs.record(job.id, 1, "event", 1, [{"kind": "facts", "curves": [rule]}])
        assert training_jobs.hide_curves(alice, job.id, ["pairs"]).curves_off == ["pairs"]
        assert training_jobs.hide_curves(alice, job.id, []).curves_off == []
        with pytest.raises(Invalid, match="There are: pairs"):
            training_jobs.hide_curves(alice, job.id, ["bars"])
        with pytest.raises(NotFound):
            training_jobs.hide_curves(bob, job.id, [])

    def test_the_terms_of_a_server_script_name_the_walls_it_must_have(self, app: Flask, boxed: TrainingJob) -> None:
        terms = training_jobs.terms_of(boxed.id, "worker-1")["sandbox"]
        assert terms["lane"] == 2 and terms["limits"]["wall_seconds"] == 30 * 60 + 300
        assert training_jobs.terms_of(boxed.id, "another")["sandbox"]["lane"] == 1
        with transaction():
            job = db.session.get_one(TrainingJob, boxed.id)
            job.recipe = "language"
        assert training_jobs.terms_of(boxed.id, "worker-1") == {}


class TestBounds:
    def test_a_job_has_at_most_five_hundred_metrics(self, app: Flask, alice: User, boxed: TrainingJob) -> None:
        job = begin(boxed)
        for batch in range(6):
            names = {f"m{batch}-{number}": [1.0] for number in range(95)}
            training_jobs.record(
                job.id, 1, "metrics", batch + 1, [{"steps": [batch], "values": {**names, "loss": [0.5]}}]
            )
        series = training_jobs.series_of(job.id)
        assert len(series) == 500
        assert [step for step, _ in series["loss"]] == [0, 1, 2, 3, 4, 5]  # a known one is never put away

    def test_a_stored_log_moves_no_cursor(self, app: Flask, alice: User, boxed: TrainingJob) -> None:
        job = begin(boxed)
        hostile = "a\x1b]0;owned\x07b\x1b[2Jc\x1bPx\x1b\\d\x07\x00e\tf\n"
        training_jobs.record(job.id, 1, "log", 1, [{"text": hostile}])
        assert "".join(training_jobs.log_of(job.id)) == "abcde\tf\n"


def test_a_job_says_from_when_its_machine_takes_jobs(app: Flask, alice: User) -> None:
    agent = make_script_machine(alice)
    with transaction():
        agent.machine = {**agent.machine, "hours": {"windows": ["20:00-08:00"], "open": False, "opens_at": "20:00"}}
    job = training_jobs.create(
        alice, script_order(place={"agent": agent.id}, local_path="/home/alice/models/project", parameters={})
    )
    assert training_jobs.summary(job)["opens_at"] == "20:00"
    training_jobs.claim(job.id, 1, "agent")
    assert training_jobs.summary(fresh(job))["opens_at"] is None


class TestKeeping:
    def test_a_script_need_not_leave_any_file(self, app: Flask, alice: User, boxed: TrainingJob) -> None:
        job = begin(boxed)
        training_jobs.end(job.id, 1, training_jobs.Final("completed"))
        assert (fresh(job).state, fresh(job).model_version_id) == ("completed", None)

    def test_what_it_left_has_a_page_whatever_it_is(
        self, app: Flask, alice: User, boxed: TrainingJob, browser: FlaskClient, tmp_path: Path
    ) -> None:
        job = begin(boxed)
        checkpoint = tmp_path / "ckpt.pt"
        checkpoint.write_bytes(b"a pickle, given out and never opened")
        with model_versions.kept([NewFile("out/ckpt.pt", checkpoint, 36, "0" * 64)]) as files, transaction():
            model_versions.publish(fresh(job), files)
        training_jobs.end(job.id, 1, training_jobs.Final("completed"))
        version = fresh(job).model_version_id
        assert browser.get(f"/models/{version}").status_code == 200
        assert browser.get(f"/api/models/{version}").get_json()["recipe"] == "script"

    def test_a_paused_script_says_what_it_goes_on_from(
        self, app: Flask, alice: User, boxed: TrainingJob, browser: FlaskClient
    ) -> None:
        job = begin(boxed)
        training_jobs.stop(alice, job.id)
        training_jobs.end(job.id, 1, training_jobs.Final("stopped"))
        assert "It has written no checkpoint: Resume begins anew." in browser.get(f"/training-jobs/{job.id}").text
        training_jobs.resume(alice, job.id)
        training_jobs.claim(job.id, 2, "test")
        told = [{"kind": "facts", "can_resume": True}, {"kind": "checkpoint", "step": 200, "file": "out/ckpt-200"}]
        training_jobs.record(job.id, 2, "event", 1, told)
        training_jobs.stop(alice, job.id)
        training_jobs.end(job.id, 2, training_jobs.Final("stopped"))
        assert "It goes on from out/ckpt-200." in browser.get(f"/training-jobs/{job.id}").text
