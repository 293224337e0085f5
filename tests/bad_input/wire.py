"""Bytes on a socket, for what no library agrees to send: raw requests, raw WebSocket frames (RFC 6455, section 5.2)."""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

from tests.factories import hello

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
UPGRADE = {
    "Host": "localhost", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


@dataclass
class Answer:
    """The first response that came back, and whatever followed it."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, request: bytes, seconds: float = 5.0) -> Answer:
    """Send these bytes and read until the response is whole, the server closes, or `seconds` have passed."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(request)
        except OSError:
            pass  # it was refused before all of it was sent
        return read_answer(connection, seconds)


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"", version: str = "1.1") -> bytes:
    """One request with exactly these headers."""
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def read_answer(connection: socket.socket, seconds: float) -> Answer:
    """One response. Raises AssertionError when there is none."""
    data, closed, end = b"", False, time.monotonic() + seconds
    while not _is_whole(data) and time.monotonic() < end:
        connection.settimeout(max(0.05, end - time.monotonic()))
        try:
            piece = connection.recv(65_536)
        except TimeoutError:
            break
        except OSError:
            piece = b""
        if not piece:
            closed = True
            break
        data += piece
    assert data, f"nothing came back within {seconds} s (closed: {closed})"
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body, closed)


def _is_whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    return bool(found) and length is not None and len(body) >= int(length.partition(b":")[2])


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0, told: int | None = None
) -> bytes:
    """One frame; `told` is the length it pretends to have. The mask is four zeros, so the payload stays as it is."""
    length = len(payload) if told is None else told
    first, mask = (0x80 if fin else 0) | rsv << 4 | opcode, 0x80 if masked else 0
    if length < 126:
        head = bytes([first, mask | length])
    elif length < 65_536:
        head = bytes([first, mask | 126]) + struct.pack(">H", length)
    else:
        head = bytes([first, mask | 127]) + struct.pack(">Q", length)
    return head + (b"\0\0\0\0" if masked else b"") + payload


@dataclass
class Stranger:
    """A client of the agents' socket that sends what it likes. Use it as a context manager."""

    port: int
    key: str | None
    more: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Stranger:
        self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        headers = {**UPGRADE, **({"Authorization": f"Bearer {self.key}"} if self.key else {}), **self.more}
        self.connection.sendall(request("GET", "/agent/socket", headers))
        self._unread = b""
        while b"\r\n\r\n" not in self._unread:
            self._unread += self._receive(10)
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        self.head = head.decode("latin-1").lower()
        assert " 101 " in self.head, self.head
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def greet(self, machine: str) -> dict[str, Any]:
        """Say hello as this machine; the welcome."""
        self.say(hello(machine, name=machine))
        answer = self.hear()
        assert answer["type"] == "welcome", answer
        return answer

    def say(self, message: Any) -> None:
        """One message in one frame; text goes as it is."""
        text = message if isinstance(message, str) else json.dumps(message)
        self.send(frame(TEXT, text.encode()))

    def send(self, *frames: bytes) -> None:
        """These bytes; a server that has closed already is no error."""
        try:
            for one in frames:
                self.connection.settimeout(10)
                self.connection.sendall(one)
        except OSError:
            pass

    def hear(self, seconds: float = 10.0) -> dict[str, Any]:
        """The next message, pings of the protocol aside."""
        while True:
            opcode, payload = self.next_frame(seconds)
            assert opcode == TEXT, (opcode, payload)
            message: dict[str, Any] = json.loads(payload)
            if message["type"] != "ping":
                return message

    def pong(self, seconds: float = 10.0) -> bytes:
        """What the next pong brings back, pings of the protocol aside: the server asks when it likes."""
        while True:
            opcode, payload = self.next_frame(seconds)
            if opcode == PONG:
                return payload
            assert opcode == TEXT and json.loads(payload)["type"] == "ping", (opcode, payload)

    def closed_with(self, seconds: float = 10.0) -> int | None:
        """Read until the server closes; its code. None when it went without a word."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                opcode, payload = self.next_frame(end - time.monotonic())
            except ConnectionError:
                return None
            if opcode == CLOSE:
                return int(struct.unpack(">H", payload[:2])[0]) if payload else 1005
        raise AssertionError(f"still open after {seconds} s")

    def next_frame(self, seconds: float) -> tuple[int, bytes]:
        """Opcode and payload of the next frame. Raises ConnectionError at the end of the stream."""
        self._need(2, seconds)
        opcode, length, start = self._unread[0] & 15, self._unread[1] & 127, 2
        if length == 126:
            self._need(4, seconds)
            length, start = struct.unpack(">H", self._unread[2:4])[0], 4
        elif length == 127:
            self._need(10, seconds)
            length, start = struct.unpack(">Q", self._unread[2:10])[0], 10
        self._need(start + length, seconds)
        payload, self._unread = self._unread[start : start + length], self._unread[start + length :]
        return opcode, payload

    def _need(self, count: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while len(self._unread) < count:
            self._unread += self._receive(max(0.05, end - time.monotonic()))

    def _receive(self, seconds: float) -> bytes:
        self.connection.settimeout(seconds)
        data = self.connection.recv(65_536)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data
