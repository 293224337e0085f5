"""Something on the agents' socket that is no agent: it says hello as one, and then whatever a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from agent import protocol
from tests.factories import hello
from tests.faults.scene import Scene
from tests.running import RunningYard


def frame(type_: str, **fields: Any) -> str:
    return protocol.encode(type_, **fields)


def hello_of(name: str, **more: Any) -> str:
    told = {**hello(name, name=name), **more}
    return frame(told.pop("type"), **told)


@contextlib.contextmanager
def stranger(scene: Scene, name: str) -> Iterator[ClientConnection]:
    """A socket that has said hello and been welcomed."""
    headers = {"Authorization": f"Bearer {scene.key}"}
    with connect(f"{scene.yard.socket_url}/agent/socket", additional_headers=headers, compression=None, open_timeout=10,
                 close_timeout=1, proxy=None, max_size=1 << 20) as socket:  # fmt: skip
        socket.send(hello_of(name))
        assert json.loads(socket.recv(timeout=10))["type"] == "welcome"
        yield socket


def machine_id(scene: Scene, name: str) -> int:
    """Of a machine that has said hello."""
    found = scene.alice.agent_named(name)
    assert found is not None
    return int(found["id"])


@dataclass
class Crowd:
    """Agents in one event loop: they beat, answer pings, and come back when the server asked them to. A job that they are
    offered they hold and say nothing of.

    `run` keeps `count` of them for `seconds`; what happened to them is in the lists, by the monotonic clock.
    """

    yard: RunningYard
    key: str
    count: int
    heartbeat: float
    connected: set[int] = field(default_factory=set)
    knocks: list[float] = field(default_factory=list)  # whatever came of them
    handshakes: list[float] = field(default_factory=list)  # each with its welcome
    farewells: list[float] = field(default_factory=list)  # the pauses of `bye`
    codes: list[int | None] = field(default_factory=list)
    held: dict[int, tuple[int, int]] = field(default_factory=dict)  # job and attempt of each that has one
    decisions: list[str] = field(default_factory=list)  # what each `welcome` said of the job

    def run(self, seconds: float) -> None:
        """Blocks; call it in a thread of its own."""
        asyncio.run(self._all(seconds))

    async def _all(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        await asyncio.gather(*(self._one(number, ends) for number in range(self.count)))

    async def _one(self, number: int, ends: float) -> None:
        await asyncio.sleep(number / 100)  # a hundred a second
        pause = 0.0
        while time.monotonic() + pause < ends:
            await asyncio.sleep(pause)
            pause = random.uniform(0.5, 2.0)
            try:
                pause = await self._live(number, ends) or pause
            except ConnectionClosed as closed:
                self.codes.append(closed.rcvd.code if closed.rcvd else None)
            except (OSError, InvalidHandshake, TimeoutError):
                continue
            finally:
                self.connected.discard(number)

    async def _live(self, number: int, ends: float) -> float | None:
        headers = {"Authorization": f"Bearer {self.key}"}
        self.knocks.append(time.monotonic())
        async with connect_async(
            f"{self.yard.socket_url}/agent/socket", additional_headers=headers, compression=None, open_timeout=15,
            close_timeout=1, ping_interval=None, proxy=None,
        ) as socket:  # fmt: skip
            await socket.send(hello_of(f"idle-{number}", jobs=self._told(number)))
            welcome = json.loads(await socket.recv())
            self.decisions += [one["decision"] for one in welcome["jobs"]]
            self.handshakes.append(time.monotonic())
            self.connected.add(number)
            beat = asyncio.create_task(self._beat(socket, number))
            farewell = None
            try:
                while (left := ends - time.monotonic()) > 0:
                    with contextlib.suppress(TimeoutError):
                        message = json.loads(await asyncio.wait_for(socket.recv(), left))
                        if message["type"] == "ping":
                            await socket.send(frame("pong", n=message["n"]))
                        elif message["type"] == "job_offer":
                            spec = message["spec"]
                            self.held[number] = spec["job"], spec["attempt"]
                            await socket.send(frame("job_accept", job=spec["job"], attempt=spec["attempt"]))
                        elif message["type"] == "bye":
                            farewell = float(message["retry_after"])
                            self.farewells.append(farewell)
            except ConnectionClosed as closed:
                self.codes.append(closed.rcvd.code if closed.rcvd else None)
                return farewell
            finally:
                beat.cancel()
            return 1e9  # the time is over

    def _told(self, number: int) -> list[dict[str, int]]:
        return [{"job": job, "attempt": attempt} for job, attempt in [self.held[number]]] if number in self.held else []

    async def _beat(self, socket: Any, number: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self.heartbeat * random.uniform(0.8, 1.0))
                await socket.send(frame("heartbeat", jobs=self._told(number)))
