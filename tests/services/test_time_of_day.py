"""The server's time of day is set forward and back: nobody's lease ends for it, and nobody pays for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from models import base
from models.accounts import User
from models.base import db, now, transaction
from models.training_jobs import Attempt, TrainingJob
from services import clock, training_jobs
from tests.factories import make_server_job, steps


class Wall:
    """The time of day, off by so much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off = timedelta()
        wall = self

        class Moved(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return datetime.now(UTC) + wall.off

        monkeypatch.setattr(base, "datetime", Moved)


@pytest.fixture
def wall(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


@pytest.fixture
def job(wall: Wall, alice: User) -> TrainingJob:
    """A server job that a worker has and trains."""
    job = make_server_job(alice)
    training_jobs.claim(job.id, 1, "worker")
    training_jobs.record(job.id, 1, "metrics", 1, [steps(1, 1)])
    return job


def attempt() -> Attempt:
    db.session.expire_all()
    return db.session.scalars(db.select(Attempt)).one()


@pytest.mark.parametrize("hours", [1, -1])
def test_leases_start_anew_when_the_clock_is_set(wall: Wall, job: TrainingJob, hours: int) -> None:
    day = clock.TimeOfDay()
    day.look()
    wall.off += timedelta(hours=hours)
    day.look()
    until = attempt().lease_until
    assert until is not None and timedelta(seconds=80) < until - now() <= timedelta(seconds=90)
    assert training_jobs.end_lost_attempts() == 0


def test_a_clock_that_goes_right_leaves_leases_alone(wall: Wall, job: TrainingJob) -> None:
    day = clock.TimeOfDay()
    with transaction():
        attempt().lease_until = now() - timedelta(seconds=1)
    for _ in range(3):
        day.look()
        wall.off += timedelta(seconds=0.5)
    assert training_jobs.end_lost_attempts() == 1


@pytest.mark.parametrize("hours", [1, -1])
def test_minutes_are_charged_as_they_pass(wall: Wall, job: TrainingJob, hours: int) -> None:
    wall.off += timedelta(hours=hours)
    training_jobs.record(job.id, 1, "metrics", 2, [steps(2, 2)])
    assert attempt().minutes_charged == 1


def test_a_worker_that_renews_in_time_is_not_ended(
    wall: Wall, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is late, and comes between the look for lost attempts and the job's lock."""
    with transaction():
        attempt().lease_until = now() - timedelta(seconds=1)
    locked = training_jobs.watch.locked

    def late(job_id: int) -> TrainingJob:
        monkeypatch.setattr(training_jobs.watch, "locked", locked)
        training_jobs.renew(job_id, 1)
        return locked(job_id)

    monkeypatch.setattr(training_jobs.watch, "locked", late)
    assert training_jobs.end_lost_attempts() == 0
    assert attempt().ended_at is None
