"""What the clock looks after: leases that ran out, machines that went away, queue entries that were lost."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update

from models.agents import Agent
from models.base import changed, db, now, transaction
from models.training_jobs import RUNNING_STATES, Attempt, TrainingJob
from services import agents
from services.gateways import gateways
from services.training_jobs import attempts, events
from services.training_jobs.queries import attempt_of, locked

AWAY_FOR_GOOD = timedelta(hours=24)


def end_lost_attempts() -> int:
    """End server attempts whose lease ran out: their worker is gone. They are tried again. Answers how many."""
    lost = (
        select(TrainingJob.id, TrainingJob.attempt)
        .join(Attempt, (Attempt.job_id == TrainingJob.id) & (Attempt.number == TrainingJob.attempt))
        .where(TrainingJob.state.in_(RUNNING_STATES), TrainingJob.agent_id.is_(None), Attempt.lease_until < now())
    )
    final = attempts.Final(
        "failed", "platform", "The server's worker ended without a word.",
        "Press Try again: it goes on from the last checkpoint. If that does not help, tell whoever runs this site.",
    )  # fmt: skip
    count = 0
    for job_id, number in db.session.execute(lost).all():
        with transaction():
            locked(job_id)
            if not _is_lost(job_id, number):  # its worker was only late, and came between the look and the lock
                continue
            count += attempts.end(job_id, number, final)
        gateways().queue.forget(job_id, number)  # the worker that would have is gone
    return count


def _is_lost(job_id: int, number: int) -> bool:
    until = attempt_of(job_id, number).lease_until
    return until is not None and until < now()


def restart_leases() -> int:
    """Give every running attempt its whole lease again: the time of day was set, so what the old ones say means nothing.

    Who is alive renews within seconds, and who is not is found as late as if it had ended now. Answers how many.
    """
    with transaction():
        running = update(Attempt).where(Attempt.lease_until.is_not(None), Attempt.ended_at.is_(None))
        return int(db.session.execute(running.values(lease_until=now() + attempts.LEASE)).rowcount)  # type: ignore[attr-defined]


def mark_disconnected() -> int:
    """Note since when the machine of a running job has been away; the job itself goes on there. Answers how many."""
    away = (
        select(TrainingJob.id, Agent.last_seen_at)
        .join(Agent, Agent.id == TrainingJob.agent_id)
        .where(
            TrainingJob.state.in_(RUNNING_STATES), TrainingJob.disconnected_since.is_(None),
            (Agent.session.is_(None) & (Agent.last_seen_at < now() - agents.RECONNECTS_WITHIN))
            | (Agent.last_seen_at < now() - agents.SILENCE),
        )
    )  # fmt: skip
    count = 0
    for job_id, since in db.session.execute(away).all():
        with transaction():
            if changed(
                update(TrainingJob)
                .where(
                    TrainingJob.id == job_id,
                    TrainingJob.state.in_(RUNNING_STATES),
                    TrainingJob.disconnected_since.is_(None),
                )
                .values(disconnected_since=since)
            ):
                events.status(locked(job_id))
                count += 1
    return count


def end_forgotten(agent_id: int, held: list[tuple[int, int]]) -> int:
    """End the jobs that a machine should be working on and, as it says on connecting, is not. Answers how many."""
    running = select(TrainingJob.id, TrainingJob.attempt).where(
        TrainingJob.agent_id == agent_id, TrainingJob.state.in_(RUNNING_STATES)
    )
    lost = [(job_id, attempt) for job_id, attempt in db.session.execute(running).all() if (job_id, attempt) not in held]
    final = attempts.Final(
        "failed", "member_machine", "Your machine no longer has this training.",
        "Press Try again to start it there again.",
    )  # fmt: skip
    return sum(attempts.end(job_id, attempt, final) for job_id, attempt in lost)


def give_up_machines() -> int:
    """Fail jobs whose machine stayed away for a day. Answers how many."""
    gone = select(TrainingJob.id, TrainingJob.attempt).where(
        TrainingJob.state.in_(RUNNING_STATES), TrainingJob.agent_id.is_not(None),
        TrainingJob.disconnected_since < now() - AWAY_FOR_GOOD,
    )  # fmt: skip
    final = attempts.Final(
        "failed", "member_machine", "Your machine has been away for a day.",
        "Start the agent there again, then press Try again: it goes on from the last checkpoint.",
    )  # fmt: skip
    count = 0
    for job_id, number in db.session.execute(gone).all():
        with transaction():
            since = locked(job_id).disconnected_since
            if since is not None and since < now() - AWAY_FOR_GOOD:  # it has not come back just now
                count += attempts.end(job_id, number, final)
    return count
