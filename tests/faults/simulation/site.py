"""The server: real sessions, jobs, credits and clock on a real database; its socket simulated.

`Socket` does what `Link` and `Rounds` of `routes/agents_socket.py` do with greenlets and a real socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask
from sqlalchemy.exc import OperationalError
from websockets.exceptions import ConnectionClosed

from agent import protocol
from agent.protocol import encode
from models.api_keys import ApiKey
from models.base import release, transaction
from routes.agents_socket import BAD_FRAMES, HELLO_SECONDS, PING_SECONDS, SILENCE_SECONDS
from services import agent_sessions, api_keys, clock, model_versions
from services.agent_sessions import AgentSession
from services.errors import DomainError
from services.training_jobs.attempts import require_running
from tests.faults.simulation.clock import Process
from tests.faults.simulation.doors import Database, Hints, Queue
from tests.faults.simulation.link import Door, End

if TYPE_CHECKING:
    from tests.faults.simulation.world import World

ENTRIES = ("end_lost_attempts", "mark_disconnected", "push_again", "give_up_machines")
HANDLING_SECONDS = 0.002


class Site(Door):
    """One web process, one clock process, the queue and the database."""

    def __init__(self, world: World, app: Flask) -> None:
        self.world, self.app = world, app
        self.queue, self.hints, self.database = Queue(world), Hints(), Database(app)
        self.web: Process | None = None
        self.clock: Process | None = None
        self.sockets: set[Socket] = set()
        self.errors: Counter[str] = Counter()
        self.closed: list[tuple[int, str]] = []
        before = app.extensions["gateways"]
        app.extensions["gateways"] = replace(before, queue=self.queue, hints=self.hints)
        self._put_back = lambda: app.extensions.__setitem__("gateways", before)

    def close(self) -> None:
        self.database.close()
        self._put_back()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """An application context for one act, as for one request or message."""
        with self.app.app_context():
            try:
                yield
            finally:
                release()

    # --- processes ---------------------------------------------------------------------------------------------------

    def start_web(self) -> None:
        self.web, self.is_open = Process("web"), True
        self.app.extensions.pop("signs_of_life", None)  # a process begins without those of the one before

    def kill_web(self) -> None:
        """kill -9: every socket is reset, nothing is written down."""
        self.world.note("kill web")
        assert self.web is not None
        self.is_open = False
        self.web.kill()
        self.sockets.clear()
        for machine in self.world.machines:
            if machine.cable.mode == "up":
                machine.cable.reset()

    def end_web(self) -> None:
        """SIGTERM: a word to everybody, then the end."""
        self.world.note("end web")
        assert self.web is not None
        self.is_open = False
        for socket, pause in zip(list(self.sockets), agent_sessions.pauses(len(self.sockets)), strict=True):
            self.world.goodbyes.append(pause)
            socket.send([encode("bye", reason="restart", retry_after=pause)])
            socket.end.hang_up(protocol.CLOSE_RESTART, "the server restarts")
            socket.leave()
        self.sockets.clear()
        self.web.kill()

    def start_clock(self, factor: float = 1.0) -> None:
        """Keep the schedule; `factor` stretches it where days pass."""
        process = self.clock = Process("clock", origin=77_777.0)
        clock._time_of_day = clock.TimeOfDay()
        entries = [one for one in clock.SCHEDULE if one.name in ENTRIES]
        for entry in entries:
            process.start(self._tick(entry, entry.seconds * factor))

    def kill_clock(self) -> None:
        assert self.clock is not None
        self.clock.kill()

    async def _tick(self, entry: clock.Entry, seconds: float) -> None:
        while True:
            before = self.errors["clock_entry_failed"]
            clock.run_entry(self.app, entry)
            if self.errors["clock_entry_failed"] > before:
                self.world.note("clock failed", entry.name)
            await asyncio.sleep(seconds)

    # --- the door ----------------------------------------------------------------------------------------------------

    def status_for(self, key: str) -> int:
        try:
            with self.at_work():
                return 101 if api_keys.identify(key) else 401
        except OperationalError:
            return 503

    def accept(self, end: End, key: str) -> None:
        with self.at_work():
            found = api_keys.identify(key)
            assert found is not None and self.web is not None
            socket = Socket(self, end, found)
        self.sockets.add(socket)
        self.web.start(socket.serve())

    def take_delivery(self, job: int, attempt: int) -> bool:
        """Publish what a machine has uploaded over HTTP; whether it came through."""
        if not self.is_open:
            return False
        try:
            with self.at_work():
                publish(self.app, job, attempt, self.world.folder / "weights")
        except OperationalError:
            return False
        except DomainError:
            return True  # not wanted any more; how that ends is told elsewhere
        return True

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    def error(self, name: str, **_: object) -> None:
        """Stands in for the logs of the server: an exception that was logged is one that was not foreseen."""
        self.errors[name] += 1

    exception = error

    def info(self, *_: object, **__: object) -> None:
        """Nothing to see."""

    warning = info


def publish(app: Flask, job: int, attempt: int, weights: Path) -> None:
    """What the verbs of delivery do once the bytes are there."""
    file = model_versions.NewFile("model.safetensors", weights, weights.stat().st_size, "0" * 64)
    with transaction():
        model_versions.publish(require_running(job, attempt), [replace(file, key="simulated")])


class Socket:
    """One agent's socket on the server's side."""

    def __init__(self, site: Site, end: End, key: ApiKey) -> None:
        self.site, self.end, self.session = site, end, AgentSession(key)
        self.wake = asyncio.Event()

    def send(self, frames: list[str]) -> None:
        for frame in frames:
            self.site.world.sent(frame)
            self.end.put(frame)

    def close(self, code: int, reason: str) -> None:
        self.site.world.note("close", code)
        self.site.closed.append((code, reason))
        self.end.hang_up(code, reason)

    def leave(self) -> None:
        with contextlib.suppress(OperationalError), self.site.at_work():
            agent_sessions.close([self.session])

    async def serve(self) -> None:
        following: asyncio.Task[None] | None = None
        try:
            if await self._read_hello():
                assert self.site.web is not None
                following = self.site.web.start(self._follow_orders())
                await self._read()
        except ConnectionClosed:
            pass
        finally:
            if following is not None:
                following.cancel()
            if self in self.site.sockets:  # else the whole process was killed
                self.site.sockets.discard(self)
                self.leave()

    async def _read_hello(self) -> bool:
        frame = await self._receive(HELLO_SECONDS)
        if frame is None:
            self.close(protocol.CLOSE_NO_HELLO, "no hello within 10 seconds")
            return False
        try:
            replies = self._handled(protocol.decode(frame, "agent"))
        except protocol.ProtocolError as error:
            self.send([encode("error", code="bad_message", message=str(error))])
            self.close(protocol.CLOSE_BAD_MESSAGE, str(error))
            return False
        self.send(replies)
        if self.session.agent_id is None:
            refusal = json.loads(replies[0])
            broken = refusal["code"] == "internal_error"
            self.close(protocol.CLOSE_RESTART if broken else protocol.CLOSE_TAKEN, refusal["message"])
            return False
        return True

    async def _read(self) -> None:
        bad = 0
        while True:
            frame = await self._receive(SILENCE_SECONDS)
            if frame is None:
                self.close(protocol.CLOSE_NO_HELLO, "no sign of life for 45 seconds")
                return
            await asyncio.sleep(HANDLING_SECONDS)
            try:
                message = protocol.decode(frame, "agent")
                if message["type"] == "hello":
                    self.close(protocol.CLOSE_BAD_MESSAGE, "hello comes first, and once")
                    return
                self.send(self._handled(message))
            except protocol.ProtocolError as error:
                bad += 1
                self.send([encode("error", code="bad_message", message=str(error)[:500])])
                if bad >= BAD_FRAMES:
                    self.close(protocol.CLOSE_BAD_MESSAGE, "too many frames that are no messages")
                    return

    async def _receive(self, seconds: float) -> str | None:
        try:
            async with asyncio.timeout(seconds):
                return await self.end.recv()
        except TimeoutError:
            return None

    def _handled(self, message: protocol.Message) -> list[str]:
        self.site.world.heard(message)
        with self.site.at_work():
            try:
                return self.session.handle(message)
            except (protocol.ProtocolError, DomainError):
                raise
            except Exception as error:
                self.site.world.unforeseen(error)
                return [
                    encode(
                        "error", code="internal_error", message="The server could not handle this.", of=message["type"]
                    )
                ]

    async def _follow_orders(self) -> None:
        topics = (f"key:{self.session.key_id}", f"agent:{self.session.agent_id}")
        with self.site.hints.waiting(*topics) as wake:
            wake.set()
            count = 0
            while True:
                woken = await _waited(wake, PING_SECONDS)
                wake.clear()
                try:
                    with self.site.at_work():
                        unwelcome, waited_for = agent_sessions.look_at([self.session])
                        frames = self.session.orders() if waited_for else []
                    if unwelcome:
                        self.close(protocol.CLOSE_REVOKED, "the key was revoked, or another socket took over")
                        return
                    self.send(frames if woken else [*frames, encode("ping", n=count)])
                except ConnectionClosed:
                    return
                except Exception as error:
                    self.site.world.unforeseen(error)
                    await asyncio.sleep(1)
                count += 1


async def _waited(wake: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return False
    return True
