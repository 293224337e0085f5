"""Events of a job as rows: each gets the job's next number, under the job's lock."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from sqlalchemy import insert

from models.base import after_commit, db, now
from models.training_jobs import TrainingEvent, TrainingJob
from services.errors import Invalid
from services.gateways import gateways
from services.training_jobs import samples
from services.training_jobs.logs import records_of
from services.training_jobs.texts import clean, clean_all, finite, without_terminal_codes

MOST_METRIC_NAMES = 100
LONGEST_NAME = 60
KIND = re.compile(r"[a-z_]{1,40}")  # it becomes the name of a Server-Sent Event


def append(job: TrainingJob, attempt: int, stream: str, first: int, payloads: list[dict[str, Any]]) -> None:
    """Store consecutive records of one stream; the caller holds the job's lock and knows they are new."""
    if not payloads:
        return
    moment, number = now(), job.last_event
    rows = [
        {"job_id": job.id, "number": number + 1 + i, "attempt": attempt, "stream": stream, "seq": first + i, "at": moment,
         "payload": payload}
        for i, payload in enumerate(payloads)
    ]  # fmt: skip
    job.last_event = number + len(rows)
    db.session.flush()
    db.session.execute(insert(TrainingEvent), rows)
    after_commit(gateways().hints.publish, f"job:{job.id}")


def status(job: TrainingJob) -> None:
    """Note that the job's state is another one now."""
    payload = {"state": job.state, "stage": job.stage, "attempt": job.attempt, "cause": job.error_cause}
    append(job, job.attempt, "status", job.last_event + 1, [payload])


def log_hash(job_id: int, attempt: int) -> str:
    """SHA-256 over the whole log of an attempt as it is stored."""
    hashed = hashlib.sha256()
    for text in records_of(job_id, attempt):
        hashed.update(text.encode())
    return hashed.hexdigest()


def checked(stream: str, item: Any) -> dict[str, Any]:
    """One record from outside in the shape it is stored in. Raises Invalid."""
    if not isinstance(item, dict):
        raise Invalid("A record must be an object.")
    if stream == "log":
        return {"text": without_terminal_codes(clean(item.get("text"), 65_536) or "")}
    if stream == "metrics":
        return _metrics(item)
    if stream == "samples":
        return samples.checked(item)
    event: dict[str, Any] = clean_all(item, 65_536)
    if not isinstance(event.get("kind"), str) or not KIND.fullmatch(event["kind"]):
        raise Invalid("An event record needs a field `kind` of lower-case letters and underscores.")
    return event


def _metrics(item: dict[str, Any]) -> dict[str, Any]:
    steps, values = item.get("steps"), item.get("values")
    if not isinstance(steps, list) or not isinstance(values, dict) or len(values) > MOST_METRIC_NAMES:
        raise Invalid(f"A metrics record needs `steps`, a list, and `values`, at most {MOST_METRIC_NAMES} named lists.")
    if not all(type(step) is int and 0 <= step < 2**31 for step in steps):
        raise Invalid("Steps are whole numbers from 0.")
    for name, column in values.items():
        if len(name) > LONGEST_NAME or not isinstance(column, list) or len(column) != len(steps):
            raise Invalid(f"The metric {name[:LONGEST_NAME]!r} needs one value for each step.")
    return {
        "steps": steps,
        "values": {clean(name, LONGEST_NAME): [_finite(v) for v in column] for name, column in values.items()},
    }


def _finite(value: Any) -> float | None:
    """A point of a curve; None is a gap, which says that there was no number."""
    number = finite(value)
    return None if number is None else float(number)
