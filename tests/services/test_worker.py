"""What a runner on the server does between spool and database: it keeps its lease and obeys, however much is printed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import worker
from agent.runner import Spool
from models.accounts import User
from models.base import release
from services import training_jobs
from tests.conftest import member
from tests.factories import make_server_job
from tests.running import until


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
