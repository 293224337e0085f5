"""Which curve of a training opens, and that its last point is the loss of the job everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from models.accounts import User
from models.base import db
from models.training_jobs import TrainingJob
from services import training_jobs
from services.training_jobs import curves
from tests.factories import make_agent_job


@pytest.fixture
def job(sqlite_app: Flask, alice: User) -> TrainingJob:
    made = make_agent_job(alice)
    training_jobs.claim(made.id, 1, "test")
    return db.session.get_one(TrainingJob, made.id)


def report(job: TrainingJob, seq: int, step: int, **values: float | None) -> dict[str, Any]:
    named = {name.replace("__", "/"): [value] for name, value in values.items()}
    training_jobs.record(job.id, 1, "metrics", seq, [{"steps": [step], "values": named}])
    db.session.expire_all()
    return training_jobs.whole(db.session.get_one(TrainingJob, job.id))


@pytest.mark.parametrize(
    ("names", "main"),
    [
        ([], None),
        (["lr", "train_loss", "loss"], "loss"),
        (["train/loss", "lr"], "train/loss"),
        (["acc", "eval_loss", "g_loss"], "g_loss"),
        (["eval_loss", "lr"], "lr"),
        (["val/loss", "test_acc"], "test_acc"),
    ],
)
def test_the_curve_that_opens(names: list[str], main: str | None) -> None:
    assert curves.main_of(TrainingJob(metric_names=names, curves_off=[], facts={})) == main


def test_what_a_trainer_sums_up_at_its_end_is_not_the_loss(job: TrainingJob) -> None:
    report(job, 1, 55, loss=1.31, learning_rate=1e-5)
    report(job, 2, 60, loss=1.242, learning_rate=0.0)
    told = report(job, 3, 60, train_loss=2.012)
    assert (told["main_curve"], told["loss"]) == ("loss", 1.242)


def test_a_loss_of_any_name_is_the_loss_and_accuracy_is_not(job: TrainingJob) -> None:
    assert report(job, 1, 1, acc=0.1)["loss"] is None
    assert report(job, 2, 2, d_loss=0.7, g_loss=0.9)["loss"] == 0.7
    assert report(job, 3, 3, train_loss=0.5, acc=0.2)["loss"] == 0.5
    assert report(job, 4, 4, train_loss=None)["loss"] == 0.5


def test_a_rule_switched_off_takes_its_loss_along(job: TrainingJob, alice: User) -> None:
    rules = [{"rule": "pairs", "names": ["loss"]}, {"rule": "epochs", "names": ["train_loss"]}]
    training_jobs.record(job.id, 1, "event", 1, [{"kind": "facts", "curves": rules}])
    report(job, 1, 1, loss=7.0, train_loss=0.5)
    assert report(job, 2, 2, loss=9.0)["loss"] == 9.0
    assert training_jobs.hide_curves(alice, job.id, ["pairs"]).loss == 0.5
    told = report(job, 3, 3, loss=11.0)
    assert (told["main_curve"], told["loss"]) == ("train_loss", 0.5)
    assert training_jobs.hide_curves(alice, job.id, []).loss == 11.0
    assert training_jobs.hide_curves(alice, job.id, ["epochs", "pairs"]).loss is None
