"""How fast a training goes of late, whatever came before: imports, pauses, records that come in one lump."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from flask import Flask

from models.accounts import User
from models.base import db, now
from models.training_jobs import TrainingJob
from services import training_jobs
from services.training_jobs import Final
from services.training_jobs.speed import Pace
from tests.factories import make_agent_job


def pace(*marks: tuple[float, int]) -> float | None:
    tried = Pace()
    for at, step in marks:
        tried.mark(at, step)
    return tried.rate()


def test_one_moment_tells_no_speed() -> None:
    assert pace() is None
    assert pace((0, 1)) is None
    assert pace((0, 1), (0.3, 90)) is None


def test_records_of_the_same_step_and_records_close_together_are_one_mark() -> None:
    assert pace((0, 10), (2, 10), (5, 20)) == 2
    assert pace(*[(i / 4, 3 * i) for i in range(100)]) == 12
    assert pace(*[(i / 1.5, i) for i in range(40)]) == pytest.approx(1.5)


def test_the_speed_is_that_of_the_last_half_minute() -> None:
    slow, fast = [(10 * i, i) for i in range(20)], [(200 + i, 20 + 5 * i) for i in range(1, 40)]
    assert pace(*slow) == pytest.approx(0.1)
    assert pace(*slow, *fast) == 5


def test_a_machine_that_slept_is_as_fast_as_before() -> None:
    before, after = [(i, 2 * i) for i in range(20)], [(600 + i, 40 + 2 * i) for i in range(3)]
    assert pace(*before, *after) == 2


def test_what_comes_late_in_a_lump_is_no_speed() -> None:
    """The machine trained on while it was away; what it kept comes in two seconds."""
    before = [(float(i), 2 * i) for i in range(20)]
    lump = [(600 + i / 5, 40 + 100 * i) for i in range(11)]
    after = [(602 + i, 1040 + 2 * i) for i in range(1, 4)]
    assert pace(*before, *lump) == 2
    assert pace(*before, *lump, *after) == 2


def test_catching_up_is_no_speed_however_long_it_takes() -> None:
    """As above, over a line that needs longer than the speed is taken over: 6.6 steps a second, told of at 22."""
    before = [(float(i), round(6.6 * i)) for i in range(8)]
    lump = [(67.0 + i, 46 + 22 * i) for i in range(27)]
    after = [(94.0 + i, 621 + round(6.6 * i)) for i in range(5)]
    for seen in range(1, len(lump)):
        assert pace(*before, *lump[:seen]) == pytest.approx(6.6, rel=0.1)
    assert pace(*before, *lump, *after) == pytest.approx(6.6, rel=0.1)


def test_a_training_that_became_faster_while_it_was_away_is_believed_in_time() -> None:
    before = [(float(i), 2 * i) for i in range(10)]
    after = [(40.0 + i, 20 + 8 * i) for i in range(30)]
    assert pace(*before, *after) == 8


def test_going_back_to_a_checkpoint_begins_anew() -> None:
    assert pace((0, 100), (10, 200), (11, 50)) is None
    assert pace((0, 100), (10, 200), (11, 50), (13, 56)) == 3


class Clock:
    """The time of day as the server sees it while it takes in records."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = now()
        monkeypatch.setattr(import_module("services.training_jobs.record"), "now", self.now)

    def now(self) -> datetime:
        return self.at

    def later(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fresh(job: TrainingJob) -> dict[str, Any]:
    db.session.expire_all()
    return training_jobs.summary(db.session.get_one(TrainingJob, job.id))


def report(job: TrainingJob, attempt: int, seq: int, step: int) -> None:
    training_jobs.record(job.id, attempt, "metrics", seq, [{"steps": [step], "values": {"loss": [1.0]}}])


def test_imports_before_the_first_step_and_gaps_do_not_count(app: Flask, alice: User, clock: Clock) -> None:
    job = make_agent_job(alice)
    training_jobs.claim(job.id, 1, "test")
    training_jobs.record(job.id, 1, "event", 1, [{"kind": "stage", "stage": "train", "total_steps": 60}])
    clock.later(75)  # imports
    for seq, step in enumerate((5, 10, 15), start=1):
        report(job, 1, seq, step)
        clock.later(1)
    told = fresh(job)
    assert told["steps_per_second"] == 5 and told["eta_seconds"] == 9


def test_another_process_knows_what_is_caught_up_with(
    app: Flask, alice: User, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The web was away and begins anew, and what was trained meanwhile comes at once."""
    job = make_agent_job(alice)
    training_jobs.claim(job.id, 1, "test")
    for seq in range(1, 6):
        report(job, 1, seq, 5 * seq)
        clock.later(1)
    assert fresh(job)["steps_per_second"] == 5
    monkeypatch.setattr(import_module("services.training_jobs.speed"), "_paces", OrderedDict())
    clock.later(60)
    for seq in range(6, 12):
        report(job, 1, seq, 25 + 50 * (seq - 5))
        clock.later(1)
        assert 2 < fresh(job)["steps_per_second"] < 7
    report(job, 1, 12, 330)
    assert fresh(job)["steps_per_second"] == pytest.approx(5, rel=0.1)


def test_the_next_attempt_has_a_speed_of_its_own(app: Flask, alice: User, clock: Clock) -> None:
    job = make_agent_job(alice)
    training_jobs.claim(job.id, 1, "test")
    report(job, 1, 1, 1)
    clock.later(2)
    report(job, 1, 2, 21)
    assert fresh(job)["steps_per_second"] == 10
    training_jobs.end(job.id, 1, Final("failed", "member_code", "It ended.", "Look at the log."))
    training_jobs.retry(alice, job.id)
    assert fresh(job)["steps_per_second"] is None
    training_jobs.claim(job.id, 2, "test")
    clock.later(2)
    report(job, 2, 1, 22)
    assert fresh(job)["steps_per_second"] is None


def test_nobody_knows_how_long_it_takes_while_the_machine_is_away(app: Flask, alice: User, clock: Clock) -> None:
    job = make_agent_job(alice)
    training_jobs.claim(job.id, 1, "test")
    training_jobs.record(job.id, 1, "event", 1, [{"kind": "stage", "stage": "train", "total_steps": 60}])
    report(job, 1, 1, 1)
    clock.later(2)
    report(job, 1, 2, 21)
    assert fresh(job)["eta_seconds"] == 4
    db.session.get_one(TrainingJob, job.id).disconnected_since = now()
    assert training_jobs.summary(db.session.get_one(TrainingJob, job.id))["eta_seconds"] is None
    db.session.rollback()
