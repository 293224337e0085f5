"""The socket agents connect to: frames in, frames out. What they mean is in services/agent_sessions.py.

The nine settings of the reliability research hold as far as they fit gevent: the key is checked before the upgrade, no
compression and no library ping, one locked writer of frames up to 64 KiB, TCP_USER_TIMEOUT, a byte budget for what waits
to be read, and 1012 for everybody when the server ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import threading
import time
from typing import Any

import structlog
from flask import Blueprint, Flask, current_app
from flask_sock import Sock
from simple_websocket import ConnectionClosed

from agent import protocol
from agent.protocol import encode
from models.base import release
from routes.guards import key
from routes.paced_socket import Allowance, watch
from services import agents
from services.agent_sessions import AgentSession, together
from services.errors import DomainError
from services.gateways import gateways

bp = Blueprint("agents_socket", __name__)
log = structlog.get_logger()

HELLO_SECONDS = 10
SILENCE_SECONDS = 45
PING_SECONDS = 15
FRAMES_A_SECOND, FRAMES_AT_ONCE = 200, 1000
SMALL_TALK_A_SECOND, SMALL_TALK_AT_ONCE = 20, 400  # of everything but records: heartbeats, answers to orders and pings
CLOSE_FLOOD = 1008  # RFC 6455, section 7.4.1: against the rules of this server
USER_TIMEOUT_MS = 30_000
BAD_FRAMES = 3
FRAMES_TOGETHER = 64  # records of so many frames are stored in one transaction
RECONNECTS_A_SECOND = 100

_open: set[Link] = set()


class Link:
    """One socket with its session: the only writer of its frames."""

    def __init__(self, ws: Any, app: Any, session: AgentSession) -> None:
        self.ws, self.app, self.session = ws, app, session
        self._writing = threading.Lock()
        self.over = False

    def send(self, frames: list[str]) -> None:
        """Write frames, one writer at a time."""
        with self._writing:
            for frame in frames:
                self.ws.send(frame)

    def close(self, code: int, reason: str) -> None:
        """End the connection, telling the agent why."""
        self.over = True
        with contextlib.suppress(ConnectionClosed, OSError), self._writing:
            self.ws.close(code, reason[:120])

    def follow_orders(self) -> None:
        """Wake for hints about the machine and its key; ping; look for orders now and then in case a hint was lost."""
        topics = [f"key:{self.session.key_id}", f"agent:{self.session.agent_id}"]
        with self.app.app_context(), gateways().hints.waiting(*topics) as wake:
            wake.set()  # what was ordered between the hello and now
            for count in itertools.count():
                woken = wake.wait(PING_SECONDS)
                wake.clear()
                if self.over:
                    return
                try:
                    welcome, frames = self._look()
                    if not welcome:
                        self.close(protocol.CLOSE_REVOKED, "the key was revoked, or another socket took over")
                        return
                    self.send(frames if woken else [*frames, encode("ping", n=count)])
                except (ConnectionClosed, OSError):
                    return
                except Exception:  # the database is away: without this thread nobody would be told anything any more
                    log.exception("agent_orders_failed", agent=self.session.agent_id)
                    time.sleep(1)

    def _look(self) -> tuple[bool, list[str]]:
        with self.app.app_context():
            try:
                return self.session.still_welcome(), self.session.orders()
            finally:
                release()


def register(app: Flask, sock: Sock) -> None:
    """Add the socket to its blueprint, whose guard runs before the upgrade; `services.web_worker` calls `close_all`."""
    if not bp.deferred_functions:
        sock.route("/socket", bp=bp)(_serve)
    app.extensions["before_end"] = close_all


def close_all() -> None:
    """Tell every agent that the server ends, each with its own moment to come back."""
    latest = 1 + len(_open) / RECONNECTS_A_SECOND
    for link in list(_open):
        with contextlib.suppress(ConnectionClosed, OSError):
            link.send([encode("bye", reason="restart", retry_after=random.uniform(0.2, latest))])  # noqa: S311 - a pause, no secret
        link.close(protocol.CLOSE_RESTART, "the server restarts")


def _serve(ws: Any) -> None:
    _set_user_timeout(ws)
    watch(ws)
    found = key()
    assert found is not None
    link = Link(ws, current_app._get_current_object(), AgentSession(found))  # type: ignore[attr-defined]
    release()
    _open.add(link)
    try:
        if _read_hello(link):
            threading.Thread(target=link.follow_orders, daemon=True).start()
            _read(link)
    except (ConnectionClosed, OSError):
        pass
    finally:
        link.over = True
        _open.discard(link)
        with link.app.app_context():
            link.session.close()
            gateways().hints.publish(f"agent:{link.session.agent_id}")


def _read_hello(link: Link) -> bool:
    frame = link.ws.receive(timeout=HELLO_SECONDS)
    if frame is None:
        link.close(protocol.CLOSE_NO_HELLO, "no hello within 10 seconds")
        return False
    try:
        message = protocol.decode(frame, "agent")
        misfit = agents.version_misfit(message["protocol"]) if message["type"] == "hello" else None
        if misfit:
            link.send([encode("error", code=misfit[0], message=misfit[1], of="hello")])
            link.close(protocol.CLOSE_TOO_OLD, "download the agent again from this site")
            return False
        replies = _handled(link, [message])
    except protocol.ProtocolError as error:
        link.send([encode("error", code="bad_message", message=str(error))])
        link.close(protocol.CLOSE_BAD_MESSAGE, str(error))
        return False
    link.send(replies)
    if link.session.agent_id is None:
        refusal = json.loads(replies[0])
        broken = refusal["code"] == "internal_error"
        link.close(protocol.CLOSE_RESTART if broken else protocol.CLOSE_TAKEN, refusal["message"])
        return False
    return True


def _read(link: Link) -> None:
    bad, frames = 0, Allowance(FRAMES_A_SECOND, FRAMES_AT_ONCE)
    small_talk = Allowance(SMALL_TALK_A_SECOND, SMALL_TALK_AT_ONCE)
    while not link.over:
        waiting = _waiting(link)
        if not waiting:
            link.close(protocol.CLOSE_NO_HELLO, "no sign of life for 45 seconds")
            return
        time.sleep(frames.take(len(waiting)))  # never without yielding: handling a frame may not
        messages, faults = _decoded(waiting)
        if any(message["type"] == "hello" for message in messages):
            link.close(protocol.CLOSE_BAD_MESSAGE, "hello comes first, and once")
            return
        if any(message["type"] != "records" and small_talk.take(1) for message in messages):
            link.close(CLOSE_FLOOD, "more messages than an agent has a reason for")
            return
        for group in together(messages):
            try:
                link.send(_handled(link, group))
            except protocol.ProtocolError as error:
                faults.append(str(error))
        link.send([encode("error", code="bad_message", message=fault[:500]) for fault in faults])
        bad += len(faults)
        if bad >= BAD_FRAMES:
            link.close(protocol.CLOSE_BAD_MESSAGE, "too many frames that are no messages")
            return


def _waiting(link: Link) -> list[Any]:
    """The next frame, and those that have come behind it meanwhile; nothing after too long a silence."""
    frame = link.ws.receive(timeout=SILENCE_SECONDS)
    frames = [] if frame is None else [frame]
    while frames and len(frames) < FRAMES_TOGETHER and link.ws.input_buffer:
        frames.append(link.ws.receive(timeout=0))
    return frames


def _decoded(frames: list[Any]) -> tuple[list[protocol.Message], list[str]]:
    """The messages, and what is wrong with each frame that is none."""
    messages, faults = list[protocol.Message](), list[str]()
    for frame in frames:
        try:
            messages.append(protocol.decode(frame, "agent"))
        except protocol.ProtocolError as error:
            faults.append(str(error))
    return messages, faults


def _handled(link: Link, messages: list[protocol.Message]) -> list[str]:
    """Each group of messages has an application context, and so a database session, of its own."""
    started = time.monotonic()
    with link.app.app_context():
        try:
            return link.session.handle_together(messages)
        except (protocol.ProtocolError, DomainError):
            raise
        except Exception:
            kind = messages[0]["type"]
            log.exception("agent_message_failed", type=kind, seconds=time.monotonic() - started)
            return [encode("error", code="internal_error", message="The server could not handle this.", of=kind)]
        finally:
            release()


def _set_user_timeout(ws: Any) -> None:
    """Free a writer that is stuck because the other side reads no more (Linux only)."""
    if hasattr(socket, "TCP_USER_TIMEOUT") and ws.sock.family in (socket.AF_INET, socket.AF_INET6):
        ws.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
