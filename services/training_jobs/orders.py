"""What a member orders a job to do: stop, resume, retry, cancel. The row first, the nudge to its runner second."""

from __future__ import annotations

from models.accounts import User
from models.base import after_commit, now, transaction
from models.training_jobs import OPEN_STATES, RUNNING_STATES, TrainingJob
from services import agents, credits, subscriptions
from services.errors import Conflict, PaymentNeeded
from services.gateways import gateways
from services.training_jobs import attempts, events, scripts, submit
from services.training_jobs.queries import get_for, locked


def stop(actor: User, job_id: int) -> TrainingJob:
    """Checkpoint and pause. A job that has not begun pauses at once. Raises Conflict when there is nothing to stop."""
    with transaction():
        job = _own(actor, job_id)
        if job.state == "queued":
            attempts.close_unstarted(job)
            job.state, job.stop_mode = "paused", None
            events.status(job)
        elif job.state in RUNNING_STATES:
            job.stop_mode = "stop"
            events.status(job)
            _nudge(job)
        elif job.state != "paused":
            raise Conflict(f"This training is {job.state}; there is nothing to stop.")
    return job


def resume(actor: User, job_id: int) -> TrainingJob:
    """Queue a paused job again, from its last checkpoint. Raises Conflict, or PaymentNeeded without plan or credits."""
    return _again(actor, job_id, "paused", "Only a paused training can be resumed")


def retry(actor: User, job_id: int) -> TrainingJob:
    """Queue a failed job again: the same job, its next attempt. Raises Conflict, or PaymentNeeded."""
    return _again(actor, job_id, "failed", "Only a failed training can be tried again")


def cancel(actor: User, job_id: int) -> TrainingJob:
    """End an open job for good; credits that are not used return at once. Raises Conflict when it has ended already."""
    with transaction():
        job = _own(actor, job_id)
        if job.state == "cancelled":
            return job
        if job.state not in OPEN_STATES:
            raise Conflict(f"This training is {job.state} already.")
        _nudge(job)
        attempts.close_unstarted(job)
        job.state, job.finished_at, job.stop_mode = "cancelled", now(), None
        events.status(job)
    return job


def _again(actor: User, job_id: int, state: str, sentence: str) -> TrainingJob:
    if get_for(actor, job_id).on_server:
        submit.require_paid_plan(actor)
    with transaction():
        job = _own(actor, job_id)
        if job.state != state:
            raise Conflict(f"{sentence}; this one is {job.state}.")
        if job.on_server:
            _let_go_on(job)
        attempts.open_next(job)
    return job


def _let_go_on(job: TrainingJob) -> None:
    """The member agrees to another round at the quoted price, on top of what it cost so far."""
    more = job.quoted if job.recipe == scripts.RECIPE else 2 * job.quoted
    job.at_most = max(job.at_most, job.charged - job.refunded + more)
    subscriptions.live(job.user_id)
    available = credits.spendable(job.user_id)
    if available < job.quoted:
        raise PaymentNeeded(
            f"Going on needs {job.quoted} credits and {available} are available. Get more credits, then try again.",
            code="insufficient_credits", needed=job.quoted, available=available,
        )  # fmt: skip


def _own(actor: User, job_id: int) -> TrainingJob:
    get_for(actor, job_id)
    return locked(job_id)


def _nudge(job: TrainingJob) -> None:
    if job.agent_id is not None:
        agents.nudge(job.agent_id)
    after_commit(gateways().hints.publish, f"orders:{job.id}")
