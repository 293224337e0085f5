"""The agent itself: takes or refuses offers, starts and adopts supervisors, passes orders on, clears up.

One asyncio loop. `Connection` brings the server's messages to the verbs of `Agent`; a tick looks after the
supervisors and the screen. A job's state is in its folder alone, so an agent that was killed goes on where it was
when it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__, hardware, protocol, recipes, settings, supervisor
from .connection import Connection, Reply
from .protocol import JobSpec, Message
from .roots import PathRefused, resolve_inside
from .runner.children import program
from .screen import Line, Progress, Screen
from .settings import Timings
from .spool import SpoolReader
from .workspace import ORDERS, AttemptFolder, Task, Workspace

ROOM_FOR_A_JOB = 1 << 30
DISK_CHANGE_WORTH_TELLING = 256 << 20
SECOND_PRESS = 5.0
LONGEST_FAREWELL = 90.0
CHECK_SECONDS = 1.0
SCREEN_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """What the person who started the agent decided. `root_names` are the roots as they were typed, links not followed."""

    server_url: str
    key: str
    name: str
    roots: tuple[Path, ...]
    jobs: int = 1
    allow_scripts: bool = False
    root_names: tuple[str, ...] = ()


class HeldJob:
    """An attempt this machine has: running under its supervisor, or waiting for the server to store its end."""

    def __init__(self, folder: AttemptFolder, name: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.folder, self.name, self.process = folder, name, process
        self.reader = SpoolReader(folder.spool)
        self._screen_reader = SpoolReader(folder.spool)  # the screen has a place of its own in the streams
        self.progress = Progress()

    @property
    def job(self) -> int:
        return self.folder.job

    @property
    def attempt(self) -> int:
        return self.folder.number

    @property
    def is_running(self) -> bool:
        return self.reader.final is None

    def has_supervisor(self) -> bool:
        if self.process is not None and self.process.poll() is None:
            return True
        return self.folder.is_supervised()

    def follow(self) -> Progress:
        """How far it is now."""
        self.progress.follow(self._screen_reader)
        return self.progress

    def close(self) -> None:
        """Let go of the spool, and of the supervisor once it has ended."""
        self.reader.close()
        self._screen_reader.close()
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2.0)

    def entry(self) -> Message:
        """As hello and heartbeat name it."""
        state = "running" if self.is_running else "finished"
        return {"job": self.job, "attempt": self.attempt, "last": self.reader.last, "state": state}

    def last_words(self) -> str:
        """The end of what the supervisor itself printed: the reason when it could not even start."""
        try:
            lines = self.folder.log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f" Its last words: {lines[-1][:300]}" if lines else ""


class Agent:
    """Looks after the jobs of this machine."""

    def __init__(self, options: Options, workspace: Workspace, screen: Screen, timings: Timings) -> None:
        self.options, self.workspace, self.screen, self.timings = options, workspace, screen, timings
        self._identity = workspace.identity()
        self._boot = secrets.token_hex(8)
        self._held: dict[tuple[int, int], HeldJob] = {}
        self._machine: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        self._missing: list[str] = []
        self._leave_at: float | None = None
        self._is_stopping = False
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Serve until asked to leave. Raises Fatal when the server will never have us."""
        self._adopt()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGTERM, self._leaving.set)
        connection = Connection(self.options.server_url, self.options.key, self, self.timings, self._tell)
        tasks = [asyncio.create_task(work) for work in (connection.run(), self._tick(), self._leave())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- what the connection asks -------------------------------------------------------------------------------------

    def hello(self) -> Message:
        self._look_at_machine()
        return {
            "protocol": protocol.PROTOCOL_VERSION,
            "version": __version__,
            "agent": self._identity.agent,
            "secret": self._identity.secret,
            "boot": self._boot,
            "name": self.options.name,
            **self._description(),
            "jobs": [held.entry() for held in self._held.values()],
        }

    def heartbeat(self) -> Message:
        """Still here; with the description of the machine when something about it has changed."""
        self._look_at_machine()
        entries = {"jobs": [held.entry() for held in self._held.values()]}
        return {**entries, **self._description()} if self._is_news() else entries

    def held(self) -> Iterable[HeldJob]:
        return list(self._held.values())

    async def offered(self, spec: JobSpec) -> Reply | None:
        """Start a job, or say why not; None leaves the offer waiting (this machine is busy)."""
        key = {"job": spec.job, "attempt": spec.attempt}
        if (spec.job, spec.attempt) in self._held:
            return "job_accept", key
        reason = self._reason_against(spec)
        if reason is not None:
            return "job_refuse", {**key, **reason}
        for older in [held for held in self._held.values() if held.job == spec.job]:
            if older.attempt > spec.attempt:
                return None
            await self.abandon(older.job, older.attempt)
        if sum(held.is_running for held in self._held.values()) >= self.options.jobs:
            return None
        try:
            self._start(spec)
        except OSError as error:
            message = f"The job's folder on this machine could not be set up: {error.strerror}."
            return "job_refuse", key | _refusal("member_machine", message, f"Look at {self.workspace.jobs} there.")
        return "job_accept", key

    async def ordered(self, job: int, attempt: int, mode: str) -> Reply | None:
        """Pass a stop on to the supervisor."""
        key = {"job": job, "attempt": attempt}
        held = self._held.get((job, attempt))
        if held is None:
            if self.workspace.attempt(job, attempt).path.exists():
                return "stop_ack", {**key, "mode": mode}
            return "job_refuse", {**key, **_gone()}
        if mode in ORDERS:
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

    def _reason_against(self, spec: JobSpec) -> Message | None:
        """Why this machine cannot do the job, as cause, message and advice."""
        if self._missing:
            return _refusal("member_machine", f"This machine lacks {_listed(self._missing)}.", self._advice() or "")
        if spec.recipe not in recipes.CATALOG:
            message = f"The agent on this machine does not know the recipe {spec.recipe[:40]!r}."
            return _refusal("member_machine", message, "Download the agent again and start it in place of this one.")
        try:
            if spec.data.get("kind") == "local":
                resolve_inside(str(spec.data.get("path")), self.options.roots, "file")
        except PathRefused as refusal:
            return _refusal("data", str(refusal), "Name a file inside one of the agent's folders.")
        try:
            if spec.base_model.startswith("folder:"):
                resolve_inside(spec.base_model.removeprefix("folder:"), self.options.roots, "folder")
        except PathRefused as refusal:
            return _refusal("base_model", str(refusal), "Name a folder inside one of the agent's folders.")
        return self._reason_of_disk(spec)

    def _reason_of_disk(self, spec: JobSpec) -> Message | None:
        free = hardware.disk_free_bytes(self.workspace.path)
        sizes = [spec.data.get("bytes"), *(file.get("bytes") for file in spec.base_files)]
        needed = ROOM_FOR_A_JOB + sum(size for size in sizes if isinstance(size, int))
        if free >= needed:
            return None
        message = (
            f"The disk of {self.workspace.path} has {free / 1e9:.1f} GB free; this job needs {needed / 1e9:.1f} GB."
        )
        return _refusal("member_machine", message, "Free some space, or start the agent with --home on another disk.")

    def _start(self, spec: JobSpec) -> None:
        self.workspace.make_room_for(spec)
        folder = self.workspace.attempt(spec.job, spec.attempt)
        roots = tuple(str(root) for root in self.options.roots)
        folder.write_task(Task(spec, self.options.server_url, roots, self.timings))
        self._hold(folder, spec.name, self._launch(folder))
        self.screen.note(f"Job {spec.job} ({spec.name}) begins, attempt {spec.attempt}.")

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
        if await asyncio.to_thread(supervisor.end_for, held.folder, reason):
            self.screen.note(f"Job {held.job} ({held.name}): {reason}")

    # --- machine ------------------------------------------------------------------------------------------------------

    def _look_at_machine(self) -> None:
        """Take stock again; the GPUs only once, asking for them is slow."""
        if not self._machine:
            self._machine = hardware.machine(self.workspace.path)
            # Both forms, so that the server can tell at once whether a path somebody types lies inside one.
            self._machine["roots"] = list(dict.fromkeys([*self.options.root_names, *map(str, self.options.roots)]))
            self._machine["scripts"] = self.options.allow_scripts
        self._machine["torch"] = hardware.installed("torch")
        self._machine["disk_free_bytes"] = hardware.disk_free_bytes(self.workspace.path)
        missing = hardware.missing()
        if missing != self._missing:
            self._missing = missing
            self.screen.note(self._advice_line() if missing else "Everything that training needs is installed now.")

    def _description(self) -> Message:
        self._told = {
            "machine": dict(self._machine),
            "ready": not self._missing,
            "missing": list(self._missing),
            "advice": self._advice(),
        }
        return self._told

    def _is_news(self) -> bool:
        told = self._told.get("machine", {})
        moved = abs(told.get("disk_free_bytes", 0) - self._machine["disk_free_bytes"])
        others = {name: value for name, value in self._machine.items() if name != "disk_free_bytes"}
        return (
            moved >= DISK_CHANGE_WORTH_TELLING
            or self._missing != self._told.get("missing")
            or any(told.get(name) != value for name, value in others.items())
        )

    def _advice(self) -> str | None:
        return f"Install it with: {hardware.install_command()}" if self._missing else None

    def _advice_line(self) -> str:
        return f"Not ready: {_listed(self._missing)} missing. {self._advice()}"

    # --- terminal -----------------------------------------------------------------------------------------------------

    def _tell(self, state: str, sentence: str) -> None:
        if state == "note":
            self.screen.note(sentence)
        elif state == "connected":
            self.screen.connection(state, f"Connected to {self.options.server_url} as {self.options.name}.")
        else:
            self.screen.connection(state, sentence)

    async def _tick(self) -> None:
        checked = shown = 0.0
        while True:
            now = time.monotonic()
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
        self.screen.jobs([Line(held.job, held.name, held.follow()) for held in running])

    def _interrupted(self) -> None:
        """Ctrl-C leaves jobs running; pressed again it stops them first."""
        running = [held for held in self._held.values() if held.is_running]
        if not running:
            self._leaving.set()
        elif self._leave_at is None:
            self._leave_at = time.monotonic() + SECOND_PRESS
            names = _listed([f"job {held.job}" for held in running])
            self.screen.note(
                f"Leaving in {SECOND_PRESS:.0f} s; {names} will train on without the agent, which takes it up again "
                "when it is started. Press Ctrl-C again to stop it with a checkpoint instead."
            )
        else:
            self._leave_at = time.monotonic() + LONGEST_FAREWELL
            self._is_stopping = True
            for held in running:
                held.folder.give_order("stop")
            self.screen.note("Stopping: waiting for the checkpoints.")

    async def _leave(self) -> None:
        """Return when it is time to go: asked to, some time after Ctrl-C, or once everything has stopped and is told."""
        while not self._leaving.is_set():
            if self._leave_at is not None and time.monotonic() >= self._leave_at:
                return
            if self._is_stopping and not self._held:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self._leaving.wait()


def _refusal(cause: str, message: str, advice: str) -> Message:
    return {"cause": cause, "message": message, "advice": advice}


def _gone() -> Message:
    return _refusal("member_machine", "This machine does not have the job any more.", "Press retry to start it again.")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _ending(final: Message) -> str:
    words = {"completed": "completed.", "stopped": "paused with a checkpoint.", "cancelled": "cancelled."}
    told = words.get(str(final.get("outcome")))
    return told or f"failed. {final.get('message') or ''} {final.get('advice') or ''}".strip()
