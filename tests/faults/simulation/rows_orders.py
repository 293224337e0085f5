"""Rows 15, 21, 23, 24 and 26: what members do: watch, press twice, stop at any moment, resume."""

from __future__ import annotations

import asyncio
import contextlib

from services import training_jobs
from services.errors import Conflict
from tests.faults.simulation.machine import Machine
from tests.faults.simulation.training import Script
from tests.faults.simulation.world import World


async def row_15(world: World) -> None:
    """A page that reads slowly, stops reading and comes back sees every event once and in order."""
    machine = await world.machine()
    job = world.order(machine, Script(steps=20, seconds=1.0, lines=500))
    page = asyncio.create_task(_follow(world, job))
    await world.sleep(world.rng.uniform(2, 8))
    world.site.kill_web()
    await world.sleep(world.rng.uniform(0.5, 3))
    world.site.start_web()
    await world.ends(job)
    seen = await page
    assert seen == list(range(1, world.job(job).last_event + 1))


async def _follow(world: World, job: int) -> list[int]:
    """What a browser does with Last-Event-ID, at its own pace."""
    seen: list[int] = []
    while True:
        state = world.state(job)
        with world.site.at_work():
            new = training_jobs.events_after(job, seen[-1] if seen else 0, limit=world.rng.randint(1, 50))
            seen += [one.number for one in new]
        if state == "completed" and not new:
            return seen
        await world.sleep(world.rng.choice((0.1, 0.5, 5.0)))


async def row_21(world: World) -> None:
    """Entries come twice and buttons are pressed twice: one run at a time, one charge."""
    world.site.queue.doubles = True
    crew = [world.worker("worker-1"), world.worker("worker-2")]
    machine = await world.machine()
    jobs = [world.order(place, Script(steps=12, seconds=1.0)) for place in (None, machine)]
    for job in jobs:
        await world.in_state(job, "training")
    await world.sleep(world.rng.uniform(0, 8))
    for job in jobs:
        await _twice(world, training_jobs.stop, job)
    await world.ends(*jobs, states=("paused", "completed"), within=15)
    resumed = [job for job in jobs if world.state(job) == "paused"]
    for job in resumed:
        await _twice(world, training_jobs.resume, job)
    await world.ends(*jobs)
    assert all(world.job(job).attempt == (2 if job in resumed else 1) for job in jobs)
    assert len(crew) == 2 and max(world.site.queue.pushed.values()) == 1


async def _twice(world: World, verb: object, job: int) -> None:
    for _ in range(2):
        with contextlib.suppress(Conflict):
            world.press(verb, job)  # type: ignore[arg-type]
        await world.sleep(world.rng.choice((0.0, 0.3)))


async def row_23(world: World) -> None:
    """Stop or cancel at any moment of the first 30 s: over within 15 s, with one end and nothing left running."""
    await _stop_at_random(world, Script(steps=60, seconds=1.0, saving=world.rng.uniform(0.1, 2)))


async def row_24(world: World) -> None:
    """A training that does not listen: ended by force, within 15 s."""
    await _stop_at_random(world, Script(steps=60, seconds=1.0, obeys=False))


async def _stop_at_random(world: World, script: Script) -> None:
    place: Machine | None = await world.machine() if world.rng.random() < 0.5 else None
    if place is None:
        world.worker()
    job = world.order(place, script)
    await world.sleep(world.rng.choice((world.rng.uniform(0, 2), world.rng.uniform(0, 30))))
    verb, state = world.rng.choice(((training_jobs.stop, "paused"), (training_jobs.cancel, "cancelled")))
    world.press(verb, job)
    took = await world.in_state(job, state, within=15)
    world.note("stopped after", round(took, 1))
    told = world.told.get((job, 1))
    await world.until(lambda: told is None or told.ended is not None, 15 - took, "nothing runs")
    if verb is training_jobs.stop:
        world.rewrite(job, Script(steps=max(6, len(told.steps_at) + 2 if told else 6), seconds=0.5))
        world.press(training_jobs.resume, job)
        await world.ends(job)
    else:
        await world.sleep(3)


async def row_26(world: World) -> None:
    """Stopped and resumed five times: the curve has every step once, as if nothing had happened."""
    place: Machine | None = await world.machine() if world.rng.random() < 0.5 else None
    if place is None:
        world.worker()
    job = world.order(place, Script(steps=24, seconds=0.5, lines=2, saving=0.2))
    for _ in range(5):
        await world.in_state(job, "training", "completed", within=60)
        await world.sleep(world.rng.uniform(0, 4))
        if world.state(job) != "training":
            break
        world.press(training_jobs.stop, job)
        await world.ends(job, states=("paused", "completed"), within=15)
        if world.state(job) == "completed":
            break
        world.press(training_jobs.resume, job)
    await world.ends(job)
    with world.site.at_work():
        curve = training_jobs.series_of(job)["loss"]
    assert curve == [[step, round(2 / step, 6)] for step in range(1, 25)]
