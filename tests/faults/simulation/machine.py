"""A member's machine: the real daemon, connection and spool; simulated are its processes, its disk and its hardware."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.daemon import Agent
from agent.daemon.options import Options
from agent.settings import Timings
from agent.spool import Final, Spool
from agent.workspace import AttemptFolder, Workspace
from tests.faults.simulation.clock import Process
from tests.faults.simulation.link import Cable
from tests.faults.simulation.training import Training

if TYPE_CHECKING:
    from tests.faults.simulation.world import World

SERVER_URL = "ws://127.0.0.1:5000"
FACTS = {"os": "Linux", "python": "3.11.7", "torch": "2.13.0", "gpus": [], "memory_bytes": 8 * 10**9,
         "disk_free_bytes": 10**11}  # fmt: skip


class Machine:
    """One machine. What is on its disk survives everything; its processes do not."""

    def __init__(self, world: World, name: str, key: str, folder: Path, jobs: int = 1) -> None:
        self.world, self.name, self.key, self.folder, self.jobs = world, name, key, folder, jobs
        self.cable = Cable(world.rng)
        self.disk = Disk(folder)
        self.origin = world.rng.uniform(0, 1e6)
        self.process: Process | None = None
        self.supervisors: dict[Path, Process] = {}
        folder.mkdir(parents=True, exist_ok=True)

    # --- the agent ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the agent."""
        process = self.process = Process(self.name, self.origin)
        process.start(self._agent())

    async def _agent(self) -> None:
        options = Options(SERVER_URL, self.key, self.name, (), jobs=self.jobs)
        agent = SimulatedAgent(self, options, Workspace(self.folder, SERVER_URL), Quiet(self))
        await agent.run()

    def kill(self) -> None:
        """kill -9 of the agent: the system closes its socket, supervisors live on."""
        assert self.process is not None
        self.world.note("kill agent", self.name)
        self.process.kill()
        if self.cable.mode == "up":
            self.cable.reset()

    def freeze(self) -> None:
        assert self.process is not None
        self.world.note("freeze agent", self.name)
        self.process.freeze()

    def thaw(self) -> None:
        assert self.process is not None
        self.world.note("thaw agent", self.name)
        self.process.thaw()

    def cut(self, mode: str) -> None:
        self.world.note("cut", self.name, mode)
        self.cable.cut(mode)

    def heal(self) -> None:
        self.world.note("heal", self.name)
        self.cable.heal()

    # --- supervisors -------------------------------------------------------------------------------------------------

    def supervise(self, folder: AttemptFolder) -> Supervisor:
        process = Process(f"{self.name} supervisor {folder.job}.{folder.number}", self.origin)
        self.supervisors[folder.path] = process
        return Supervisor(process, process.start(self._supervise(folder)))

    async def _supervise(self, folder: AttemptFolder) -> None:
        spool = Spool(folder.spool, segment_bytes=self.disk.segment_bytes)
        if spool.final is not None:
            return
        spec = folder.task(Timings()).spec
        told = self.world.began(spec.job, spec.attempt, self.name)
        training = Training(
            spec, self.world.script_of(spec.job), spool, folder.order, told, self.world.checkpoints, self.name,
            lambda: self._deliver(spec.job, spec.attempt),
        )  # fmt: skip
        final = await training.run()
        self.world.ended(told, final)
        spool.finish(final)
        spool.close()

    async def _deliver(self, job: int, attempt: int) -> bool:
        await asyncio.sleep(2 * self.cable.delay())
        return self.cable.mode == "up" and self.world.site.take_delivery(job, attempt)

    def is_supervised(self, folder: Path) -> bool:
        process = self.supervisors.get(folder)
        return process is not None and not process.is_dead

    def kill_supervisor(self, folder: Path) -> None:
        """kill -9 of a supervisor; its training goes with it."""
        process = self.supervisors.get(folder)
        if process is not None and not process.is_dead:
            self.world.note("kill supervisor", process.name)
            process.kill()


class Supervisor:
    """A supervisor as the daemon sees the process it started."""

    def __init__(self, process: Process, task: asyncio.Task[None]) -> None:
        self._process, self._task = process, task
        task.add_done_callback(lambda _: setattr(process, "is_dead", True))

    def poll(self) -> int | None:
        return -9 if self._process.is_dead else None

    def wait(self, timeout: float | None = None) -> int | None:
        return self.poll()


class SimulatedAgent(Agent):
    """The real daemon, whose supervisors are tasks instead of processes."""

    def __init__(self, place: Machine, options: Options, workspace: Workspace, screen: Any) -> None:
        super().__init__(options, workspace, screen, Timings())
        self._place = place
        self._boot = f"boot at {place.world.time:.3f}"

    def _launch(self, folder: AttemptFolder) -> Any:
        return self._place.supervise(folder)


class Quiet:
    """The screen: what it is told goes into the history."""

    def __init__(self, place: Machine) -> None:
        self._place = place

    def note(self, sentence: str) -> None:
        self._place.world.note("screen", self._place.name, sentence)

    def connection(self, state: str, sentence: str) -> None:
        self._place.world.connection(self._place.name, state)
        self.note(sentence)

    def jobs(self, lines: list[Any]) -> None:
        """Nobody looks."""


class Disk:
    """How much fits on a machine's disk; unlimited until `room` is set."""

    segment_bytes = 8 << 20

    def __init__(self, folder: Path) -> None:
        self._folder, self.room = folder, None  # type: Path, int | None

    def fill(self, spare: int = 0) -> None:
        """Let only so many bytes more fit."""
        self.room = self._used() + spare

    def free(self) -> None:
        self.room = None

    def take(self, count: int) -> int:
        """How many of so many bytes fit. Raises OSError when none does."""
        if self.room is None:
            return count
        left = self.room - self._used()
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return min(left, count)

    def _used(self) -> int:
        return sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())


class LimitedOs:
    """Stands in for the module `os` where the spool writes."""

    def __init__(self, disk: Any) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, data: bytes) -> int:
        disk = self._disk()
        return os.write(descriptor, data if disk is None else data[: disk.take(len(data))])

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        disk = self._disk()
        if disk is not None and flags & os.O_TRUNC:
            disk.take(1)
        return os.open(path, flags, mode)


def wipe(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


KILLED = Final("failed", "member_machine", "The supervisor was killed.", "Press Try again.")
