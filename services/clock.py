"""The schedule as a table: what runs by itself, how often, and which verb it is. Runs in a process of its own.

Every entry looks for what is due in the database, so a clock that was away, or two of them, end in the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.interval import IntervalTrigger
from flask import Flask

from services import accounts, idempotency, reconcile, training_jobs, uploads

log = structlog.get_logger()


def _reconcile() -> int:
    broken = reconcile.reconcile()
    for sentence in broken:
        log.error("ledger_broken", what=sentence)
    return len(broken)


SCHEDULE: list[tuple[str, int, Callable[[], int]]] = [
    ("end_lost_attempts", 5, training_jobs.end_lost_attempts),
    ("mark_disconnected", 5, training_jobs.mark_disconnected),
    ("push_again", 5, training_jobs.push_again),
    ("give_up_machines", 300, training_jobs.give_up_machines),
    ("expire_uploads", 600, uploads.expire),
    ("forget_old_sessions", 3600, accounts.forget_old_sessions),
    ("forget_old_requests", 3600, idempotency.forget_old),
    ("reconcile", 24 * 3600, _reconcile),
]


def build(app: Flask) -> BlockingScheduler:
    """The scheduler, ready to start."""
    scheduler = BlockingScheduler(timezone="UTC")
    for name, seconds, verb in SCHEDULE:
        scheduler.add_job(
            _entry, IntervalTrigger(seconds=seconds), args=(app, name, verb), id=name, name=name,
            coalesce=True, max_instances=1, misfire_grace_time=None, next_run_time=datetime.now(UTC),
        )  # fmt: skip
    return scheduler


def _entry(app: Flask, name: str, verb: Callable[[], int]) -> None:
    with app.app_context():
        try:
            count = verb()
        except Exception:  # one entry that fails must not stop the clock
            log.exception("clock_entry_failed", entry=name)
            return
    if count:
        log.info("clock_entry", entry=name, count=count)
