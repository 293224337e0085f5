"""What the page of a job says in words: how it ended, what was read, what it used, its settings and its times."""

from __future__ import annotations

import contextlib
import contextvars
import html
import json
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as event_of_sqlalchemy

from models.accounts import User
from models.base import db, now, release, transaction
from models.training_jobs import TrainingJob
from routes import job_stream
from services import agents, api_keys, training_jobs
from services.training_jobs import Final, Order
from tests.conftest import member
from tests.factories import make_agent, make_agent_job, make_server_job

GIVEN: dict[str, Any] = {"entry": "train.py", "arguments": ["--epochs", "4", "--note", "hello world"]}


@pytest.fixture
def job(sqlite_app: Flask, alice: User) -> int:
    return script_job(alice)


def script_job(alice: User) -> int:
    """A script that runs on alice's machine."""
    agent = make_agent(alice)
    with transaction():
        agent.machine = {**agent.machine, "scripts": True}
    order = Order(
        name="mnist", recipe="script", base_model="none", place={"agent": agent.id}, local_path="/home/alice/models/mnist",
        parameters=GIVEN,
    )  # fmt: skip
    made = training_jobs.create(alice, order).id
    training_jobs.claim(made, 1, "test")
    return made


def event(job: int, seq: int, kind: str, **fields: Any) -> None:
    training_jobs.record(job, 1, "event", seq, [{"kind": kind, **fields}])


def metrics(job: int, seq: int, step: int, **values: float | None) -> None:
    named = {name: [value] for name, value in values.items()}
    training_jobs.record(job, 1, "metrics", seq, [{"steps": [step], "values": named}])


def words(browser: FlaskClient, path: str) -> str:
    """The text of the page's middle, without marks and with single spaces."""
    middle = browser.get(path).text.split("<main", 1)[1].split("</main", 1)[0]
    shown = re.sub(r"<script.*?</script>|<[^>]*>", " ", middle, flags=re.S)
    return " ".join(html.unescape(shown).split())


def test_the_command_and_the_settings_are_as_one_would_type_them(job: int, browser: FlaskClient) -> None:
    event(job, 1, "facts", command=["python", "train.py", *GIVEN["arguments"]])
    page = words(browser, f"/training-jobs/{job}")
    assert "python train.py --epochs 4 --note 'hello world'" in page
    assert "Arguments --epochs 4 --note 'hello world'" in page
    assert "Values" not in page and "['" not in page and "None" not in page


@pytest.mark.parametrize("told", [7, {"a": 1}, [], "", None])
def test_a_command_of_another_shape_is_none(job: int, browser: FlaskClient, told: Any) -> None:
    event(job, 1, "facts", command=told)
    assert "Command" not in words(browser, f"/training-jobs/{job}")


def test_times_have_units(job: int, browser: FlaskClient) -> None:
    with transaction():
        attempt = training_jobs.queries.attempt_of(job, 1)
        attempt.created_at = now() - timedelta(seconds=95.9)
        attempt.started_at = attempt.created_at + timedelta(seconds=0.185)
    page = words(browser, f"/training-jobs/{job}")
    assert "Queued under 1 s" in page and "Whole 1 min 35 s" in page
    assert "Start to first step" not in page.split("Timings")[1]


def test_an_ended_job_without_a_curve_says_so(job: int, browser: FlaskClient) -> None:
    assert "The curve begins with the first number the script prints." in words(browser, f"/training-jobs/{job}")
    training_jobs.end(job, 1, Final("failed", "member_code", "It ended.", "Look at the log."))
    page = browser.get(f"/training-jobs/{job}").text
    assert "The script printed no numbers that were understood." in page and "The curve begins" not in page
    assert 'href="/guides/scripts#curves"' in page


def test_the_table_leaves_out_a_column_without_values(job: int, browser: FlaskClient) -> None:
    metrics(job, 1, 1, loss=2.5)
    row = r"<tr><td[^>]*>1</td><td[^>]*>2.500</td>(.*?)</tr>"
    page = browser.get(f"/training-jobs/{job}").text
    assert re.search(row, page)[1] == "" and '<th scope="col" class="number" data-curve-partner' not in page  # type: ignore[index]
    metrics(job, 2, 1, eval_loss=2.6)
    page = browser.get(f"/training-jobs/{job}").text
    assert "2.600" in re.search(row, page)[1] and "data-curve-partner>Loss on rows held back</th>" in page  # type: ignore[index]


@pytest.mark.parametrize(("outcome", "verb"), [("stopped", "Resume"), ("failed", "Try again")])
def test_who_lets_the_server_go_on_is_told_the_price_first(
    sqlite_app: Flask, alice: User, browser: FlaskClient, outcome: str, verb: str
) -> None:
    job = make_server_job(alice).id
    training_jobs.claim(job, 1, "test")
    training_jobs.stop(alice, job)
    training_jobs.end(job, 1, Final(outcome, "data" if outcome == "failed" else None, "It ended.", None))
    form = re.search(rf"<form[^>]*>(?:(?!</form>).)*{verb}</button>", browser.get(f"/training-jobs/{job}").text, re.S)[
        0
    ]  # type: ignore[index]
    assert re.search(r'data-confirm="Going on sets aside \d+ credits? more; what is not used returns to you\."', form)
    assert f'data-confirm-button="{verb}"' in form and 'data-confirm-tone="primary"' in form


def test_the_receipt_explains_why_going_on_may_cost_more_in_all(
    sqlite_app: Flask, alice: User, browser: FlaskClient
) -> None:
    job = make_server_job(alice)
    assert "each time" not in words(browser, f"/training-jobs/{job.id}")
    training_jobs.stop(alice, job.id)
    training_jobs.resume(alice, job.id)
    page = words(browser, f"/training-jobs/{job.id}")
    assert re.search(
        r"Quoted: \d+ credits? each time you start it; with what it cost before, at most \d+ credits in all\.", page
    )


def test_files_to_keep_are_called_so_before_and_after(job: int, browser: FlaskClient) -> None:
    event(job, 1, "facts", outputs_wanted=["out/*.pt"])
    assert "Files to keep out/*.pt" in words(browser, f"/training-jobs/{job}")
    event(job, 2, "facts", outputs=[{"name": "out/a.pt", "bytes": 5000}])
    page = words(browser, f"/training-jobs/{job}")
    assert "Files to keep out/a.pt 5 kB" in page and "Outputs" not in page


def test_going_on_at_home_is_free_and_not_asked_for(job: int, browser: FlaskClient) -> None:
    training_jobs.end(job, 1, Final("failed", "data", "It ended.", None))
    page = browser.get(f"/training-jobs/{job}").text
    assert "Try again</button>" in page and "sets aside" not in page


def test_a_small_loss_is_no_zero(job: int, browser: FlaskClient) -> None:
    metrics(job, 1, 1, loss=0.00098)
    metrics(job, 2, 2, loss=2.04e-4)
    page = words(browser, f"/training-jobs/{job}")
    assert "Loss 2.04e-4 Speed" in page and "Loss fell from 9.80e-4 to 2.04e-4 over 2 steps. Lowest: 2.04e-4" in page
    assert "2.04e-4" in words(browser, "/ai-training")
    assert "0.000" not in page


def test_memory_is_that_of_now_and_in_the_end_the_most(job: int, browser: FlaskClient) -> None:
    event(job, 1, "stage", stage="train")
    for seq, used in enumerate((421e6, 25.9e6), start=2):
        event(job, seq, "system", memory_bytes=used, processes=1)
    assert "Memory 25.9 MB" in words(browser, f"/training-jobs/{job}")
    training_jobs.end(job, 1, Final("completed"))
    assert "Memory, at most 421 MB" in words(browser, f"/training-jobs/{job}")


def test_one_step_is_one_step(job: int, browser: FlaskClient) -> None:
    metrics(job, 1, 1, loss=2.5)
    training_jobs.end(job, 1, Final("completed"))
    assert "1 step " in words(browser, "/ai-training")


def test_samples_are_called_samples(job: int, browser: FlaskClient) -> None:
    event(job, 1, "facts", curves=[{"rule": "epochs", "names": ["loss"], "unit": "samples"}])
    metrics(job, 1, 640, loss=2.5)
    with transaction():
        db.session.get_one(TrainingJob, job).steps_per_second = 12.0
    page = words(browser, f"/training-jobs/{job}")
    assert "Samples 640" in page and "12.0 samples/s" in page and "steps/s" not in page


def test_a_machine_that_is_away_is_not_live(job: int, browser: FlaskClient) -> None:
    assert "data-away" not in browser.get(f"/training-jobs/{job}").text
    with transaction():
        db.session.get_one(TrainingJob, job).disconnected_since = now() - timedelta(seconds=70)
    assert "data-away" in browser.get(f"/training-jobs/{job}").text
    page = words(browser, f"/training-jobs/{job}")
    assert "It was last heard of 1 min ago ." in page and "since" not in page
    assert "workstation is away. What it does meanwhile appears here when it is back." in page
    assert "Your script runs on" not in page


def test_a_job_that_waits_for_a_machine_says_whether_that_is_there(
    sqlite_app: Flask, alice: User, browser: FlaskClient
) -> None:
    job = make_agent_job(alice)
    assert "Waiting for workstation to take it." in words(browser, f"/training-jobs/{job.id}")
    assert job.agent is not None and job.agent.session is not None
    agents.leave([job.agent.session])
    page = words(browser, f"/training-jobs/{job.id}")
    assert "workstation is offline. Start the agent there, and it takes this training." in page
    assert "Waiting for" not in page


TEXTS = st.text(max_size=5) | st.sampled_from(["\ud800", "a\0b", "<b>", "loss"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1e307]) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.just("name"), inner, max_size=3),
    max_leaves=8,
)
RULES = st.fixed_dictionaries(
    {"rule": TEXTS}, optional=dict.fromkeys(["label", "example", "names", "points", "unit"], JSON)
)
FACTS = st.fixed_dictionaries({}, optional={
    **dict.fromkeys(
        ["example", "versions", "curves", "command", "exit_code", "interpreter", "environment", "lane", "lane_name", "outputs",
         "outputs_left", "outputs_wanted", "checkpoint_given", "checkpoint_file", "can_resume", "total_parameters",
         "memory_peak_bytes"], JSON),
    "curves": JSON | st.lists(RULES, max_size=3), "example": JSON | st.lists(st.lists(JSON, max_size=3), max_size=3),
    "outputs": JSON | st.lists(st.fixed_dictionaries({"name": JSON, "bytes": JSON}), max_size=2),
})  # fmt: skip


@given(told=FACTS, state=st.sampled_from(["training", "paused", "completed"]))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_whatever_a_machine_tells_of_its_job_there_is_a_page(
    job: int, browser: FlaskClient, told: dict[str, Any], state: str
) -> None:
    seq = training_jobs.queries.attempt_of(job, 1).stored.get("event", 0) + 1
    event(job, seq, "facts", **told)
    _put(job, state)
    statuses = [browser.get(f"/{kind}training-jobs/{job}").status_code for kind in ("", "api/")]
    _put(job, "training")
    assert statuses == [200, 200]


def _put(job: int, state: str) -> None:
    with transaction():
        db.session.get_one(TrainingJob, job).state = state


@pytest.mark.parametrize("told, shown", [
    ({"example": [["reads", False], ["learns", True], 7, ["half"], ["a", "b"]]}, "reads learns"),
    ({"versions": {"torch": "2.13.0", "odd": [7], "peft": None}}, "Torch 2.13.0 Peft –"),
    ({"curves": [{"rule": "pairs", "label": "Pairs", "names": ["a", 7, "b\ud800"], "points": 3}, "x"]}, "Pairs a, b? · 3 points"),
    ({"environment": ["HF_TOKEN", {"a": 1}]}, "Environment HF_TOKEN"),
])  # fmt: skip
def test_of_what_a_machine_tells_the_page_shows_what_has_the_shape(
    job: int, browser: FlaskClient, told: dict[str, Any], shown: str
) -> None:
    event(job, 1, "facts", **told)
    assert shown in words(browser, f"/training-jobs/{job}")


class TestLog:
    """On both databases: what a page shows and what it then follows come from several looks."""

    @pytest.fixture
    def job(self, app: Flask, alice: User) -> int:
        return script_job(alice)

    def test_a_line_written_while_the_page_is_made_is_on_it_or_in_the_stream_after_it_and_never_in_both(
        self, job: int, app: Flask, browser: FlaskClient
    ) -> None:
        log(job, 1, "one\n", "two\n")

        waiting = ["three\n"]

        def run_on(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if waiting and statement.startswith("SELECT training_events"):
                text = waiting.pop()
                elsewhere(app, lambda: log(job, 3, text))

        event_of_sqlalchemy.listen(db.engine, "before_cursor_execute", run_on)
        page = browser.get(f"/training-jobs/{job}").text
        event_of_sqlalchemy.remove(db.engine, "before_cursor_execute", run_on)
        training_jobs.end(job, 1, Final("failed", "member_code", "It ended.", None))
        shown = re.search(r"data-log-lines>(.*?)</pre>", page, re.S)[1]  # type: ignore[index]
        after = json.loads(re.search(r'id="job-data">(.*?)</script>', page, re.S)[1])["last_event"]  # type: ignore[index]
        assert shown + followed(browser, job, after) == "one\ntwo\nthree\n"

    def test_who_reads_slowly_keeps_no_connection_to_the_database(self, job: int, app: Flask, alice: User) -> None:
        _, key = api_keys.create(alice, "slow", "full")
        texts = [f"{number} {'x' * 6_000}\n" for number in range(250)]
        log(job, 1, *texts)
        release()
        begun, go_on, whole = threading.Semaphore(0), threading.Event(), list[str]()

        def read_slowly() -> None:
            reads = FlaskClient(app, app.response_class)
            answer = reads.get(f"/api/training-jobs/{job}/logs", headers={"Authorization": f"Bearer {key}"})
            pieces = iter(answer.response)
            first = next(pieces)
            begun.release()
            go_on.wait(30)
            whole.append(b"".join([first, *pieces]).decode())
            answer.close()

        readers = [threading.Thread(target=read_slowly) for _ in range(3)]
        for reader in readers:
            reader.start()
        assert all(begun.acquire(timeout=30) for _ in readers)
        taken = db.engine.pool.checkedout()  # type: ignore[attr-defined]
        go_on.set()
        for reader in readers:
            reader.join()
        assert taken == 0 and whole == ["".join(texts)] * 3

    def test_where_records_are_missing_page_download_and_stream_say_so_alike(
        self, job: int, browser: FlaskClient
    ) -> None:
        log(job, 1, "one\n", "half a line", "", "", "", "four\n", "", "six\n", *[""] * 1234)
        said = "(1,234 log records are missing here: the machine had no room to keep them, or lost them when it went down.)"
        three, one = (
            said.replace("1,234", "3"),
            said.replace("1,234 log records are", "1 log record is").replace("them", "it"),
        )
        whole = f"one\nhalf a line\n{three}\nfour\n{one}\nsix\n{said}\n"
        assert browser.get(f"/api/training-jobs/{job}/logs").text == whole
        training_jobs.end(job, 1, Final("failed", "member_machine", "It ended.", None))
        assert followed(browser, job, 0) == whole
        assert "Log Follow Copy Download " + said in words(browser, f"/training-jobs/{job}")  # it begins in the gap

    def test_details_tell_whether_the_log_was_checked(self, job: int, browser: FlaskClient, alice: User) -> None:
        log(job, 1, "one\n")
        assert "Complete" not in words(browser, f"/training-jobs/{job}")
        training_jobs.end(job, 1, Final("failed", "data", "It.", None, log_sha256=sha256(b"one\n").hexdigest()))
        assert "Log Complete checked by its sum" in words(browser, f"/training-jobs/{job}")
        again = training_jobs.retry(alice, job).attempt
        training_jobs.claim(job, again, "test")
        assert "checked by its sum" not in words(browser, f"/training-jobs/{job}")  # of the one before
        training_jobs.record(job, again, "log", 1, [{"text": ""}] * 1234)
        training_jobs.end(job, again, Final("failed", "data", "It.", None))
        assert "Log Incomplete 1,234 records missing" in words(browser, f"/training-jobs/{job}")

    def test_details_tell_of_a_cancelled_training_that_its_log_is_not_checked(
        self, job: int, browser: FlaskClient, alice: User
    ) -> None:
        log(job, 1, "one\n")
        training_jobs.cancel(alice, job)
        assert "Log Not checked cancelled before its end came" in words(browser, f"/training-jobs/{job}")

    def test_an_attempt_that_never_began_has_no_log_to_check(self, job: int, browser: FlaskClient, alice: User) -> None:
        log(job, 1, "one\n")
        training_jobs.end(job, 1, Final("failed", "data", "It.", None, log_sha256=sha256(b"one\n").hexdigest()))
        training_jobs.retry(alice, job)
        training_jobs.cancel(alice, job)
        assert "Log Complete checked by its sum" in words(browser, f"/training-jobs/{job}")

    def test_details_tell_of_a_log_with_another_sum(self, job: int, browser: FlaskClient) -> None:
        log(job, 1, "one\n")
        training_jobs.end(job, 1, Final("failed", "data", "It.", None, log_sha256="0" * 64))
        assert "Log Not as it was written its sum differs" in words(browser, f"/training-jobs/{job}")


class TestStream:
    """The events of a job as they come."""

    def test_who_has_more_than_there_is_since_a_backup_was_put_back_is_told_to_begin_anew(
        self, job: int, browser: FlaskClient
    ) -> None:
        log(job, 1, "one\n")
        training_jobs.end(job, 1, Final("failed", "data", "It.", None))
        last = training_jobs.queries.get_for(member("alice"), job).last_event
        events = f"/api/training-jobs/{job}/events"
        for after, told in ((0, []), (last, []), (last + 1, [str(last)])):
            stream = browser.get(events, headers={"Last-Event-ID": str(after)}).text
            assert re.findall(r"event: reset\nid: (\d+)\n", stream) == told and stream.count("event: end") == 1

    def test_a_quiet_job_is_heard_to_be_alive(
        self, job: int, sqlite_app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_stream, "ALIVE_SECONDS", 0.1)
        monkeypatch.setattr(job_stream, "LOOK_AGAIN_SECONDS", 0.1)
        with Follower(sqlite_app, alice, job) as one:
            while "event: alive" not in (told := one.hear()):
                assert "event: end" not in told

    @pytest.mark.parametrize("kind", ["log", "metrics", "status", "end", "reset", "alive"])
    def test_a_runner_speaks_not_for_the_server(self, job: int, browser: FlaskClient, kind: str) -> None:
        event(job, 1, kind, text="forged")
        training_jobs.end(job, 1, Final("failed", "data", "It.", None))
        told = re.findall(r"event: (\w+)\nid: \d+\ndata: (.*)\n", browser.get(f"/api/training-jobs/{job}/events").text)
        assert [name for name, data in told if "forged" in data] == ["event"]

    def test_nobody_follows_more_than_fifty_trainings_at_once_and_nobody_else_is_kept_from_it(
        self, job: int, sqlite_app: Flask, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_stream, "MOST_AT_ONCE", 3)
        with contextlib.ExitStack() as open_pages:
            first, *_ = [open_pages.enter_context(Follower(sqlite_app, alice, job)) for _ in range(3)]
            with Follower(sqlite_app, alice, job) as one_more:
                refused = one_more.answer
                assert refused.status_code == 429 and int(refused.headers["Retry-After"]) > 0
                assert refused.get_json()["error"]["message"].startswith("You follow 3 trainings at once")
            other = script_job(bob)
            with Follower(sqlite_app, bob, other) as of_bob:
                assert of_bob.answer.status_code == 200
            first.close()
            with Follower(sqlite_app, alice, job) as again:
                assert again.answer.status_code == 200
        assert not job_stream._open


class Follower:
    """A program that follows a job, in a context of its own as every request has one."""

    def __init__(self, app: Flask, user: User, job: int) -> None:
        _, key = api_keys.create(user, "follows", "full")
        self._context, headers = contextvars.Context(), {"Authorization": f"Bearer {key}"}
        ask = FlaskClient(app, app.response_class).get
        self.answer = self._context.run(ask, f"/api/training-jobs/{job}/events", headers=headers)
        self._told = iter(self.answer.response)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hear(self) -> str:
        """What comes next."""
        return self._context.run(next, self._told).decode()

    def close(self) -> None:
        self._context.run(self.answer.close)


def log(job: int, first: int, *texts: str) -> None:
    training_jobs.record(job, 1, "log", first, [{"text": text} for text in texts])


def followed(browser: FlaskClient, job: int, after: int) -> str:
    """The log as the stream of an ended job tells it."""
    told = browser.get(f"/api/training-jobs/{job}/events?after={after}").text
    return "".join(json.loads(data)["text"] for data in re.findall(r"event: log\nid: \d+\ndata: (.*)\n", told))


def elsewhere(app: Flask, act: Callable[[], object]) -> None:
    """Let another process do something."""

    def run() -> None:
        with app.app_context():
            act()
            release()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
