"""The server's workers: the real line between spool and database, on virtual time, with its rule of 72 s."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import worker
from agent.protocol import JobSpec
from agent.spool import Final, Spool
from models.base import release
from services import training_jobs
from services.errors import Conflict, DomainError, NotFound
from tests.faults.simulation.clock import Monotonic, Process
from tests.faults.simulation.site import publish
from tests.faults.simulation.training import Training

if TYPE_CHECKING:
    from tests.faults.simulation.world import World

SERVER_FOLDER = "server"
START_SECONDS = 1.0


class Worker:
    """One worker: takes entries from the queue, one after another, each in a horse of its own."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.origin = world.rng.uniform(0, 1e6)
        self.process: Process | None = None
        self.is_cut_off = False  # from the database
        self.now = "idle"
        self.job: tuple[int, int] | None = None
        self.line: SimulatedLine | None = None

    def start(self) -> None:
        self.process, self.now = Process(self.name, self.origin), "idle"
        self.process.start(self._work())

    def kill(self) -> None:
        """kill -9 of worker and horse: the training dies with them."""
        assert self.process is not None
        self.world.note("kill worker", self.name, self.now)
        self.now = "dead"
        self.process.kill()

    def end(self) -> None:
        """SIGTERM: the running job saves a checkpoint and goes on elsewhere."""
        self.world.note("end worker", self.name)
        self.now = "ending"
        if self.line is not None:
            self.line.end(15, None)

    async def _work(self) -> None:
        while self.now != "ending":
            job, attempt = await self.world.site.queue.pop()
            self.job, self.now = (job, attempt), "dequeued"
            self.world.note("dequeue", self.name, job, attempt)
            await asyncio.sleep(self.world.rng.uniform(0.05, START_SECONDS))
            await self._horse(job, attempt)
            self.job, self.line = None, None
            if self.now != "ending":
                self.now = "idle"

    async def _horse(self, job: int, attempt: int) -> None:
        site = self.world.site
        try:
            with site.at_work():
                spec = training_jobs.claim(job, attempt, self.name)
        except Exception as error:  # the horse dies of it; the clock pushes the entry again
            self.world.unforeseen(error)
            return
        if spec is None:
            return
        self.now = "running"
        spool = Spool(self.world.folder / "server" / str(job) / str(attempt) / "spool")
        line = self.line = SimulatedLine(self, spec, spool)
        assert self.process is not None
        passing = self.process.start(line.pass_on())
        told = self.world.began(job, attempt, self.name)
        training = Training(
            spec, self.world.script_of(job), spool, line.orders, told, self.world.checkpoints, SERVER_FOLDER,
            lambda: self._deliver(spec),
        )  # fmt: skip
        final = await training.run()
        self.world.ended(told, final)
        spool.finish(final)
        self.now = "finishing"
        line.stop()
        await passing
        while not line.told_the_end(final):
            await asyncio.sleep(1)
        spool.close()

    async def _deliver(self, spec: JobSpec) -> bool:
        await asyncio.sleep(0.05)
        if self.is_cut_off:
            return False
        try:
            with self.world.site.at_work():
                publish(self.world.site.app, spec.job, spec.attempt, self.world.folder / "weights")
        except DomainError:
            return True
        except Exception:
            return False
        return True


class SimulatedLine(worker.Line):
    """The real line with its loop as a task instead of a thread; hints come at the next renewal."""

    def __init__(self, place: Worker, spec: JobSpec, spool: Spool) -> None:
        self._place = place
        self._app, self._spec, self._spool = place.world.site.app, spec, spool
        self._order = None
        self._asked_to_end = False
        self._nudged = False
        self._time = Monotonic(place.world.loop)
        self._heard = self._time.monotonic()
        self._over = asyncio.Event()

    def stop(self) -> None:
        self._over.set()

    async def pass_on(self) -> None:
        """What `Line._pass_on` does, and the nudge that `Line._listen` gives."""
        renewed = float("-inf")
        with self._place.world.site.hints.waiting(f"orders:{self._spec.job}") as wake:
            while not self._over.is_set():
                with self._app.app_context():
                    try:
                        self._must_reach()
                        self._forward()
                        if self._time.monotonic() - renewed > worker.RENEW_SECONDS or wake.is_set():
                            wake.clear()
                            self._order = training_jobs.renew(self._spec.job, self._spec.attempt)
                            renewed = self._heard = self._time.monotonic()
                    except (NotFound, Conflict):
                        self._order = "cancel"
                    except Exception as error:
                        self._place.world.unforeseen(error)
                        await self._rest(1.0)
                    finally:
                        release()
                await self._rest(worker.FORWARD_SECONDS)

    def told_the_end(self, final: Final) -> bool:
        """One try to tell the end, as `Line.finish` makes them."""
        if self._place.is_cut_off:
            return False
        with self._app.app_context():
            return self._told_the_end(final)

    def _must_reach(self) -> None:
        if self._place.is_cut_off:
            raise ConnectionError("the database cannot be reached")

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
