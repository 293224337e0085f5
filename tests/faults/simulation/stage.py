"""Where histories are played: a prepared yard, everything real that has to be taken over, and the play itself."""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask

import agent.connection
import agent.daemon
import agent.files
import agent.hardware
import agent.spool
import services.agent_sessions
import services.signs_of_life
import worker
from agent.workspace import AttemptFolder
from models import base
from models.base import db
from services import clock
from services.training_jobs import metering
from tests.conftest import Yard, member
from tests.factories import make_dataset, on_plan
from tests.faults.simulation import machine as machines
from tests.faults.simulation.clock import Monotonic, Process, VirtualLoop, WallClock, current, swapped
from tests.faults.simulation.world import World

Scenario = Callable[[World], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Stage:
    """A prepared yard: Alice on the largest plan with a data set. Going back to it is copying one file on SQLite."""

    yard: Yard
    folder: Path

    @classmethod
    def at(cls, database_url: str, redis_url: str, folder: Path) -> Stage:
        """Set up a yard on an empty database at the moment every history begins with."""
        with swapped((base, "datetime", WallClock(VirtualLoop()).as_class())):
            stage = cls(Yard(database_url, redis_url, folder), folder)
            stage._prepare()
        if (path := stage._database()) is not None:
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            shutil.copyfile(path, folder / "prepared.db")
        return stage

    def reset(self) -> None:
        path = self._database()
        if path is None:
            with swapped((base, "datetime", WallClock(VirtualLoop()).as_class())):
                self._prepare()
            return
        with self.yard.app.app_context():
            db.session.remove()
            db.engine.dispose()
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(self.folder / "prepared.db", path)

    def _prepare(self) -> None:
        self.yard.reset()
        with self.yard.app.app_context():
            alice = member("alice")
            on_plan(alice, "enterprise")
            make_dataset(alice)
            db.session.remove()
            db.engine.dispose()

    def _database(self) -> Path | None:
        with self.yard.app.app_context():
            url = db.engine.url
        return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def play(stage: Stage, folder: Path, seed: str, scenario: Scenario, check: Callable[[World], None]) -> World:
    """Play one scenario from its seed and check what is left; the world as it ended."""
    stage.reset()
    shutil.rmtree(folder, ignore_errors=True)
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    before = random.getstate()
    random.seed(seed)
    gc.disable()
    try:
        world = loop.run_until_complete(_made(stage.yard.app, folder, random.Random(seed), loop))
        try:
            with _taken_over(world):
                loop.run_until_complete(_played(world, scenario))
                check(world)
        except BaseException as error:
            error.add_note("\n".join(world.history[-60:]))
            raise
        finally:
            world.site.close()
    finally:
        gc.enable()
        random.setstate(before)
        asyncio.set_event_loop(None)
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
    return world


async def _made(app: Flask, folder: Path, rng: random.Random, loop: VirtualLoop) -> World:
    return World(app, folder, rng, loop)


async def _played(world: World, scenario: Scenario) -> None:
    world.site.start_web()
    world.site.start_clock()
    try:
        await scenario(world)
        if world.loop.failure is not None:
            raise world.loop.failure
    finally:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for process in _processes(world):
            process.is_dead = True
            process.thaw()
        for _ in range(20):
            await asyncio.sleep(0)


def _processes(world: World) -> list[Process]:
    found = [
        world.site.web,
        world.site.clock,
        *(one.process for one in world.machines),
        *(one.process for one in world.workers),
    ]
    found += [process for one in world.machines for process in one.supervisors.values()]
    return [process for process in found if process is not None]


def _taken_over(world: World) -> Any:
    """Time, the network, processes, hardware and disks are the simulation's for as long as the block runs."""
    monotonic = Monotonic(world.loop)
    timed = (
        agent.connection, agent.connection.session, agent.connection.window, agent.spool.reader, agent.spool.writer,
        agent.daemon, services.agent_sessions, services.signs_of_life, clock, metering, worker,
    )  # fmt: skip
    limited = machines.LimitedOs(lambda: _disk(world))
    return swapped(
        *((module, "time", monotonic) for module in timed),
        (base, "datetime", world.wall.as_class()),
        (agent.connection, "open_socket", lambda _url, key, patience: _opening(world, key, patience)),
        (agent.spool.segments, "os", limited),
        (agent.files, "os", limited),
        (agent.hardware, "machine", lambda _folder: dict(machines.FACTS)),
        (agent.hardware, "installed", lambda _name: "2.13.0"),
        (agent.hardware, "missing", list),
        (agent.hardware, "disk_free_bytes", lambda _folder: 10**11),
        (AttemptFolder, "is_supervised", lambda one: any(m.is_supervised(one.path) for m in world.machines)),
        (AttemptFolder, "end_processes", lambda one: [m.kill_supervisor(one.path) for m in world.machines]),
        (asyncio, "to_thread", _at_once),
        (clock, "log", world.site),
        (worker, "log", world.site),
    )


async def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _opening(world: World, key: str, patience: float) -> Any:
    process = current()
    place = next(one for one in world.machines if one.process is process)
    assert process is not None
    return place.cable.opening(process, key, patience, world.site)


def _disk(world: World) -> machines.Disk | None:
    process = current()
    return next((one.disk for one in world.machines if process and process.name.startswith(one.name)), None)
