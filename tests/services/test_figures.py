"""The curves of a machine over a job: few points out of many readings, in the order they were measured."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, insert

from models.accounts import User
from models.base import db, now, transaction
from models.training_jobs import Attempt, TrainingEvent, TrainingJob
from services import training_jobs
from services.training_jobs.figures import figures_of
from tests.factories import make_agent_job


@pytest.fixture
def job(app: Flask, alice: User) -> TrainingJob:
    made = make_agent_job(alice)
    training_jobs.claim(made.id, 1, "test")
    return db.session.get_one(TrainingJob, made.id)


def system(seconds: float | None, **figures: Any) -> dict[str, Any]:
    timed = {} if seconds is None else {"seconds": seconds}
    return {"kind": "system", **timed, "memory_bytes": 1000, "gpus": [], **figures}


def start_of(job: TrainingJob, attempt: int = 1) -> float:
    return db.session.query(Attempt).filter_by(job_id=job.id, number=attempt).one().started_at.timestamp()


def test_a_job_without_readings_has_no_figures(job: TrainingJob) -> None:
    told = figures_of(job.id, 100)
    assert (told["at"], told["figures"], told["gpus"]) == ([], {}, [])


def test_every_figure_stands_where_it_was_measured(job: TrainingJob) -> None:
    gpu = {"name": "NVIDIA L4", "percent": 90, "memory_bytes": 5, "temperature": None, "watts": 70.5}
    readings = [system(0.0, cpu_percent=None), system(5.0, cpu_percent=80.5, gpus=[gpu])]
    with transaction():
        db.session.query(Attempt).filter_by(job_id=job.id).one().started_at = now() - timedelta(minutes=1)
    training_jobs.record(job.id, 1, "event", 1, [{"kind": "stage", "stage": "train"}, *readings])
    told = figures_of(job.id, 100)
    began = start_of(job)
    assert told["at"] == [round(began, 1), round(began + 5, 1)] and told["began"] == began
    assert told["figures"] == {"memory_bytes": [1000, 1000], "cpu_percent": [None, 80.5]}
    assert told["gpus"] == [
        {"name": "NVIDIA L4", "memory_bytes": [None, 5], "percent": [None, 90], "watts": [None, 70.5]}
    ]


def test_of_a_weeks_readings_few_are_read_in_few_queries(job: TrainingJob) -> None:
    many = 24_000
    rows = []
    for i in range(many):
        common = {"job_id": job.id, "attempt": 1, "at": now()}
        # Two log records between any two readings: the numbers of the readings are all of one remainder.
        for stream, payload in (("log", {"text": "x\n"}), ("log", {"text": "y\n"}), ("event", system(5.0 * i))):
            rows.append(
                common | {"number": 1000 + len(rows), "stream": stream, "seq": len(rows) + 1, "payload": payload}
            )
    with transaction():
        for first in range(0, len(rows), 5000):
            db.session.execute(insert(TrainingEvent), rows[first : first + 5000])
        db.session.query(Attempt).filter_by(job_id=job.id).one().started_at = now() - timedelta(days=30)
    asked: list[str] = []
    fetched: list[int] = []
    listener = lambda *given: asked.append(given[2])  # noqa: E731
    loaded = lambda *given: fetched.append(1)  # noqa: E731
    event.listen(db.engine, "before_cursor_execute", listener)
    event.listen(TrainingEvent, "load", loaded)
    try:
        told = figures_of(job.id, 500)
    finally:
        event.remove(db.engine, "before_cursor_execute", listener)
        event.remove(TrainingEvent, "load", loaded)
    assert len(asked) <= 4 and not fetched
    assert 400 <= len(told["at"]) <= 501
    distances = [b - a for a, b in zip(told["at"], told["at"][1:], strict=False)]
    assert max(distances) <= 2 * 5 * many / 500  # at even distances, from the first to the newest
    assert told["at"][-1] == pytest.approx(start_of(job) + 5.0 * (many - 1), abs=0.2)


def test_between_two_attempts_there_is_a_gap(job: TrainingJob) -> None:
    training_jobs.record(job.id, 1, "event", 1, [system(0.0), system(5.0)])
    training_jobs.end(job.id, 1, training_jobs.Final("failed", "member_code", "It ended.", "Look at the log."))
    alice = db.session.get_one(User, job.user_id)
    training_jobs.retry(alice, job.id)
    training_jobs.claim(job.id, 2, "test")
    with transaction():
        db.session.query(Attempt).filter_by(job_id=job.id, number=2).one().started_at = now() + timedelta(hours=1)
    training_jobs.record(job.id, 2, "event", 1, [system(None)])
    with transaction():
        late = now() + timedelta(hours=1)
        db.session.query(TrainingEvent).filter_by(job_id=job.id, attempt=2, stream="event").update({"at": late})
    told = figures_of(job.id, 100)
    assert told["figures"]["memory_bytes"] == [1000, 1000, None, 1000]
    assert told["at"] == sorted(told["at"])
    assert told["began"] == start_of(job, 2)


@pytest.mark.parametrize("seconds", [-5, 1e17, True, "5", None, 10**400])
def test_a_stop_watch_that_lies_gives_way_to_the_servers_clock(sqlite_app: Flask, alice: User, seconds: Any) -> None:
    job = make_agent_job(alice)
    training_jobs.claim(job.id, 1, "test")
    strange = [None, 5, {"percent": "x", "name": 7}]
    training_jobs.record(
        job.id, 1, "event", 1, [system(seconds, gpus=strange, cpu_percent="fast"), system(0, gpus="none")]
    )
    told = figures_of(job.id, 100)
    assert told["at"] and all(abs(at - now().timestamp()) < 300 for at in told["at"])
    assert "cpu_percent" not in told["figures"]
    assert all(set(gpu) == {"name"} for gpu in told["gpus"])


def test_the_most_memory_is_kept_and_readings_of_nothing_are_not(job: TrainingJob) -> None:
    readings = [system(5.0 * i, memory_bytes=used) for i, used in enumerate((25e6, 421e6, 25.9e6))]
    gone = system(15.0, memory_bytes=0, cpu_percent=0.0, processes=0)
    training_jobs.record(job.id, 1, "event", 1, [*readings, gone])
    db.session.expire_all()
    told = training_jobs.whole(db.session.get_one(TrainingJob, job.id))
    assert (told["memory_bytes"], told["memory_peak_bytes"]) == (25.9e6, 421e6)
    assert figures_of(job.id, 100)["figures"]["memory_bytes"][-1] == 25.9e6


@pytest.mark.parametrize("told", ["much", True, None, -1])
def test_a_peak_that_is_no_number_is_none(sqlite_app: Flask, alice: User, told: Any) -> None:
    job = make_agent_job(alice)
    training_jobs.claim(job.id, 1, "test")
    training_jobs.record(job.id, 1, "event", 1, [{"kind": "facts", "memory_peak_bytes": told}])
    assert training_jobs.whole(db.session.get_one(TrainingJob, job.id))["memory_peak_bytes"] is None
    training_jobs.record(job.id, 1, "event", 2, [system(0.0)])
    assert training_jobs.whole(db.session.get_one(TrainingJob, job.id))["memory_peak_bytes"] == 1000
