"""The figures of the machine over a job, as curves: memory, processor, GPUs, temperature, disk, network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from models.base import db
from models.training_jobs import Attempt, TrainingEvent

PLAIN = (
    "memory_bytes",
    "cpu_percent",
    "cpu_temperature",
    "disk_free_bytes",
    "disk_read_per_second",
    "disk_written_per_second",
    "network_received_per_second",
    "network_sent_per_second",
)
OF_A_GPU = ("memory_bytes", "memory_total_bytes", "percent", "temperature", "watts")
MOST_GPUS = 16
SLACK_SECONDS = 60.0
_Row = tuple[int, datetime, dict[str, Any]]  # attempt, stored at, payload


def figures_of(job_id: int, points: int) -> dict[str, Any]:
    """What the machine told of itself while it trained this job, at most about `points` readings at even distances.

    {"at": [unix seconds], "figures": {name: [value or None]}, "gpus": [{"name", figure: [value or None]}], "began"}, all
    columns as long as `at`. Figures nobody has told are left out. Between two attempts lies a reading of None. Times are
    those of the machine's own stop watch, laid on the server's start of the attempt (`began`: of the newest), so that a
    batch which came late after a cut stands where it was measured.
    """
    began = _began(job_id)
    readings = _spaced(_rows(job_id, points), began)
    figures = {name: [_number(told.get(name)) for _, told in readings] for name in PLAIN}
    newest = max(began, default=None)
    return {
        "at": [round(at, 1) for at, _ in readings],
        "figures": {name: column for name, column in figures.items() if _is_told(column)},
        "gpus": _gpus([told for _, told in readings]),
        "began": None if newest is None else began[newest],
    }


def _rows(job_id: int, points: int) -> list[_Row]:
    """Readings at even distances, and the newest.

    The places are counted over the index alone; only the rows that are kept are read. A week's 120,000 readings take
    two queries, however many there are.
    """
    mine = (TrainingEvent.job_id == job_id, TrainingEvent.stream == "event")
    rows = select(TrainingEvent.attempt, TrainingEvent.at, TrainingEvent.payload).where(TrainingEvent.job_id == job_id)
    count = db.session.scalar(select(func.count()).where(*mine)) or 0
    stride = -(-count // max(1, points))
    if stride > 1:
        place = func.row_number().over(order_by=TrainingEvent.number).label("place")
        places = select(TrainingEvent.number, place).where(*mine).subquery()
        kept = select(places.c.number).where((places.c.place % stride == 0) | (places.c.place == count))
        rows = rows.where(TrainingEvent.number.in_(kept))
    else:
        rows = rows.where(*mine)
    found = db.session.execute(rows.order_by(TrainingEvent.number))
    return [(row.attempt, row.at, row.payload) for row in found if _is_reading(row.payload)]


def _is_reading(payload: dict[str, Any]) -> bool:
    """Whether it tells of a job that was there: a reading of no process says nothing."""
    return payload.get("kind") == "system" and payload.get("processes") != 0


def _began(job_id: int) -> dict[int, float]:
    """Attempt -> unix seconds of its start."""
    query = select(Attempt.number, Attempt.started_at).where(Attempt.job_id == job_id)
    return {number: at.timestamp() for number, at in db.session.execute(query) if at is not None}


def _spaced(rows: list[_Row], began: dict[int, float]) -> list[tuple[float, dict[str, Any]]]:
    """The readings with their times, which only rise; a reading of nothing where another attempt begins."""
    spaced: list[tuple[float, dict[str, Any]]] = []
    last: int | None = None
    for attempt, stored, payload in rows:
        at = _measured(payload.get("seconds"), began.get(attempt), stored.timestamp())
        if spaced and at <= spaced[-1][0] + 0.05:
            continue
        if last not in (None, attempt):
            spaced.append(((spaced[-1][0] + at) / 2, {}))
        spaced.append((at, payload))
        last = attempt
    return spaced


def _measured(seconds: Any, began: float | None, stored: float) -> float:
    """When a reading was taken: by the machine's stop watch, unless that points ahead of the moment it was stored."""
    elapsed = _number(seconds)
    if elapsed is None or began is None or not 0 <= elapsed <= stored - began + SLACK_SECONDS:
        return stored
    return began + elapsed


def _gpus(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lists = [_listed(one.get("gpus")) for one in told]
    shown = []
    for index in range(max(map(len, lists), default=0)):
        mine = [gpus[index] if index < len(gpus) else {} for gpus in lists]
        columns = {name: [_number(gpu.get(name)) for gpu in mine] for name in OF_A_GPU}
        name = next((gpu["name"][:80] for gpu in reversed(mine) if isinstance(gpu.get("name"), str)), f"GPU {index}")
        shown.append({"name": name, **{name: column for name, column in columns.items() if _is_told(column)}})
    return shown


def _listed(gpus: Any) -> list[dict[str, Any]]:
    """It came from outside: whatever is no list of objects is no GPU."""
    if not isinstance(gpus, list):
        return []
    return [gpu if isinstance(gpu, dict) else {} for gpu in gpus[:MOST_GPUS]]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < 1e18 and math.isfinite(value) else None


def _is_told(column: Iterable[float | None]) -> bool:
    return any(value is not None for value in column)
