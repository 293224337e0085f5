"""Taking in what runners report: stored once, acknowledged after the commit, charged by the server's clock."""

from __future__ import annotations

import json
from typing import Any, TypeGuard

from models.base import now, transaction
from models.training_jobs import Attempt, TrainingJob
from services import uploads
from services.gateways import gateways
from services.training_jobs import attempts, curves, events, metering, samples, speed
from services.training_jobs.facts import Facts, shaped
from services.training_jobs.queries import attempt_of
from services.training_jobs.texts import clean

STAGES = ("prepare", "train", "upload", "done")
LEAST_FREE_BYTES = 64 * 1024 * 1024  # kept for what must always work: signing in, ending a job, paying back
MOST_METRIC_NAMES = 500  # of a job
PEAK = "memory_peak_bytes"
MOST_MEMORY = 1e18
KEPT_FACTS = 131_072  # characters of JSON


def record(job_id: int, number: int, stream: str, first: int, items: list[Any]) -> int:
    """Store records `first`, `first + 1`, ... of one stream, as `record_all` does; answers its last whole number."""
    return record_all(job_id, number, {stream: (first, items)})[stream]


def record_all(job_id: int, number: int, given: dict[str, tuple[int, list[Any]]]) -> dict[str, int]:
    """Store what came on several streams, `{stream: (first, items)}`, in one transaction; what was stored before is
    left alone.

    Answers for each stream the last number that is stored without a hole: lower than what was sent when something
    before it is missing. Raises Conflict (`stale_attempt`) for an attempt that is over, Invalid for a record of the wrong
    shape, DiskFull before the last room is used up; then nothing is stored.
    """
    if gateways().storage.free_bytes() < LEAST_FREE_BYTES:
        raise uploads.DiskFull(
            "The server's disk is full. What a training says is kept where it runs until there is room."
        )
    checked = {
        stream: (first, [events.checked(stream, item) for item in items]) for stream, (first, items) in given.items()
    }
    with transaction():
        job = attempts.require_running(job_id, number)
        attempt = attempt_of(job_id, number)
        for stream, (first, payloads) in checked.items():
            _store(job, attempt, stream, first, payloads)
        return {stream: attempt.stored.get(stream, 0) for stream in given}


def _store(job: TrainingJob, attempt: Attempt, stream: str, first: int, payloads: list[dict[str, Any]]) -> None:
    stored = attempt.stored.get(stream, 0)
    new = payloads[max(0, stored + 1 - first) :]
    if first > stored + 1 or not new:
        return
    start = max(first, stored + 1)
    if stream == "metrics":
        new = [_with_known_names(job, payload) for payload in new]
    elif stream == "samples":
        new = samples.kept(attempt, start, new)
    elif stream == "log":
        attempt.log_missing += sum(not payload["text"] for payload in new)
    events.append(job, attempt.number, stream, start, new)
    attempt.stored = {**attempt.stored, stream: start + len(new) - 1}
    attempt.lease_until = now() + attempts.LEASE
    _take_in(job, attempt, stream, new)


def _take_in(job: TrainingJob, attempt: Attempt, stream: str, payloads: list[dict[str, Any]]) -> None:
    before = (job.state, job.stage, job.disconnected_since)
    job.disconnected_since = None  # who reports is there
    if stream == "metrics":
        shows_loss = curves.loss_of(job)
        for payload in payloads:
            _metrics(job, attempt, payload, shows_loss)
    elif stream == "event":
        told = [_event(job, attempt, payload) for payload in payloads]
        _keep_facts(job, [*filter(None, told), *_memory(job, payloads)])
    if before != (job.state, job.stage, job.disconnected_since):
        events.status(job)


def _with_known_names(job: TrainingJob, payload: dict[str, Any]) -> dict[str, Any]:
    """The same points without the metrics that would be one name too many: each is a curve that a page has to draw."""
    new = [name for name in payload["values"] if name not in job.metric_names]
    if new:
        job.metric_names = [*job.metric_names, *new][:MOST_METRIC_NAMES]
    values = {name: column for name, column in payload["values"].items() if name in job.metric_names}
    return {**payload, "values": values}


def _metrics(job: TrainingJob, attempt: Attempt, payload: dict[str, Any], shows_loss: str | None) -> None:
    if not payload["steps"]:
        return
    before = attempt.last_step_at, job.step, job.steps_per_second
    job.step = payload["steps"][-1]
    losses = [loss for loss in payload["values"].get(shows_loss, []) if loss is not None]
    job.loss = losses[-1] if losses else job.loss
    if attempt.first_step_at is None:
        attempt.first_step, attempt.first_step_at = payload["steps"][0], now()
    if job.state == "starting":
        job.state, job.stage = "training", "train"
    attempt.last_step_at = now()
    if attempt.first_step is None or job.step < attempt.first_step:
        attempt.first_step = payload["steps"][0]  # a script began before its first step, or went on from an earlier one
    job.steps_per_second = speed.of_late(attempt, attempt.last_step_at, job.step, before) or job.steps_per_second
    metering.charge(job, attempt)


def _event(job: TrainingJob, attempt: Attempt, payload: dict[str, Any]) -> Facts:
    """Carry out what an event says; answers the facts that it tells."""
    kind = payload["kind"]
    if kind == "stage" and payload.get("stage") in STAGES:
        job.stage = payload["stage"]
        if _is_step(payload.get("total_steps")):
            job.total_steps = payload["total_steps"]
        if job.stage == "train" and job.state == "starting":
            job.state = "training"
            metering.begun(job, attempt)
        elif job.stage == "upload":
            job.state = "uploading"
    elif kind == "facts":
        return shaped({name: value for name, value in payload.items() if name != "kind"})
    elif kind == "checkpoint" and _is_step(payload.get("step")):
        return {"checkpoint_step": payload["step"], "checkpoint_file": clean(payload.get("file"), 200)}
    return {}


def _memory(job: TrainingJob, payloads: list[dict[str, Any]]) -> list[Facts]:
    """Keep what the job uses now; answers the most it has used as a fact, where that is more than was known. Nothing is
    what a job uses that has ended."""
    told = [payload.get("memory_bytes") for payload in payloads if payload["kind"] == "system"]
    readings = [min(value, MOST_MEMORY) for value in told if _is_number(value) and value > 0]
    if not readings:
        return []
    job.memory_bytes = readings[-1]
    return [{PEAK: max(readings)}] if max(readings) > (peak_memory(job) or 0) else []


def peak_memory(job: TrainingJob) -> float | None:
    """The most memory the job was seen to use; None where nothing was told."""
    peak = job.facts.get(PEAK)
    if not _is_number(peak):
        return None
    return float(peak) if 0 < peak <= MOST_MEMORY else None


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _keep_facts(job: TrainingJob, told: list[Facts]) -> None:
    """Facts stay with the job's row, so there is an end to how many a runner can tell: what has no room is left out.

    What is kept already is measured once for all that came together.
    """
    if not told:
        return
    kept, room = dict(job.facts), KEPT_FACTS - _size(job.facts)
    for facts in told:
        more = _size(facts) - _size({name: kept[name] for name in facts if name in kept})
        if more <= room:
            kept.update(facts)
            room -= more
    job.facts = kept


def _size(facts: Facts) -> int:
    """Characters of JSON; those of two parts are those of the whole."""
    return len(json.dumps(facts)) if facts else 0
