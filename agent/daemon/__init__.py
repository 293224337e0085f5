"""The agent itself: takes or refuses offers, starts and adopts supervisors, passes orders on, clears up.

One asyncio loop. `Connection` brings the server's messages to the verbs of `Agent`; a tick looks after the
supervisors and the screen. A job's state is in its folder alone, so an agent that was killed goes on where it was
when it is started again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Collection
from datetime import datetime

from .. import __version__, protocol, settings, supervisor
from ..concurrency import first_of
from ..connection import Connection
from ..connection.jobs import Reply, refusal
from ..held_job import HeldJob
from ..protocol import JobSpec, Message
from ..runner.children import program
from ..running import STOP_JOBS, Announcement
from ..screen import Line, Screen, job_url
from ..scripts.terms import Terms
from ..settings import Timings
from ..workspace import ORDERS, AttemptFolder, Task, Workspace
from . import offers
from .farewell import Farewell
from .machine import Machine
from .options import Options

CHECK_SECONDS = 1.0
SCREEN_SECONDS = 1.0
ANNOUNCE_SECONDS = 3.0


class Agent:
    """Looks after the jobs of this machine."""

    def __init__(self, options: Options, workspace: Workspace, screen: Screen, timings: Timings) -> None:
        self.options, self.workspace, self.screen, self.timings = options, workspace, screen, timings
        self._identity = workspace.identity()
        self._boot = secrets.token_hex(8)
        self._held: dict[tuple[int, int], HeldJob] = {}
        self._machine = Machine(options, workspace.path, screen.note)
        self._farewell = Farewell(self.held, lambda: self._connection[0] == "connected", screen.note)
        self._connection = ("waiting", "Connecting.")
        told = {"version": __version__, "server_url": options.server_url, "name": options.name}
        self._announcement = Announcement(workspace.path, **told)

    async def run(self) -> None:
        """Serve until asked to leave. Raises Fatal when the server will never have us."""
        self._adopt()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._farewell.interrupt)
        loop.add_signal_handler(signal.SIGTERM, self._farewell.leave_now)
        loop.add_signal_handler(STOP_JOBS, self._farewell.stop_jobs)
        connection = Connection(self.options.server_url, self.options.key, self, self.timings, self._tell)
        try:
            await first_of(connection.run(), self._tick(), self._farewell.wait())
        finally:
            self._announcement.remove()

    # --- what the connection asks -------------------------------------------------------------------------------------

    def hello(self) -> Message:
        self._machine.look()
        return {
            "protocol": protocol.PROTOCOL_VERSION,
            "version": __version__,
            "agent": self._identity.agent,
            "secret": self._identity.secret,
            "boot": self._boot,
            "name": self.options.name,
            **self._machine.description(),
            "jobs": [held.entry() for held in self._held.values()],
        }

    def heartbeat(self) -> Message:
        """Still here; with the description of the machine when something about it has changed."""
        self._machine.look()
        entries = {"jobs": [held.entry() for held in self._held.values()]}
        return {**entries, **self._machine.description()} if self._machine.is_news() else entries

    def held(self) -> Collection[HeldJob]:
        return list(self._held.values())

    async def offered(self, spec: JobSpec) -> Reply | None:
        """Start a job, or say why not; None leaves the offer waiting (this machine is busy, leaves, or has no hours now)."""
        key = {"job": spec.job, "attempt": spec.attempt}
        if (spec.job, spec.attempt) in self._held:
            return "job_accept", key
        refused = offers.refused(spec, self._machine, self.options, self.workspace)
        if refused is not None:
            return refused
        for older in [held for held in self._held.values() if held.job == spec.job]:
            if older.attempt > spec.attempt:
                return None
            await self.abandon(older.job, older.attempt)
        if self._farewell.is_under_way or not self.options.hours.is_open(datetime.now()):
            return None
        if sum(held.is_running for held in self._held.values()) >= self.options.jobs:
            return None
        try:
            self._start(spec)
        except OSError as error:
            message = f"The job's folder on this machine could not be set up: {error.strerror}."
            advice = f"Look at {self.workspace.jobs} there."
            return refusal(spec.job, spec.attempt, "member_machine", message, advice)
        return "job_accept", key

    async def ordered(self, job: int, attempt: int, mode: str) -> Reply | None:
        """Pass a stop on to the supervisor."""
        key = {"job": job, "attempt": attempt}
        held = self._held.get((job, attempt))
        if held is None:
            if self.workspace.attempt(job, attempt).path.exists():
                return "stop_ack", {**key, "mode": mode}
            message, advice = "This machine does not have the job any more.", "Press Try again to start it again."
            return refusal(job, attempt, "member_machine", message, advice)
        if mode in ORDERS and held.is_running:  # the server may not have heard of the end yet
            held.folder.give_order(mode)
            self.screen.note(f"Job {job} was ordered to {mode}.")
        return "stop_ack", {**key, "mode": mode}

    async def abandon(self, job: int, attempt: int) -> None:
        """The server wants nothing more of this attempt."""
        held = self._held.pop((job, attempt), None)
        if held is not None:
            await asyncio.to_thread(held.folder.abandon)
            await asyncio.to_thread(held.close)
            self.screen.note(f"Job {job}, attempt {attempt}, is not wanted any more and was ended.")

    async def final_stored(self, job: int, attempt: int) -> None:
        """The server has everything: clear up."""
        held = self._held.pop((job, attempt), None)
        if held is None:
            return
        final = held.reader.final or {}
        await asyncio.to_thread(held.folder.close, str(final.get("outcome")))
        await asyncio.to_thread(held.close)
        self.screen.note(f"Job {job} ({held.name}): {_ending(final)}")

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _start(self, spec: JobSpec) -> None:
        self.workspace.make_room_for(spec)
        folder = self.workspace.attempt(spec.job, spec.attempt)
        folder.write_task(Task(spec, self.options.server_url, self._terms(), self.timings))
        self._hold(folder, spec.name, self._launch(folder))
        self.screen.note(f"Job {spec.job} ({spec.name}) begins, attempt {spec.attempt}.")

    def _terms(self) -> Terms:
        """What a script may use here, as it was said when the agent was started."""
        return Terms(
            roots=tuple(str(root) for root in self.options.roots),
            environment=self.options.environment,
            environments=str(self.workspace.path / "environments"),
        )

    def _launch(self, folder: AttemptFolder) -> subprocess.Popen[bytes]:
        command, environment = program(settings.without_key(os.environ), "supervise", str(folder.path))
        with open(folder.log, "ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=folder.job_folder,
                start_new_session=True,
            )

    def _hold(self, folder: AttemptFolder, name: str, process: subprocess.Popen[bytes] | None) -> None:
        self._held[(folder.job, folder.number)] = HeldJob(folder, name, process)

    def _adopt(self) -> None:
        """Take up what an earlier agent left: running supervisors, and ends that nobody has been told."""
        for folder in self.workspace.attempts():
            if not folder.is_open:
                folder.forget()  # an agent may have been killed half-way through it
                continue
            try:
                name = folder.task(self.timings).spec.name
            except (OSError, ValueError, KeyError, protocol.ProtocolError):
                continue  # killed before the order was written: it was never accepted
            begun = folder.process("supervisor") is not None or folder.spool.exists()
            self._hold(folder, name, None if begun else self._launch(folder))
            self.screen.note(f"Job {folder.job} ({name}), attempt {folder.number}, is taken up again.")

    async def _look_after(self, held: HeldJob) -> None:
        """Write the end of a job whose supervisor is gone without having done so."""
        if held.has_supervisor() or not held.is_running:
            return
        reason = f"The supervisor of this job on the machine was killed or has crashed.{held.last_words()}"
        try:
            if await asyncio.to_thread(supervisor.end_for, held.folder, reason):
                self.screen.note(f"Job {held.job} ({held.name}): {reason}")
        except OSError as failure:  # most likely the disk is full; the next look tries again
            if held.unwritten is None:
                held.unwritten = failure.strerror or str(failure)
                self.screen.note(
                    f"Job {held.job} ({held.name}) is over, but that cannot be written: {held.unwritten}. Trying again."
                )

    # --- terminal -----------------------------------------------------------------------------------------------------

    def _tell(self, state: str, sentence: str) -> None:
        if state == "note":
            self.screen.note(sentence)
            return
        if state == "connected":
            sentence = f"Connected to {self.options.server_url} as {self.options.name}."
        self._connection = (state, sentence)
        self.screen.connection(state, sentence)
        self._announce()

    def _announce(self) -> None:
        """Let `status` and `stop` of this machine know."""
        state, sentence = self._connection
        jobs = [held.shown() for held in self._held.values()]
        self._announcement.write(
            state=state, sentence=sentence, hours=self.options.hours.told(datetime.now()), jobs=jobs
        )

    async def _tick(self) -> None:
        checked = shown = announced = 0.0
        while True:
            now = time.monotonic()
            if now - announced >= ANNOUNCE_SECONDS:
                announced = now
                self._announce()
            if now - checked >= CHECK_SECONDS:
                checked = now
                for held in list(self._held.values()):
                    await self._look_after(held)
            if now - shown >= SCREEN_SECONDS:
                shown = now
                self._show_jobs()
            await asyncio.sleep(0.5)

    def _show_jobs(self) -> None:
        running = [held for held in self._held.values() if held.is_running]
        address = self.options.server_url
        self.screen.jobs([Line(held.job, held.name, held.follow(), job_url(address, held.job)) for held in running])


def _ending(final: Message) -> str:
    words = {"completed": "completed.", "stopped": "paused.", "cancelled": "cancelled."}
    told = words.get(str(final.get("outcome")))
    return told or f"failed. {final.get('message') or ''} {final.get('advice') or ''}".strip()
