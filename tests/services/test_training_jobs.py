"""A job from its order to its end: prices, attempts, reports, orders, failures. On SQLite and on PostgreSQL."""

from __future__ import annotations

import hashlib
import os
import time
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.accounts import User
from models.base import db, in_transaction, now, transaction
from models.training_jobs import Attempt, TrainingJob
from services import credits, model_versions, server_files, subscriptions, training_jobs
from services.errors import Conflict, Invalid, NotFound, PaymentNeeded
from services.gateways import gateways
from services.model_versions import NewFile
from services.reconcile import reconcile
from services.training_jobs import Final, logs
from tests.factories import make_agent, make_agent_job, make_dataset, make_server_job, on_plan, order, statements, steps

LOST = Final("failed", "platform", "The worker is gone.", None)


def fresh(job: TrainingJob) -> TrainingJob:
    db.session.expire_all()
    return db.session.get_one(TrainingJob, job.id)


def begin(job: TrainingJob) -> TrainingJob:
    assert training_jobs.claim(job.id, fresh(job).attempt, "test") is not None
    return fresh(job)


def publish(job: TrainingJob, folder: Any) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    with model_versions.kept([NewFile("model.safetensors", weights, 7, "0" * 64)]) as files, transaction():
        model_versions.publish(fresh(job), files)


def attempt_of(job: TrainingJob) -> Attempt:
    db.session.expire_all()
    return db.session.query(Attempt).filter_by(job_id=job.id, number=fresh(job).attempt).one()


def lose_the_worker(job: TrainingJob) -> None:
    """Let the lease of the present attempt run out, and the clock find it."""
    with transaction():
        attempt_of(job).lease_until = now() - timedelta(seconds=1)
    assert training_jobs.end_lost_attempts() == 1


def minutes_later(job: TrainingJob, minutes: float) -> None:
    """Let the first step have been some minutes ago."""
    with transaction():
        attempt = db.session.query(Attempt).filter_by(job_id=job.id, number=job.attempt).one()
        attempt.first_step_at = now() - timedelta(minutes=minutes)


class TestOrdering:
    def test_a_server_job_holds_what_was_quoted(self, app: Flask, alice: User) -> None:
        job = make_server_job(alice)
        assert job.state == "queued" and job.quoted >= 1
        assert credits.spendable(alice.id) == 200 - job.quoted
        assert training_jobs.summary(job)["credits"]["held"] == job.quoted

    def test_a_free_member_is_shown_both_ways_on_and_nothing_is_stored(self, app: Flask, alice: User) -> None:
        with pytest.raises(PaymentNeeded) as refusal:
            training_jobs.create(alice, order(make_dataset(alice)))
        assert [way["url"] for way in refusal.value.details["ways"]] == ["/agents", "/pricing"]
        assert training_jobs.list_for(alice) == [] and credits.spendable(alice.id) == 20

    def test_on_ones_own_machine_it_is_free(self, app: Flask, alice: User) -> None:
        job = make_agent_job(alice)
        assert (job.quoted, job.price_per_minute) == (0, 0)
        assert credits.spendable(alice.id) == 20

    def test_without_enough_credits_no_job_is_made(self, app: Flask, alice: User) -> None:
        on_plan(alice, "basic")
        dataset = make_dataset(alice)
        with pytest.raises(PaymentNeeded, match="are available"):
            training_jobs.create(alice, order(dataset, parameters={"method": "full", "max_steps": 1_000_000}))
        assert training_jobs.list_for(alice) == [] and credits.spendable(alice.id) == 200

    @pytest.mark.parametrize("parameters, field", [
        ({"learning_rate": -1}, "learning_rate"), ({"learning_rate": "fast"}, "learning_rate"),
        ({"method": "magic"}, "method"), ({"max_steps": 0}, "max_steps"), ({"colour": 1}, "colour"),
        ({"epochs": 1, "max_steps": 5}, "max_steps"), ({"batch_size": True}, "batch_size"),
    ])  # fmt: skip
    def test_a_setting_that_cannot_be_is_named(self, app: Flask, alice: User, parameters: Any, field: str) -> None:
        agent = make_agent(alice)
        with pytest.raises(Invalid) as refusal:
            training_jobs.create(alice, order(make_dataset(alice), place={"agent": agent.id}, parameters=parameters))
        assert f"parameters.{field}" in refusal.value.fields
        assert training_jobs.list_for(alice) == []

    def test_somebody_elses_data_and_machine_do_not_exist(self, app: Flask, alice: User, bob: User) -> None:
        theirs, machine = make_dataset(bob), make_agent(bob)
        mine = make_agent(alice, "machine-2")
        with pytest.raises(NotFound):
            training_jobs.create(alice, order(theirs, place={"agent": mine.id}))
        with pytest.raises(NotFound):
            training_jobs.create(alice, order(make_dataset(alice), place={"agent": machine.id}))

    def test_an_unknown_base_model_is_refused_with_what_there_is(self, app: Flask, alice: User) -> None:
        on_plan(alice, "basic")
        with pytest.raises(Invalid, match="yard-tiny"):
            training_jobs.create(alice, order(make_dataset(alice), base_model="../../etc"))

    def test_a_machine_without_torch_is_refused_with_the_command_that_mends_it(self, app: Flask, alice: User) -> None:
        agent = make_agent(alice)
        with transaction():
            agent.ready, agent.missing, agent.advice = False, ["torch"], "Install it with: pip install torch"
        with pytest.raises(Conflict, match="pip install torch"):
            training_jobs.create(alice, order(make_dataset(alice), place={"agent": agent.id}))

    def test_a_local_file_outside_the_allowed_folders_is_refused_before_a_row_exists(
        self, app: Flask, alice: User
    ) -> None:
        agent = make_agent(alice)
        for path in ("/etc/passwd", "/home/alice/models/../secret.jsonl", "relative.jsonl"):
            with pytest.raises(Invalid) as refusal:
                training_jobs.create(
                    alice, order(make_dataset(alice), dataset_id=None, local_path=path, place={"agent": agent.id})
                )
            assert "local_path" in refusal.value.fields
        inside = order(
            make_dataset(alice), dataset_id=None, local_path="/home/alice/models/a.jsonl", place={"agent": agent.id}
        )
        assert training_jobs.create(alice, inside).local_path == "/home/alice/models/a.jsonl"

    def test_a_mapping_that_names_nothing_known_is_refused(self, app: Flask, alice: User) -> None:
        agent = make_agent(alice)
        for mapping in ({"colour": "a"}, {"prompt": "x" * 80_000, "completion": "y"}):
            given = {"dataset_id": None, "local_path": "/home/alice/models/a.jsonl", "mapping": mapping}
            with pytest.raises(Invalid) as refusal:
                training_jobs.create(alice, order(make_dataset(alice), place={"agent": agent.id}, **given))
            assert "mapping" in refusal.value.fields

    def test_the_quote_says_what_create_will_hold(self, app: Flask, alice: User) -> None:
        on_plan(alice, "basic")
        wanted = order(make_dataset(alice))
        quote = training_jobs.price(alice, wanted)
        assert training_jobs.create(alice, wanted).quoted == quote.credits <= quote.at_most


class TestAttempts:
    def test_only_one_can_claim_an_attempt(self, app: Flask, alice: User) -> None:
        job = make_server_job(alice)
        assert training_jobs.claim(job.id, 1, "one") is not None
        assert training_jobs.claim(job.id, 1, "two") is None

    def test_what_an_old_attempt_says_changes_nothing(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.end(job.id, 1, LOST)
        assert fresh(job).attempt == 2
        with pytest.raises(Conflict, match="is over"):
            training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 1)])
        assert training_jobs.renew(job.id, 1) == "cancel"
        assert not training_jobs.end(job.id, 1, Final("completed"))
        assert fresh(job).state == "queued"

    def test_a_token_opens_its_attempt_only_while_it_runs(self, app: Flask, alice: User) -> None:
        job = make_server_job(alice)
        token = training_jobs.spec_of(job).token
        assert training_jobs.token_opens(token) is None
        begin(job)
        assert training_jobs.token_opens(token) == (job.id, 1)
        assert training_jobs.token_opens(token[:-1] + "x") is None
        training_jobs.cancel(alice, job.id)
        assert training_jobs.token_opens(token) is None

    def test_a_machine_that_uses_the_token_of_its_offer_has_taken_the_job(self, app: Flask, alice: User) -> None:
        """What it fetches may overtake its `job_accept`, which goes another way."""
        job = training_jobs.create(alice, order(make_dataset(alice), place={"agent": make_agent(alice).id}))
        token = training_jobs.spec_of(job).token
        assert training_jobs.token_opens(token) == (job.id, 1)
        assert fresh(job).state == "starting"
        training_jobs.cancel(alice, job.id)
        assert training_jobs.token_opens(token) is None

    def test_a_worker_that_falls_silent_loses_the_attempt_and_the_job_is_queued_again(
        self, app: Flask, alice: User
    ) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 3)])
        lose_the_worker(job)
        job = fresh(job)
        assert (job.state, job.attempt) == ("queued", 2)
        assert (job.charged, job.refunded) == (1, 1)
        assert reconcile() == []

    def test_a_failure_of_ours_is_tried_three_times_more_and_then_refunded_whole(self, app: Flask, alice: User) -> None:
        job = make_server_job(alice)
        for attempt in (1, 2, 3, 4):
            begin(job)
            training_jobs.record(job.id, attempt, "metrics", 1, [steps(1, 2)])
            training_jobs.end(job.id, attempt, LOST)
        job = fresh(job)
        assert (job.state, job.error_cause, job.charged, job.refunded) == ("failed", "platform", 4, 4)
        assert credits.spendable(alice.id) == 200
        receipt = training_jobs.receipt(job)
        assert sum(line["credits"] for line in receipt) == 0 and len(receipt) == 8
        assert reconcile() == []

    def test_a_worker_that_is_lost_again_and_again_leaves_the_member_something_to_do(
        self, app: Flask, alice: User
    ) -> None:
        job = make_server_job(alice)
        for _ in range(4):
            begin(job)
            lose_the_worker(job)
        error = training_jobs.summary(fresh(job))["error"]
        assert fresh(job).state == "failed" and "Try again" in error["advice"]

    def test_a_job_that_was_to_stop_when_its_worker_was_lost_is_paused_and_paid_back(
        self, app: Flask, alice: User
    ) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 3)])
        training_jobs.stop(alice, job.id)
        lose_the_worker(job)
        job = fresh(job)
        assert (job.state, job.attempt, job.error_cause) == ("paused", 1, None)
        assert (job.charged, job.refunded, training_jobs.summary(job)["credits"]["held"]) == (1, 1, 0)
        assert training_jobs.resume(alice, job.id).attempt == 2
        assert reconcile() == []

    def test_whoever_waits_to_tell_the_end_keeps_the_attempt_and_is_not_charged(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 3)])
        with transaction():
            attempt_of(job).lease_until = now() + timedelta(seconds=1)
        minutes_later(job, 30)
        training_jobs.hold_on(job.id, 1)
        assert attempt_of(job).lease_until > now() + timedelta(seconds=60)  # type: ignore[operator]
        assert fresh(job).charged == 1
        training_jobs.end(job.id, 1, Final("stopped"))
        training_jobs.hold_on(job.id, 1)
        assert attempt_of(job).lease_until is None

    def test_a_log_is_summed_up_before_anybody_else_has_to_wait_for_it(
        self, app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "log", 1, [{"text": "one\n"}, {"text": "two\n"}])
        locked = []
        monkeypatch.setattr(logs, "end_read", lambda: locked.append(in_transaction()))
        final = Final("failed", "data", "It is broken.", None, log_sha256=hashlib.sha256(b"one\ntwo\n").hexdigest())
        training_jobs.end(job.id, 1, final)
        assert attempt_of(job).log_verified and locked == [False]
        training_jobs.end(job.id, 1, final)
        assert locked == [False]  # the end that comes twice reads nothing

    def test_what_was_paid_before_the_member_paused_it_is_not_paid_back(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 2)])
        training_jobs.stop(alice, job.id)
        training_jobs.end(job.id, 1, Final("stopped"))
        training_jobs.resume(alice, job.id)
        for attempt in (2, 3, 4, 5, 6):
            begin(job)
            training_jobs.record(job.id, attempt, "metrics", 1, [steps(3, 4)])
            training_jobs.end(
                job.id, attempt, Final("stopped") if attempt == 3 else LOST
            )  # 3: the worker was asked to end
        job = fresh(job)
        assert (job.state, job.charged, job.refunded) == ("failed", 6, 5)
        assert reconcile() == []

    @pytest.mark.parametrize("place", ["server", "machine"])
    def test_a_training_that_was_ended_without_an_order_is_not_cancelled_for_good(
        self, app: Flask, alice: User, place: str
    ) -> None:
        job = begin(make_server_job(alice) if place == "server" else make_agent_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 2)])
        training_jobs.end(job.id, 1, Final("cancelled"))
        job = fresh(job)
        if place == "server":
            assert (job.state, job.attempt, job.charged, job.refunded) == ("queued", 2, 1, 1)
        else:
            assert (job.state, job.error_cause) == ("failed", "member_machine")
            assert training_jobs.retry(alice, job.id).state == "queued"
        assert reconcile() == []

    def test_a_failure_of_the_members_data_is_charged_and_not_tried_again(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 2)])
        training_jobs.end(job.id, 1, Final("failed", "data", "Row 7 is broken.", "Mend it."))
        shown = training_jobs.summary(fresh(job))
        assert shown["status"] == "failed" and shown["error"]["cause"] == "data"
        assert (shown["credits"]["charged"], shown["credits"]["refunded"]) == (1, 0)
        assert credits.spendable(alice.id) == 199

    def test_a_worker_that_is_asked_to_end_lets_the_job_go_on_elsewhere(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.end(job.id, 1, Final("stopped"))
        assert (fresh(job).state, fresh(job).attempt, fresh(job).automatic_retries) == ("queued", 2, 0)

    def test_a_finished_job_has_its_model_and_its_unused_credits_back(
        self, app: Flask, alice: User, tmp_path: Any
    ) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 10)])
        publish(job, tmp_path)
        training_jobs.end(job.id, 1, Final("completed"))
        shown = training_jobs.summary(fresh(job))
        assert (shown["status"], shown["stage"], shown["progress"]) == ("completed", "done", 100)
        assert model_versions.get_for(alice, shown["model_version_id"]).trained_model.name == "first"
        assert shown["credits"]["held"] == 0 and credits.spendable(alice.id) == 199
        assert reconcile() == []

    def test_completed_without_files_is_a_failure_of_ours(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.end(job.id, 1, Final("completed"))
        assert fresh(job).state == "queued" and fresh(job).attempt == 2


class TestReports:
    def test_a_record_is_stored_once_however_often_it_comes(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        lines = [{"text": f"line {i}\n"} for i in range(1, 6)]
        assert training_jobs.record(job.id, 1, "log", 1, lines[:3]) == 3
        assert training_jobs.record(job.id, 1, "log", 1, lines[:3]) == 3
        assert training_jobs.record(job.id, 1, "log", 2, lines[1:]) == 5
        assert "".join(training_jobs.log_of(job.id)) == "".join(line["text"] for line in lines)

    def test_a_hole_is_not_stored_over(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "log", 1, [{"text": "1"}])
        assert training_jobs.record(job.id, 1, "log", 3, [{"text": "3"}]) == 1
        assert "".join(training_jobs.log_of(job.id)) == "1"

    def test_events_are_numbered_without_a_hole_over_all_streams(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "log", 1, [{"text": "a"}, {"text": "b"}])
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 2)])
        numbers = [event.number for event in training_jobs.events_after(job.id, 0)]
        assert numbers == list(range(1, fresh(job).last_event + 1))

    def test_a_step_trained_again_after_a_resume_counts_once(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 6, loss=2.0)])
        training_jobs.end(job.id, 1, LOST)
        begin(job)
        training_jobs.record(job.id, 2, "metrics", 1, [steps(5, 8, loss=1.0)])
        loss = training_jobs.series_of(job.id)["loss"]
        assert [step for step, _ in loss] == list(range(1, 9))
        assert loss[4] == [5, 1.0 / 5]

    @pytest.mark.parametrize("record", [
        {"steps": [1], "values": {"loss": []}}, {"steps": ["1"], "values": {}}, {"steps": [-1], "values": {}},
        {"values": {}}, {"steps": [1], "values": {"n" * 61: [1]}}, "text", {"steps": [1], "values": {f"m{i}": [1] for i in range(101)}},
    ])  # fmt: skip
    def test_a_metrics_record_of_the_wrong_shape_is_refused(self, app: Flask, alice: User, record: Any) -> None:
        job = begin(make_server_job(alice))
        with pytest.raises(Invalid):
            training_jobs.record(job.id, 1, "metrics", 1, [record])

    def test_what_an_event_is_called_cannot_break_out_of_the_stream(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        with pytest.raises(Invalid):
            training_jobs.record(job.id, 1, "event", 1, [{"kind": "x\ndata: forged"}])

    def test_there_is_an_end_to_the_facts_a_runner_can_tell(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        for number in range(1, 6):
            training_jobs.record(job.id, 1, "event", number, [{"kind": "facts", f"f{number}": "x" * 60_000}])
        assert set(fresh(job).facts) == {"f1", "f2"}

    def test_of_facts_that_come_together_each_is_kept_that_has_room(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        told = [{"kind": "facts", f"f{number}": "x" * 60_000} for number in range(1, 4)]
        last = {"kind": "checkpoint", "step": 7, "file": "out/7"}
        training_jobs.record(job.id, 1, "event", 1, [*told, {"kind": "facts", "f1": "short"}, told[2], last])
        assert {name: len(str(value)) for name, value in fresh(job).facts.items()} == {
            "f1": 5, "f2": 60_000, "f3": 60_000, "checkpoint_step": 1, "checkpoint_file": 5,
        }  # fmt: skip

    def test_of_readings_that_come_together_the_last_is_shown_and_the_highest_kept(
        self, app: Flask, alice: User
    ) -> None:
        job = begin(make_server_job(alice))
        readings = [{"kind": "system", "memory_bytes": used} for used in (5e6, 9e6, 7e6, 0, None, True)]
        training_jobs.record(job.id, 1, "event", 1, readings)
        assert fresh(job).memory_bytes == 7e6 and training_jobs.whole(fresh(job))["memory_peak_bytes"] == 9e6

    def test_thousands_of_facts_cost_hardly_more_than_one(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        many = {f"name {number}": 0 for number in range(7_000)}
        training_jobs.record(job.id, 1, "event", 1, [{"kind": "facts", **many}])
        begun = time.process_time()
        training_jobs.record(
            job.id, 1, "event", 2, [{"kind": "facts", "a": 0}, {"kind": "checkpoint", "step": 1}] * 900
        )
        assert time.process_time() - begun < 3 and fresh(job).facts["checkpoint_step"] == 1

    def test_infinity_becomes_a_gap_in_the_curve(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [{"steps": [1, 2], "values": {"loss": [float("inf"), 1e308]}}])
        assert training_jobs.series_of(job.id)["loss"] == [[1, None], [2, None]]

    def test_text_with_nul_and_lone_surrogates_is_stored(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "log", 1, [{"text": "a\0b\ud800c"}])
        assert "".join(training_jobs.log_of(job.id)) == "ab?c"


class TestMinutes:
    def test_each_started_minute_between_first_and_last_step_costs_once(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 1)])
        assert fresh(job).charged == 1
        minutes_later(job, 2.5)
        training_jobs.record(job.id, 1, "metrics", 2, [steps(2, 2)])
        training_jobs.record(job.id, 1, "metrics", 3, [steps(3, 3)])
        assert fresh(job).charged == 3
        assert reconcile() == []

    def test_time_without_a_step_is_not_charged(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 1)])
        minutes_later(job, 4.0)
        training_jobs.record(job.id, 1, "log", 1, [{"text": "still reading"}])
        training_jobs.end(job.id, 1, Final("failed", "data", "x", "y"))
        assert fresh(job).charged == 1

    def test_at_the_promised_most_the_job_pauses_with_its_checkpoint(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 1)])
        minutes_later(job, 500)
        training_jobs.record(job.id, 1, "metrics", 2, [steps(2, 2)])
        assert fresh(job).charged == job.at_most
        assert training_jobs.renew(job.id, 1) == "stop"
        training_jobs.end(job.id, 1, Final("stopped"))
        shown = training_jobs.summary(fresh(job))
        assert shown["status"] == "paused" and shown["error"]["cause"] == "out_of_credits"
        resumed = training_jobs.resume(alice, job.id)
        assert resumed.state == "queued" and resumed.at_most > job.charged
        assert reconcile() == []

    def test_when_credits_run_out_the_job_pauses_and_nothing_goes_below_zero(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        rest = credits.spendable(alice.id)
        credits.hold(alice.id, 999, 1, rest, key="elsewhere", reason="another job")
        training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 1)])
        minutes_later(job, 50)
        training_jobs.record(job.id, 1, "metrics", 2, [steps(2, 2)])
        assert fresh(job).charged == job.quoted and fresh(job).stop_mode == "out_of_credits"
        training_jobs.end(job.id, 1, Final("stopped"))
        assert fresh(job).state == "paused"
        with pytest.raises(PaymentNeeded):
            training_jobs.resume(alice, job.id)
        assert fresh(job).state == "paused"


class TestOrders:
    def test_a_queued_job_pauses_at_once_and_its_credits_return(self, app: Flask, alice: User) -> None:
        job = make_server_job(alice)
        assert training_jobs.stop(alice, job.id).state == "paused"
        assert credits.spendable(alice.id) == 200
        assert training_jobs.resume(alice, job.id).attempt == 2
        assert credits.spendable(alice.id) == 200 - job.quoted

    def test_a_running_job_stops_through_its_runner(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.stop(alice, job.id)
        assert training_jobs.renew(job.id, 1) == "stop"
        training_jobs.end(job.id, 1, Final("stopped"))
        assert fresh(job).state == "paused" and fresh(job).error_cause is None

    def test_a_job_that_finishes_while_a_stop_is_on_its_way_is_completed(
        self, app: Flask, alice: User, tmp_path: Any
    ) -> None:
        job = begin(make_server_job(alice))
        training_jobs.stop(alice, job.id)
        publish(job, tmp_path)
        training_jobs.end(job.id, 1, Final("completed"))
        assert fresh(job).state == "completed"

    def test_cancel_is_final_from_any_open_state(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.cancel(alice, job.id)
        assert training_jobs.renew(job.id, 1) == "cancel"
        assert not training_jobs.end(job.id, 1, Final("completed"))
        assert training_jobs.cancel(alice, job.id).state == "cancelled"
        for verb in (training_jobs.stop, training_jobs.resume, training_jobs.retry):
            with pytest.raises(Conflict):
                verb(alice, job.id)
        assert credits.spendable(alice.id) == 200
        assert reconcile() == []

    def test_retry_goes_on_with_the_same_job(self, app: Flask, alice: User) -> None:
        job = begin(make_server_job(alice))
        training_jobs.end(job.id, 1, Final("failed", "data", "Row 7 is broken.", "Mend it."))
        again = training_jobs.retry(alice, job.id)
        assert (again.id, again.attempt, again.state, again.error_cause) == (job.id, 2, "queued", None)

    def test_somebody_elses_job_does_not_exist(self, app: Flask, alice: User, bob: User) -> None:
        job = make_server_job(alice)
        for verb in (
            training_jobs.stop,
            training_jobs.resume,
            training_jobs.retry,
            training_jobs.cancel,
            training_jobs.get_for,
        ):
            with pytest.raises(NotFound):
                verb(bob, job.id)
        assert fresh(job).state == "queued"


class TestQueue:
    def test_no_more_run_at_once_than_the_plan_allows(self, app: Flask, alice: User) -> None:
        first = make_server_job(alice)
        second = training_jobs.create(alice, order(make_dataset(alice), name="second"))
        assert first.dispatched_at is not None and second.dispatched_at is None
        begin(first)
        training_jobs.cancel(alice, first.id)
        training_jobs.push_again()
        assert fresh(second).dispatched_at is not None

    def test_what_a_killed_worker_left_of_an_attempt_that_is_over_is_put_away(self, app: Flask, alice: User) -> None:
        queue = gateways().queue
        for one in queue.all():
            one.empty()
        over, waits = begin(make_server_job(alice)), make_server_job(alice)
        assert queue.push(over.id, 1, "normal") and queue.push(waits.id, 1, "normal")
        assert queue.known() >= {(over.id, 1), (waits.id, 1)}
        training_jobs.put_away()
        assert (over.id, 1) in queue.known()  # it runs
        training_jobs.end(over.id, 1, Final("failed", "data", "No.", None))
        assert training_jobs.put_away() == 0  # whoever ended it may be about to put it away
        assert training_jobs.put_away() == 1 and training_jobs.put_away() == 0
        assert queue.known() & {(over.id, 1), (waits.id, 1)} == {(waits.id, 1)}

    def test_what_redis_lost_is_pushed_again(self, app: Flask, alice: User) -> None:
        from services.gateways import gateways

        job = make_server_job(alice)
        queue = gateways().queue
        assert queue.holds(job.id, 1)
        queue.connection.flushdb()
        assert not queue.holds(job.id, 1)
        assert training_jobs.push_again() == 0
        with transaction():
            fresh(job).dispatched_at = now() - timedelta(seconds=11)
        assert training_jobs.push_again() == 1
        assert queue.holds(job.id, 1)

    def test_the_plan_of_a_member_is_asked_once_however_many_jobs_were_lost(self, app: Flask, alice: User) -> None:
        on_plan(alice, "enterprise")
        data, counts = make_dataset(alice), []
        for lost in (2, 9):
            while len(training_jobs.list_for(alice)) < lost:
                training_jobs.create(alice, order(data))
            with transaction():
                for job in training_jobs.list_for(alice):
                    job.dispatched_at = now() - timedelta(seconds=11)
            gateways().queue.connection.flushdb()
            db.session.remove()
            with statements() as asked:
                assert training_jobs.push_again() == lost
            counts.append(len(asked))
        assert counts[0] == counts[1]

    def test_a_machine_that_several_jobs_wait_for_is_waited_for(self, app: Flask, alice: User) -> None:
        one, other = make_agent(alice), make_agent(alice, "machine-2")
        data = make_dataset(alice)
        for _ in range(3):
            training_jobs.create(alice, order(data, place={"agent": one.id}))
        assert training_jobs.machines_waited_for([one.id, other.id]) == {one.id}

    def test_a_report_of_the_machine_ends_the_absence_and_pages_hear_of_it(self, app: Flask, alice: User) -> None:
        job = begin(make_agent_job(alice))
        with transaction():
            fresh(job).disconnected_since = now() - timedelta(minutes=5)
        before = fresh(job).last_event
        training_jobs.record(job.id, 1, "log", 1, [{"text": "back"}])
        told = [event.stream for event in training_jobs.queries.events_after(job.id, before, 10)]
        assert fresh(job).disconnected_since is None and told == ["log", "status"]

    def test_a_machine_that_is_away_is_disconnected_and_not_failed(self, app: Flask, alice: User) -> None:
        job = begin(make_agent_job(alice))
        with transaction():
            job.agent.last_seen_at = now() - timedelta(minutes=2)  # type: ignore[union-attr]
        assert training_jobs.mark_disconnected() == 1
        assert fresh(job).state == "starting" and fresh(job).disconnected_since is not None
        training_jobs.record(job.id, 1, "log", 1, [{"text": "back"}])
        assert fresh(job).disconnected_since is None

    def test_a_heartbeat_of_the_machine_ends_the_absence_and_pages_hear_of_it(self, app: Flask, alice: User) -> None:
        job = begin(make_agent_job(alice))
        with transaction():
            fresh(job).disconnected_since = now() - timedelta(minutes=5)
        before = fresh(job).last_event
        training_jobs.renew(job.id, 1)
        assert fresh(job).disconnected_since is None and fresh(job).last_event == before + 1

    def test_after_a_day_without_its_machine_a_job_fails_and_can_be_tried_again(self, app: Flask, alice: User) -> None:
        job = begin(make_agent_job(alice))
        with transaction():
            fresh(job).disconnected_since = now() - timedelta(hours=25)
        assert training_jobs.give_up_machines() == 1
        assert fresh(job).error_cause == "member_machine"
        assert training_jobs.retry(alice, job.id).state == "queued"


def test_a_long_training_is_sampled_for_its_page_and_whole_for_programs(app: Flask, alice: User) -> None:
    job = begin(make_server_job(alice))
    records = [steps(2 * n - 1, 2 * n) for n in range(1, 3001)]
    training_jobs.record(job.id, 1, "metrics", 1, records)
    page, whole = training_jobs.series_of(job.id, 500)["loss"], training_jobs.series_of(job.id)["loss"]
    assert len(whole) == 6000 and len(page) <= 560
    assert page[0] == whole[0] and page[-1] == whole[-1] and all(point in whole for point in page)


def test_the_page_of_a_resumed_training_shows_both_parts_of_its_curve(app: Flask, alice: User) -> None:
    job = begin(make_server_job(alice))
    training_jobs.record(job.id, 1, "metrics", 1, [steps(n, n) for n in range(1, 3001)])
    assert training_jobs.end(job.id, 1, Final("stopped"))  # nobody asked for it: it goes on as the next attempt
    assert training_jobs.claim(job.id, 2, "worker 1") is not None
    training_jobs.record(job.id, 2, "metrics", 1, [steps(n, n) for n in range(2990, 3011)])
    page, whole = training_jobs.series_of(job.id, 500)["loss"], training_jobs.series_of(job.id)["loss"]
    assert page[0] == whole[0] and page[-1] == whole[-1] == [3010, 2.0 / 3010]
    assert 400 <= len(page) <= 560 and all(point in whole for point in page)


def test_the_plan_counts_what_is_used(app: Flask, alice: User) -> None:
    make_server_job(alice)
    used = {limit.name: limit.used for limit in subscriptions.limits_with_use(alice)}
    assert used == {"upload_bytes": None, "models": 0, "server_jobs": 1}


def test_a_long_curve_keeps_its_ends_and_its_peaks() -> None:
    from services.training_jobs.queries import thin

    curve = [[step, float(step % 7)] for step in range(1, 10_001)]
    curve[5000][1] = 99.0
    short = thin(curve, 500)
    assert len(short) <= 520
    assert short[0] == curve[0] and short[-1] == curve[-1] and [5001, 99.0] in short
    assert [point[0] for point in short] == sorted(point[0] for point in short)


def test_folders_of_server_jobs_go_when_they_will_not_be_needed_again(app: Flask, alice: User) -> None:
    ages = {"completed": 2, "failed": 2, "cancelled": 0, "paused": 400}
    folders = {}
    for state, days in ages.items():
        job = make_server_job(alice, name=state)
        folders[state] = gateways().settings.jobs_dir / str(job.id)
        (folders[state] / "checkpoints").mkdir(parents=True)
        with transaction():
            job.state, job.finished_at = state, now() - timedelta(days=days)
    assert server_files.forget_old() == 1
    assert [state for state, folder in folders.items() if not folder.exists()] == ["completed"]


def paused(owner: User, days: float) -> TrainingJob:
    """A server job that was stopped so many days ago, with a checkpoint in its folder."""
    job = begin(make_server_job(owner, name=f"paused for {days}"))
    (server_files.folder_for(job.id) / "checkpoints").mkdir()
    training_jobs.stop(owner, job.id)
    training_jobs.end(job.id, 1, Final("stopped"))
    with transaction():
        db.session.query(Attempt).filter_by(job_id=job.id).update({"ended_at": now() - timedelta(days=days)})
    return fresh(job)


def test_the_checkpoint_of_a_paused_server_job_is_kept_for_three_months_and_the_page_says_until_when(
    app: Flask, alice: User, browser: FlaskClient
) -> None:
    late, early = paused(alice, 91), paused(alice, 89)
    assert server_files.forget_old() == 1
    folders = gateways().settings.jobs_dir
    assert not (folders / str(late.id)).exists() and (folders / str(early.id) / "checkpoints").exists()
    until = now() + timedelta(days=1)
    page = browser.get(f"/training-jobs/{early.id}").text
    assert f"Its checkpoint is kept until {until.day} {until:%b %Y}" in page
    page = browser.get(f"/training-jobs/{late.id}").text
    assert "Its checkpoint was kept until" in page and "Resume begins anew" in page and "is kept" not in page
    training_jobs.resume(alice, late.id)
    begin(late)
    assert list(server_files.folder_for(late.id).iterdir()) == [folders / str(late.id) / "job.json"]


def test_what_has_no_checkpoint_on_the_server_names_no_day(app: Flask, alice: User, browser: FlaskClient) -> None:
    not_begun = training_jobs.stop(alice, make_server_job(alice).id)
    assert "kept until" not in browser.get(f"/training-jobs/{not_begun.id}").text
    theirs = begin(make_agent_job(alice))
    training_jobs.stop(alice, theirs.id)
    training_jobs.end(theirs.id, 1, Final("stopped"))
    assert "kept until" not in browser.get(f"/training-jobs/{theirs.id}").text


def test_folders_of_jobs_that_do_not_exist_go_a_month_after_they_were_used(app: Flask, alice: User) -> None:
    job, folders = make_server_job(alice), gateways().settings.jobs_dir
    for name, days in ((str(job.id), 400), ("999998", 29), ("999999", 31), ("999999-set-aside-1", 31)):
        (folders / name / "checkpoints").mkdir(parents=True)
        os.utime(folders / name, times=(then := time.time() - days * 86_400, then))
    assert server_files.forget_old() == 2
    assert sorted(path.name for path in folders.iterdir()) == sorted([str(job.id), "999998"])


class TestFolders:
    """After a restored backup the numbers of lost jobs are given out again; their folders may still lie there."""

    def test_a_job_finds_its_own_folder_again(self, app: Flask, alice: User) -> None:
        job = make_server_job(alice)
        folder = server_files.folder_for(job.id)
        (folder / "checkpoints").mkdir()
        assert server_files.folder_for(job.id) == folder and (folder / "checkpoints").exists()

    def test_a_job_does_not_find_what_a_lost_one_of_its_number_left(self, app: Flask, alice: User, bob: User) -> None:
        lost = make_server_job(bob)
        (server_files.folder_for(lost.id) / "checkpoints").mkdir()
        made = lost.created_at + timedelta(minutes=1)
        with transaction():
            fresh(lost).created_at = made
        assert [path.name for path in server_files.folder_for(lost.id).iterdir()] == ["job.json"]
        (server_files.folder_for(lost.id) / "checkpoints").mkdir()
        with transaction():
            fresh(lost).user_id = alice.id
        assert [path.name for path in server_files.folder_for(lost.id).iterdir()] == ["job.json"]

    def test_a_folder_of_before_folders_had_a_name_is_taken_over(self, app: Flask, alice: User) -> None:
        job = make_server_job(alice)
        (gateways().settings.jobs_dir / str(job.id) / "checkpoints").mkdir(parents=True)
        assert (server_files.folder_for(job.id) / "checkpoints").exists()
