"""The gunicorn worker: gevent's, but asked to end (SIGTERM) it says so to every agent first, so that none hangs until a
time-out, and whoever falls silent in the middle of a request is let go."""

from __future__ import annotations

import contextlib
import gc
import resource
import socket
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

SILENCE_SECONDS = 30.0
MOST_FILES = 65_536
GOODBYE_SECONDS = 2.0  # within gunicorn's graceful time-out, also when the database does not answer


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
    _is_ending = False

    def init_process(self) -> None:
        """As many open files as the system allows: each connected machine is one, and the usual 1,024 are few."""
        with contextlib.suppress(ValueError, OSError):
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        super().init_process()

    def load_wsgi(self) -> None:
        """What is there before the first request stays: looking through all of it for what nobody holds, again and again,
        kept everybody waiting for 0.2 s."""
        super().load_wsgi()
        gc.collect()
        gc.freeze()

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
        if not self._is_ending:
            self._is_ending = True
            gevent.spawn(self._end, sig, frame)  # a signal's handler must not wait

    def _end(self, sig: int, frame: Any) -> None:
        try:
            with gevent.Timeout(GOODBYE_SECONDS, exception=False):
                getattr(self.wsgi, "extensions", {}).get("before_end", lambda: None)()
        finally:
            super().handle_exit(sig, frame)
