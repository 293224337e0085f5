"""What runs by itself: the schedule as a table, and each subscription's renewal as a job of its own.

Every entry looks for what is due in the database, so a clock that was away, or two of them, end in the same state. The
renewals are not copied anywhere: `Renewals` is an APScheduler job store that reads the subscriptions table, in which each
live subscription is the job `credit_reset_{id}` at its exact time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from apscheduler.job import Job
from apscheduler.jobstores.base import BaseJobStore, ConflictingIdError, JobLookupError
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from flask import Flask
from sqlalchemy import ColumnElement, func, select, update

from models.admin import ClockRun
from models.base import add, changed, db, now, release, transaction
from models.subscriptions import Subscription
from services import (
    accounts,
    idempotency,
    mails,
    payments,
    reconcile,
    server_files,
    subscriptions,
    training_jobs,
    uploads,
    usage,
)
from services.errors import NotFound
from services.gateways import gateways

JOB_PREFIX = "credit_reset_"
LEASE = timedelta(minutes=5)
DUE_AT_ONCE = 20  # more than that is the sweep's, which takes them in batches
WRITTEN_EVERY = timedelta(minutes=1)
SET = timedelta(seconds=10)  # a time of day that is further than this from where it should be was set
OVERDUE = timedelta(minutes=10)
log = structlog.get_logger()


START = "Start the clock (`python worker.py --clock`) or read its log. Nothing is lost: it carries out what was missed."
RENEW = "Force renew_overdue under Scheduled jobs; members who come by renew by themselves."
READ = "Read the clock's log, repair the cause, then force the entry under Scheduled jobs."
REPAIR = (
    "Run `flask --app wsgi credits-reconcile`, which names every break. Repair it with a new operation; no row of the "
    "ledger is ever changed."
)


@dataclass(frozen=True)
class Fault:
    """What is wrong, and what to do."""

    what: str
    todo: str


@dataclass(frozen=True)
class Entry:
    """One line of the schedule: a verb that answers how many things it did."""

    name: str
    seconds: int
    verb: Callable[[], int]
    about: str


def _reconcile() -> int:
    broken = reconcile.reconcile()
    for sentence in broken:
        log.error("ledger_broken", what=sentence)
    if broken:
        raise RuntimeError(f"{len(broken)} breaks: {broken[0]}")
    return 0


def _advance_simulated() -> int:
    simulator = gateways().payments.simulator
    return simulator.advance(now()) if simulator else 0


def _catch_up() -> int:
    run = db.session.get(ClockRun, "catch_up_payments")
    return payments.catch_up(run.started_at if run and not run.error else None)


SCHEDULE = [
    Entry("end_lost_attempts", 5, training_jobs.end_lost_attempts, "Server trainings whose worker went silent"),
    Entry("mark_disconnected", 5, training_jobs.mark_disconnected, "Trainings whose machine is away"),
    Entry("push_again", 5, training_jobs.push_again, "Queue entries that were lost"),
    Entry("put_away", 10, training_jobs.put_away, "Queue entries of attempts that are over"),
    Entry("handle_inbox", 3, payments.handle_due, "Messages of the payment gateway that wait"),
    Entry("send_mails", 15, mails.send_due, "Mail that is not away yet"),
    Entry("renew_overdue", 60, subscriptions.renew_overdue, "Renewals that were missed"),
    Entry("go_on", 60, payments.go_on, "Plans that wait behind one that has ended"),
    Entry("simulated_payments", 60, _advance_simulated, "The simulated gateway charges what is due"),
    Entry("give_up_machines", 300, training_jobs.give_up_machines, "Machines that stayed away for a day"),
    Entry("expire_uploads", 600, uploads.expire, "Uploads that were never finished"),
    Entry("catch_up_payments", 3600, _catch_up, "Messages of the payment gateway that never came"),
    Entry("forget_old_sessions", 3600, accounts.forget_old_sessions, "Log-ins that ran out"),
    Entry("forget_old_requests", 3600, idempotency.forget_old, "Keys of requests that were answered"),
    Entry("compare_payments", 24 * 3600, payments.compare, "Subscriptions and open pages against the payment gateway"),
    Entry("forget_old_checkpoints", 24 * 3600, server_files.forget_old, "Checkpoints of server trainings that ended"),
    Entry("forget_old_usage", 24 * 3600, usage.forget_old, "Single usage records older than 13 months"),
    Entry("reconcile", 24 * 3600, _reconcile, "Whether every account of the ledger adds up"),
]  # fmt: skip


class Renewals(BaseJobStore):  # type: ignore[misc]
    """The subscriptions table as APScheduler's job store: no copy, no pickle, a look-up by index.

    A row looks due until its renewal commits, and APScheduler calls `remove_job` for a job without further runs when it
    submits it; so that is where the row gets a lease, and a leased row is not due.
    """

    def __init__(self, app: Flask) -> None:
        super().__init__()
        self._app = app

    def lookup_job(self, job_id: str) -> Job | None:
        with _context(self._app):
            found = db.session.get(Subscription, _number(job_id))
            return (
                self._job(found.id, found.next_reset_at)
                if found and found.next_reset_at and not found.ended_at
                else None
            )

    def get_due_jobs(self, now: datetime) -> list[Job]:
        with _context(self._app):
            return [self._job(*row) for row in db.session.execute(_waiting(now).limit(DUE_AT_ONCE))]

    def get_next_run_time(self) -> datetime | None:
        with _context(self._app):
            return db.session.scalar(select(func.min(Subscription.next_reset_at)).where(*_live(), _unclaimed()))

    def get_all_jobs(self) -> list[Job]:
        with _context(self._app):
            return [self._job(*row) for row in db.session.execute(_waiting(None).limit(DUE_AT_ONCE))]

    def add_job(self, job: Job) -> None:
        raise ConflictingIdError(job.id)

    def update_job(self, job: Job) -> None:
        raise JobLookupError(job.id)

    def remove_job(self, job_id: str) -> None:
        with _context(self._app), transaction():
            claim = update(Subscription).where(Subscription.id == _number(job_id), _unclaimed())
            if not changed(claim.values(lease_until=now() + LEASE)):
                raise JobLookupError(job_id)

    def remove_all_jobs(self) -> None:
        """Subscriptions end by other verbs."""

    def _job(self, subscription_id: int, at: datetime | None) -> Job:
        name = f"{JOB_PREFIX}{subscription_id}"
        job = Job(
            self._scheduler, id=name, name=name, func=renew_one, args=(self._app, subscription_id), kwargs={},
            trigger=DateTrigger(at, timezone=UTC), executor="default", misfire_grace_time=None, coalesce=True,
            max_instances=1, next_run_time=at,
        )  # fmt: skip
        job._jobstore_alias = self._alias
        return job


def build(app: Flask) -> BlockingScheduler:
    """The scheduler, ready to start."""
    scheduler = BlockingScheduler(timezone="UTC", jobstore_retry_interval=5)
    scheduler.add_jobstore(Renewals(app), "renewals")
    for entry in SCHEDULE:
        scheduler.add_job(
            run_entry, IntervalTrigger(seconds=entry.seconds), args=(app, entry), id=entry.name, name=entry.name,
            coalesce=True, max_instances=1, misfire_grace_time=None, next_run_time=datetime.now(UTC),
        )  # fmt: skip
    scheduler.add_job(_wake, IntervalTrigger(seconds=5), args=(scheduler,), id="look_again", name="look_again")
    return scheduler


def renew_one(app: Flask, subscription_id: int) -> int:
    """Open what is due of one subscription."""
    with _context(app):
        found = db.session.get(Subscription, subscription_id)
        if found is None or found.ended_at is not None:
            return 0
        return subscriptions.renew_due(found.user_id, now(), "clock")


def force(name: str) -> int:
    """Run an entry of the schedule, or one renewal (`credit_reset_7`), now. Raises NotFound."""
    if name.startswith(JOB_PREFIX):
        found = db.session.get(Subscription, _number(name))
        if found is None or found.ended_at is not None:
            raise NotFound(f"There is no live subscription with the job {name}.")
        return subscriptions.renew_due(found.user_id, now(), "admin")
    entry = next((one for one in SCHEDULE if one.name == name), None)
    if entry is None:
        names = ", ".join(one.name for one in SCHEDULE)
        raise NotFound(f"There is no entry {name}. There are: {names}, and {JOB_PREFIX}ID for a subscription.")
    return _run(entry)


def runs() -> dict[str, ClockRun]:
    """How each entry went last."""
    return {run.name: run for run in db.session.scalars(select(ClockRun))}


def upcoming(limit: int = 50, after: tuple[datetime, int] | None = None) -> list[Subscription]:
    """The next renewals, in the order of their time."""
    query = select(Subscription).where(*_live()).order_by(Subscription.next_reset_at, Subscription.id).limit(limit)
    if after is not None:
        later = (Subscription.next_reset_at > after[0]) | (
            (Subscription.next_reset_at == after[0]) & (Subscription.id > after[1])
        )
        query = query.where(later)
    return list(db.session.scalars(query))


def faults() -> list[Fault]:
    """What is wrong with the clock: entries that do not run or fail, renewals that are overdue."""
    known, moment = runs(), now()
    silent = [entry for entry in SCHEDULE if _is_silent(entry, known.get(entry.name), moment)]
    found = [Fault(_silence(silent), START)] if silent else []
    for entry in SCHEDULE:
        run = known.get(entry.name)
        if entry not in silent and run and run.failed_at is not None and run.failed_at >= run.started_at:
            found.append(_failure(entry, run))
    late = select(func.count()).where(*_live(), Subscription.next_reset_at < moment - OVERDUE)
    if count := db.session.scalar(late):
        renewals = "1 renewal is" if count == 1 else f"{count:,} renewals are"
        found.append(Fault(f"{renewals} more than ten minutes overdue.", RENEW))
    return found


def _is_silent(entry: Entry, run: ClockRun | None, moment: datetime) -> bool:
    return run is None or run.started_at < moment - _slack(entry)


def _slack(entry: Entry) -> timedelta:
    return timedelta(seconds=3 * entry.seconds) + 2 * WRITTEN_EVERY


def _silence(silent: Sequence[Entry]) -> str:
    """All of them in one sentence: when the clock stands, all of them do."""
    if len(silent) == 1:
        minutes = int(_slack(silent[0]).total_seconds() // 60)
        return f"{silent[0].name} has not run for {minutes} minutes."
    return f"{len(silent)} entries of the clock do not run: {', '.join(entry.name for entry in silent)}."


def _failure(entry: Entry, run: ClockRun) -> Fault:
    if entry.name == "reconcile":
        return Fault(f"The ledger does not add up: {run.error}", REPAIR)
    return Fault(f"{entry.name} failed: {run.error}", READ)


class TimeOfDay:
    """Notices when the time of day is set, forward or back: leases are measured with it and must not end for that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset: timedelta | None = None  # between the time of day and the clock that only counts

    def look(self) -> None:
        """To be called before anything is decided by the time of day."""
        with self._lock:
            offset = now() - datetime.fromtimestamp(time.monotonic(), UTC)
            before, self._offset = self._offset, offset
            if before is not None and abs(offset - before) > SET:
                log.warning("time_of_day_was_set", seconds=(offset - before).total_seconds())
                try:
                    training_jobs.restart_leases()
                except BaseException:
                    self._offset = before  # so that it is seen again
                    raise


_time_of_day = TimeOfDay()


def run_entry(app: Flask, entry: Entry) -> None:
    """One turn of an entry; one that fails does not stop the clock."""
    with _context(app), contextlib.suppress(Exception):
        _time_of_day.look()
        _run(entry)


def _run(entry: Entry) -> int:
    began = now()
    try:
        count = entry.verb()
    except Exception as error:
        db.session.rollback()
        log.exception("clock_entry_failed", entry=entry.name)
        _note(entry, began, 0, f"{type(error).__name__}: {error}"[:1000])
        raise
    if count:
        log.info("clock_entry", entry=entry.name, count=count)
    _note(entry, began, count, None)
    return count


def _note(entry: Entry, began: datetime, count: int, error: str | None) -> None:
    """Keep how it went; a frequent entry that had nothing to do is written down once a minute."""
    run = db.session.get(ClockRun, entry.name, populate_existing=True)
    if run is not None and not count and not error and not run.error and run.started_at > began - WRITTEN_EVERY:
        return
    with transaction():
        run = db.session.get(ClockRun, entry.name) or add(
            ClockRun(name=entry.name, every_seconds=entry.seconds, started_at=began, count=0, total=0)
        )
        run.every_seconds, run.started_at, run.ended_at, run.count, run.error = (
            entry.seconds,
            began,
            now(),
            count,
            error,
        )
        run.total += count
        run.failed_at = now() if error else None


@contextlib.contextmanager
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        try:
            yield
        finally:
            release()


def _live() -> tuple[ColumnElement[bool], ...]:
    return (Subscription.ended_at.is_(None), Subscription.next_reset_at.is_not(None))


def _unclaimed() -> ColumnElement[bool]:
    return Subscription.lease_until.is_(None) | (Subscription.lease_until < now())


def _waiting(at: datetime | None) -> Any:
    query = select(Subscription.id, Subscription.next_reset_at).where(*_live(), _unclaimed())
    query = query.where(Subscription.next_reset_at <= at) if at is not None else query
    return query.order_by(Subscription.next_reset_at, Subscription.id)


def _wake(scheduler: BaseScheduler) -> None:
    """Look at the table again: a subscription may have begun, or changed its time, in another process."""
    scheduler.wakeup()


def _number(job_id: str) -> int:
    text = job_id.removeprefix(JOB_PREFIX)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
