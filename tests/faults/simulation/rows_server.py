"""Rows 1-4, 8-10 and 19: web processes, workers, the queue and the database go away."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.exc import OperationalError

from services import training_jobs
from tests.faults.simulation.doors import Database
from tests.faults.simulation.training import Script
from tests.faults.simulation.world import World

SHORT = Script(steps=4, seconds=0.5, lines=2, saving=0.1)
LONG = Script(steps=15, seconds=3.0, lines=20)


async def row_1(world: World) -> None:
    """kill -9 of the web process, again and again: agents are back within 15 s, no job notices."""
    first, second = await world.machine("machine-1"), await world.machine("machine-2")
    world.worker()
    jobs = [world.order(place, LONG) for place in (first, second, None)]
    for _ in range(world.rng.randint(3, 8)):
        await world.sleep(world.rng.uniform(0.5, 12))
        world.site.kill_web()
        await world.sleep(world.rng.uniform(0.1, 3))
        states = [world.state(job) for job in jobs]
        world.site.start_web()
        took = await world.until(lambda: all(map(world.is_connected, (first, second))), 15, "agents back", every=0.1)
        world.note("back after", round(took, 1))
        assert all(state in ("queued", "starting", "training", "uploading", "completed") for state in states)
    await world.ends(*jobs)
    assert all(world.job(job).attempt == 1 for job in jobs)


async def row_2(world: World) -> None:
    """SIGTERM of the web process: each agent gets a moment of its own, and comes back at it."""
    crowd = [await world.machine(f"machine-{number}") for number in range(1, 6)]
    jobs = [world.order(place, SHORT) for place in crowd[:2]]
    await world.sleep(world.rng.uniform(0.5, 3))
    world.site.end_web()
    assert len(set(world.goodbyes)) == len(crowd)
    await world.sleep(world.rng.uniform(0.2, 4))
    assert not any(map(world.is_connected, crowd))
    world.site.start_web()
    await world.until(lambda: all(map(world.is_connected, crowd)), 20, "all back")
    await world.ends(*jobs)


async def row_3(world: World) -> None:
    """A worker dies, or is cut off from the database: the job runs again within 105 s, never twice at once."""
    first = world.worker("worker-1")
    job = world.order(None, Script(steps=30, seconds=3.0))
    await world.in_state(job, "training")
    await world.sleep(world.rng.uniform(0, 60))
    spare = world.worker("worker-2")
    gone = world.time
    if world.rng.random() < 0.5:
        first.kill()
    else:
        world.note("cut off", first.name)
        world.allowed_errors = (ConnectionError,)
        first.is_cut_off = True
        await world.until(
            lambda: world.told[(job, 1)].ended is not None, 72 + 3, "the child of a worker that is cut off ends"
        )
    await world.until(lambda: (job, 2) in world.told, 105 - (world.time - gone), "the second attempt", every=0.1)
    world.note("again after", round(world.time - gone, 1))
    first.is_cut_off = False
    await world.ends(job, within=400)
    assert world.told[(job, 2)].where == spare.name


async def row_4(world: World) -> None:
    """A worker dies between taking an entry and beginning, or between finishing and saying so: nothing is lost."""
    crew = [world.worker("worker-1"), world.worker("worker-2")]
    jobs = [world.order(None, SHORT) for _ in range(6)]
    moment = world.rng.choice(("dequeued", "finishing"))
    for _ in range(2):
        for one in crew:
            one.now = "idle" if one.now == "dead" else one.now
        await world.until(
            lambda: any(one.now == moment for one in crew) or _all_over(world, jobs), 60, moment, every=0.01
        )
        for victim in [one for one in crew if one.now == moment]:
            victim.kill()
            await world.sleep(world.rng.uniform(0.5, 5))
            victim.start()
    await world.ends(*jobs, within=240)
    assert all(world.job(job).attempt <= 3 for job in jobs)


async def row_8(world: World) -> None:
    """Redis loses everything, again and again: every job runs once, and stop works without hints."""
    crew = [world.worker(f"worker-{number}") for number in (1, 2)]
    jobs = [world.order(None, SHORT) for _ in range(8)]
    for _ in range(3):
        await world.sleep(world.rng.uniform(0.3, 5))
        world.site.queue.lose_all()
        waiting = [job for job in jobs if world.state(job) == "queued" and not any(one.job == (job, 1) for one in crew)]
        await world.until(lambda: not waiting or _is_rebuilt(world, waiting), 60, "the queue rebuilt")  # noqa: B023
    world.site.hints.is_away = True
    late = world.order(None, LONG)
    await world.in_state(late, "training", within=60)
    world.press(training_jobs.stop, late)
    await world.in_state(late, "paused", within=15)
    await world.ends(*jobs)
    assert all(world.job(job).attempt == 1 for job in (*jobs, late))


async def row_9(world: World) -> None:
    """Redis hangs for a minute: orders are taken, what runs goes on, and everything runs afterwards."""
    machine = await world.machine()
    world.worker()
    running, stopped = world.order(None, LONG), world.order(machine, LONG)
    await world.in_state(running, "training")
    world.site.queue.is_away = world.site.hints.is_away = True
    late = world.order(None, SHORT)
    await world.sleep(world.rng.uniform(1, 20))
    world.press(training_jobs.stop, stopped)
    await world.in_state(stopped, "paused", within=20)  # without a hint at the next look, 15 s at most
    await world.sleep(world.rng.uniform(20, 40))
    world.site.queue.is_away = world.site.hints.is_away = False
    await world.ends(running, late, within=120)
    assert world.job(late).attempt == 1


async def row_10(world: World) -> None:
    """The database is away for up to 30 s, or its commits fail now and then: no acknowledgement without a commit."""
    await _database_trouble(world, world.rng.choice(("away", "doubtful")))


async def row_19(world: World) -> None:
    """The server's disk is full: acknowledgements stop, nothing is half-written, and it goes on once there is room."""
    await _database_trouble(world, "full")


async def _database_trouble(world: World, kind: str) -> None:
    world.allowed_errors = (OperationalError,)
    machine = await world.machine()
    world.worker()
    jobs = [world.order(machine, LONG), world.order(None, LONG)]
    for job in jobs:
        await world.in_state(job, "training")
    await world.sleep(world.rng.uniform(0, 15))
    before = [world.count_stored(job, 1, "log") for job in jobs]
    database = world.site.database
    database.trouble = {"away": database.away, "full": database.full, "doubtful": _doubtful(world, database)}[kind]
    world.note("database", kind)
    await world.sleep(world.rng.uniform(5, 30))
    database.trouble = None
    world.note("database back")
    assert kind == "doubtful" or [world.count_stored(job, 1, "log") for job in jobs] == before
    await world.until(lambda: all(_is_caught_up(world, job) for job in jobs), 60, "caught up")
    await world.ends(*jobs)
    assert all(world.job(job).attempt == 1 for job in jobs)


def _is_rebuilt(world: World, waiting: list[int]) -> bool:
    """Whether something of what was lost is queued again, or has been taken already."""
    return any((job, 1) in world.site.queue.entries or world.state(job) != "queued" for job in waiting)


def _doubtful(world: World, database: Database) -> Callable[[str], None]:
    def fail(what: str) -> None:
        if what == "commit" and world.rng.random() < 0.4:
            database.away(what)

    return fail


def _is_caught_up(world: World, job: int) -> bool:
    """Whether all but what was said a moment ago is stored."""
    return world.count_stored(job, 1, "log") >= len(world.told[(job, 1)].items["log"]) - 1


def _all_over(world: World, jobs: list[int]) -> bool:
    return all(world.state(job) == "completed" for job in jobs)
