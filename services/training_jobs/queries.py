"""Reading jobs: one, many, what was reported about one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import bindparam, exists, select

from models.accounts import User
from models.agents import Agent
from models.base import db
from models.training_jobs import RUNNING_STATES, Attempt, TrainingEvent, TrainingJob
from services.errors import NotFound

READ_AT_ONCE = 2000  # records
# Asked by every machine that connects; building it costs more than asking it.
_AN_OPEN_ONE = (
    select(TrainingJob.id)
    .where(TrainingJob.agent_id == bindparam("agent"), TrainingJob.state.in_(("queued", *RUNNING_STATES)))
    .limit(1)
)


def get_for(actor: User, job_id: int) -> TrainingJob:
    """One job of this member. Raises NotFound."""
    job = db.session.get(TrainingJob, job_id)
    if job is None or job.user_id != actor.id:
        raise NotFound("You have no such training job.")
    return job


def list_for(
    actor: User, limit: int = 50, before: int | None = None, states: tuple[str, ...] = (), dataset_id: int | None = None
) -> list[TrainingJob]:
    """The jobs of a member, newest first."""
    query = select(TrainingJob).where(TrainingJob.user_id == actor.id).order_by(TrainingJob.id.desc()).limit(limit)
    if before is not None:
        query = query.where(TrainingJob.id < before)
    if states:
        query = query.where(TrainingJob.state.in_(states))
    if dataset_id is not None:
        query = query.where(TrainingJob.dataset_version.has(dataset_id=dataset_id))
    return list(db.session.scalars(query))


def machines_waited_for(agent_ids: Iterable[int]) -> set[int]:
    """For which of these machines a job waits; one look for each machine, however many jobs wait for it."""
    waits = exists().where(TrainingJob.agent_id == Agent.id, TrainingJob.state == "queued")
    return set(db.session.scalars(select(Agent.id).where(Agent.id.in_(set(agent_ids)), waits)))


def has_open(agent_id: int) -> bool:
    """Whether a job waits for this machine or runs on it."""
    return db.session.scalar(_AN_OPEN_ONE, {"agent": agent_id}) is not None


def locked(job_id: int) -> TrainingJob:
    """The row of a job, nobody else writing it until the transaction ends. Jobs are locked before wallets."""
    query = select(TrainingJob).where(TrainingJob.id == job_id).with_for_update(of=TrainingJob)
    job = db.session.scalar(query.execution_options(populate_existing=True))
    if job is None:
        raise NotFound("There is no such training job.")
    return job


def attempt_of(job_id: int, number: int) -> Attempt:
    """One attempt of a job. Raises NotFound."""
    attempt = db.session.scalar(select(Attempt).where(Attempt.job_id == job_id, Attempt.number == number))
    if attempt is None:
        raise NotFound("There is no such attempt.")
    return attempt


def events_after(job_id: int, number: int, limit: int = 500) -> list[TrainingEvent]:
    """What was stored after event `number`, in order."""
    query = select(TrainingEvent).where(TrainingEvent.job_id == job_id, TrainingEvent.number > number)
    return list(db.session.scalars(query.order_by(TrainingEvent.number).limit(limit)))


def series_of(job_id: int, points: int | None = None) -> dict[str, list[list[float | int | None]]]:
    """Every curve as [step, value] pairs in step order; a step trained again after a resume counts once, the newest.

    With `points`, a long training is sampled: records at even distances and the last one, about as many points in all.
    """
    stride = _stride(job_id, points) if points else 1
    curves: dict[str, dict[int, float | None]] = {}
    for payload in _metrics_of(job_id) if stride == 1 else _some_metrics_of(job_id, stride):
        for name, values in payload["values"].items():
            curve = curves.setdefault(name, {})
            for step, value in zip(payload["steps"], values, strict=True):
                if value is not None or name == "loss":
                    curve[step] = value
    series = {name: [[step, value] for step, value in sorted(curve.items())] for name, curve in curves.items()}
    return {name: thin(curve, points) for name, curve in series.items()} if points else series


def _metrics_of(job_id: int) -> Iterator[dict[str, Any]]:
    """All metrics records. Of a million points reading takes seconds, in which others are served too."""
    query = select(TrainingEvent.payload).where(TrainingEvent.job_id == job_id, TrainingEvent.stream == "metrics")
    found = db.session.scalars(query.order_by(TrainingEvent.number).execution_options(yield_per=READ_AT_ONCE))
    for some in found.partitions():
        yield from some
        time.sleep(0)


def _some_metrics_of(job_id: int, stride: int) -> list[dict[str, Any]]:
    """Metrics records at even distances and the last one, by their keys: passing over the others takes too long."""
    attempts = select(Attempt.number, Attempt.stored).where(Attempt.job_id == job_id).order_by(Attempt.number)
    found: list[dict[str, Any]] = []
    for number, stored in db.session.execute(attempts):
        count = stored.get("metrics", 0)
        keys = {*range(1, count + 1, stride), count}
        chosen = (TrainingEvent.job_id == job_id, TrainingEvent.attempt == number, TrainingEvent.stream == "metrics")
        query = select(TrainingEvent.seq, TrainingEvent.payload).where(*chosen, TrainingEvent.seq.in_(keys))
        found += [payload for _, payload in sorted(db.session.execute(query), key=lambda row: row.seq)]
    return found


def _stride(job_id: int, points: int) -> int:
    """Which share of the metrics records is enough for so many points: reading all of a night's takes too long."""
    newest = (
        select(TrainingEvent.payload)
        .where(TrainingEvent.job_id == job_id, TrainingEvent.stream == "metrics")
        .order_by(TrainingEvent.number.desc())
        .limit(1)
    )
    payload = db.session.scalar(newest)
    if payload is None:
        return 1
    attempts = db.session.scalars(select(Attempt.stored).where(Attempt.job_id == job_id))
    records = sum(stored.get("metrics", 0) for stored in attempts)
    return max(1, records * max(1, len(payload["steps"])) // points)


def thin(curve: list[list[Any]], points: int) -> list[list[Any]]:
    """Keep the shape of a long curve: of each stretch its lowest and its highest point, and both ends."""
    if len(curve) <= points:
        return curve
    stretch = max(1, len(curve) * 2 // points)
    kept = [curve[0]]
    for start in range(1, len(curve) - 1, stretch):
        part = curve[start : min(start + stretch, len(curve) - 1)]
        ends = {id(point): point for point in (min(part, key=_value), max(part, key=_value))}
        kept += sorted(ends.values(), key=lambda point: point[0])
    return [*kept, curve[-1]]


def _value(point: list[Any]) -> float:
    return float("-inf") if point[1] is None else point[1]
