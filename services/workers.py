"""The processes that train on the server: which are there, and whether members' scripts may run on them.

A worker reports itself when it starts and twice a minute after that. What its sandbox holds was tried on its own machine;
the operator's setting SANDBOX_LANE says which lane is the least for code of members.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update

from models.base import add, changed, db, now, transaction
from models.workers import Worker
from services.errors import Unavailable
from services.gateways import gateways

PRESENT = timedelta(minutes=2)
KEPT = timedelta(days=1)
NO_SANDBOX = "no_sandbox"
NO_WORKER = (
    "No worker of this server is there, so scripts cannot run on it now. Run it on your own machine, or tell whoever runs "
    "the yard to start one: `python worker.py`."
)


def report(name: str, host: str, pid: int, accelerator: str, told: dict[str, Any]) -> None:
    """A worker is there, and `told` is what its sandbox holds (`agent.sandbox.Report.to_json`). Forgets old workers."""
    values: dict[str, Any] = {
        "host": host[:120], "pid": pid, "accelerator": accelerator, "lane": told["lane"], "lane_name": told["lane_name"],
        "report": told, "seen_at": now(),
    }  # fmt: skip
    with transaction():
        db.session.execute(delete(Worker).where(Worker.seen_at < now() - KEPT, Worker.name != name))
        if not changed(update(Worker).where(Worker.name == name).values(**values)):
            add(Worker(name=name, **values))


def list_all() -> list[Worker]:
    """Every worker that was seen during the last day, by name."""
    return list(db.session.scalars(select(Worker).where(Worker.seen_at >= now() - KEPT).order_by(Worker.name)))


def is_present(worker: Worker) -> bool:
    """Whether it reported itself a short time ago."""
    return worker.seen_at >= now() - PRESENT


def script_lane() -> int | None:
    """The best lane among the workers that are there; None when none of them has any."""
    return db.session.scalar(select(func.max(Worker.lane)).where(Worker.seen_at >= now() - PRESENT))


def lane_for(name: str) -> int:
    """The lane in which a script runs on this worker: the best that it has, never below what the operator asks for."""
    lane = db.session.scalar(select(Worker.lane).where(Worker.name == name))
    return least_lane() if lane is None else max(lane, least_lane())


def least_lane() -> int:
    """The lane below which code of members does not run on this server."""
    return gateways().settings.sandbox_lane


def refuse_scripts() -> None:
    """Raise Unavailable, with what to do, when no worker that is there may run a member's script."""
    present = list(db.session.scalars(select(Worker).where(Worker.seen_at >= now() - PRESENT)))
    if any(worker.lane is not None and worker.lane >= least_lane() for worker in present):
        return
    if not present:
        raise Unavailable(NO_WORKER, code=NO_SANDBOX)
    best = max(present, key=lambda worker: -1 if worker.lane is None else worker.lane)
    todo = " ".join(best.report.get("todo", [])[:2])
    raise Unavailable(
        f"Scripts do not run on this server: its sandbox is lane {_said(best.lane)}, and SANDBOX_LANE asks for {least_lane()}. "
        f"Run it on your own machine. Whoever runs the yard finds what to install under Admin, Workers. {todo}".strip(),
        code=NO_SANDBOX,
    )


def _said(lane: int | None) -> str:
    return "none" if lane is None else str(lane)
