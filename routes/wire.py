"""The wire under an agent's socket: frames in whole texts, read no faster than allowed, no thread of its own while idle.

flask-sock and simple-websocket make the handshake; then the connection is taken over from them (`take_over`), because what
they keep for an idle one, three greenlets with their stacks and the whole request, is most of what it costs
(docs/decisions/0011-sockets-at-rest.md). What is not read stays with the sender: TCP slows it down, and memory does not grow.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

READ_BYTES = 65_536
MOST_CHARACTERS = 65_536  # of a message
MOST_FRAGMENTS = 1024
BYTES_A_SECOND, BYTES_AT_ONCE = 1024 * 1024, 8 * 1024 * 1024
CONTROL_FRAMES_A_SECOND, CONTROL_FRAMES_AT_ONCE = 5, 50
WRITE_SECONDS = 30.0
LINGER_SECONDS, LINGER_BYTES = 2.0, 8 * 1024 * 1024
_READABLE = 1  # of libev's and libuv's watchers


class WireClosed(Exception):
    """The connection is over, whoever ended it."""


class NoThread(threading.Thread):
    """What simple-websocket starts for each connection to read it; here `Wire` reads."""

    def start(self) -> None:
        """Leave it."""


class Allowance:
    """A token bucket: so many a second, and so many at once."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, a_second: float, at_once: float) -> None:
        self._rate, self._most = a_second, at_once
        self._left, self._at = at_once, time.monotonic()

    def take(self, count: float) -> float:
        """Take some; the answer is how many seconds to wait before going on."""
        moment = time.monotonic()
        self._left = min(self._most, self._left + (moment - self._at) * self._rate) - count
        self._at = moment
        return max(0.0, -self._left / self._rate)


class Wire:
    """One WebSocket connection after its handshake. One greenlet reads; any may write, one at a time."""

    __slots__ = (
        "_bytes",
        "_control",
        "_fragments",
        "_frames",
        "_pieces",
        "_size",
        "_socket",
        "_watcher",
        "_writing",
        "is_open",
    )

    def __init__(self, connection: socket.socket, frames: Connection) -> None:
        self._socket, self._frames = connection, frames
        connection.settimeout(WRITE_SECONDS)  # for a whole text; reading does not wait
        self._watcher = gevent.get_hub().loop.io(connection.fileno(), _READABLE)
        self._writing = threading.Lock()
        self._bytes = Allowance(BYTES_A_SECOND, BYTES_AT_ONCE)
        self._control = Allowance(CONTROL_FRAMES_A_SECOND, CONTROL_FRAMES_AT_ONCE)
        self._pieces: list[str] = []  # of a message that is not whole yet
        self._size = self._fragments = 0
        self.is_open = True

    def when_readable(self, attend: Callable[[], None]) -> None:
        """Call `attend` in a greenlet of its own, once, when something has come or the other side has gone."""
        if self.is_open:
            self._watcher.start(self._wake, attend)

    def read(self) -> list[str]:
        """The messages that what has come makes whole; sleeps when it came faster than allowed. Raises WireClosed when
        the connection is over and nothing before its end is left to handle: because the other side closed it, or sent
        frames that no agent sends (close codes: RFC 6455, section 7.4.1): 1003 for binary, 1008 for a flood of pings and
        pongs, 1009 for a message that is too long or in endless pieces."""
        if not self.is_open:
            raise WireClosed
        try:
            # gevent's sockets never block in the kernel; their own `recv` would wait until something comes
            data = os.read(self._socket.fileno(), READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._drop()
            raise WireClosed
        time.sleep(self._bytes.take(len(data)))
        self._frames.receive_data(data)
        texts = list[str]()
        try:
            for event in self._frames.events():
                text = self._taken(event)
                if text is not None:
                    texts.append(text)
        except WireClosed:
            if not texts:
                raise
        return texts

    def send(self, messages: list[str]) -> None:
        """Write messages whole and in order; nobody writes between them. Raises WireClosed."""
        if messages:
            self._write(lambda: b"".join([self._frames.send(TextMessage(message)) for message in messages]))

    def close(self, code: int, reason: str) -> None:
        """End the connection and tell the other side why; what it still sends is thrown away for a moment, since a
        socket closed with unread bytes resets, and the code would be lost on the way."""
        if not self.is_open:
            return
        self.is_open = False  # nobody reads or writes any more, even while a writer before this one is waited for
        self._watcher.close()
        with self._writing, contextlib.suppress(OSError, LocalProtocolError):
            self._socket.sendall(self._frames.send(CloseConnection(code, reason)))
        gevent.spawn(self._linger)

    def _wake(self, attend: Callable[[], None]) -> None:
        self._watcher.stop()
        gevent.spawn(attend)

    def _taken(self, event: Event) -> str | None:
        """What an event makes whole. Raises WireClosed."""
        if isinstance(event, TextMessage):
            return self._joined(event)
        if isinstance(event, BytesMessage):
            self._refuse(CloseReason.UNSUPPORTED_DATA, "frames must be text")
        if isinstance(event, (Ping, Pong)) and self._control.take(1):
            self._refuse(CloseReason.POLICY_VIOLATION, "too many pings or pongs")
        if isinstance(event, Ping):
            self._write(lambda: self._frames.send(event.response()))
        if isinstance(event, CloseConnection):
            self._refuse(event.code, event.reason or "")
        return None

    def _joined(self, event: TextMessage) -> str | None:
        self._size += len(event.data)
        self._fragments += event.frame_finished
        if self._size > MOST_CHARACTERS:
            self._refuse(CloseReason.MESSAGE_TOO_BIG, "the message is too long")
        if self._fragments > MOST_FRAGMENTS:
            self._refuse(CloseReason.MESSAGE_TOO_BIG, "the message comes in too many pieces")
        self._pieces.append(event.data)
        if not event.message_finished:
            return None
        message = "".join(self._pieces)
        self._pieces, self._size, self._fragments = [], 0, 0
        return message

    def _refuse(self, code: int, reason: str) -> None:
        self.close(code, reason)
        raise WireClosed

    def _write(self, encoded: Callable[[], bytes]) -> None:
        with self._writing:
            if not self.is_open:
                raise WireClosed
            try:
                self._socket.sendall(encoded())
            except (OSError, LocalProtocolError) as error:
                self._drop()
                raise WireClosed from error

    def _linger(self) -> None:
        with contextlib.suppress(OSError), contextlib.closing(self._socket):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(LINGER_SECONDS)
            left, deadline = LINGER_BYTES, time.monotonic() + LINGER_SECONDS
            while left > 0 and time.monotonic() < deadline and (data := self._socket.recv(READ_BYTES)):
                left -= len(data)

    def _drop(self) -> None:
        if self.is_open:
            self.is_open = False
            self._watcher.close()
            self._socket.close()


def take_over(ws: Any) -> Wire:
    """The wire of a simple-websocket connection that was just opened under `NoThread`. What opened it holds it for
    closed from now on, and may end its request."""
    wire = Wire(ws.sock.dup(), ws.ws.connection)
    ws.connected = False
    return wire
