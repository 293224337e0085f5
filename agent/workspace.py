"""The agent's own folder: who it is, which jobs it has, and the files through which its processes find each other.

    <home>/.trainyard/
        agent.json                id and secret of this machine, made at the first start
        lock                      held by the running agent
        jobs/<server>/<job>/      the folder of a job: data/, base/, and what the recipe keeps (checkpoints/, output/)
            job.json              what the job is about; another job of the same number does not get its checkpoints
            attempts/<n>/
                task.json         the order: spec with its token, server, what the member allows
                supervisor.json   pid and fingerprint of the supervisor
                child.json        the same of the training, with its mark
                order             stop, cancel or kill
                spool/            see `spool`
                closed            the server has everything; its text says how it ended
                abandoned         the server wants nothing more of it

Folders have mode 0700 and files 0600. What must survive a crash is written atomically.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .files import write_atomically
from .protocol import JobSpec
from .runner import processes
from .scripts.terms import Terms
from .settings import Timings

FOLDER = ".trainyard"
ORDERS = ("stop", "cancel", "kill")


class WorkspaceTaken(Exception):
    """Another agent uses this folder; `str()` says what to do."""


@dataclass(frozen=True)
class Identity:
    """What a server knows this machine by."""

    agent: str
    secret: str


@dataclass(frozen=True)
class Task:
    """Everything a supervisor needs to carry out one attempt without the agent."""

    spec: JobSpec
    server_url: str
    terms: Terms
    timings: Timings

    def as_text(self) -> str:
        told = {"spec": self.spec.as_dict(), "server_url": self.server_url, "terms": self.terms.as_dict()}
        return json.dumps(told)

    @classmethod
    def from_text(cls, text: str, timings: Timings) -> Task:
        given = json.loads(text)
        return cls(JobSpec.from_dict(given["spec"]), given["server_url"], Terms.from_dict(given["terms"]), timings)


class AttemptFolder:
    """The files of one attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def number(self) -> int:
        return int(self.path.name)

    @property
    def job_folder(self) -> Path:
        return self.path.parent.parent

    @property
    def job(self) -> int:
        return int(self.job_folder.name)

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def log(self) -> Path:
        """What the supervisor itself prints; empty unless it is broken."""
        return self.path / "supervisor.log"

    @property
    def is_open(self) -> bool:
        """Whether something of it still has to be done or told."""
        return not self.is_closed and not self.is_abandoned

    @property
    def is_closed(self) -> bool:
        return (self.path / "closed").exists()

    @property
    def is_abandoned(self) -> bool:
        return (self.path / "abandoned").exists()

    def task(self, timings: Timings) -> Task:
        """Raises OSError or ValueError when the file is not there or not whole."""
        return Task.from_text((self.path / "task.json").read_text("utf-8"), timings)

    def write_task(self, task: Task) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self.path / "task.json", task.as_text())

    def give_order(self, order: str) -> None:
        """Leave an order for the supervisor; a weaker one than before changes nothing."""
        before = self.order()
        if before is None or ORDERS.index(order) > ORDERS.index(before):
            try:
                write_atomically(self.path / "order", order)
            except OSError:  # a full disk
                self._signal(order)

    def _signal(self, order: str) -> None:
        """The same without a file: to the supervisor SIGTERM is a stop; other orders end everything at once."""
        noted = self.process("supervisor")
        if order != "stop" or noted is None:
            self.end_processes()
        elif processes.is_alive(noted["pid"], noted["known_as"]):
            os.kill(noted["pid"], signal.SIGTERM)

    def order(self) -> str | None:
        try:
            text = (self.path / "order").read_text("utf-8").strip()
        except OSError:
            return None
        return text if text in ORDERS else None

    def note_process(self, name: str, pid: int, **more: str) -> None:
        """Write down which process is the `supervisor` or the `child`, so that a later agent knows it again."""
        known_as = processes.fingerprint(pid)
        if known_as is not None:
            write_atomically(self.path / f"{name}.json", json.dumps({"pid": pid, "known_as": known_as, **more}))

    def process(self, name: str) -> dict[str, Any] | None:
        try:
            noted = json.loads((self.path / f"{name}.json").read_text("utf-8"))
            return noted if isinstance(noted, dict) and "pid" in noted and "known_as" in noted else None
        except (OSError, ValueError):
            return None

    def is_supervised(self) -> bool:
        """Whether the supervisor that was noted is alive."""
        noted = self.process("supervisor")
        return noted is not None and processes.is_alive(noted["pid"], noted["known_as"])

    def end_processes(self) -> None:
        """Kill supervisor, training and whatever they started, if they are alive."""
        for name in ("supervisor", "child"):
            noted = self.process(name)
            if noted is None:
                continue
            if processes.is_alive(noted["pid"], noted["known_as"]):
                processes.signal_group(noted["pid"], 9)
                processes.sweep(noted["pid"], noted.get("mark", ""))
            elif noted.get("mark"):
                processes.sweep(0, noted["mark"])

    def close(self, outcome: str) -> None:
        """The server has stored the end: spool and token go, and data copies that no later attempt can want."""
        if outcome in ("completed", "cancelled"):
            for name in ("data", "base"):
                shutil.rmtree(self.job_folder / name, ignore_errors=True)
        self._mark("closed", outcome)
        self.forget()

    def abandon(self) -> None:
        """The server wants nothing more of this attempt: end it, keep what it made."""
        self.end_processes()
        self._mark("abandoned")
        self.end_processes()  # a supervisor that has begun meanwhile; a later one sees the mark
        self.forget()

    def _mark(self, name: str, text: str = "") -> None:
        try:
            write_atomically(self.path / name, text)
        except OSError:  # a full disk; the spool is what fills it, and nobody needs it any more
            shutil.rmtree(self.spool, ignore_errors=True)
            write_atomically(self.path / name, text)

    def forget(self) -> None:
        """Remove what nobody needs once an attempt is over: the spool, the token, the notes about processes."""
        shutil.rmtree(self.spool, ignore_errors=True)
        for name in ("task.json", "order", "supervisor.json", "child.json"):
            (self.path / name).unlink(missing_ok=True)


class Workspace:
    """The agent's folder as a whole. `server_url` keeps the jobs of different servers apart: each counts from 1."""

    def __init__(self, home: Path, server_url: str) -> None:
        self.path = home / FOLDER
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)
        self.jobs = self.path / "jobs" / _folder_name(server_url)
        self.jobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = -1

    def lock(self) -> None:
        """Make sure that this is the only agent here. Raises WorkspaceTaken."""
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise WorkspaceTaken(
                f"An agent is running with the folder {self.path} already. Stop it first, or give this one a folder of "
                "its own with --home."
            ) from None

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def identity(self) -> Identity:
        """The id and secret of this machine, made when there are none yet."""
        path = self.path / "agent.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(path.read_text("utf-8"))
            return Identity(str(known["agent"]), str(known["secret"]))
        made = Identity(secrets.token_hex(16), secrets.token_urlsafe(32))
        write_atomically(path, json.dumps({"agent": made.agent, "secret": made.secret}))
        return made

    def attempt(self, job: int, number: int) -> AttemptFolder:
        return AttemptFolder(self.jobs / str(job) / "attempts" / str(number))

    def attempts(self, job: int | None = None) -> Iterator[AttemptFolder]:
        """The attempts there are, of one job or of all, oldest first."""
        jobs = [path for path in self.jobs.iterdir() if path.name.isdigit()] if job is None else [self.jobs / str(job)]
        for folder in sorted(jobs, key=lambda path: int(path.name)):
            with contextlib.suppress(FileNotFoundError):
                numbers = [path for path in (folder / "attempts").iterdir() if path.name.isdigit()]
                yield from (AttemptFolder(path) for path in sorted(numbers, key=lambda path: int(path.name)))

    def make_room_for(self, spec: JobSpec) -> None:
        """Let the folder of a job be this job's: what another job of the same number left is set aside.

        A server that was set up anew counts from 1 again; its job 1 must not go on from the checkpoints of the old one.
        """
        folder = self.jobs / str(spec.job)
        subject = _subject(spec)
        try:
            known = json.loads((folder / "job.json").read_text("utf-8")).get("subject")
        except (OSError, ValueError, AttributeError):
            known = None
        told_before = self.attempt(spec.job, spec.attempt)
        if folder.exists() and (known != subject or not told_before.is_open):
            folder.rename(folder.with_name(f"{spec.job}-set-aside-{time.time_ns()}"))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(folder / "job.json", json.dumps({"subject": subject, "name": spec.name}))


def _subject(spec: JobSpec) -> str:
    """What makes a job this job: everything but the attempt, its token and the addresses that hold its number."""
    data = {name: spec.data.get(name) for name in ("kind", "sha256")}
    if spec.data.get("kind") == "local":
        data["path"] = spec.data.get("path")
    base = [file.get("sha256") for file in spec.base_files]
    parts = [
        spec.name,
        spec.recipe,
        spec.parameters,
        data,
        spec.mapping,
        spec.base_model,
        spec.base_name,
        base,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _folder_name(server_url: str) -> str:
    parts = urlsplit(server_url)
    port = parts.port or (443 if parts.scheme in ("wss", "https") else 80)
    return f"{(parts.hostname or 'server').replace(':', '_')}_{port}"
