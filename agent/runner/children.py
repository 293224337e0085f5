"""The process that trains, seen from the runner: started from scratch, or forked from one that has torch loaded
already."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from .. import settings
from . import processes

_LENGTH = struct.Struct("<I")
_EVENT_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # fcntl(2), Linux


class Child(Protocol):
    """What the runner needs of it. `mark` is in the environment of everything it starts; `stdout` and `events` are
    descriptors to read from."""

    pid: int
    mark: str
    stdout: int
    events: int

    def start(self, assignment: dict[str, Any]) -> None: ...
    def poll(self) -> int | None: ...
    def signal(self, number: int) -> None: ...
    def signal_group(self, number: int) -> None: ...
    def close(self) -> None: ...


def program(environment: Mapping[str, str], verb: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command that starts this same program with another verb, and `environment` with what that needs.

    From the downloaded file that is the file itself; from a folder it is `-m agent`, its parent made importable.
    """
    parent = Path(__file__).resolve().parent.parent.parent
    if parent.is_file():
        return [sys.executable, str(parent), verb, *arguments], dict(environment)
    paths = os.pathsep.join(filter(None, [str(parent), environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "agent", verb, *arguments]
    return command, {**environment, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}


class _Pipes:
    """Ends of the pipes to a child. The events pipe is made large, so that reporting seldom waits for the runner."""

    def __init__(self) -> None:
        self.stdout, self.stdout_end = os.pipe()
        self.events, self.events_end = os.pipe()
        if sys.platform == "linux":
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.fcntl(self.events, _F_SETPIPE_SZ, _EVENT_PIPE_BYTES)

    def close_far_ends(self) -> None:
        os.close(self.stdout_end)
        os.close(self.events_end)


class SpawnedChild:
    """A fresh interpreter with the hidden verb `child`, in a session of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(16)
        self.pid = 0
        self.stdout = self.events = -1
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, assignment: dict[str, Any]) -> None:
        pipes = _Pipes()
        more = {settings.JOB_MARK: self.mark, "PYTHONUNBUFFERED": "1"}
        command, environment = program({**self._environment, **more}, "child", str(pipes.events_end), str(os.getpid()))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=pipes.stdout_end,
            stderr=subprocess.STDOUT,
            pass_fds=(pipes.events_end,),
            env=environment,
            cwd=self.folder,
            start_new_session=True,
        )
        pipes.close_far_ends()
        self.pid, self.stdout, self.events = self._process.pid, pipes.stdout, pipes.events
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died already; `poll` will say how
            self._process.stdin.write(json.dumps(assignment).encode())
            self._process.stdin.close()

    def poll(self) -> int | None:
        """None while it runs; then its exit code, or minus the number of the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def signal_group(self, number: int) -> None:
        if self._process is not None:
            processes.signal_group(self.pid, number)

    def close(self) -> None:
        for descriptor in (self.stdout, self.events):
            if descriptor >= 0:
                os.close(descriptor)
        self.stdout = self.events = -1


class ForkedChild:
    """A copy of this process, made now and idle until `start`; it has every module that was imported here.

    Make it before this process starts a thread or uses a GPU: neither survives a fork. `run` gets the assignment and
    the descriptor for reports and returns the exit code; it is `agent.child.main` unless a test says otherwise.
    """

    def __init__(self, run: Callable[[dict[str, Any], int], int] | None = None) -> None:
        self.mark = secrets.token_hex(16)
        pipes = _Pipes()
        orders, self._orders = os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            os.environ[settings.JOB_MARK] = self.mark
            _serve(run, orders, pipes, parent)
        os.close(orders)
        pipes.close_far_ends()
        self.stdout, self.events = pipes.stdout, pipes.events
        self._status: int | None = None

    def start(self, assignment: dict[str, Any]) -> None:
        text = json.dumps(assignment).encode()
        with contextlib.suppress(BrokenPipeError):
            _write_all(self._orders, _LENGTH.pack(len(text)) + text)

    def poll(self) -> int | None:
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0  # somebody else reaped it
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        if self.poll() is None:
            processes.signal_group(self.pid, number)

    def close(self) -> None:
        """Let go of it; one that was never started ends by itself."""
        for descriptor in (self.stdout, self.events, self._orders):
            if descriptor >= 0:
                os.close(descriptor)
        self.stdout = self.events = self._orders = -1


def _serve(run: Callable[[dict[str, Any], int], int] | None, orders: int, pipes: _Pipes, parent: int) -> None:
    """The forked side: wait for the assignment, carry it out, and never return into the code that forked."""
    code = 1
    try:
        os.setsid()
        processes.die_with_parent(parent)
        _forget_signals()
        _redirect(pipes)
        os.set_blocking(orders, True)
        head = _read_exactly(orders, _LENGTH.size)
        if not head:
            os._exit(0)
        assignment = json.loads(_read_exactly(orders, *_LENGTH.unpack(head)))
        os.close(orders)
        code = (run or _recipe_child())(assignment, pipes.events_end)
        sys.stdout.flush()
    finally:
        os._exit(code)


def _recipe_child() -> Callable[[dict[str, Any], int], int]:
    from ..child import main

    return main


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _redirect(pipes: _Pipes) -> None:
    os.close(pipes.stdout)
    os.close(pipes.events)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(pipes.stdout_end, 1)
    os.dup2(pipes.stdout_end, 2)
    os.close(nothing)
    os.close(pipes.stdout_end)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def _read_exactly(descriptor: int, size: int) -> bytes:
    """`size` bytes, or nothing when the other end has closed first."""
    data = b""
    while len(data) < size:
        piece = os.read(descriptor, size - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
