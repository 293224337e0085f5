"""Charging the time of a server job by the server's clock: each started minute once, out of what is held for it."""

from __future__ import annotations

import time
from datetime import datetime

from models.base import now
from models.training_jobs import Attempt, TrainingJob
from services import credits, subscriptions
from services.gateways import gateways
from services.training_jobs.scripts import RECIPE

SET = 10.0  # seconds; a time of day that is further than this from what was counted was set
_first_steps: dict[int, tuple[datetime, float]] = {}  # attempt -> its first step by the time of day, and as counted


def charge(job: TrainingJob, attempt: Attempt) -> None:
    """Charge up to the attempt's last sign of training; the caller holds the job's lock."""
    if job.on_server and attempt.first_step_at is not None and attempt.last_step_at is not None:
        _tick(job, attempt, int(_seconds(attempt, attempt.first_step_at, attempt.last_step_at) // 60) + 1)


def _seconds(attempt: Attempt, first: datetime, last: datetime) -> float:
    """How long it has trained. The process that saw the first step counts by itself: the time of day may be set."""
    by_day = (last - first).total_seconds()
    seen, at = _first_steps.get(attempt.id, (None, 0.0))
    if seen == first:
        counted = time.monotonic() - at
        return counted if abs(counted - by_day) > SET else by_day
    if abs((now() - first).total_seconds()) < 1.0:
        _first_steps[attempt.id] = (first, time.monotonic())
    return by_day


def begun(job: TrainingJob, attempt: Attempt) -> None:
    """A script is paid from its start: nobody can know which of its lines are steps."""
    if job.recipe == RECIPE and attempt.first_step_at is None:
        attempt.first_step_at = attempt.last_step_at = now()
        charge(job, attempt)


def running(job: TrainingJob, attempt: Attempt) -> None:
    """A running script is paid by the clock, whatever it prints."""
    if job.recipe == RECIPE and job.state == "training" and attempt.first_step_at is not None:
        attempt.last_step_at = now()
        charge(job, attempt)


def _tick(job: TrainingJob, attempt: Attempt, minutes: int) -> None:
    """Charge each started minute between the first step and the last once, extending the hold before a minute it lacks."""
    while attempt.minutes_charged < minutes and job.stop_mode not in ("out_of_credits", "at_most"):
        if job.charged - job.refunded + job.price_per_minute > job.at_most:
            job.stop_mode = "at_most"
        elif not _covered(job, attempt):
            job.stop_mode = "out_of_credits"
        else:
            attempt.minutes_charged += 1
            usage = credits.Usage(f"training_minute:{gateways().settings.accelerator}", job.recipe, job.base_name[:200])
            credits.tick(job.user_id, job.id, attempt.number, attempt.minutes_charged, job.price_per_minute, usage)
            job.charged += job.price_per_minute


def _covered(job: TrainingJob, attempt: Attempt) -> bool:
    """Whether the hold has the next minute in it, after an extension if need be."""
    lacking = job.price_per_minute - credits.held_for(job.id, attempt.number)
    if lacking <= 0:
        return True
    subscriptions.live(job.user_id)  # a period that begins meanwhile pays for what comes
    attempt.extensions += 1
    key = f"hold:{job.id}:{attempt.number}:{attempt.extensions}"
    return not credits.hold(
        job.user_id, job.id, attempt.number, lacking, key=key, reason=f"Held for “{job.name}”"
    ).refused
