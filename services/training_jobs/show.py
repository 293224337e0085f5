"""A job as the API answers it and pages show it."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import Any

from sqlalchemy import select

from models.base import db, now
from models.credits import LedgerOperation
from models.training_jobs import OPEN_STATES, RUNNING_STATES, TrainingJob
from services import credits
from services.training_jobs import curves, samples
from services.training_jobs.queries import events_after
from services.training_jobs.record import peak_memory

LAST_EVENTS = 20


def iso(at: datetime | None) -> str | None:
    """An instant as the API writes it: ISO 8601 in UTC, whole seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else None


def summary(job: TrainingJob) -> dict[str, Any]:
    """What pages and streams show of a job."""
    return summaries([job])[0]


def summaries(jobs: list[TrainingJob]) -> list[dict[str, Any]]:
    """The same for many jobs, with as many queries as for one."""
    held = credits.held_by_job([job.id for job in jobs if job.on_server and job.state in OPEN_STATES])
    return [_summary(job, held.get(job.id, 0)) for job in jobs]


def _summary(job: TrainingJob, held: int) -> dict[str, Any]:
    return {
        "id": job.id, "name": job.name, "description": job.description, "recipe": job.recipe, "status": job.state,
        "stage": job.stage, "stop_requested": job.stop_mode is not None, "progress": progress(job), "step": job.step,
        "unit": curves.unit_of(job), "total_steps": job.total_steps, "loss": job.loss, "steps_per_second": job.steps_per_second,
        "eta_seconds": eta_seconds(job), "memory_bytes": job.memory_bytes, "place": place(job), "attempt": job.attempt,
        "disconnected_since": iso(job.disconnected_since), "base_model": shown_base(job),
        "dataset": _dataset(job), "local_path": job.local_path, "parameters": job.parameters,
        "curves_off": job.curves_off,
        "opens_at": opens_at(job),
        "credits": {
            "quoted": job.quoted, "at_most": job.at_most, "held": held, "charged": job.charged, "refunded": job.refunded,
        },
        "error": error(job), "model_version_id": job.model_version_id, "can": can(job),
        "created_at": iso(job.created_at), "started_at": iso(job.started_at), "finished_at": iso(job.finished_at),
    }  # fmt: skip


def whole(job: TrainingJob) -> dict[str, Any]:
    """A job with everything that helps to find out what happened to it."""
    attempts = [
        {
            "number": attempt.number, "holder": attempt.holder, "started_at": iso(attempt.started_at),
            "first_step_at": iso(attempt.first_step_at), "last_step_at": iso(attempt.last_step_at),
            "ended_at": iso(attempt.ended_at), "outcome": attempt.outcome, "cause": attempt.cause,
            "message": attempt.message, "minutes_charged": attempt.minutes_charged, "log_verified": attempt.log_verified,
            "log_missing": attempt.log_missing,
        }
        for attempt in job.attempts
    ]  # fmt: skip
    last = events_after(job.id, max(0, job.last_event - LAST_EVENTS), LAST_EVENTS)
    return {
        **summary(job),
        "main_curve": curves.main_of(job), "memory_peak_bytes": peak_memory(job), "command": _command(job),
        "settings": _settings(job), "samples_note": samples.note_on(job),
        "debugData": {
            "attempts": attempts, "timings": _timings(job), "resolved_parameters": job.parameters,
            "versions": job.facts.get("versions", {}), "facts": job.facts,
            "last_events": [
                {"number": event.number, "stream": event.stream, "at": iso(event.at), "payload": event.payload}
                for event in last
            ],
        },
    }  # fmt: skip


def receipt(job: TrainingJob) -> list[dict[str, Any]]:
    """What the job cost, line by line: the minutes of each attempt and what was given back. The lines add up."""
    lines: dict[tuple[int | None, str], dict[str, Any]] = {}
    query = select(LedgerOperation).where(
        LedgerOperation.job_id == job.id, LedgerOperation.kind.in_(("tick", "refund"))
    )
    for operation in db.session.scalars(query.order_by(LedgerOperation.id)):
        number, tick = operation.attempt, operation.kind == "tick"
        what = f"Attempt {number}: training" if tick else f"Attempt {number}: given back, it failed on our side"
        line = lines.setdefault((number, operation.kind), {"what": what, "minutes": 0 if tick else None, "credits": 0})
        line["minutes"] = line["minutes"] + 1 if tick else None
        line["credits"] += operation.amount if tick else -operation.amount
    return list(lines.values())


def place(job: TrainingJob) -> str | dict[str, Any]:
    """Where the job trains, as the API names it."""
    if job.agent is None:
        return "server"
    return {"agent": job.agent.id, "name": job.agent.name}


def opens_at(job: TrainingJob) -> str | None:
    """From when on a machine with hours of its own takes the job that waits for it, by its own clock; None otherwise."""
    hours = job.agent.machine.get("hours") if job.agent is not None and job.state == "queued" else None
    return hours.get("opens_at") if hours and not hours.get("open") else None


def shown_base(job: TrainingJob) -> str:
    """The base model as the member named it."""
    return job.base_model.removeprefix("folder:")


def error(job: TrainingJob) -> dict[str, str | None] | None:
    """Cause, sentence and advice of a job that failed, or paused for a reason."""
    if job.error_cause is None:
        return None
    return {"cause": job.error_cause, "message": job.error_message, "advice": job.error_advice}


def can(job: TrainingJob) -> dict[str, bool]:
    """Which orders make sense now."""
    return {
        "stop": job.state in ("queued", *RUNNING_STATES) and job.stop_mode is None,
        "resume": job.state == "paused", "retry": job.state == "failed", "cancel": job.state in OPEN_STATES,
    }  # fmt: skip


def progress(job: TrainingJob) -> int:
    """Whole percent of the steps; 100 only once everything is done."""
    if job.state == "completed":
        return 100
    return min(99, 100 * job.step // job.total_steps) if job.total_steps else 0


def eta_seconds(job: TrainingJob) -> int | None:
    """Seconds until the last step at the speed of late, while it trains and is in touch."""
    if job.state != "training" or job.disconnected_since or not job.total_steps or not job.steps_per_second:
        return None
    return max(0, round((job.total_steps - job.step) / job.steps_per_second))


def _dataset(job: TrainingJob) -> dict[str, Any] | None:
    version = job.dataset_version
    if version is None:
        return None
    return {"id": version.dataset_id, "name": version.dataset.name, "version": version.version, "rows": version.rows}


def _command(job: TrainingJob) -> str | None:
    """What was started, as one would type it."""
    told = job.facts.get("command")
    if isinstance(told, list):
        return shlex.join(map(str, told)) or None
    return told if isinstance(told, str) else None


def _settings(job: TrainingJob) -> dict[str, str]:
    """The settings as one would type them, without those that were left empty."""
    return {name: text for name, value in job.parameters.items() if (text := _typed(value))}


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return shlex.join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_typed(one)}" for name, one in value.items())
    return "" if value is None else str(value)


def _timings(job: TrainingJob) -> dict[str, float | None]:
    """Seconds spent waiting, getting ready and training, over the present attempt."""
    attempt = next((a for a in job.attempts if a.number == job.attempt), None)
    if attempt is None:
        return {}
    end = attempt.ended_at or now()

    def between(a: datetime | None, b: datetime | None) -> float | None:
        return round((b - a).total_seconds(), 3) if a and b else None

    return {
        "queued": between(attempt.created_at, attempt.started_at),
        "start_to_first_step": between(attempt.started_at, attempt.first_step_at),
        "training": between(attempt.first_step_at, attempt.last_step_at), "whole": between(attempt.created_at, end),
    }  # fmt: skip
