"""Every message of the protocol as the server answers it; the agent's half is in tests/agent."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from flask import Flask

from agent import protocol
from models.accounts import User
from models.base import db
from models.training_jobs import TrainingJob
from services import api_keys, training_jobs
from services.agent_sessions import AgentSession
from tests.factories import make_dataset, order
from tests.faults.messages import FROM_AGENT, example, frame

ANSWERS = {
    "hello": ["welcome"], "heartbeat": [], "job_accept": [], "job_refuse": [], "stop_ack": [], "records": ["ack"],
    "job_final": ["resend_from"], "pong": [],
}  # fmt: skip


@pytest.fixture
def session(sqlite_app: Flask, alice: User) -> AgentSession:
    key, _ = api_keys.create(alice, "box", "agent")
    return AgentSession(key)


@pytest.fixture
def job(session: AgentSession, alice: User) -> TrainingJob:
    """Job 1 of a machine that has said hello, taken by it."""
    say(session, "hello")
    job = training_jobs.create(alice, order(make_dataset(alice), place={"agent": session.agent_id}))
    say(session, "job_accept", job=job.id)
    return job


def say(session: AgentSession, type_: str, **fields: Any) -> list[dict[str, Any]]:
    """What the server answers to the example with these fields, as the agent reads it."""
    answers = session.handle(protocol.decode(frame(type_, **fields), "agent"))
    db.session.rollback()
    return [protocol.decode(answer, "server") for answer in answers]


def test_every_message_is_tried() -> None:
    assert set(ANSWERS) == set(FROM_AGENT)


@pytest.mark.parametrize("type_", [one for one in ANSWERS if one != "hello"])
def test_the_server_answers_every_message(session: AgentSession, job: TrainingJob, type_: str) -> None:
    fields = {"job": job.id} if "job" in example(type_) else {}
    assert [one["type"] for one in say(session, type_, **fields)] == ANSWERS[type_]


def test_a_hello_is_answered_with_a_welcome(session: AgentSession) -> None:
    assert [one["type"] for one in say(session, "hello")] == ANSWERS["hello"]


def test_a_whole_job_in_examples(session: AgentSession, job: TrainingJob) -> None:
    (stored,) = say(session, "records", job=job.id)
    assert stored == example("ack", job=job.id)
    text = b"one\ntwo\n"
    final = {"log_bytes": len(text), "log_sha256": hashlib.sha256(text).hexdigest()}
    assert [one["type"] for one in say(session, "job_final", job=job.id, **final)] == ["job_final_ack"]
    assert "".join(training_jobs.log_of(job.id)) == text.decode()
    (refused,) = say(session, "records", job=job.id, first=3)
    assert (refused["type"], refused["code"]) == ("error", example("error")["code"])


def test_any_frame_is_a_sign_of_life(session: AgentSession, job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = job.agent
    assert agent is not None
    before = agent.last_seen_at
    monkeypatch.setattr("services.agent_sessions.NOTED_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("services.signs_of_life.TOGETHER_SECONDS", 0.0)
    say(session, "records", job=job.id)
    db.session.refresh(agent)
    assert agent.last_seen_at > before


@pytest.mark.parametrize("type_", ["records", "heartbeat", "job_final"])
def test_whoever_reports_about_a_job_has_taken_it(session: AgentSession, alice: User, type_: str) -> None:
    """The accept was lost: the database was away when it came."""
    say(session, "hello")
    job = training_jobs.create(alice, order(make_dataset(alice), place={"agent": session.agent_id}))
    if type_ == "heartbeat":
        say(session, type_, jobs=[{"job": job.id, "attempt": 1}])
    elif type_ == "records":
        assert [one["type"] for one in say(session, type_, job=job.id)] == ["ack"]
    else:
        none = {"log": 0, "metrics": 0, "event": 0}
        assert [one["type"] for one in say(session, type_, job=job.id, last=none)] == ["job_final_ack"]
    db.session.expire_all()
    state = db.session.get_one(TrainingJob, job.id).state
    assert state == ("failed" if type_ == "job_final" else "starting")
