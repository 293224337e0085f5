"""The wire under an agent's socket: read no faster than allowed, written whole, watched for frames no agent sends.

What is not read stays with the sender: TCP slows it down, and memory does not grow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

UNREAD_BYTES = 2 * 1024 * 1024
UNREAD_FRAMES = 256
BYTES_A_SECOND, BYTES_AT_ONCE = 1024 * 1024, 8 * 1024 * 1024
CONTROL_FRAMES_A_SECOND, CONTROL_FRAMES_AT_ONCE = 5, 50
MOST_FRAGMENTS = 1024


class Allowance:
    """A token bucket: so many a second, and so many at once."""

    def __init__(self, a_second: float, at_once: float) -> None:
        self._rate, self._most = a_second, at_once
        self._left, self._at = at_once, time.monotonic()

    def take(self, count: float) -> float:
        """Take some; the answer is how many seconds to wait before going on."""
        moment = time.monotonic()
        self._left = min(self._most, self._left + (moment - self._at) * self._rate) - count
        self._at = moment
        return max(0.0, -self._left / self._rate)


def watch(ws: Any) -> None:
    """Put both watches under a simple-websocket connection that was just opened."""
    ws.sock = PacedSocket(ws)
    ws.ws = WatchedFrames(ws.ws)


class PacedSocket:
    """The TCP socket of a connection, read no faster than allowed and not while much of it still waits to be handled.

    Frames are written whole, one at a time: a plain `send` may write half of one when the other side reads slowly, and
    the library answers pings and closes from the thread that reads.
    """

    def __init__(self, ws: Any) -> None:
        self._ws, self._socket = ws, ws.sock
        self._bytes = Allowance(BYTES_A_SECOND, BYTES_AT_ONCE)
        self._writing = threading.Lock()

    def recv(self, size: int) -> bytes:
        """Some bytes, when there is room for them."""
        while self._ws.connected and self._is_behind():
            time.sleep(0.02)
        data: bytes = self._socket.recv(size)
        time.sleep(self._bytes.take(len(data)))
        return data

    def send(self, data: bytes) -> int:
        """Write all of it; the number of bytes written."""
        with self._writing:
            self._socket.sendall(data)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def _is_behind(self) -> bool:
        waiting = self._ws.input_buffer
        return len(waiting) > UNREAD_FRAMES or sum(map(len, waiting)) > UNREAD_BYTES


class WatchedFrames:
    """The wsproto connection, which ends when a frame comes that no agent sends (close codes: RFC 6455, section 7.4.1).

    1003 for binary, 1008 for a flood of pings and pongs, 1009 for a message in endless pieces, however small they are.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._control = Allowance(CONTROL_FRAMES_A_SECOND, CONTROL_FRAMES_AT_ONCE)
        self._fragments = 0

    def events(self) -> Iterator[Event]:
        """What came, up to the first frame that ends the connection."""
        for event in self._connection.events():
            end = self._end(event)
            yield end or event
            if end:
                return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _end(self, event: Event) -> CloseConnection | None:
        if isinstance(event, BytesMessage):
            return CloseConnection(CloseReason.UNSUPPORTED_DATA, "frames must be text")
        if isinstance(event, (Ping, Pong)) and self._control.take(1):
            return CloseConnection(CloseReason.POLICY_VIOLATION, "too many pings or pongs")
        if isinstance(event, TextMessage) and event.frame_finished:
            self._fragments = 0 if event.message_finished else self._fragments + 1
            if self._fragments > MOST_FRAGMENTS:
                return CloseConnection(CloseReason.MESSAGE_TOO_BIG, "the message comes in too many pieces")
        return None
