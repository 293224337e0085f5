"""The one WebSocket to the server: greeting, heartbeats, records within the window, orders, and coming back for ever.

`Connection.run` is the whole life of it. What it means for jobs is decided by the `Jobs` behind it (see `daemon`); here
are only the rules of the wire: nothing beyond what the server has room for, every acknowledgement checked, pauses of
random length in growing windows after a break, and loud words when the key is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from . import __version__, protocol
from .errors import Fatal
from .protocol import JobSpec, Message, ProtocolError
from .settings import Timings
from .spool import MAX_ITEM_BYTES, SpoolReader
from .transfers import http_base, is_loopback

SOCKET_PATH = "/agent/socket"
MAX_MESSAGE_BYTES = 1 << 20
BATCH_BYTES = 48_000
FRAME_MARGIN = 512
STREAMS_IN_ORDER = ("event", "metrics", "log")
MOST_BAD_FRAMES = 10
LONGEST_RETRY_AFTER = 3600.0
GROWTH = 1.6

Key = tuple[int, int, str]
Reply = tuple[str, Message]


class Held(Protocol):
    """An attempt this machine has, running or waiting for the server to store its end."""

    @property
    def job(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def reader(self) -> SpoolReader: ...


class Jobs(Protocol):
    """What the connection asks of whoever looks after the jobs."""

    def hello(self) -> Message: ...
    def heartbeat(self) -> Message: ...
    def held(self) -> Iterable[Held]: ...
    async def offered(self, spec: JobSpec) -> Reply | None: ...
    async def ordered(self, job: int, attempt: int, mode: str) -> Reply | None: ...
    async def abandon(self, job: int, attempt: int) -> None: ...
    async def final_stored(self, job: int, attempt: int) -> None: ...


Tell = Callable[[str, str], None]
"""`tell(state, sentence)`: connected, waiting or refused, for the person at the terminal."""


class _Break(Exception):
    """The connection ends; `str()` says why, `pause` how long the server wants us to stay away."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class KeyRefused(Exception):
    """The server does not accept the key."""


class Window:
    """What was sent over this connection and is not acknowledged: never more than the server has room for."""

    def __init__(self, max_bytes: int, max_records: int) -> None:
        self.max_bytes, self.max_records = max_bytes, max_records
        self.bytes = self.records = 0
        self._sent: dict[Key, int] = {}
        self._acknowledged: dict[Key, int] = {}
        self._flying: dict[Key, deque[_Batch]] = {}

    @property
    def is_empty(self) -> bool:
        return self.records == 0

    def room(self) -> tuple[int, int]:
        """Bytes and records that may be sent now. With nothing under way one batch may go, however small the window is:
        otherwise a window smaller than a record would stop everything for ever."""
        if self.is_empty:
            return max(self.max_bytes, 1), max(self.max_records, 1)
        room = self.max_bytes - self.bytes
        return (room if room >= MAX_ITEM_BYTES + FRAME_MARGIN else 0), self.max_records - self.records

    def position(self, key: Key) -> int:
        """The number of the last record sent."""
        return self._sent.get(key, 0)

    def acknowledged(self, key: Key) -> int:
        return self._acknowledged.get(key, 0)

    def begin(self, key: Key, after: int) -> None:
        """The server has everything up to `after`, from whatever connection."""
        self._sent[key] = self._acknowledged[key] = after

    def sent(self, key: Key, last: int, size: int) -> None:
        batch = _Batch(last, last - self.position(key), size, time.monotonic())
        self._flying.setdefault(key, deque()).append(batch)
        self._sent[key] = last
        self.bytes += batch.size
        self.records += batch.records

    def acknowledge(self, key: Key, through: int) -> None:
        """Take an acknowledgement. Raises ProtocolError when it is for something that was never sent."""
        if through > self.position(key):
            raise ProtocolError(
                f"record {through} of {key[2]} was acknowledged, but only {self.position(key)} were sent"
            )
        if through < self.acknowledged(key):
            self.rewind(key, through)  # the server has lost what it had
        self._acknowledged[key] = through
        flying = self._flying.get(key, deque())
        while flying and flying[0].last <= through:
            self._landed(flying.popleft())

    def rewind(self, key: Key, after: int) -> None:
        """Everything behind `after` will be sent again."""
        if after > self.position(key):
            raise ProtocolError(
                f"the server wants {key[2]} again from {after}, but only {self.position(key)} were sent"
            )
        flying = self._flying.get(key, deque())
        while flying and flying[-1].last > after:
            self._landed(flying.pop())
        self._sent[key] = after
        self._acknowledged[key] = min(self.acknowledged(key), after)

    def forget(self, job: int, attempt: int) -> None:
        for key in [key for key in self._sent if key[:2] == (job, attempt)]:
            for batch in self._flying.pop(key, ()):
                self._landed(batch)
            self._sent.pop(key)
            self._acknowledged.pop(key, None)

    def resend_older_than(self, seconds: float) -> None:
        """What nobody has acknowledged for so long is sent again: the server stores each record once anyway."""
        for key, flying in self._flying.items():
            if flying and time.monotonic() - flying[0].at > seconds:
                self.rewind(key, self.acknowledged(key))

    def _landed(self, batch: _Batch) -> None:
        self.bytes -= batch.size
        self.records -= batch.records


@dataclass(frozen=True)
class _Batch:
    last: int
    records: int
    size: int
    at: float


class _Session:
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
            raise _Break(f"the server did not answer the greeting within {self.timings.greeting:.0f} s") from None
        self.tell("connected", "Connected.")
        await _first_of(self._receive(), self._pump(), self._beat())

    async def _send(self, type_: str, **fields: Any) -> int:
        text = protocol.encode(type_, **fields)
        await self.socket.send(text)
        return len(text.encode("utf-8", "surrogatepass"))

    async def _next(self, wanted: str | None = None) -> Message:
        """The next message that can be read; with `wanted`, of that type. Raises _Break when the server misbehaves."""
        while True:
            try:
                async with asyncio.timeout(self.timings.silence):
                    text = await self.socket.recv()
            except TimeoutError:
                raise _Break(f"no sign of the server for {self.timings.silence:.0f} s") from None
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
        if message["protocol"] != protocol.PROTOCOL_VERSION:
            raise _too_old(f"the server speaks version {message['protocol']} of the protocol")
        self.window = Window(int(message["window_bytes"]), int(message["window_records"]))
        self.heartbeat_seconds = min(max(float(message["heartbeat_seconds"]), self.timings.heartbeat), 300.0)
        verdicts = {
            (entry.get("job"), entry.get("attempt")): entry for entry in message["jobs"] if isinstance(entry, dict)
        }
        for held in list(self.jobs.held()):
            verdict = verdicts.get((held.job, held.attempt), {})
            if verdict.get("decision") == "abandon":
                await self.jobs.abandon(held.job, held.attempt)
                continue
            self._resume(held, verdict.get("after") or {})

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
        self.window.sent(key, first + len(items) - 1, len(text.encode("utf-8", "surrogatepass")))
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
            spec = _checked_spec(message["spec"])
        except ProtocolError as error:
            await self._reply(_not_understood(message["spec"], error))
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
        raise _Break(str(message["reason"])[:200], float(message["retry_after"]))

    async def _error(self, message: Message) -> None:
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


class Connection:
    """Keeps a session with the server going until it is cancelled. `server_url` is ws(s)://host[:port]."""

    def __init__(self, server_url: str, key: str, jobs: Jobs, timings: Timings, tell: Tell) -> None:
        self.server_url, self._key, self._jobs, self._timings, self._tell = (
            server_url,
            key,
            jobs,
            timings,
            tell,
        )
        self._was_connected = False

    async def run(self) -> None:
        """Connect again and again. Raises Fatal when the first try shows a wrong key, or when this agent is too old."""
        tries = 0
        while True:
            began = time.monotonic()
            try:
                await self._once()
                pause = None
            except KeyRefused:
                pause = self._key_refused()
            except _Break as reason:
                pause = None if reason.pause is None else min(max(reason.pause, 0.0), LONGEST_RETRY_AFTER)
                self._lost(str(reason))
            except InvalidStatus as answer:
                pause = self._wrong_answer(answer)
            except ProtocolError as error:
                pause = None
                self._lost(f"the server broke the protocol: {error}")
            except (OSError, InvalidHandshake, TimeoutError, ConnectionClosed) as error:
                pause = None
                self._lost(_why(error))
            if time.monotonic() - began >= self._timings.healthy:
                tries = 0
            if pause is None:
                pause = random.uniform(0, min(self._timings.backoff, GROWTH**tries))  # noqa: S311
                tries += 1
            await asyncio.sleep(pause)

    async def _once(self) -> None:
        opening = open_socket(self.server_url, self._key, self._timings.greeting)
        try:
            async with opening as socket:
                self._was_connected = True
                await self._converse(socket)
        except InvalidStatus as answer:
            if answer.response.status_code in (401, 403):
                raise KeyRefused from None
            raise

    async def _converse(self, socket: ClientConnection) -> None:
        try:
            await _Session(socket, self._jobs, self._timings, self._tell).run()
        except ProtocolError as error:
            await socket.close(protocol.CLOSE_BAD_MESSAGE, str(error)[:100])
            raise
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            reason = closed.rcvd.reason if closed.rcvd else ""
            if code == protocol.CLOSE_TOO_OLD:
                raise _too_old(reason) from None
            if code == protocol.CLOSE_TAKEN:
                raise _Break(reason or "another agent with the identity of this one is connected", 60.0) from None
            raise _Break(reason or f"the connection was closed ({code or 'without a word'})") from None

    def _key_refused(self) -> float:
        page = f"{http_base(self.server_url)}/agents"
        sentence = f"This key was revoked or is wrong: make a new one on the Agents page, {page}"
        if not self._was_connected:
            raise Fatal(f"{sentence}, and start the agent with it.")
        minutes = self._timings.refused / 60
        self._tell("refused", f"{sentence}, and start the agent again with it. Trying again in {minutes:.0f} min.")
        return self._timings.refused

    def _wrong_answer(self, answer: InvalidStatus) -> float | None:
        status = answer.response.status_code
        hint = " Is this the address of a Trainyard server?" if status in (200, 301, 302, 307, 308, 404, 405) else ""
        self._lost(f"the server answered {status}.{hint}")
        retry_after = answer.response.headers.get("Retry-After", "")
        return min(float(retry_after), LONGEST_RETRY_AFTER) if retry_after.isdigit() else None

    def _lost(self, reason: str) -> None:
        self._tell("waiting", f"Not connected to {self.server_url} ({reason.rstrip('.')}). Trying again.")


def open_socket(server_url: str, key: str, patience: float) -> connect:
    """The WebSocket of an agent, to be entered with `async with`.

    Raises OSError, TimeoutError and InvalidHandshake, of which InvalidStatus carries the server's refusal.
    """
    return _Connect(
        server_url.rstrip("/") + SOCKET_PATH,
        additional_headers={"Authorization": f"Bearer {key}"},
        user_agent_header=f"trainyard-agent/{__version__}",
        compression=None,
        max_size=MAX_MESSAGE_BYTES,
        ping_interval=None,
        open_timeout=patience,
        close_timeout=1.0,
        # `True` means: the one that the environment names, if any.
        proxy=None if is_loopback(urlsplit(server_url).hostname) else True,
    )


class _Connect(connect):
    """Follows no redirect: the address typed by the member is the only one there is."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


_SPEC_TYPES: dict[str, type | tuple[type, ...]] = {
    "job": int, "attempt": int, "name": str, "recipe": str, "parameters": dict, "data": dict,
    "mapping": (dict, type(None)), "base_model": str, "base_name": str, "base_files": list, "token": str,
    "grace_seconds": (int, float),
}  # fmt: skip


def _checked_spec(given: Message) -> JobSpec:
    """The spec of an offer. Its numbers become names of folders here, so their types are not taken on trust."""
    spec = JobSpec.from_dict(given)
    for name, kind in _SPEC_TYPES.items():
        value = getattr(spec, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ProtocolError(f"the job offer's {name} has the wrong type")
    if spec.job < 0 or spec.attempt < 0 or not all(isinstance(file, dict) for file in spec.base_files):
        raise ProtocolError("the job offer's numbers or files make no sense")
    return spec


def _not_understood(given: Message, error: ProtocolError) -> Reply:
    """The refusal of an offer that makes no sense, so that it is not made again; ProtocolError when it names no job."""
    key = {name: given.get(name) for name in ("job", "attempt")}
    if not all(type(number) is int and number >= 0 for number in key.values()):
        raise error
    message = f"The agent on this machine does not understand the server: {error}."
    advice = "Download the agent again and start it in place of this one."
    return "job_refuse", {**key, "cause": "platform", "message": message, "advice": advice}


def _too_old(reason: str) -> Fatal:
    return Fatal(
        f"This agent (version {__version__}) is too old: {reason or 'a newer one is asked for'}. Download it again."
    )


def _why(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing answers there; is the server running?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    return str(error) or type(error).__name__


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all of them until the first ends, raise what it raised, and end the others."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
