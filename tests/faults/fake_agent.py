"""An agent that speaks the protocol to a real server and misbehaves on command.

It holds no job and no spool: what it says is what the test tells it to. `example` messages come from `messages`, so the
server is spoken to in the words that the agent's own tests use.
"""

from __future__ import annotations

import contextlib
import json
from types import TracebackType
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from agent import protocol
from agent.protocol import Message
from tests.faults.messages import example, frame

SOCKET_PATH = "/agent/socket"


class FakeAgent:
    """One connection. `with FakeAgent(url, key) as agent: agent.greet(); agent.say("heartbeat")`."""

    def __init__(self, socket_url: str, key: str, machine: str = "machine of a test") -> None:
        self.machine, self.received = machine, list[Message]()
        self._address, self._key = f"{socket_url}{SOCKET_PATH}", key
        self._socket: ClientConnection | None = None
        self._until_left = contextlib.ExitStack()

    def __enter__(self) -> FakeAgent:
        headers = {"Authorization": f"Bearer {self._key}"}
        opening = connect(
            self._address, additional_headers=headers, compression=None, open_timeout=10, close_timeout=2, proxy=None
        )
        self._socket = self._until_left.enter_context(opening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._until_left.close()

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None, "use it in a `with` block"
        return self._socket

    # --- what it does properly ---------------------------------------------------------------------------------------

    def greet(self, **fields: Any) -> Message:
        """Say hello; the welcome, or whatever comes instead."""
        self.say("hello", agent=self.machine, secret=f"secret of {self.machine}", name=self.machine, **fields)
        return self.next()

    def say(self, type_: str, **fields: Any) -> None:
        """Send the example of a message with these fields."""
        self.socket.send(frame(type_, **fields))

    def next(self, *types: str, seconds: float = 10) -> Message:
        """The next message, or the next of these types; TimeoutError when none comes."""
        while True:
            message = protocol.decode(self.socket.recv(timeout=seconds), "server")
            self.received.append(message)
            if not types or message["type"] in types:
                return message

    # --- what it does on command -------------------------------------------------------------------------------------

    def send_raw(self, *frames: str | bytes) -> None:
        """Anything at all; bytes go as a binary frame."""
        for one in frames:
            self.socket.send(one)

    def repeat(self, times: int, type_: str, **fields: Any) -> None:
        """The same message several times."""
        for _ in range(times):
            self.say(type_, **fields)

    def flood(self, count: int, text: str = '{"type":"pong","n":1}') -> int:
        """Small frames as fast as they go; how many went before the server hung up."""
        for sent in range(count):
            try:
                self.socket.send(text)
            except ConnectionClosed:
                return sent
        return count

    def vanish(self) -> None:
        """Cut the connection without a word."""
        self.socket.socket.close()

    def closed_with(self, seconds: float = 10) -> int | None:
        """Read until the server closes; its code, or None for a cut. TimeoutError when it does not close."""
        try:
            while True:
                self.received.append(json.loads(self.socket.recv(timeout=seconds)))
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


__all__ = ["FakeAgent", "example"]
