"""One go at a job after another: opening, holding credits for it, claiming, keeping its lease, ending it.

Every verb names the attempt it speaks for; what speaks for an old one changes nothing and is told so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import takewhile
from typing import Any

from sqlalchemy import select, update

from agent.protocol import CAUSES, OUTCOMES, JobSpec
from models.base import add, changed, db, now, transaction
from models.credits import LedgerOperation
from models.training_jobs import RUNNING_STATES, Attempt, TrainingJob
from services import base_models, credits, model_versions, secrets, subscriptions
from services.errors import Conflict, Invalid
from services.gateways import gateways
from services.training_jobs import dispatch, events, metering
from services.training_jobs.queries import attempt_of, locked
from services.training_jobs.scripts import RECIPE
from services.training_jobs.texts import clean

LEASE = timedelta(seconds=90)
MOST_AUTOMATIC_RETRIES = 3
OURS = ("platform", "preempted")
OUT_OF_CREDITS = (
    "The credits for this training are used up. What was trained is kept in a checkpoint.",
    "Get more credits, then press Resume: it goes on at the step where it stopped.",
)
AT_MOST_REACHED = (
    "The training took longer than estimated and reached the most it may cost. What was trained is kept.",
    "Press Resume to let it go on; you see the price first.",
)
TIME_IS_UP = (
    "The minutes you allowed this script are used up.",
    "Press Resume to allow it as many again.",
)


@dataclass(frozen=True)
class Final:
    """How an attempt ended, as its runner tells it."""

    outcome: str
    cause: str | None = None
    message: str | None = None
    advice: str | None = None
    last: dict[str, int] | None = None
    log_sha256: str | None = None

    @classmethod
    def of(cls, told: dict[str, Any]) -> Final:
        """Check what came over the wire. Raises Invalid."""
        if told["outcome"] not in OUTCOMES:
            raise Invalid(f"There is no outcome {str(told['outcome'])[:40]!r}.")
        cause = told.get("cause") if told.get("cause") in CAUSES else None
        if told["outcome"] == "failed" and cause is None:
            cause = "member_machine"
        texts = [clean(told.get(name), 4000) for name in ("message", "advice")]
        return cls(told["outcome"], cause, texts[0], texts[1], told.get("last"), told.get("log_sha256"))


UNORDERED = Final("failed", advice="Press Try again: it goes on from the last checkpoint.")


def open_first(job: TrainingJob) -> None:
    """The attempt a new job begins with."""
    add(Attempt(job_id=job.id, number=job.attempt, stored={}))
    events.status(job)


def hold(job: TrainingJob) -> LedgerOperation:
    """Set credits aside for the present attempt: what was quoted, as far as the promise `at_most` has room."""
    subscriptions.live(job.user_id)  # opens what is due before anything is spent
    amount = max(0, min(job.quoted, job.at_most - (job.charged - job.refunded)))
    return credits.hold(
        job.user_id, job.id, job.attempt, amount, key=f"hold:{job.id}:{job.attempt}:0", reason=f"Held for “{job.name}”"
    )


def claim(job_id: int, number: int, holder: str) -> JobSpec | None:
    """Take a queued attempt; None when somebody else has it or it is not wanted any more."""
    with transaction():
        taken = changed(
            update(TrainingJob)
            .where(TrainingJob.id == job_id, TrainingJob.attempt == number, TrainingJob.state == "queued")
            .values(state="starting", stage="prepare", disconnected_since=None)
        )
        if not taken:
            return None
        job, attempt = locked(job_id), attempt_of(job_id, number)
        attempt.holder, attempt.started_at, attempt.lease_until = holder, now(), now() + LEASE
        job.started_at = job.started_at or now()
        events.status(job)
    return spec_of(job)


def spec_of(job: TrainingJob) -> JobSpec:
    """What the runner of the present attempt is given."""
    base_path = f"/api/agents/jobs/{job.id}/attempts/{job.attempt}"
    if job.dataset_version:
        version = job.dataset_version
        data = {
            "kind": "dataset", "path": f"{base_path}/data", "sha256": version.sha256, "bytes": version.bytes,
            "name": version.file_name,
        }  # fmt: skip
    else:
        data = {"kind": "local", "path": job.local_path}
    own_model = job.base_model.startswith("model:")
    return JobSpec(
        job=job.id, attempt=job.attempt, name=job.name, recipe=job.recipe, parameters=job.parameters, data=data,
        mapping=job.mapping, base_model="model" if own_model else job.base_model, base_name=job.base_name,
        base_files=_base_files(job, base_path) if own_model else [],
        token=secrets.attempt_token(gateways().settings.secret_key, job.id, job.attempt),
    )  # fmt: skip


def renew(job_id: int, number: int) -> str | None:
    """Push the lease of a running attempt; the answer is the order it has to obey: `stop`, `cancel`, `kill` or None."""
    with transaction():
        job = db.session.get(TrainingJob, job_id)
        if job is None or job.attempt != number or job.state not in RUNNING_STATES:
            return "cancel"
        _renew(job, attempt_of(job_id, number))
        return order_of(job)


def hold_on(job_id: int, number: int) -> None:
    """Push the lease of an attempt whose training is over while its end cannot be stored: nobody is to begin it again
    meanwhile, and no minute of the wait is charged."""
    with transaction():
        waiting = update(Attempt).where(
            Attempt.job_id == job_id, Attempt.number == number, Attempt.lease_until.is_not(None)
        )
        db.session.execute(waiting.values(lease_until=now() + LEASE))


def renew_all(held: set[tuple[int, int]]) -> None:
    """Push the leases of those attempts that run, in one transaction and as many statements however many they are."""
    if not held:  # most machines most of the time
        return
    present = (
        select(TrainingJob, Attempt)
        .join(Attempt, (Attempt.job_id == TrainingJob.id) & (Attempt.number == TrainingJob.attempt))
        .where(TrainingJob.id.in_({job_id for job_id, _ in held}), TrainingJob.state.in_(RUNNING_STATES))
        .order_by(TrainingJob.id)
    )
    with transaction():
        for job, attempt in db.session.execute(present).all():
            if (job.id, attempt.number) in held:
                _renew(job, attempt)


def _renew(job: TrainingJob, attempt: Attempt) -> None:
    """Its runner is there. The job itself is locked only when there is something to write in it."""
    if job.disconnected_since is not None or (job.on_server and job.recipe == RECIPE):
        job = locked(job.id)
    attempt.lease_until = now() + LEASE
    metering.running(job, attempt)
    if job.disconnected_since is not None:
        job.disconnected_since = None
        events.status(job)


def order_of(job: TrainingJob) -> str | None:
    """The order that waits for the runner of the present attempt."""
    return "stop" if job.stop_mode else None


def token_opens(given: str) -> tuple[int, int] | None:
    """The running attempt that a job token opens, or None.

    A machine that uses the token of its offer has taken the job, though its `job_accept` is still under way on a slower
    connection, or was lost.
    """
    read = secrets.read_attempt_token(gateways().settings.secret_key, given)
    job = db.session.get(TrainingJob, read[0]) if read else None
    if read is None or job is None or job.attempt != read[1]:
        return None
    if job.state == "queued" and job.agent_id is not None:
        claim(*read, f"agent {job.agent_id}")
    return read if job.state in RUNNING_STATES else None


def end(job_id: int, number: int, final: Final) -> bool:
    """An attempt has ended: settle it by cause and decide what the job does next. False when it had ended before."""
    is_verified = _is_as_told(job_id, number, final)
    with transaction():
        job = locked(job_id)
        if job.attempt != number or job.state not in RUNNING_STATES:
            return False
        attempt = attempt_of(job_id, number)
        attempt.log_verified = is_verified
        outcome = _checked_outcome(job, final)
        _close(job, attempt, outcome)
        _NEXT[outcome.outcome](job, outcome)
        job.disconnected_since = None
        events.status(job)
        dispatch.more_for(job)
    return True


def _is_as_told(job_id: int, number: int, final: Final) -> bool | None:
    """Whether the stored log has the sum that the runner told; None where it told none, or has ended before.

    A long log takes seconds to read, so it is read before the job is locked: whoever tells the end has told all of it.
    """
    if not final.log_sha256:
        return None
    running = select(TrainingJob.attempt).where(TrainingJob.id == job_id, TrainingJob.state.in_(RUNNING_STATES))
    if db.session.scalar(running) != number:
        return None
    return events.log_hash(job_id, number) == final.log_sha256


def close_unstarted(job: TrainingJob) -> None:
    """End the attempt of a job that is stopped or cancelled from outside; its credits return."""
    attempt = attempt_of(job.id, job.attempt)
    if attempt.ended_at is None:
        _close(job, attempt, Final("cancelled"))


def open_next(job: TrainingJob) -> None:
    """Queue the job once more: the next attempt goes on from the last checkpoint.

    A hold that is refused leaves the job paused for want of credits.
    """
    job.attempt += 1
    job.state, job.stage, job.stop_mode = "queued", "prepare", None
    job.error_cause = job.error_message = job.error_advice = None
    job.dispatched_at = job.finished_at = job.steps_per_second = None
    db.session.flush()
    add(Attempt(job_id=job.id, number=job.attempt, stored={}))
    if job.on_server and hold(job).refused:
        close_unstarted(job)
        _pause(job, "out_of_credits", *OUT_OF_CREDITS)
    events.status(job)
    dispatch.let_know(job)


def _checked_outcome(job: TrainingJob, final: Final) -> Final:
    """What the end is taken for: a runner tells what it did, and the order it did it for is known here."""
    if final.outcome == "cancelled":  # a member's cancel is not waited for: the job would not be running any more
        message = final.message or "The training was ended, though nobody had ordered it."
        return replace(UNORDERED, cause="platform" if job.on_server else "member_machine", message=message)
    if final.outcome == "stopped" and job.stop_mode is None and job.on_server:
        return replace(final, cause="preempted")  # the worker was asked to end, not the job
    if final.outcome == "completed":
        version = model_versions.of_job(job.id)
        if version is None and job.recipe == RECIPE:
            return final  # a script need not leave anything
        if version is None:
            return Final(
                "failed",
                "platform",
                "The training finished but its files did not reach the server.",
                "Press Try again.",
            )
        job.model_version_id = version.id
    return final


def _close(job: TrainingJob, attempt: Attempt, final: Final) -> None:
    """Write down how the attempt ended and settle its credits: what failed on our side is given back."""
    attempt.ended_at, attempt.lease_until = now(), None
    attempt.outcome, attempt.cause, attempt.message = final.outcome, final.cause, final.message
    db.session.flush()
    if not job.on_server:
        return
    if final.outcome == "failed" and final.cause in OURS:
        job.refunded += credits.refund(
            job.user_id, job.id, attempt.number, reason=f"{job.name}: attempt {attempt.number} failed on our side"
        )
    credits.settle(job.user_id, job.id, attempt.number)


def _complete(job: TrainingJob, final: Final) -> None:
    job.state, job.stage, job.finished_at, job.stop_mode = "completed", "done", now(), None


def _stopped(job: TrainingJob, final: Final) -> None:
    if job.stop_mode == "out_of_credits":
        _pause(job, "out_of_credits", *OUT_OF_CREDITS)
    elif job.stop_mode == "at_most" and job.recipe == RECIPE:
        _pause(job, "time_limit", *TIME_IS_UP)
    elif job.stop_mode == "at_most":
        _pause(job, "out_of_credits", *AT_MOST_REACHED)
    elif job.stop_mode is None and job.on_server:
        open_next(job)
    else:
        _pause(job, None, None, None)


def _cancelled(job: TrainingJob, final: Final) -> None:
    job.state, job.finished_at, job.stop_mode = "cancelled", now(), None


def _failed(job: TrainingJob, final: Final) -> None:
    if final.cause in OURS and job.stop_mode is not None:
        _stopped(job, final)  # it was to end, and has; what we broke meanwhile is paid back
        return
    if final.cause in OURS and job.automatic_retries < MOST_AUTOMATIC_RETRIES:
        job.automatic_retries += 1
        open_next(job)
        return
    job.state, job.finished_at, job.stop_mode = "failed", now(), None
    job.error_cause, job.error_message, job.error_advice = final.cause, final.message, final.advice
    if final.cause in OURS and job.on_server:
        for number in _ended_by_us(job):
            reason = f"{job.name}: attempt {number}, the training failed on our side"
            job.refunded += credits.refund(job.user_id, job.id, number, reason=reason)


def _ended_by_us(job: TrainingJob) -> list[int]:
    """The attempts that came to nothing through us, the last one first: back to where the member ordered something."""
    rows = db.session.execute(
        select(Attempt.number, Attempt.cause).where(Attempt.job_id == job.id).order_by(Attempt.number.desc())
    )
    return [number for number, _ in takewhile(lambda row: row.cause in OURS, rows)]


_NEXT = {"completed": _complete, "stopped": _stopped, "cancelled": _cancelled, "failed": _failed}


def _pause(job: TrainingJob, cause: str | None, message: str | None, advice: str | None) -> None:
    job.state, job.stop_mode = "paused", None
    job.error_cause, job.error_message, job.error_advice = cause, message, advice


def _base_files(job: TrainingJob, base_path: str) -> list[dict[str, Any]]:
    """The files of the member's own model that the job begins from."""
    version_id = int(job.base_model.removeprefix("model:"))
    files = base_models.files_of(version_id)
    return [
        {"name": name, "path": f"{base_path}/base/{name}", "bytes": file.bytes, "sha256": file.sha256}
        for name, file in files.items()
    ]


def require_running(job_id: int, number: int) -> TrainingJob:
    """The locked job when this attempt is the running one. Raises Conflict (`stale_attempt`)."""
    job = locked(job_id)
    if job.attempt != number or job.state not in RUNNING_STATES:
        raise stale(job_id, number)
    return job


def stale(job_id: int, number: int) -> Conflict:
    """What whoever still speaks of an attempt that is over is answered."""
    return Conflict(f"Attempt {number} of job {job_id} is over.", code="stale_attempt")
