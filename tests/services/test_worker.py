"""What a runner on the server does between spool and database: it keeps its lease and obeys, however much is printed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from rq.job import Job
from rq.serializers import JSONSerializer

import worker
from agent.runner import Final, Spool
from models.accounts import User
from models.base import db, now, release, transaction
from models.training_jobs import Attempt, TrainingJob
from services import training_jobs
from services.gateways.queue import Queue, entry_id
from services.gateways.storage import Disk
from tests.conftest import member
from tests.factories import make_server_job
from tests.running import free_port, until


class Chatter:
    """A training that prints faster than a slow database can store."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._over = spool, threading.Event()
        self._thread = threading.Thread(target=self._print)
        self._thread.start()

    def _print(self) -> None:
        while not self._over.wait(0.001):
            self._spool.append("log", {"text": "a line\n" * 100})

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def line(sqlite_app: Flask, alice: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[worker.Line]:
    """A line whose training never stops printing, over a database that needs 20 ms for each commit."""
    monkeypatch.setattr(worker, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(worker, "GIVE_UP_SECONDS", 3.0)
    store = training_jobs.record_all

    def slowly(*given: Any) -> dict[str, int]:
        time.sleep(0.02)
        return store(*given)

    monkeypatch.setattr(training_jobs, "record_all", slowly)
    spec = training_jobs.claim(make_server_job(alice).id, 1, "test")
    assert spec is not None
    release()
    spool = Spool(tmp_path / "spool")
    chatter = Chatter(spool)
    made = worker.Line(sqlite_app, spec, spool, worker.Pulse())
    yield made
    chatter.end()
    made.finish(training_jobs.Final("stopped"))
    spool.close()


def test_a_training_that_never_stops_printing_keeps_its_lease_and_hears_a_stop(line: worker.Line) -> None:
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert line.orders() is None
        time.sleep(0.05)
    training_jobs.stop(member("alice"), line._spec.job)
    assert until(line.orders, 3, "the order has come") == "stop"


def test_an_end_that_finds_no_room_waits_and_nobody_else_begins_the_job_meanwhile(
    sqlite_app: Flask, alice: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [1 << 40]
    monkeypatch.setattr(Disk, "free_bytes", lambda _disk: room[0])
    job = make_server_job(alice)
    spec = training_jobs.claim(job.id, 1, "test")
    assert spec is not None
    release()
    spool = Spool(tmp_path / "spool")
    line = worker.Line(sqlite_app, spec, spool, worker.Pulse())
    room[0] = 0
    spool.append("log", {"text": "the last line\n"})
    telling = threading.Thread(target=finish, args=(sqlite_app, line, spool))
    telling.start()
    time.sleep(0.5)
    with transaction():
        attempt(job).lease_until = now() + timedelta(seconds=3)
    until(lambda: left(job) > 60, 5, "the attempt is held on to")
    assert training_jobs.end_lost_attempts() == 0
    room[0] = 1 << 40
    telling.join(10)
    release()
    assert (attempt(job).outcome, attempt(job).stored["log"], attempt(job).number) == ("stopped", 1, 1)


def finish(app: Flask, line: worker.Line, spool: Spool) -> None:
    final = training_jobs.Final("stopped")
    spool.finish(Final("stopped"))
    with app.app_context():
        line.finish(final)


def attempt(job: TrainingJob) -> Attempt:
    db.session.expire_all()
    return db.session.query(Attempt).filter_by(job_id=job.id, number=1).one()


def left(job: TrainingJob) -> float:
    """How many seconds of the lease are left."""
    release()
    lease = attempt(job).lease_until
    return (lease - now()).total_seconds() if lease else 0.0


def test_a_worker_waits_on_for_its_runner_while_redis_is_away(redis_url: str) -> None:
    queue = Queue(redis_url)
    assert queue.push(4713, 1, "first")
    waiting = worker.TrainingWorker(queue.all(), connection=queue.connection, serializer=JSONSerializer)
    job = Job.fetch(entry_id(4713, 1), connection=queue.connection, serializer=JSONSerializer)
    waiting.prepare_execution(job)
    waiting.prepare_job_execution(job)
    waiting.maintain_heartbeats(job)
    assert queue.connection.hget(waiting.key, "current_job_working_time") == b"0"
    waiting.connection = job.connection = redis.Redis(port=free_port())
    waiting.maintain_heartbeats(job)
    waiting.set_current_job_working_time(30.0)
    queue.forget(4713, 1)
