"""A forwarder on loopback between our code and a peer, which can lose, refuse, hold back and change what goes through it.

A route is a method and a pattern for the path, such as `POST /v1/payment_intents` or `GET /v1/invoices/.*`. A fault is
used up by the requests it meets. Every request is kept in `calls`, the repeated ones of the SDK included.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

Object = dict[str, Any]
Pairs = list[tuple[str, str]]
PATIENCE = 30.0
HOP_BY_HOP = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding", "keep-alive")


@dataclass(frozen=True)
class Call:
    """One request as it came from our code."""

    method: str
    path: str
    query: Pairs
    form: Pairs
    headers: dict[str, str]

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")


@dataclass(frozen=True)
class Reply:
    """What a peer answered."""

    status: int
    body: bytes
    kind: str = "application/json"

    @property
    def json(self) -> Object:
        found: Object = json.loads(self.body)
        return found

    @classmethod
    def of(cls, given: Object, status: int = 200) -> Reply:
        return cls(status, json.dumps(given).encode())


Send = Callable[[Call], Reply]


class Bridge(Protocol):
    """Makes up for what a peer has not."""

    def ask(self, call: Call, send: Send) -> Reply: ...


class Plain:
    """A peer that understands all that our code asks."""

    def ask(self, call: Call, send: Send) -> Reply:
        return send(call)


class Fault:
    """Something that goes wrong on a route, so many times."""

    def __init__(self, route: str, times: int) -> None:
        self.route, self.times = re.compile(route), times

    def carry(self, act: Callable[[], Reply]) -> Reply | None:
        """Let the peer act or not; None when our code is to hear nothing."""
        raise NotImplementedError


class Loss(Fault):
    """The peer acts and its answer never comes."""

    def carry(self, act: Callable[[], Reply]) -> None:
        act()


class Failure(Fault):
    """The peer never hears of it, and our code reads a 500."""

    def carry(self, act: Callable[[], Reply]) -> Reply:
        return Reply.of({"error": {"type": "api_error", "message": "Something went wrong."}}, 500)


@dataclass
class Held(Fault):
    """The peer acts at once and its answer comes when it is let go."""

    pattern: str
    acted: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(self.pattern, 1)

    def carry(self, act: Callable[[], Reply]) -> Reply:
        reply = act()
        self.acted.set()
        assert self.free.wait(PATIENCE), "nobody let the answer go"
        return reply


class Edit(Fault):
    """The peer acts and something in its answer is different."""

    def __init__(self, route: str, times: int, edit: Callable[[Object], None]) -> None:
        super().__init__(route, times)
        self.edit = edit

    def carry(self, act: Callable[[], Reply]) -> Reply:
        reply = act()
        body = reply.json
        self.edit(body)
        return Reply.of(body, reply.status)


class Proxy:
    """A forwarder to one peer at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server = serving(self._take)
        self.url = url_of(self._server)
        self.aim("", Plain())

    def aim(self, target: str, bridge: Bridge) -> None:
        """Forward to this peer from now on, without faults and without memory."""
        self.target, self.bridge = target, bridge
        self.calls: list[Call] = []
        self._faults: list[Fault] = []

    def close(self) -> None:
        end(self._server)

    # --- what goes wrong ------------------------------------------------------------------------------------------------

    def lose(self, route: str, times: int = 1) -> None:
        self._faults.append(Loss(route, times))

    def fail(self, route: str, times: int = 1) -> None:
        self._faults.append(Failure(route, times))

    def change(self, route: str, edit: Callable[[Object], None], times: int = 1) -> None:
        self._faults.append(Edit(route, times, edit))

    @contextlib.contextmanager
    def held(self, route: str) -> Iterator[Held]:
        """Hold one answer back; it goes when `free` is set, or at the end."""
        fault = Held(route)
        self._faults.append(fault)
        try:
            yield fault
        finally:
            fault.free.set()

    # --- what came ------------------------------------------------------------------------------------------------------

    def seen(self, route: str) -> list[Call]:
        """Requests on a route, the oldest first."""
        with self._lock:
            return [call for call in self.calls if re.fullmatch(route, f"{call.method} {call.path}")]

    def keys(self, route: str) -> list[str | None]:
        """The idempotency keys that came on a route."""
        return [call.key for call in self.seen(route)]

    # --- forwarding -----------------------------------------------------------------------------------------------------

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        call = _call(handler)
        fault = self._noted(call)
        reply = fault.carry(lambda: self._acted(call)) if fault else self._acted(call)
        if reply is None:
            hang_up(handler)
        else:
            answer(handler, reply)

    def _noted(self, call: Call) -> Fault | None:
        with self._lock:
            self.calls.append(call)
            route = f"{call.method} {call.path}"
            found = next((one for one in self._faults if one.times and one.route.fullmatch(route)), None)
            if found:
                found.times -= 1
            return found

    def _acted(self, call: Call) -> Reply:
        return self.bridge.ask(call, self._forward)

    def _forward(self, call: Call) -> Reply:
        where = urllib.parse.urlsplit(self.target)
        assert where.hostname
        peer = http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE)
        query = f"?{urllib.parse.urlencode(call.query)}" if call.query else ""
        body = urllib.parse.urlencode(call.form).encode() if call.method == "POST" else None
        headers = {name: value for name, value in call.headers.items() if name not in HOP_BY_HOP}
        with contextlib.closing(peer):
            peer.request(call.method, call.path + query, body, headers)
            answered = peer.getresponse()
            return Reply(answered.status, answered.read(), answered.getheader("Content-Type") or "application/json")


def _call(handler: BaseHTTPRequestHandler) -> Call:
    where = urllib.parse.urlsplit(handler.path)
    body = body_of(handler).decode()
    return Call(
        handler.command, where.path, urllib.parse.parse_qsl(where.query, keep_blank_values=True),
        urllib.parse.parse_qsl(body, keep_blank_values=True),
        {name.lower(): value for name, value in handler.headers.items()},
    )  # fmt: skip


# --- a server on loopback -----------------------------------------------------------------------------------------------


def serving(take: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    """A server in threads of its own that gives every request to `take`."""

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            take(self)

        do_GET = do_DELETE = do_POST  # noqa: N815

        def log_message(self, *_given: Any) -> None:
            """Nothing is written for each request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def end(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def body_of(handler: BaseHTTPRequestHandler) -> bytes:
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


def answer(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    handler.send_response(reply.status)
    handler.send_header("Content-Type", reply.kind)
    handler.send_header("Content-Length", str(len(reply.body)))
    handler.end_headers()
    handler.wfile.write(reply.body)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """End the connection without a word."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)
