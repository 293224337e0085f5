"""The socket agents connect to: frames in, frames out. What they mean is in services/agent_sessions.py.

The nine settings of the reliability research hold as far as they fit gevent: the key is checked before the upgrade, no
compression and no library ping, one locked writer of frames up to 64 KiB, TCP_USER_TIMEOUT (services/web_worker.py), a byte
budget, and 1012 for everybody when the server ends. A machine that says nothing has no greenlet: what is due at its socket
is done by `Rounds`, one for the whole process.
"""

from __future__ import annotations

import contextlib
import json
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

import gevent
import structlog
from flask import Blueprint, Flask, current_app
from flask_sock import Sock
from gevent.pool import Pool

from agent import protocol
from agent.protocol import encode
from models.base import release
from routes.guards import key
from routes.wire import Allowance, NoThread, Wire, WireClosed, take_over
from services import agent_sessions, agents
from services.agent_sessions import AgentSession, together
from services.errors import DomainError
from services.gateways import gateways

bp = Blueprint("agents_socket", __name__)
log = structlog.get_logger()

HELLO_SECONDS = 10
SILENCE_SECONDS = 45
PING_SECONDS = 15
ROUND_SECONDS = 1.0
ORDERS_AT_ONCE = 4  # connections to the database that orders may take away from pages
GOODBYE_SECONDS = 1.0
FRAMES_A_SECOND, FRAMES_AT_ONCE = 200, 1000
# Of all but records: heartbeats and their jobs, answers to orders, pings.
SMALL_TALK_A_SECOND, SMALL_TALK_AT_ONCE = 20, 400
CLOSE_FLOOD = 1008  # RFC 6455, section 7.4.1: against the rules of this server
BAD_FRAMES = 3
MOST_LINKS, FILES_FOR_PAGES = 10_000, 300
SHARE = 4  # a member's machines take at most this part of the places, so that nobody takes everybody's
FULL_SECONDS = 60.0


class Link:
    """One socket with its session, from before its hello to its end."""

    __slots__ = (
        "app", "bad", "due_at", "frames", "is_greeted", "pings", "session", "silent_since", "small_talk", "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, app: Flask, session: AgentSession) -> None:
        self.wire, self.app, self.session = wire, app, session
        self.bad = self.pings = 0  # bad: frames that were no messages
        self.is_greeted = False
        self.frames = Allowance(FRAMES_A_SECOND, FRAMES_AT_ONCE)
        self.small_talk = Allowance(SMALL_TALK_A_SECOND, SMALL_TALK_AT_ONCE)
        self.silent_since: float | None = time.monotonic()  # None while a message is handled
        self.due_at = 0.0  # when the rounds look at it next

    def listen(self) -> None:
        """Wait, without a greenlet, for what comes next."""
        self.wire.when_readable(self._attend)

    def is_silent(self, moment: float) -> bool:
        """Whether it has said nothing for too long."""
        patience = SILENCE_SECONDS if self.is_greeted else HELLO_SECONDS
        return self.silent_since is not None and moment - self.silent_since > patience

    def ping(self) -> None:
        """Show the agent that somebody is there."""
        self.pings += 1
        self._say([encode("ping", n=self.pings)])

    def order(self) -> None:
        """Send the orders that wait for the machine."""
        try:
            with at_work(self.app):
                orders = self.session.orders()
            gevent.spawn(self._say, orders)  # whoever reads nothing keeps nobody else waiting
        except Exception:  # the database is away: the next round looks again
            log.exception("agent_orders_failed", agent=self.session.agent_id)

    def say_goodbye(self, pause: float, reason: str = "restart") -> None:
        """Tell the agent that the server ends, or has no room, and to come back after so many seconds."""
        self._say([encode("bye", reason=reason, retry_after=pause)])
        self.wire.close(protocol.CLOSE_RESTART, "the server restarts")

    def _say(self, frames: list[str]) -> None:
        try:
            self.wire.send(frames)
        except WireClosed:  # whoever reads is not always told
            _rounds(self.app).leave([self])

    def _attend(self) -> None:
        try:
            while frames := self.wire.read():
                self.silent_since = None
                self._take_in(frames)
                self.silent_since = time.monotonic()
            self.listen()
        except WireClosed:
            _rounds(self.app).leave([self])
        except Exception:
            log.exception("agent_socket_failed", agent=self.session.agent_id)
            _rounds(self.app).end([self], protocol.CLOSE_RESTART, "the server could not handle this")

    def _take_in(self, frames: list[str]) -> None:
        if not self.is_greeted:
            self._greet(frames.pop(0))
        messages, faults = _decoded(frames, BAD_FRAMES - self.bad)
        if any(message["type"] == "hello" for message in messages):
            self._refuse(protocol.CLOSE_BAD_MESSAGE, "hello comes first, and once")
        if any(self.small_talk.take(_small_talk(message)) for message in messages):
            self._refuse(CLOSE_FLOOD, "more messages than an agent has a reason for")
        time.sleep(self.frames.take(len(messages) + len(faults)))  # never without yielding: handling a frame may not
        for group in together(messages):
            try:
                self.wire.send(self._handled(group))
            except protocol.ProtocolError as error:
                faults.append(str(error))
        self.wire.send([encode("error", code="bad_message", message=fault[:500]) for fault in faults])
        self.bad += len(faults)
        if self.bad >= BAD_FRAMES:
            self._refuse(protocol.CLOSE_BAD_MESSAGE, "too many frames that are no messages")

    def _greet(self, frame: str) -> None:
        """Handle the first frame, which is a hello or the last. Raises WireClosed."""
        try:
            message = protocol.decode(frame, "agent")
            if misfit := self._misfit(message):
                self.wire.send([encode("error", code=misfit[0], message=misfit[1], of="hello")])
                self._refuse(protocol.CLOSE_TOO_OLD, "download the agent again from this site")
            replies = self._handled([message])
        except protocol.ProtocolError as error:
            self.wire.send([encode("error", code="bad_message", message=str(error))])
            self._refuse(protocol.CLOSE_BAD_MESSAGE, str(error))
        self.wire.send(replies)
        answer = json.loads(replies[0])
        if answer["type"] != "welcome":
            broken = answer["code"] == "internal_error"
            self._refuse(protocol.CLOSE_RESTART if broken else protocol.CLOSE_TAKEN, answer["message"])
        self.is_greeted = True  # and due: what was ordered between the hello and now

    def _misfit(self, message: protocol.Message) -> tuple[str, str] | None:
        with self.app.app_context():
            return agents.version_misfit(message["protocol"]) if message["type"] == "hello" else None

    def _handled(self, messages: list[protocol.Message]) -> list[str]:
        """Each group of messages has an application context, and so a database session, of its own."""
        started = time.monotonic()
        try:
            with at_work(self.app):
                return self.session.handle_together(messages)
        except (protocol.ProtocolError, DomainError):
            raise
        except Exception:
            kind = messages[0]["type"]
            log.exception("agent_message_failed", type=kind, seconds=time.monotonic() - started)
            return [encode("error", code="internal_error", message="The server could not handle this.", of=kind)]

    def _refuse(self, code: int, reason: str) -> None:
        self.wire.close(code, reason[:120])
        raise WireClosed


class Rounds:
    """What is due at the sockets of this process: orders where a hint nudged, a ping and a look at everybody now and then
    in case a hint was lost, and the end of whoever is silent."""

    def __init__(self, app: Flask) -> None:
        self.links = set[Link]()
        self._of_members = Counter[int]()
        self._app = app
        self._orders = Pool(ORDERS_AT_ONCE)
        self._to_look_at = set[Link]()
        self._left = list[AgentSession]()
        self._leaving = threading.Lock()
        self._is_running = self._is_looking = self._is_over = False

    def join(self, link: Link) -> None:
        """Take a new connection into the rounds."""
        if self._is_over:
            link.say_goodbye(agent_sessions.RESTART_SECONDS)
            return
        if fault := self._has_no_room_for(link):
            log.warning("agents_too_many", connected=len(self.links), member=link.session.user_id, message=fault)
            link.say_goodbye(FULL_SECONDS, "full")
            return
        self.links.add(link)
        self._of_members[link.session.user_id] += 1
        link.listen()
        if not self._is_running:
            self._is_running = True
            gevent.spawn(self._run)

    def _has_no_room_for(self, link: Link) -> str | None:
        """Why a connection cannot be taken, as a sentence for the log."""
        most = _most_links()
        if len(self.links) >= most:
            return f"This process holds {most:,} agents, as many as it can. Start another one, or allow it more files."
        share = max(1, most // SHARE)
        if self._of_members[link.session.user_id] >= share:
            return f"This member has {share:,} agents connected, as many as one member may have in a process."
        return None

    def end(self, links: list[Link], code: int, reason: str) -> None:
        """End these connections, telling the agents why."""
        for link in links:
            gevent.spawn(link.wire.close, code, reason)  # whoever reads nothing keeps it waiting
        self.leave(links)

    def leave(self, links: list[Link]) -> None:
        """Forget connections that are over. Those that end at the same moment are stored together."""
        gone = self.links.intersection(links)
        self._left += [link.session for link in gone]
        self.links -= gone
        self._of_members -= Counter(link.session.user_id for link in gone)
        with self._leaving:
            time.sleep(0)
            left, self._left = self._left, []
            try:
                with at_work(self._app):
                    agent_sessions.close(left)
            except Exception:  # the database is away: the next round tries again
                self._left += left
                log.exception("agents_left_not_stored", count=len(left))

    def close_all(self) -> None:
        """Tell every agent that the server ends, each with its own moment to come back."""
        links, self.links, self._is_over = list(self.links), set(), True
        pauses = agent_sessions.pauses(len(links))
        goodbyes = [gevent.spawn(link.say_goodbye, pause) for link, pause in zip(links, pauses, strict=True)]
        gevent.joinall(goodbyes, timeout=GOODBYE_SECONDS)
        with at_work(self._app):
            agent_sessions.close(link.session for link in links)

    def _run(self) -> None:
        """Without end. Nothing in it waits for the database: pings go out while that is away."""
        with self._app.app_context(), gateways().hints.nudges("agent", "key") as nudges:
            next_at = time.monotonic()
            while True:
                topics = _gathered(nudges, next_at - time.monotonic())
                try:
                    self._look_at([link for link in self.links if link.session.is_meant_by(topics)])
                    if time.monotonic() >= next_at:
                        next_at = time.monotonic() + ROUND_SECONDS
                        self._go_round()
                except Exception:  # without this greenlet nobody would be told anything any more
                    log.exception("agent_rounds_failed")

    def _go_round(self) -> None:
        moment = time.monotonic()
        silent = [link for link in self.links if link.is_silent(moment)]
        if (silent or self._left) and not self._leaving.locked():
            gevent.spawn(self.end, silent, protocol.CLOSE_NO_HELLO, "silent for too long")
        due = [link for link in self.links if link.is_greeted and link.due_at <= moment]
        for link in due:
            link.due_at = moment + PING_SECONDS
            gevent.spawn(link.ping)
        self._look_at(due)

    def _look_at(self, links: list[Link]) -> None:
        self._to_look_at.update(link for link in links if link.is_greeted)
        if self._to_look_at and not self._is_looking:
            self._is_looking = True
            gevent.spawn(self._look)

    def _look(self) -> None:
        """See what there is for those that are to be looked at, and for those that come to it meanwhile."""
        try:
            while self._to_look_at:
                links, self._to_look_at = {link.session: link for link in self._to_look_at}, set()
                try:
                    with at_work(self._app):
                        unwelcome, waited_for = agent_sessions.look_at(list(links))
                    over = [links[session] for session in unwelcome]
                    if over:
                        why = "the key was revoked, or another socket took over"
                        gevent.spawn(self.end, over, protocol.CLOSE_REVOKED, why)
                    for session in waited_for:
                        self._orders.spawn(links[session].order)
                except Exception:  # the database is away: the next round looks again
                    log.exception("agent_look_failed")
        finally:
            self._is_looking = False


def register(app: Flask, sock: Sock) -> None:
    """Add the socket to its blueprint, whose guard runs before the upgrade; `services.web_worker` calls `close_all`."""
    app.config["SOCK_SERVER_OPTIONS"] = {"thread_class": NoThread}
    if not bp.deferred_functions:
        sock.route("/socket", bp=bp)(_serve)
    rounds = app.extensions["agents_rounds"] = Rounds(app)
    app.extensions["before_end"] = rounds.close_all


@contextlib.contextmanager
def at_work(app: Flask) -> Iterator[None]:
    """An application context, and so a database session, of its own."""
    with app.app_context():
        try:
            yield
        finally:
            release()


def _serve(ws: Any) -> None:
    found = key()
    assert found is not None
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    link = Link(take_over(ws), app, AgentSession(found))
    release()
    _rounds(app).join(link)


def _most_links() -> int:
    """As many machines as leave files for pages, whatever one key opens."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_LINKS if soft == resource.RLIM_INFINITY else min(MOST_LINKS, soft - FILES_FOR_PAGES)


def _rounds(app: Flask) -> Rounds:
    rounds: Rounds = app.extensions["agents_rounds"]
    return rounds


def _small_talk(message: protocol.Message) -> int:
    """What a message takes of the allowance for small talk: records nothing, a heartbeat also something for each of its
    jobs, since each has to be looked at."""
    return 0 if message["type"] == "records" else 1 + len(message.get("jobs", ()))


def _decoded(frames: list[str], most: int) -> tuple[list[protocol.Message], list[str]]:
    """The messages, and what is wrong with each frame that is none, up to so many of these."""
    messages, faults = list[protocol.Message](), list[str]()
    for frame in frames:
        try:
            messages.append(protocol.decode(frame, "agent"))
        except protocol.ProtocolError as error:
            faults.append(str(error))
        if len(faults) == most:
            break
    return messages, faults


def _gathered(nudges: SimpleQueue[str], seconds: float) -> set[str]:
    """Everything that is nudged now, or within so many seconds if nothing is."""
    topics = set[str]()
    with contextlib.suppress(Empty):
        topics.add(nudges.get(timeout=max(0.0, seconds)))
        while True:
            topics.add(nudges.get_nowait())
    return topics
