"""All of it together: builds a yard and its machines, lets a scenario play, and remembers what happened."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import select

from agent.protocol import Message
from agent.spool import Final, Item
from models.accounts import User
from models.agents import Agent
from models.base import db, transaction
from models.datasets import DatasetVersion
from models.training_jobs import TrainingEvent, TrainingJob
from services import api_keys, training_jobs
from tests.conftest import member
from tests.factories import order
from tests.faults.simulation.clock import VirtualLoop, WallClock
from tests.faults.simulation.machine import Machine
from tests.faults.simulation.site import Site
from tests.faults.simulation.training import Checkpoints, Script, Told
from tests.faults.simulation.workers import Worker


class World:
    """What a scenario acts on, and the history it makes."""

    def __init__(self, app: Flask, folder: Path, rng: random.Random, loop: VirtualLoop) -> None:
        self.app, self.folder, self.rng, self.loop = app, folder, rng, loop
        self.wall = WallClock(loop)
        self.site = Site(self, app)
        self.machines: list[Machine] = []
        self.workers: list[Worker] = []
        self.checkpoints = Checkpoints()
        self.told: dict[tuple[int, int], Told] = {}
        self.history: list[str] = []
        self.goodbyes: list[float] = []
        self.allowed_errors: tuple[type[Exception], ...] = ()
        self.unforeseen_errors: list[str] = []
        self.broken: list[str] = []  # what was seen to be wrong while it went on
        self.connected: dict[str, list[tuple[float, str]]] = {}
        self.expect_overlap = self.expect_skew = False
        self._scripts: dict[int, Script] = {}
        self._jobs = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_bytes(b"weights")

    # --- what scenarios say ------------------------------------------------------------------------------------------

    @property
    def time(self) -> float:
        """Seconds since the beginning."""
        return self.loop.elapsed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def until(self, what: Callable[[], Any], within: float, why: str = "", every: float = 0.5) -> float:
        """Wait for it; how long it took. AssertionError when it takes longer than `within` seconds."""
        began = self.time
        while not what():
            assert self.time - began < within, f"{why or 'it'} did not come within {within} s, at {self.time:.1f} s"
            await asyncio.sleep(every)
        return self.time - began

    async def machine(self, name: str = "machine-1", jobs: int = 1) -> Machine:
        """A machine of Alice's whose agent is connected."""
        with self.site.at_work():
            _, key = api_keys.create(member("alice"), f"key of {name}", "agent")
        made = Machine(self, name, key, self.folder / name, jobs)
        self.machines.append(made)
        made.start()
        await self.until(lambda: self.is_connected(made), 15, f"{name} connected", every=0.1)
        return made

    def worker(self, name: str = "worker-1") -> Worker:
        made = Worker(self, name)
        self.workers.append(made)
        made.start()
        return made

    def order(self, place: Machine | None, script: Script | None = None) -> int:
        """Order a training on a machine, or on the server; the job's number."""
        self._jobs += 1
        with self.site.at_work():
            alice, dataset = member("alice"), db.session.scalars(select(DatasetVersion)).one()
            where: Any = "server" if place is None else {"agent": self.agent_id(place)}
            job = training_jobs.create(alice, order(dataset, place=where, name=f"job {self._jobs}"))
            with transaction():
                db.session.get_one(TrainingJob, job.id).at_most = 2_000
            number = job.id
        self._scripts[number] = script or Script()
        self.note("order", number)
        return number

    def press(self, verb: Callable[[User, int], Any], job: int) -> None:
        """A member presses a button: training_jobs.stop, resume, retry or cancel."""
        self.note("press", verb.__name__, job)
        with self.site.at_work():
            verb(member("alice"), job)

    def job(self, number: int) -> TrainingJob:
        with self.site.at_work():
            return db.session.get_one(TrainingJob, number)

    def state(self, number: int) -> str:
        ((state,),) = self.site.database.look(f"SELECT state FROM training_jobs WHERE id = {number:d}")
        return str(state)

    async def ends(self, *jobs: int, within: float = 300.0, states: tuple[str, ...] = ("completed",)) -> float:
        """Wait until jobs are in one of these states."""
        return await self.until(
            lambda: all(self.state(job) in states for job in jobs), within, f"{states} of {jobs}, now {self._states()}"
        )

    async def in_state(self, job: int, *states: str, within: float = 30.0) -> float:
        return await self.until(lambda: self.state(job) in states, within, f"{states} of job {job}", every=0.1)

    def agent_id(self, place: Machine) -> int | None:
        return db.session.scalar(select(Agent.id).where(Agent.name == place.name))

    def is_connected(self, place: Machine) -> bool:
        """Whether the machine's agent has been welcomed on its present connection."""
        states = self.connected.get(place.name)
        return bool(states and states[-1][1] == "connected")

    def script_of(self, job: int) -> Script:
        return self._scripts[job]

    def rewrite(self, job: int, script: Script) -> None:
        self._scripts[job] = script

    def stored(self, job: int, attempt: int, stream: str) -> list[tuple[int, Item]]:
        """What the server has of one stream, (number, item), in the order pages see it."""
        query = (
            select(TrainingEvent.seq, TrainingEvent.payload)
            .where(TrainingEvent.job_id == job, TrainingEvent.attempt == attempt, TrainingEvent.stream == stream)
            .order_by(TrainingEvent.number)
        )
        with self.site.at_work():
            return [(seq, payload) for seq, payload in db.session.execute(query)]

    def count_stored(self, job: int, attempt: int, stream: str) -> int:
        mine = f"job_id = {job:d} AND attempt = {attempt:d} AND stream = '{stream}'"
        ((count,),) = self.site.database.look(f"SELECT count(*) FROM training_events WHERE {mine}")
        return int(count)

    # --- what the parts report ---------------------------------------------------------------------------------------

    def note(self, *what: object) -> None:
        self.history.append(f"{self.time:.4f} {' '.join(map(str, what))}")

    def began(self, job: int, attempt: int, where: str) -> Told:
        self.note("begin", job, attempt, where)
        if (job, attempt) in self.told:
            self.broken.append(f"attempt {attempt} of job {job} was begun twice")
        told = self.told[(job, attempt)] = Told(job, attempt, where, self.loop.time())
        return told

    def ended(self, told: Told, final: Final) -> None:
        self.note("end", told.job, told.number, final.outcome)
        told.final = final

    def connection(self, name: str, state: str) -> None:
        self.note("connection", name, state)
        self.connected.setdefault(name, []).append((self.time, state))

    def heard(self, message: Message) -> None:
        """The server got a message."""
        facts = [message[name] for name in ("job", "attempt", "stream", "first", "outcome", "mode") if name in message]
        self.note(">", message["type"], *facts)

    def sent(self, frame: str) -> None:
        """The server sent a frame; an acknowledgement must not be above what is committed."""
        message = json.loads(frame)
        facts = [
            message[name]
            for name in ("job", "attempt", "stream", "through", "after", "mode", "code")
            if name in message
        ]
        self.note("<", message["type"], *facts)
        if message["type"] == "ack":
            count = self.count_stored(message["job"], message["attempt"], message["stream"])
            if message["through"] > count:
                self.broken.append(f"acknowledged {message}, stored are {count}")

    def unforeseen(self, error: Exception) -> None:
        self.note("error", type(error).__name__)
        if not isinstance(error, self.allowed_errors):
            self.unforeseen_errors.append(f"{type(error).__name__}: {error}")

    @property
    def fingerprint(self) -> str:
        """Of the whole history."""
        return hashlib.sha256("\n".join(self.history).encode()).hexdigest()[:16]

    def _states(self) -> dict[int, str]:
        return {job: self.state(job) for job in self._scripts}

    @property
    def jobs(self) -> list[int]:
        return list(self._scripts)
