"""One connection from its hello to its end: records within the window, orders, heartbeats.

It always ends with an exception; `Connection` decides what follows from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from .. import __version__, protocol
from ..concurrency import first_of
from ..errors import Fatal
from ..protocol import Message, ProtocolError
from ..settings import Timings
from .jobs import Held, Jobs, Reply
from .offers import checked_spec, not_understood
from .window import FRAME_MARGIN, Window

BATCH_BYTES = 48_000
STREAMS_IN_ORDER = ("event", "metrics", "log", "samples")
MOST_BAD_FRAMES = 10

Tell = Callable[[str, str], None]
"""`tell(state, sentence)`: connected, waiting or refused, for the person at the terminal."""


class Break(Exception):
    """The connection ends; `str()` says why, `pause` how long the server wants us to stay away."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Session:
    """One connection, from the hello to its end."""

    def __init__(self, socket: ClientConnection, jobs: Jobs, timings: Timings, tell: Tell) -> None:
        self.socket, self.jobs, self.timings, self.tell = socket, jobs, timings, tell
        self.window = Window(0, 0)
        self.heartbeat_seconds = 15.0
        self.wake = asyncio.Event()
        self._bad_frames = 0
        self._finals: dict[tuple[int, int], float] = {}  # when a job's end was sent
        self._handlers: dict[str, Callable[[Message], Coroutine[Any, Any, None]]] = {
            "ack": self._ack,
            "resend_from": self._resend_from,
            "job_offer": self._job_offer,
            "job_stop": self._job_stop,
            "job_final_ack": self._job_final_ack,
            "ping": self._ping,
            "bye": self._bye,
            "error": self._error,
        }

    async def run(self) -> None:
        """Speak until the connection ends, which it always does with an exception."""
        await self._send("hello", **self.jobs.hello())
        try:
            async with asyncio.timeout(self.timings.greeting):
                await self._welcome(await self._next("welcome"))
        except TimeoutError:
            raise Break(f"the server did not answer the greeting within {self.timings.greeting:.0f} s") from None
        self.tell("connected", "Connected.")
        try:
            await first_of(self._receive(), self._pump(), self._beat())
        except ConnectionClosed:
            await self._hear_the_rest()

    async def _send(self, type_: str, **fields: Any) -> None:
        await self.socket.send(protocol.encode(type_, **fields))

    async def _next(self, wanted: str | None = None) -> Message:
        """The next message that can be read; with `wanted`, of that type. Raises Break when the server misbehaves."""
        while True:
            try:
                async with asyncio.timeout(self.timings.silence):
                    text = await self.socket.recv()
            except TimeoutError:
                raise Break(f"no sign of the server for {self.timings.silence:.0f} s") from None
            try:
                message = protocol.decode(text, "server")
            except ProtocolError as error:
                self._count_bad_frame(str(error))
                continue
            if wanted is None or message["type"] == wanted:
                return message
            if message["type"] in ("bye", "error", "ping"):
                await self._handlers[message["type"]](message)

    def _count_bad_frame(self, reason: str) -> None:
        self._bad_frames += 1
        self.tell("note", f"The server sent something this agent does not understand: {reason}.")
        if self._bad_frames >= MOST_BAD_FRAMES:
            raise ProtocolError(f"{self._bad_frames} frames in a row made no sense")

    async def _welcome(self, message: Message) -> None:
        if not protocol.OLDEST_PROTOCOL <= message["protocol"] <= protocol.PROTOCOL_VERSION:
            raise too_old(f"the server speaks version {message['protocol']} of the protocol")
        self.window = Window(int(message["window_bytes"]), int(message["window_records"]))
        self.heartbeat_seconds = min(max(float(message["heartbeat_seconds"]), self.timings.heartbeat), 300.0)
        verdicts = {
            (entry.get("job"), entry.get("attempt")): entry
            for entry in message["jobs"]
            if isinstance(entry, dict) and type(entry.get("job")) is int and type(entry.get("attempt")) is int
        }
        for held in list(self.jobs.held()):
            verdict = verdicts.get((held.job, held.attempt), {})
            if verdict.get("decision") == "abandon":
                await self.jobs.abandon(held.job, held.attempt)
                continue
            after = verdict.get("after")
            self._resume(held, after if isinstance(after, dict) else {})

    def _resume(self, held: Held, after: Message) -> None:
        for stream in protocol.STREAMS:
            through = after.get(stream, 0)
            through = through if isinstance(through, int) and through >= 0 else 0
            self.window.begin((held.job, held.attempt, stream), through)
            held.reader.acknowledge(stream, through)

    async def _receive(self) -> None:
        while True:
            message = await self._next()
            handler = self._handlers.get(message["type"])
            if handler is not None:
                await handler(message)

    async def _hear_the_rest(self) -> None:
        """Who was sending may notice first that the connection is closed; what the server said before, above all for how long
        to stay away, waits to be read. Ends with Break or ConnectionClosed."""
        while True:
            message = await self._next()
            if message["type"] in ("ack", "bye"):
                await self._handlers[message["type"]](message)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_seconds * random.uniform(0.8, 1.0))  # noqa: S311
            await self._send("heartbeat", **self.jobs.heartbeat())
            self.window.resend_older_than(2 * self.heartbeat_seconds)
            self.wake.set()

    async def _pump(self) -> None:
        """Send what the spools hold, as far as the window reaches; look again shortly, or when something happened."""
        while True:
            self.wake.clear()
            held = list(self.jobs.held())
            while await self._send_round(held):
                pass
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timings.look if held else 1.0):
                    await self.wake.wait()

    async def _send_round(self, held: list[Held]) -> bool:
        """One batch of each stream of each job; whether anything was sent."""
        sent = False
        for one in held:
            for stream in STREAMS_IN_ORDER:
                sent = await self._send_batch(one, stream) or sent
            await self._send_final(one)
        return sent

    async def _send_batch(self, held: Held, stream: str) -> bool:
        key = (held.job, held.attempt, stream)
        room_bytes, room_records = self.window.room()
        if room_bytes <= 0 or room_records <= 0:
            return False
        budget = min(BATCH_BYTES, room_bytes - FRAME_MARGIN)
        first, items = held.reader.read(stream, self.window.position(key), budget, room_records)
        if not items:
            return False
        text = protocol.encode("records", job=held.job, attempt=held.attempt, stream=stream, first=first, items=items)
        # Counted before it goes: the acknowledgement may arrive while `send` still waits.
        self.window.sent(key, first + len(items) - 1, len(text.encode()))
        await self.socket.send(text)
        return True

    async def _send_final(self, held: Held) -> None:
        final = held.reader.final
        job = (held.job, held.attempt)
        if final is None or time.monotonic() - self._finals.get(job, float("-inf")) < 2 * self.heartbeat_seconds:
            return
        if any(self.window.acknowledged((*job, stream)) < last for stream, last in final["last"].items()):
            return
        self._finals[job] = time.monotonic()
        await self._send("job_final", job=held.job, attempt=held.attempt, **final)

    async def _ack(self, message: Message) -> None:
        held = self._find(message)
        if held is not None:
            self.window.acknowledge((held.job, held.attempt, message["stream"]), message["through"])
            held.reader.acknowledge(message["stream"], message["through"])
            self.wake.set()

    async def _resend_from(self, message: Message) -> None:
        held = self._find(message)
        if held is not None:
            self.window.rewind((held.job, held.attempt, message["stream"]), message["after"])
            self._finals.pop((held.job, held.attempt), None)
            self.wake.set()

    async def _job_offer(self, message: Message) -> None:
        try:
            spec = checked_spec(message["spec"])
        except ProtocolError as error:
            await self._reply(not_understood(message["spec"], error))
            return
        await self._reply(await self.jobs.offered(spec))
        self.wake.set()

    async def _job_stop(self, message: Message) -> None:
        await self._reply(await self.jobs.ordered(message["job"], message["attempt"], message["mode"]))

    async def _job_final_ack(self, message: Message) -> None:
        self.window.forget(message["job"], message["attempt"])
        await self.jobs.final_stored(message["job"], message["attempt"])

    async def _ping(self, message: Message) -> None:
        await self._send("pong", n=message["n"])

    async def _bye(self, message: Message) -> None:
        raise Break(str(message["reason"])[:200], float(message["retry_after"]))

    async def _error(self, message: Message) -> None:
        if message["code"] in ("too_old", "too_new"):
            raise Fatal(f"This agent is version {__version__}. {message['message'][:1000]}")
        self.tell("note", f"The server says: {message['message'][:500]}")
        if message["code"] == "stale_attempt" and "job" in message and "attempt" in message:
            self.window.forget(message["job"], message["attempt"])
            await self.jobs.abandon(message["job"], message["attempt"])

    async def _reply(self, reply: Reply | None) -> None:
        if reply is not None:
            await self._send(reply[0], **reply[1])

    def _find(self, message: Message) -> Held | None:
        wanted = (message["job"], message["attempt"])
        return next((held for held in self.jobs.held() if (held.job, held.attempt) == wanted), None)


def too_old(reason: str) -> Fatal:
    """The end of this program: the server asks for a newer one."""
    return Fatal(
        f"This agent (version {__version__}) is too old: {reason or 'a newer one is asked for'}. Download it again."
    )
