"""Letting the worker or a machine know of queued jobs. Never the truth: whoever looks later finds the same in the table."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select, update

from models.accounts import User
from models.base import after_commit, changed, db, end_read, now, transaction
from models.training_jobs import RUNNING_STATES, TrainingJob
from services import agents, credits, subscriptions
from services.gateways import gateways

LOST_AFTER = timedelta(seconds=10)
_over_before = set[tuple[int, int]]()  # entries of attempts that were over at the last look


def let_know(job: TrainingJob) -> None:
    """A job was queued."""
    if job.agent_id is not None:
        agents.nudge(job.agent_id)
    else:
        _dispatch(job.user_id)


def more_for(job: TrainingJob) -> None:
    """A job has ended: its machine, or its owner's share of the server, may be free for the next."""
    let_know(job)


def push_again() -> int:
    """Push what waits for the server and is in no queue: a share became free, or Redis lost it. Answers how many."""
    waiting = (TrainingJob.state == "queued", TrainingJob.agent_id.is_(None))
    members = select(TrainingJob.user_id).where(*waiting, TrainingJob.dispatched_at.is_(None)).distinct()
    for user_id in sorted(db.session.scalars(members)):
        with transaction():
            _dispatch(user_id)
    lost = select(TrainingJob.id, TrainingJob.attempt, TrainingJob.user_id).where(
        *waiting, TrainingJob.dispatched_at < now() - LOST_AFTER
    )
    candidates = db.session.execute(lost).all()
    ranks = {user_id: _rank(user_id) for user_id in {job.user_id for job in candidates}}
    end_read()
    count = 0
    for job_id, attempt, user_id in candidates:
        if not gateways().queue.holds(job_id, attempt):
            gateways().queue.push(job_id, attempt, ranks[user_id])
            count += 1
    return count


def put_away() -> int:
    """Put away what the queue keeps of attempts that are over: a worker was killed with an entry that it had just taken for
    the second time. Answers how many.

    Each is seen at two looks first, since whoever ends an attempt puts its entry away a moment later.
    """
    global _over_before
    known = gateways().queue.known()
    open_ = select(TrainingJob.id, TrainingJob.attempt).where(
        TrainingJob.id.in_({job_id for job_id, _ in known}), TrainingJob.state.in_(("queued", *RUNNING_STATES))
    )
    over = known - {(job_id, attempt) for job_id, attempt in db.session.execute(open_)}
    end_read()
    for job_id, attempt in over & _over_before:
        gateways().queue.forget(job_id, attempt)
    count, _over_before = len(over & _over_before), over
    return count


def _dispatch(user_id: int) -> None:
    """Push the oldest queued jobs of a member, as many as the plan lets run at once."""
    credits.lock(user_id)  # nobody else counts the same share at the same time
    busy = db.session.scalar(
        select(func.count(TrainingJob.id)).where(
            TrainingJob.user_id == user_id, TrainingJob.agent_id.is_(None),
            TrainingJob.state.in_(RUNNING_STATES) | ((TrainingJob.state == "queued") & TrainingJob.dispatched_at.is_not(None)),
        )
    )  # fmt: skip
    free = _limits(user_id)["server_jobs"] - (busy or 0)
    waiting = (
        select(TrainingJob)
        .where(
            TrainingJob.user_id == user_id, TrainingJob.agent_id.is_(None), TrainingJob.state == "queued",
            TrainingJob.dispatched_at.is_(None),
        )
        .order_by(TrainingJob.id)
        .limit(max(0, free))
    )  # fmt: skip
    for job in db.session.scalars(waiting).all():
        moved = changed(
            update(TrainingJob)
            .where(TrainingJob.id == job.id, TrainingJob.attempt == job.attempt, TrainingJob.dispatched_at.is_(None))
            .values(dispatched_at=now())
        )
        if moved:
            after_commit(gateways().queue.push, job.id, job.attempt, _rank(user_id))


def _limits(user_id: int) -> dict[str, int]:
    return dict(subscriptions.current(db.session.get_one(User, user_id)).plan.limits)


def _rank(user_id: int) -> str:
    return str(_limits(user_id)["queue"] or "normal")
