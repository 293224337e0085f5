"""How long a training will take on this server, and so what it will cost: an estimate and a promise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from agent import recipes
from models.base import db
from models.datasets import DatasetVersion
from models.training_jobs import Attempt, TrainingJob

# Useful arithmetic a second before anything was measured here (multiplications and additions).
FLOPS = {"cpu": 20e9, "cuda": 100e12}
UNKNOWN_PARAMETERS = 1_000_000_000
PAST_JOBS = 5


@dataclass(frozen=True)
class Quote:
    """`credits` is what the training should cost, `at_most` what it can cost without asking again."""

    credits: int
    minutes: int
    at_most: int

    def as_dict(self) -> dict[str, int]:
        return {"credits": self.credits, "minutes": self.minutes, "at_most": self.at_most}


FREE = Quote(0, 0, 0)


def quote(
    data: DatasetVersion, parameters: dict[str, Any], base_name: str, base_parameters: int | None,
    accelerator: str, price_per_minute: int,
) -> Quote:  # fmt: skip
    """The price of a server job. A started minute counts whole, and the promise leaves room for twice the time."""
    work = _work(data, parameters, base_parameters)
    seconds = work / _speed(base_name, parameters, accelerator)
    minutes = max(1, math.ceil(seconds / 60))
    return Quote(minutes * price_per_minute, minutes, max(2 * minutes, minutes + 5) * price_per_minute)


def work_of(job: TrainingJob) -> float:
    """The arithmetic a finished job has done, by the same formula."""
    assert job.dataset_version is not None
    return _work(job.dataset_version, job.parameters, job.facts.get("total_parameters"))


def _work(data: DatasetVersion, parameters: dict[str, Any], base_parameters: int | None) -> float:
    """Floating-point operations: 6 for each parameter and token of a full training, 4 with LoRA (frozen weights need no
    gradient of their own; research: performance, section 0)."""
    tokens_a_row = min(parameters["max_length"], data.tokens / data.rows)
    steps = recipes.total_steps(data.rows, parameters)
    per_parameter = 6 if parameters["method"] == "full" else 4
    return per_parameter * (base_parameters or UNKNOWN_PARAMETERS) * steps * parameters["batch_size"] * tokens_a_row


def _speed(base_name: str, parameters: dict[str, Any], accelerator: str) -> float:
    """Arithmetic a second that the last trainings of this kind reached here, else a cautious figure."""
    query = (
        select(TrainingJob, Attempt)
        .join(Attempt, Attempt.job_id == TrainingJob.id)
        .where(
            TrainingJob.agent_id.is_(None), TrainingJob.state == "completed", TrainingJob.base_name == base_name,
            TrainingJob.dataset_version_id.is_not(None), Attempt.outcome == "completed",
        )
        .order_by(TrainingJob.id.desc())
        .limit(PAST_JOBS)
    )  # fmt: skip
    speeds = []
    for job, attempt in db.session.execute(query):
        if (
            job.parameters["method"] != parameters["method"]
            or not job.step
            or not (attempt.first_step_at and attempt.last_step_at)
        ):
            continue
        seconds = (attempt.last_step_at - attempt.first_step_at).total_seconds()
        share = (job.step - (attempt.first_step or 1)) / job.step
        if seconds > 5 and share > 0:
            speeds.append(work_of(job) * share / seconds)
    return sorted(speeds)[len(speeds) // 2] if speeds else FLOPS[accelerator]
