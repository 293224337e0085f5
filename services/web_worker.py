"""The gunicorn worker: gevent's, but before it ends it says so to every agent, so that none hangs until a time-out, and
whoever falls silent in the middle of a request is let go."""

from __future__ import annotations

import socket
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

SILENCE_SECONDS = 30.0


class ImpatientSocket:
    """What bodies are read from: each silence has an end. Answers may take as long as the other side needs."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def recv(self, size: int) -> bytes:
        """Some bytes. Raises TimeoutError."""
        self._sock.settimeout(SILENCE_SECONDS)
        try:
            data: bytes = self._sock.recv(size)
        finally:
            self._sock.settimeout(None)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class YardWorker(GeventWorker):  # type: ignore[misc]
    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Whoever reads no more of an answer for half a minute is let go by the kernel (tcp(7), Linux only)."""
        if hasattr(socket, "TCP_USER_TIMEOUT") and client.family in (socket.AF_INET, socket.AF_INET6):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_SECONDS * 1000))
        super().handle(listener, client, addr)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        req.unreader.sock = ImpatientSocket(sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            req.unreader.sock = sock  # between two requests gunicorn counts by itself

    def handle_exit(self, sig: int, frame: Any) -> None:
        before_end = getattr(self.wsgi, "extensions", {}).get("before_end")
        if before_end is not None:
            gevent.spawn(before_end)
        super().handle_exit(sig, frame)
