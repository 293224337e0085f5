"""What must hold after every run, whatever went wrong in it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from sqlalchemy import select

from agent.spool import empty_item
from models.base import db, end_read
from models.credits import LedgerOperation
from models.training_jobs import Attempt, TrainingEvent, TrainingJob
from services import reconcile
from services.training_jobs import attempts
from tests.faults.simulation.training import Told
from tests.faults.simulation.world import World

FORWARDING = 5.0  # seconds between a step and its arrival, at the most; a step that a dying worker kept does not arrive
AT_REST = ("completed", "failed", "cancelled", "paused")


def check(world: World) -> None:
    """AssertionError that names everything that does not hold."""
    wrong = [*world.broken, *world.unforeseen_errors]
    if not world.allowed_errors and world.site.errors:
        wrong.append(f"the server logged {dict(world.site.errors)}")
    for job in world.jobs:
        wrong += _job(world, job)
    wrong += _overlaps(world)
    with world.site.at_work():
        wrong += reconcile.reconcile()
    leftover = [entry for entry in world.site.queue.entries if world.state(entry[0]) == "queued"]
    if leftover:
        wrong.append(f"still queued: {leftover}")
    assert not wrong, "\n".join(wrong)


def _job(world: World, number: int) -> list[str]:
    with world.site.at_work():
        job = db.session.get_one(TrainingJob, number)
        found = list(db.session.scalars(select(Attempt).where(Attempt.job_id == number).order_by(Attempt.number)))
        end_read()
        wrong = [] if job.state in AT_REST else [f"job {number} is {job.state} in the end"]
        wrong += _states(number)
        for attempt in found:
            told = world.told.get((number, attempt.number))
            wrong += _records(world, job, attempt, told)
            if attempt.ended_at is None:
                wrong.append(f"attempt {attempt.number} of job {number} has no end")
            if job.on_server:
                wrong += _minutes(job, attempt, told if world.expect_skew else None)
        if job.on_server:
            wrong += _charges(job, found)
    return wrong


def _states(job: int) -> list[str]:
    """One end, and nothing after it but another attempt."""
    query = select(TrainingEvent.payload).where(TrainingEvent.job_id == job, TrainingEvent.stream == "status")
    said = [(row["attempt"], row["state"]) for row in db.session.scalars(query.order_by(TrainingEvent.number))]
    ends = Counter(attempt for attempt, state in said if state in ("completed", "cancelled"))
    wrong = [f"job {job}: attempt {attempt} ended {count} times" for attempt, count in ends.items() if count > 1]
    if any(later < earlier for (earlier, _), (later, _) in pairwise(said)):
        wrong.append(f"job {job}: an old attempt spoke after a new one: {said}")
    final = [index for index, (_, state) in enumerate(said) if state in ("completed", "cancelled")]
    if final and final[0] != len(said) - 1:
        wrong.append(f"job {job}: something came after its end: {said}")
    return wrong


def _records(world: World, job: TrainingJob, attempt: Attempt, told: Told | None) -> list[str]:
    """Every record that was spooled is stored once and in order, or lies in a gap that was declared."""
    wrong = []
    name = f"attempt {attempt.number} of job {job.id}"
    stored = {stream: world.stored(job.id, attempt.number, stream) for stream in ("log", "metrics", "event")}
    gaps = {n for _, item in stored["event"] if item.get("kind") == "gap" and "first" in item
            for n in range(item["first"], item["last"] + 1)}  # fmt: skip
    for stream, rows in stored.items():
        numbers = [seq for seq, _ in rows]
        if numbers != list(range(1, len(numbers) + 1)):
            wrong.append(f"{name}: {stream} is stored as {_shortened(numbers)}")
        if attempt.stored.get(stream, 0) != len(rows):
            wrong.append(f"{name}: {stream} counts {attempt.stored.get(stream, 0)}, stored are {len(rows)}")
        wrong += _same(name, stream, rows, told, gaps)
    if told is not None and told.final is not None and _must_be_whole(attempt, told):
        for stream, rows in stored.items():
            if len(rows) < len(told.items[stream]):
                wrong.append(f"{name}: {len(rows)} of {len(told.items[stream])} {stream} records are stored")
        if attempt.log_verified is False:
            wrong.append(f"{name}: the log is not what was printed")
    return wrong


def _same(
    name: str, stream: str, rows: list[tuple[int, dict[str, object]]], told: Told | None, gaps: set[int]
) -> list[str]:
    spooled = told.items[stream] if told else []
    for seq, item in rows:
        if item.get("kind") == "gap":
            continue
        if told is not None and told.final is None and seq > len(spooled):
            continue  # the supervisor was killed, and whoever wrote the end for it had a word to say
        given = spooled[seq - 1] if seq <= len(spooled) else None
        if item != given and not (stream == "log" and item == empty_item("log") and seq in gaps):
            return [f"{name}: record {seq} of {stream} is {str(item)[:80]}, told was {str(given)[:80]}"]
    return []


def _must_be_whole(attempt: Attempt, told: Told) -> bool:
    """Whether the server took this end for its own: then it has all that was said before. A cancelled job wants no more."""
    return told.final is not None and attempt.outcome == told.final.outcome != "cancelled"


def _minutes(job: TrainingJob, attempt: Attempt, told: Told | None) -> list[str]:
    """One tick for each started minute between first and last step; by what really passed when the clock was set."""
    name = f"attempt {attempt.number} of job {job.id}"
    if attempt.first_step_at is None or attempt.last_step_at is None:
        return [f"{name}: charged without a step"] if attempt.minutes_charged else []
    seconds = (attempt.last_step_at - attempt.first_step_at).total_seconds()
    slack = 0.0
    if told is not None:
        seconds, slack = told.steps_at[-1] - told.steps_at[0], FORWARDING
    least, most = (int(max(0.0, seconds + way) // 60) + 1 for way in (-slack, slack))
    if least <= attempt.minutes_charged <= most:
        return []
    return [f"{name}: {attempt.minutes_charged} minutes charged, {seconds:.0f} s seen"]


def _charges(job: TrainingJob, found: list[Attempt]) -> list[str]:
    """What the ledger took for the job is what its attempts cost, less those that failed on our side."""
    rows = list(db.session.execute(
        select(LedgerOperation.kind, LedgerOperation.amount).where(LedgerOperation.job_id == job.id)
    ))  # fmt: skip
    ticks = sum(amount for kind, amount in rows if kind == "tick")
    refunds = sum(amount for kind, amount in rows if kind == "refund")
    minutes = sum(one.minutes_charged for one in found) * job.price_per_minute
    ours = sum(one.minutes_charged for one in found if one.cause in attempts.OURS) * job.price_per_minute
    wrong = []
    if (ticks, refunds) != (job.charged, job.refunded) or ticks != minutes:
        wrong.append(f"job {job.id}: ticks {ticks}, refunds {refunds}; the job says {job.charged}, {job.refunded}")
    if refunds < ours:
        wrong.append(f"job {job.id}: {ours} credits were our fault, {refunds} came back")
    return wrong


def _overlaps(world: World) -> list[str]:
    """Never two attempts of a job at once."""
    if world.expect_overlap:
        return []
    wrong = []
    for job in world.jobs:
        spans = sorted((one.began, one.ended, one.number) for one in world.told.values() if one.job == job)
        for (_, ended, number), (began, _, later) in pairwise(spans):
            if ended is None or began < ended:
                wrong.append(f"job {job}: attempt {later} began at {began:.1f}, attempt {number} ended at {ended}")
    return wrong


def _shortened(numbers: list[int]) -> str:
    return f"{numbers[:20]}{'...' if len(numbers) > 20 else ''}"
