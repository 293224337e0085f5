"""Rows 5-7, 16-18, 22 and 25: what happens on a member's machine, and to clocks."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

from agent.spool import Final, SpoolReader
from services import training_jobs
from tests.faults.simulation.machine import Machine
from tests.faults.simulation.training import Script
from tests.faults.simulation.world import World

STEADY = Script(steps=20, seconds=2.0, lines=100)
DEATHS = (
    Final(
        "failed", "platform", "The training process was killed from outside (signal 9, SIGKILL).", "Press Try again."
    ),
    Final("failed", "platform", "The training process crashed (signal 11, SIGSEGV).", "Press Try again."),
    Final("failed", "out_of_memory", "The machine had run out of memory.", "Use a smaller batch."),
    Final("failed", "member_code", "The training process ended with exit code 1.", "Look at the log."),
)


async def row_5(world: World) -> None:
    """The training dies: the reason is told within 5 s; what was our fault is tried again three times and paid back."""
    machine = await world.machine() if world.rng.random() < 0.5 else None
    if machine is None:
        world.worker()
    death = world.rng.choice(DEATHS)
    job = world.order(machine, Script(steps=9, seconds=1.0, dies_at=world.rng.randint(1, 9), dies_of=death, saving=0.1))
    await world.until(lambda: world.told.get((job, 1)) and world.told[(job, 1)].final, 60, "the death")
    is_retried = death.cause == "platform"
    if not is_retried:
        await world.in_state(job, "failed", within=5)
    await world.ends(job, states=("failed",), within=300)
    found = world.job(job)
    assert found.error_cause == death.cause and found.error_message == death.message
    assert found.attempt == (4 if is_retried else 1)
    if machine is None and is_retried:
        assert found.charged == found.refunded > 0 or not any(t.steps_at for t in world.told.values())


async def row_6(world: World) -> None:
    """kill -9 of the agent, restarted after a second, a minute or ten: training never stops, no line is lost."""
    machine = await world.machine()
    away = world.rng.choice((1, 60, 600))
    job = world.order(machine, Script(steps=20 + away // 5, seconds=5.0 if away == 600 else 2.0, lines=200))
    await world.in_state(job, "training")
    for _ in range(1 if away > 1 else 3):
        await world.sleep(world.rng.uniform(0, 10))
        machine.kill()
        await world.sleep(away)
        machine.start()
        await world.until(lambda: world.is_connected(machine) and _is_shown_running(world, job), 10, "shown running")
    await world.ends(job, within=1200)
    assert world.job(job).attempt == 1


async def row_7(world: World) -> None:
    """kill -9 of the supervisor: the end is told within 10 s with what was said, and a retry goes on."""
    machine = await world.machine()
    job = world.order(machine, STEADY)
    await world.in_state(job, "training")
    await world.sleep(world.rng.uniform(0, 30))
    for folder in list(machine.supervisors):
        machine.kill_supervisor(folder)
    saved = world.checkpoints.step(machine.name, job)
    await world.in_state(job, "failed", within=10)
    spooled, stored = len(world.told[(job, 1)].items["log"]), world.count_stored(job, 1, "log")
    assert stored >= spooled, f"{stored} of {spooled} records that were spooled are stored"
    world.press(training_jobs.retry, job)
    await world.ends(job)
    assert world.told[(job, 2)].first_step == saved + 1


async def row_12(world: World) -> None:
    """A machine that is away for 25 h is given up after a day. Not promised, and shown here: what it has to tell is not taken."""
    machine = await world.machine()
    job = world.order(machine, Script(steps=10, seconds=60.0))
    await world.in_state(job, "training", within=90)
    world.site.kill_clock()
    world.site.start_clock(factor=60)
    machine.kill()
    await world.sleep(23.5 * 3600)
    assert world.state(job) == "training" and world.job(job).disconnected_since is not None
    await world.until(lambda: world.state(job) == "failed", 3600 * 6, "given up", every=600)
    machine.start()
    await world.until(lambda: world.is_connected(machine), 30, "back")
    await world.sleep(20)
    final = world.told[(job, 1)].final
    assert final is not None and final.outcome == "completed" and world.state(job) == "failed"
    assert len(world.told[(job, 1)].items["log"]) > world.count_stored(job, 1, "log")


async def row_16(world: World) -> None:
    """The agent stands still for a minute with orders waiting: away after 45 s, back without loss."""
    machine = await world.machine()
    job = world.order(machine, Script(steps=60, seconds=2.0))
    await world.in_state(job, "training")
    await world.sleep(world.rng.uniform(0, 20))
    machine.freeze()
    is_stopped = world.rng.random() < 0.5
    if is_stopped:
        await world.sleep(5)
        world.press(training_jobs.stop, job)
    await world.until(lambda: world.job(job).disconnected_since is not None, 45 + 15 + 6, "away")
    assert world.state(job) in ("training", "starting")
    await world.sleep(world.rng.uniform(0, 10))
    machine.thaw()
    await world.until(lambda: _is_shown_running(world, job) or world.state(job) == "paused", 30, "back")
    await world.ends(job, states=("paused",) if is_stopped else ("completed",), within=15 if is_stopped else 300)


async def row_17(world: World) -> None:
    """The server's time of day jumps an hour forward and back: no lease is lost, no minute charged that was not trained."""
    machine = await world.machine()
    crew = [world.worker("worker-1"), world.worker("worker-2")]
    script = Script(steps=26, seconds=6.0)
    jobs = [world.order(machine, script), world.order(None, script)]
    for job in jobs:
        await world.in_state(job, "training")
    world.expect_skew = True
    for _ in range(2):
        await world.sleep(world.rng.uniform(5, 50))
        hours = world.rng.choice((-1, 1, 1 / 60, -1 / 60))
        world.note("jump", hours)
        world.wall.offset += timedelta(hours=hours)
    if world.rng.random() < 0.3:
        await world.sleep(10)
        next(one for one in crew if one.job).kill()
        await world.until(lambda: (jobs[1], 2) in world.told, 105, "the second attempt")
    await world.ends(*jobs, within=500)
    assert world.job(jobs[0]).attempt == 1


async def row_18(world: World) -> None:
    """The machine's disk is full: the job is not killed for it, and what had to be given up is told within 15 s."""
    machine = await world.machine()
    machine.disk.segment_bytes = 64 << 10
    job = world.order(machine, Script(steps=40, seconds=1.0, lines=world.rng.choice((100, 1500))))
    await world.in_state(job, "training")
    await world.sleep(world.rng.uniform(1, 10))
    if world.rng.random() < 0.5:
        machine.cut("reject")
    reserve = sum(path.stat().st_size for path in machine.folder.rglob("reserve"))
    assert reserve > 0
    machine.disk.fill(spare=world.rng.randint(0, 3000))
    world.note("disk full")
    await world.sleep(world.rng.uniform(5, 25))
    machine.heal()
    if world.rng.random() < 0.5:
        machine.disk.free()
        world.note("disk free")
    await world.until(lambda: world.is_connected(machine), 30, "back")
    await world.ends(job)


async def row_22(world: World) -> None:
    """A copy of the agent's folder on another computer: refused while the first is there, never two runs."""
    machine = await world.machine()
    job = world.order(machine, STEADY)
    await world.in_state(job, "training")
    copy = Machine(world, "machine-1 copy", machine.key, world.folder / "copy")
    _copy_identity(machine.folder, copy.folder)
    await world.sleep(world.rng.uniform(0, 5))
    world.machines.append(copy)
    copy.start()
    await world.sleep(world.rng.uniform(5, 20))
    assert world.connected.get(copy.name, [(0, "")])[-1][1] != "connected"
    assert world.is_connected(machine)
    await world.ends(job)
    assert {told.where for told in world.told.values()} == {machine.name}


async def row_25(world: World) -> None:
    """The power fails in the middle of a write: the spool is cut at the last whole record, and a retry goes on."""
    machine = await world.machine()
    job = world.order(machine, STEADY)
    await world.in_state(job, "training")
    await world.sleep(world.rng.uniform(0, 30))
    machine.kill()
    for folder in list(machine.supervisors):
        machine.kill_supervisor(folder)
        for segment in sorted((folder / "spool").glob("*.spool")):
            with segment.open("r+b") as file:
                file.truncate(max(0, segment.stat().st_size - world.rng.randint(0, 900)))
        _forget_what_is_lost(world, job, folder / "spool")
    await world.sleep(world.rng.uniform(1, 60))
    machine.start()
    await world.in_state(job, "failed", within=20)
    world.press(training_jobs.retry, job)
    await world.ends(job)


def _forget_what_is_lost(world: World, job: int, spool: Path) -> None:
    """What the cut took and nobody had sent was never told."""
    left = SpoolReader(spool).last
    for stream, items in world.told[(job, 1)].items.items():
        del items[max(left[stream], world.count_stored(job, 1, stream)) :]


def _is_shown_running(world: World, job: int) -> bool:
    found = world.job(job)
    return found.disconnected_since is None and found.state in ("starting", "training", "uploading", "completed")


def _copy_identity(source: Path, target: Path) -> None:
    for path in source.rglob("agent.json"):
        aside = target / path.relative_to(source)
        aside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, aside)
