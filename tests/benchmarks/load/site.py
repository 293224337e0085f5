"""A yard under load: a member with machines, what its web process costs, and how fast its pages come meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.benchmarks.load.machines import Machines, machines
from tests.running import Member, RunningYard

PAGES = ("/dashboard", "/ai-training", "/datasets", "/agents", "/account", "/pricing")
JOINING_A_SECOND = 100.0


@dataclass
class Load:
    """A yard as `make run` starts it, on its SQLite, with one member and a key for her machines."""

    folder: Path
    yard: RunningYard
    member: Member
    key: str

    @contextlib.contextmanager
    def crowd(self, count: int) -> Iterator[Machines]:
        """So many connected machines."""
        with machines(self.yard.socket_url, self.key) as crowd:
            join(crowd, count)
            yield crowd


@contextlib.contextmanager
def loaded(folder: Path) -> Iterator[Load]:
    """Start the yard; a member on the largest plan is in it."""
    with RunningYard(folder / "yard") as yard:
        member = Member.signed_up(yard.url, "bench", "enterprise")
        yield Load(folder, yard, member, member.new_key()["key"])


def join(crowd: Machines, count: int) -> None:
    """Let so many more machines connect. Raises AssertionError when one cannot."""
    before = crowd.ask("state")["connected"]
    crowd.ask("join", count=count, a_second=JOINING_A_SECOND)
    wait_connected(crowd, before + count)


def wait_connected(crowd: Machines, count: int, seconds: float = 120) -> float:
    """Wait until so many machines are welcomed; when the last of them was, in seconds since the epoch."""
    deadline = time.monotonic() + seconds
    while True:
        state = crowd.ask("state")
        assert not state["failed"], f"machines gave up: {state['failed'][:3]}"
        if state["connected"] >= count:
            return float(state["last_welcomed_at"])
        assert time.monotonic() < deadline, (
            f"{state['connected']} of {count} machines are connected after {seconds:.0f} s"
        )
        time.sleep(0.1)


@dataclass
class Reader:
    """Somebody who opens pages one after the other while something else goes on."""

    member: Member
    pages: tuple[str, ...] = PAGES
    pause: float = 0.4
    seconds: list[float] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Reader:
        for path in self.pages:  # templates are compiled
            self._open(path)
        self.seconds.clear()
        self.slowest = (0.0, "")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        while True:
            for path in self.pages:
                if self._over.wait(self.pause):
                    return
                self._open(path)

    def _open(self, path: str) -> None:
        began = time.perf_counter()
        answer = self.member.ask("GET", path, headers={"Accept": "text/html"})
        took = time.perf_counter() - began
        assert answer.status == 200, f"{path}: {answer.status}"
        self.seconds.append(took)
        self.slowest = max(self.slowest, (took, path))


class Process:
    """What a process has used since this was made."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._began = process, time.monotonic()
        self._used = self._busy()

    @property
    def percent(self) -> float:
        """Of one core."""
        return 100 * (self._busy() - self._used) / (time.monotonic() - self._began)

    def _busy(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def kibibytes(process: psutil.Process) -> float:
    """Its proportional share of memory (PSS)."""
    return float(process.memory_full_info().pss) / 1024
