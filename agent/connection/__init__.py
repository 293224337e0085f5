"""The one WebSocket to the server: greeting, heartbeats, records within the window, orders, and coming back for ever.

`Connection.run` is the whole life of it, a `session` one connection, a `window` what is under way on it. What it means
for jobs is decided by the `Jobs` behind it (see `daemon`); here are only the rules of the wire: nothing beyond what the
server has room for, every acknowledgement checked, pauses of random length in growing windows after a break, and loud
words when the key is refused.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from .. import protocol
from ..addresses import http_base
from ..errors import Fatal
from ..protocol import ProtocolError
from ..settings import Timings
from .jobs import Jobs
from .session import Break, Session, Tell, too_old
from .websocket import open_socket

LONGEST_RETRY_AFTER = 3600.0
GROWTH, MOST_GROWTH = 1.6, 20  # times: what grows without end is no number any more after some hours
QUICK_SECONDS, QUICK_PAUSE = 15.0, 1.4  # a server that was there a moment ago is tried again and again for a while


class KeyRefused(Exception):
    """The server does not accept the key."""


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
        self._was_connected = self._was_welcome = False
        self._welcome_until = float("-inf")  # when the last session that was welcomed ended

    async def run(self) -> None:
        """Connect again and again. Raises Fatal when the first try shows a wrong key, or when this agent is too old."""
        tries = 0
        while True:
            began, self._was_welcome = time.monotonic(), False
            try:
                await self._once()
                pause = None
            except KeyRefused:
                pause = self._key_refused()
            except Break as reason:
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
            if self._was_welcome:
                self._welcome_until = time.monotonic()
            if time.monotonic() - began >= self._timings.healthy:
                tries = 0
            if pause is None:
                pause = random.uniform(0, self._longest_pause(tries))  # noqa: S311
                tries += 1
            await asyncio.sleep(pause)

    def _longest_pause(self, tries: int) -> float:
        """Full jitter in a window that grows with the tries; on a wire that comes and goes it stays small, or every time
        the wire is there would be slept through."""
        longest = min(self._timings.backoff, GROWTH ** min(tries, MOST_GROWTH))
        was_there = time.monotonic() - self._welcome_until < QUICK_SECONDS
        return min(longest, QUICK_PAUSE) if was_there else longest

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
            await Session(socket, self._jobs, self._timings, self._told).run()
        except ProtocolError as error:
            await socket.close(protocol.CLOSE_BAD_MESSAGE, str(error)[:100])
            raise
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            reason = closed.rcvd.reason if closed.rcvd else ""
            if code == protocol.CLOSE_TOO_OLD:
                raise too_old(reason) from None
            if code == protocol.CLOSE_TAKEN:
                raise Break(reason or "another agent with the identity of this one is connected", 60.0) from None
            broken = f"the connection was closed ({code})" if code else "the connection broke off"
            raise Break(reason or broken) from None

    def _told(self, state: str, sentence: str) -> None:
        self._was_welcome = self._was_welcome or state == "connected"
        self._tell(state, sentence)

    def _key_refused(self) -> float:
        page = f"{http_base(self.server_url)}/agents"
        sentence = f"This key was revoked or is wrong: make a new one on the Agents page, {page}"
        if not self._was_connected:
            raise Fatal(f"{sentence}, and start the agent with it.")
        minutes = self._timings.refused / 60
        self._tell(
            "refused",
            f"{sentence}, stop this agent, and start it again with the new one. Trying again in {minutes:.0f} min.",
        )
        return self._timings.refused

    def _wrong_answer(self, answer: InvalidStatus) -> float | None:
        status = answer.response.status_code
        hint = " Is this the address of a Trainyard server?" if status in (200, 301, 302, 307, 308, 404, 405) else ""
        self._lost(f"the server answered {status}.{hint}")
        retry_after = answer.response.headers.get("Retry-After", "")
        return min(float(retry_after), LONGEST_RETRY_AFTER) if retry_after.isdigit() else None

    def _lost(self, reason: str) -> None:
        self._tell("waiting", f"Not connected to {self.server_url} ({reason.rstrip('.')}). Trying again.")


def _why(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing answers there; is the server running?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    return str(error) or type(error).__name__
