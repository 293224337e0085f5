"""The network between one machine and the server: frames in order, late, held back, lost, doubled or out of order.

A cut is one of three: `drop` (packets vanish; both ends believe in the connection until they lose patience, and what was
under way arrives when it heals in time), `reject` (reset at once, refused afterwards) and `silent` (a proxy accepts
everything and passes nothing on; it resets when it heals).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Response

from agent.addresses import http_base  # noqa: F401 - the address the agent was given is the real kind
from tests.faults.simulation.clock import Process

SEND_BUFFER = 256 * 1024
ORDERLY = ("hello", "welcome")
CUTS = ("drop", "reject", "silent")
Accept = Callable[["End", str], None]


@dataclass
class Weather:
    """How the network is: seconds of delay, how much it varies, bytes a second, and how far frames overtake."""

    latency: float = 0.02
    jitter: float = 0.01
    bandwidth: float | None = None
    copies: int = 1
    overtaking: float = 0.0


class Cable:
    """Where one machine's packets go through. `mode` is up or one of CUTS."""

    def __init__(self, rng: random.Random, weather: Weather | None = None) -> None:
        self.rng, self.weather = rng, weather or Weather()
        self.mode = "up"
        self.handshakes: list[float] = []
        self._pairs: list[tuple[End, End]] = []
        self._healed = asyncio.Event()
        self._healed.set()

    def cut(self, mode: str) -> None:
        self.mode = mode
        self._healed.clear()
        if mode == "reject":
            self.reset()

    def heal(self) -> None:
        was, self.mode = self.mode, "up"
        if was == "silent":
            self.reset()
        self._healed.set()
        for pair in list(self._pairs):
            for end in pair:
                end.release()

    def reset(self) -> None:
        """Every connection ends at once at both ends, and what was under way is lost."""
        for pair in self._pairs:
            for end in pair:
                end.break_off()
        self._pairs.clear()

    def opening(self, process: Process, key: str, patience: float, door: Door) -> Opening:
        return Opening(self, process, key, patience, door)

    def delay(self) -> float:
        return self.weather.latency + self.rng.uniform(0, self.weather.jitter)

    async def connect(self, key: str, door: Door) -> End:
        """The machine's end of a new connection. Raises OSError or InvalidStatus; may take for ever."""
        while self.mode != "up":
            if self.mode == "reject":
                raise ConnectionRefusedError("connection refused")
            await self._healed.wait()
        await asyncio.sleep(2 * self.delay())
        if self.mode != "up":
            return await self.connect(key, door)
        if not door.is_open:
            raise ConnectionRefusedError("connection refused")
        self.handshakes.append(asyncio.get_running_loop().time())
        status = door.status_for(key)
        if status != 101:
            raise InvalidStatus(Response(status, "", Headers()))
        ours, theirs = End(self, "agent"), End(self, "server")
        ours.peer, theirs.peer = theirs, ours
        self._pairs.append((ours, theirs))
        door.accept(theirs, key)
        return ours


class Door:
    """The server as the network sees it."""

    is_open = False

    def status_for(self, key: str) -> int:
        raise NotImplementedError

    def accept(self, end: End, key: str) -> None:
        raise NotImplementedError


class Opening:
    """What `open_socket` answers: a connection to be entered with `async with`."""

    def __init__(self, cable: Cable, process: Process, key: str, patience: float, door: Door) -> None:
        self._cable, self._process, self._key, self._patience, self._door = cable, process, key, patience, door
        self._end: End | None = None

    async def __aenter__(self) -> End:
        async with asyncio.timeout(self._patience):
            self._end = await self._cable.connect(self._key, self._door)
        self._end.owner = self._process
        return self._end

    async def __aexit__(self, *_: object) -> None:
        if self._end is not None and not self._process.is_dead:
            await self._end.close(1000, "")


class End:
    """One end of a connection; like the `websockets` library's to the agent, and with `put` and `hang_up` for the server."""

    def __init__(self, cable: Cable, side: str) -> None:
        self.cable, self.side = cable, side
        self.peer: End = self
        self.owner: Process | None = None
        self.is_closed = False
        self._why: Close | None = None
        self._inbox: deque[str] = deque()
        self._held: list[tuple[str, str | Close]] = []  # came while nothing came through
        self._arrives = 0.0  # when the last of what was sent to this end arrives
        self._free_at = 0.0
        self._wake = asyncio.Event()

    # --- what the agent and the server do ---------------------------------------------------------------------------

    async def send(self, text: str) -> None:
        """Hand a frame over; waits while the buffer of the sender is full. Raises ConnectionClosed."""
        self.put(text)
        loop, bandwidth = asyncio.get_running_loop(), self.cable.weather.bandwidth
        while bandwidth and not self.is_closed and (self._free_at - loop.time()) * bandwidth > SEND_BUFFER:
            await asyncio.sleep(max(0.01, self._free_at - loop.time() - SEND_BUFFER / bandwidth))
        if self.is_closed:
            raise self._closed()

    def put(self, text: str) -> None:
        """The same without waiting."""
        if self.is_closed:
            raise self._closed()
        if self.owner is not None and self.owner.is_dead:
            return
        weather, loop = self.cable.weather, asyncio.get_running_loop()
        begin = max(loop.time(), self._free_at)
        self._free_at = begin + (len(text) / weather.bandwidth if weather.bandwidth else 0.0)
        is_orderly = weather.overtaking == 0 or any(f'"type":"{kind}"' in text[:24] for kind in ORDERLY)
        for _ in range(1 if is_orderly else weather.copies):
            at = self._free_at + self.cable.delay()
            if is_orderly:
                at = self.peer._arrives = max(at, self.peer._arrives + 1e-6)
            else:
                at = max(at + self.cable.rng.uniform(0, weather.overtaking), self.peer._arrives)
            loop.call_at(at, self.peer.arrive, text)

    async def recv(self) -> str:
        """The next frame. Raises ConnectionClosed once everything was read."""
        while not self._inbox:
            if self.is_closed:
                raise self._closed()
            self._wake.clear()
            await self._wake.wait()
        return self._inbox.popleft()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.hang_up(code, reason)

    def hang_up(self, code: int, reason: str) -> None:
        """Close in an orderly way; the other end learns of it when the network lets it."""
        if self.is_closed:
            return
        self._end(None)
        loop = asyncio.get_running_loop()
        at = max(loop.time() + self.cable.delay(), self.peer._arrives + 1e-6)
        loop.call_at(at, self.peer.arrive, Close(code, reason))

    # --- what the network does ---------------------------------------------------------------------------------------

    def arrive(self, what: str | Close) -> None:
        if self.is_closed:
            return
        if self.cable.mode != "up":
            self._held.append(("frame", what))
        elif isinstance(what, Close):
            self._end(what)
        else:
            self._inbox.append(what)
            self._wake.set()

    def release(self) -> None:
        """The network is back: what was held back comes now, or the news that nobody is there any more."""
        held, self._held = self._held, []
        for _, what in held:
            self.arrive(what)
        if self.peer.is_closed and not self.is_closed:
            self.break_off()

    def break_off(self) -> None:
        """Reset: at once, without a word."""
        if not self.is_closed:
            self._inbox.clear()
            self._end(None)

    def _end(self, why: Close | None) -> None:
        self.is_closed, self._why = True, why
        self._wake.set()

    def _closed(self) -> Any:
        kind = ConnectionClosedOK if self._why is not None and self._why.code == 1000 else ConnectionClosedError
        return kind(self._why, None)
