"""Many machines in one process: each is the agent's own connection, with its heartbeats, window and pauses, and no training.

`python machines.py` reads one JSON plan from standard input and then a command a line; it answers each command with one line
of JSON. Benchmarks use it through `Machines`, so that what the machines cost is not counted to whoever measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent.parent
sys.path.insert(0, str(ROOT))

from websockets.asyncio.client import ClientConnection  # noqa: E402

from agent import __version__, protocol  # noqa: E402
from agent.connection import Connection  # noqa: E402
from agent.connection.jobs import Reply  # noqa: E402
from agent.connection.session import Break  # noqa: E402
from agent.protocol import JobSpec, Message  # noqa: E402
from agent.settings import Timings  # noqa: E402
from agent.spool import Item  # noqa: E402

GATHER_SECONDS = Timings().gather
TELL_CODE_SECONDS = 3.0
MACHINE = {
    "os": "Linux 6.1", "python": "3.11.7", "torch": "2.13.0", "gpus": [{"name": "NVIDIA H200", "memory_bytes": 150 * 10**9}],
    "memory_bytes": 128 * 10**9, "disk_free_bytes": 10**12, "roots": ["/home/alice/models"], "scripts": False,
}  # fmt: skip


class Output:
    """What a training prints, as the spool's reader gives it: log records of lines gathered for a quarter of a second.

    Each line begins with its number and the time it was printed, in seconds since the epoch.
    """

    final = None

    def __init__(self) -> None:
        self.records: list[Item] = []
        self.printed: list[float] = []  # of each record: when its oldest line was printed
        self.lines = self.acknowledged = 0
        self.lags: list[float] = []  # from its oldest line to its acknowledgement

    def read(self, stream: str, after: int, budget: int, most: int) -> tuple[int, list[Item]]:
        items: list[Item] = []
        if stream == "log":
            for item in self.records[after : after + most]:
                budget -= len(item["text"]) + 16
                if budget < 0:
                    break
                items.append(item)
        return after + 1, items

    def acknowledge(self, stream: str, through: int) -> None:
        if stream == "log" and through > self.acknowledged:
            moment = time.time()
            self.lags += [moment - at for at in self.printed[self.acknowledged : through]]
            self.acknowledged = through

    async def print(self, a_second: float, seconds: float) -> None:
        """So many lines a second, for so long."""
        began = time.time()
        said = 0
        while said < a_second * seconds:
            await asyncio.sleep(GATHER_SECONDS)
            due = int(min(time.time() - began, seconds) * a_second)
            if due > said:
                times = [began + number / a_second for number in range(said, due)]
                lines = (
                    f"{self.lines + n} {at:.3f} step of a training with its loss 2.3104 and 3,774 tokens/s\n"
                    for n, at in enumerate(times)
                )
                self.records.append({"text": "".join(lines)})
                self.printed.append(times[0])
                self.lines += len(times)
                said = due


@dataclass
class Training:
    """An attempt this machine has taken on."""

    job: int
    attempt: int
    reader: Any


class Machine:
    """One machine with what was noted about its connection. Times are seconds since the epoch."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.trainings: list[Training] = []
        self.welcomed_at: float | None = None
        self.drops = 0
        self.bye: float | None = None  # how long it was asked to stay away, when it was last
        self.code: int | None = None  # of the last close

    def hello(self) -> Message:
        jobs = [
            {"job": held.job, "attempt": held.attempt, "last": {"log": len(held.reader.records)}} for held in self.trainings
        ]  # fmt: skip
        return {
            "protocol": protocol.PROTOCOL_VERSION, "version": __version__, "agent": f"machine-{self.number}",
            "secret": f"secret of machine {self.number}", "boot": f"boot of machine {self.number}",
            "name": f"node {self.number}", "machine": MACHINE, "ready": True, "missing": [], "advice": None, "jobs": jobs,
        }  # fmt: skip

    def heartbeat(self) -> Message:
        """Nothing about the machine is news, as nearly always."""
        return {"jobs": [{"job": held.job, "attempt": held.attempt} for held in self.trainings]}

    def held(self) -> list[Training]:
        return self.trainings

    async def offered(self, spec: JobSpec) -> Reply | None:
        if all(held.job != spec.job for held in self.trainings):
            self.trainings.append(Training(spec.job, spec.attempt, Output()))
        return "job_accept", {"job": spec.job, "attempt": spec.attempt}

    async def ordered(self, job: int, attempt: int, mode: str) -> Reply | None:
        return "stop_ack", {"job": job, "attempt": attempt, "mode": mode}

    async def abandon(self, job: int, attempt: int) -> None:
        self.trainings = [held for held in self.trainings if held.job != job]

    async def final_stored(self, job: int, attempt: int) -> None:
        await self.abandon(job, attempt)

    def told(self, state: str, sentence: str) -> None:
        """What the agent would tell the person at the terminal."""
        if state == "connected":
            self.welcomed_at = time.time()
        elif state in ("waiting", "refused"):
            self.drops += self.welcomed_at is not None
            self.welcomed_at = None


class WatchedConnection(Connection):
    """The agent's connection; with which words and which code the server ended it is kept."""

    machine: Machine

    async def _converse(self, socket: ClientConnection) -> None:
        try:
            await super()._converse(socket)
        except Break as reason:
            if reason.pause is not None and str(reason) == "restart":
                self.machine.bye = reason.pause
                with contextlib.suppress(
                    TimeoutError
                ):  # the agent does not wait for the code: its pause was said before
                    await asyncio.wait_for(socket.wait_closed(), TELL_CODE_SECONDS)
            received = socket.protocol.close_rcvd
            self.machine.code = received.code if received else None
            raise


class Crowd:
    """The machines of a plan, and what can be asked of them."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.machines: list[Machine] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self, count: int, a_second: float) -> dict[str, Any]:
        """So many more machines, so many a second."""
        for _ in range(count):
            machine = Machine(len(self.machines))
            connection = WatchedConnection(self.url, self.key, machine, Timings(), machine.told)
            connection.machine = machine
            self.machines.append(machine)
            self.tasks.append(asyncio.create_task(connection.run()))
            await asyncio.sleep(1 / a_second)
        return await self.state()

    async def state(self) -> dict[str, Any]:
        """How many are connected, since when the last of them, and what was noted since `forget`."""
        connected = [machine.welcomed_at for machine in self.machines if machine.welcomed_at is not None]
        failed = [str(task.exception()) for task in self.tasks if task.done() and not task.cancelled()]
        return {
            "connected": len(connected), "last_welcomed_at": max(connected, default=None), "failed": failed,
            "drops": sum(machine.drops for machine in self.machines), "codes": [machine.code for machine in self.machines],
            "byes": [machine.bye for machine in self.machines],
            "trainings": sum(len(machine.trainings) for machine in self.machines),
        }  # fmt: skip

    async def forget(self) -> dict[str, Any]:
        """Note drops and codes from here on."""
        for machine in self.machines:
            machine.drops, machine.bye, machine.code = 0, None, None
        return {}

    async def stream(self, a_second: float, seconds: float) -> dict[str, Any]:
        """Every training prints; answered when the last line is acknowledged, or a minute later."""
        outputs = [held.reader for machine in self.machines for held in machine.trainings]
        began = time.time()
        await asyncio.gather(*(output.print(a_second, seconds) for output in outputs))
        deadline = time.monotonic() + 60
        while any(output.acknowledged < len(output.records) for output in outputs) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        stored = sum(
            record["text"].count("\n") for output in outputs for record in output.records[: output.acknowledged]
        )
        return {
            "printed": sum(output.lines for output in outputs), "stored": stored, "seconds": time.time() - began,
            "lags": [lag for output in outputs for lag in output.lags],
        }  # fmt: skip


async def serve() -> None:
    """Carry out the commands of standard input until it ends."""
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    crowd = Crowd(**json.loads(await commands.readline()))
    while line := await commands.readline():
        command = json.loads(line)
        answer = await getattr(crowd, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


class Machines:
    """The other side: starts the process and asks it."""

    def __init__(self, url: str, key: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ)
        )  # fmt: skip
        self._say({"url": url, "key": key})

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        """Say a command and wait for its answer. Raises RuntimeError when the process has ended."""
        self._say({"do": do, **given})
        return self.answer()

    def begin(self, do: str, **given: Any) -> None:
        """Say a command; `answer` waits for what comes of it."""
        self._say({"do": do, **given})

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of the machines has ended with {self._process.wait()}")
        return dict(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _say(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def machines(url: str, key: str) -> Iterator[Machines]:
    """A crowd of no machines yet, ended with the block."""
    crowd = Machines(url, key)
    try:
        yield crowd
    finally:
        crowd.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
