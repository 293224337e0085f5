"""The sockets of one web process: who is told what at the end, and who is forgotten when, whatever blocks or fails."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from agent import protocol
from models.accounts import User
from models.agents import Agent
from models.base import db
from routes import agents_socket
from routes import wire as wire_module
from routes.agents_socket import Link, Rounds
from routes.wire import Wire
from services import api_keys
from services.agent_sessions import AgentSession
from tests.factories import hello
from tests.running import until

Frame = dict[str, Any] | int  # a message, or the code of the close
SMALL = 4096  # bytes that the kernel holds for a machine that reads nothing


class Machine:
    """The agent's end of a socket in this process."""

    def __init__(self, app: Flask, rounds: Rounds, user: User, name: str) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        self.name, self._rounds, self._socket = name, rounds, theirs
        self._frames, self._came = Connection(ConnectionType.CLIENT), list[Frame]()
        key, _ = api_keys.create(user, name, "agent")
        self.link = Link(Wire(ours, Connection(ConnectionType.SERVER)), app, AgentSession(key))

    def connect(self) -> None:
        self._rounds.join(self.link)

    def say(self, **message: Any) -> None:
        self._socket.sendall(self._frames.send(TextMessage(json.dumps(message))))

    def say_hello(self) -> None:
        self.say(**hello(self.name, name=self.name))

    def hear(self, seconds: float = 5.0) -> Frame:
        """The next message, or the code of the close; pings aside."""
        while True:
            while not self._came:
                self._socket.settimeout(seconds)
                self._frames.receive_data(self._socket.recv(65_536) or None)
                self._came += [_read(frame) for frame in self._frames.events()]
            frame = self._came.pop(0)
            if isinstance(frame, int) or frame["type"] != "ping":
                return frame

    def go(self) -> None:
        self._socket.close()

    def is_remembered(self) -> bool:
        """Whether the table has it as connected."""
        db.session.rollback()
        agent = db.session.scalar(db.select(Agent).where(Agent.name == self.name))
        return agent is not None and agent.session is not None


@pytest.fixture
def rounds(app: Flask) -> Iterator[Rounds]:
    """The rounds of a web process that begins."""
    app.extensions["agents_rounds"] = found = Rounds(app)
    yield found
    gevent.killall([one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and _is_of_sockets(one)])


@pytest.fixture
def machine(app: Flask, rounds: Rounds, alice: User) -> Callable[[str], Machine]:
    """Connects a machine of this name."""

    def connected(name: str) -> Machine:
        one = Machine(app, rounds, alice, name)
        one.connect()
        return one

    return connected


@pytest.fixture
def greeted(machine: Callable[[str], Machine]) -> Callable[[str], Machine]:
    """Connects a machine that says hello and is welcomed."""

    def welcomed(name: str) -> Machine:
        one = machine(name)
        one.say_hello()
        welcome = one.hear()
        assert isinstance(welcome, dict) and welcome["type"] == "welcome" and one.is_remembered()
        return one

    return welcomed


Connects = Callable[[str], Machine]


def test_a_machine_that_goes_is_forgotten(rounds: Rounds, greeted: Connects) -> None:
    one, other = greeted("one"), greeted("other")
    one.go()
    until(lambda: not one.is_remembered(), 2, "the machine is shown as away")
    assert rounds.links == {other.link} and other.is_remembered()


def test_one_whose_frame_never_ends_is_silent_however_its_bytes_drip(
    rounds: Rounds, greeted: Connects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents_socket, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(agents_socket, "ROUND_SECONDS", 0.1)
    one, other = greeted("one"), greeted("other")
    frame = one._frames.send(TextMessage("x" * 200))
    for byte in frame[:100]:
        with contextlib.suppress(OSError):
            one._socket.sendall(bytes([byte]))
        other.say(type="pong", n=1)
        gevent.sleep(0.05)
        if one.link not in rounds.links:
            break
    assert rounds.links == {other.link} and one.hear() == protocol.CLOSE_NO_HELLO


def test_one_that_a_writer_finds_dead_is_forgotten_while_its_reader_waits(
    rounds: Rounds, greeted: Connects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_module, "BYTES_AT_ONCE", 2_000)
    monkeypatch.setattr(wire_module, "BYTES_A_SECOND", 10)
    one = greeted("one")
    one.say(type="pong", n=1, padding="x" * 2_000)  # more than it may send: it is read on after minutes
    gevent.sleep(0.1)
    one.go()
    one.link.ping()
    assert not rounds.links and not one.is_remembered()


def test_one_that_reads_nothing_keeps_nobody_else_waiting_at_the_end(rounds: Rounds, greeted: Connects) -> None:
    deaf, other = greeted("deaf"), greeted("other")
    gevent.spawn(deaf.link._say, ["x" * 60_000] * 10)
    gevent.sleep(0.1)
    rounds.end([deaf.link, other.link], 1012, "enough")
    assert other.hear() == 1012
    assert not deaf.is_remembered() and not other.is_remembered() and not rounds.links


def test_a_blocked_wire_takes_nothing_in_once_it_is_to_close(rounds: Rounds, greeted: Connects) -> None:
    deaf = greeted("deaf")
    gevent.spawn(deaf.link._say, ["x" * 60_000] * 10)
    gevent.sleep(0.1)
    rounds.end([deaf.link], 1012, "enough")
    gevent.sleep(0.1)
    with pytest.raises(wire_module.WireClosed):
        deaf.link.wire.read()


def test_an_end_that_could_not_be_stored_is_stored_later(rounds: Rounds, greeted: Connects) -> None:
    one = greeted("one")
    with failing("UPDATE agents"):
        one.go()
        until(lambda: not rounds.links, 2, "the link is forgotten")
        gevent.sleep(0.2)
    assert one.is_remembered()
    until(lambda: not one.is_remembered(), 3, "the machine is shown as away once the database is back")


def test_a_hello_that_could_not_be_stored_ends_the_connection(rounds: Rounds, machine: Connects) -> None:
    one = machine("one")
    with failing("INSERT INTO agents"):
        one.say_hello()
        told = one.hear()
        assert isinstance(told, dict) and (told["type"], told["code"]) == ("error", "internal_error")
        assert one.hear() == 1012
    assert not rounds.links and not one.is_remembered()


def test_who_finds_no_room_is_told_when_to_come_back(
    rounds: Rounds, machine: Connects, greeted: Connects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents_socket, "MOST_LINKS", 1)
    first, second = greeted("first"), machine("second")
    told = second.hear()
    assert isinstance(told, dict) and (told["type"], told["reason"], told["retry_after"]) == ("bye", "full", 60)
    assert second.hear() == 1012
    first.go()
    until(lambda: not rounds.links, 2, "there is room again")
    greeted("third")


def test_one_member_takes_a_quarter_of_the_places_and_leaves_the_others(
    app: Flask, rounds: Rounds, greeted: Connects, machine: Connects, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents_socket, "MOST_LINKS", 8)
    first, _ = greeted("first"), greeted("second")
    told = machine("third").hear()
    assert isinstance(told, dict) and (told["type"], told["reason"], told["retry_after"]) == ("bye", "full", 60)
    of_bob = Machine(app, rounds, bob, "of bob")
    of_bob.connect()
    of_bob.say_hello()
    welcome = of_bob.hear()
    assert isinstance(welcome, dict) and welcome["type"] == "welcome"
    first.go()
    until(lambda: len(rounds.links) == 2, 2, "there is room again")
    greeted("fourth")


def test_heartbeats_are_small_talk_by_the_jobs_they_list(greeted: Connects) -> None:
    honest, flood = greeted("honest"), greeted("flood")
    beat = {"type": "heartbeat", "jobs": [{"job": number, "attempt": 1} for number in range(1, 101)]}
    honest.say(**beat)
    assert [honest.hear()["mode"] for _ in range(100)] == ["cancel"] * 100  # type: ignore[index]
    for _ in range(20):
        flood.say(**beat)
    heard: Frame = {}
    while isinstance(heard, dict):
        heard = flood.hear()
    assert heard == agents_socket.CLOSE_FLOOD


def test_at_the_end_everybody_is_told_though_one_reads_nothing(
    rounds: Rounds, machine: Connects, greeted: Connects
) -> None:
    deaf, others = greeted("deaf"), [greeted(f"machine {number}") for number in range(5)]
    gevent.spawn(deaf.link._say, ["x" * 60_000] * 10)
    gevent.sleep(0.1)
    with gevent.Timeout(wire_module.WRITE_SECONDS / 2):
        rounds.close_all()
    byes = [one.hear() for one in others]
    assert all(isinstance(bye, dict) and bye["type"] == "bye" for bye in byes)
    assert len({bye["retry_after"] for bye in byes if isinstance(bye, dict)}) == len(others)
    assert [one.hear() for one in others] == [1012] * len(others)
    assert not any(one.is_remembered() for one in [deaf, *others])
    late = machine("late")
    bye = late.hear()
    assert isinstance(bye, dict) and bye["type"] == "bye"


@contextlib.contextmanager
def failing(statement: str) -> Iterator[None]:
    """Statements that begin so fail, as when the database goes away."""

    def refuse(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        if text.startswith(statement):
            raise OperationalError(text, None, Exception("the database is away"))

    event.listen(db.engine, "before_cursor_execute", refuse)
    try:
        yield
    finally:
        event.remove(db.engine, "before_cursor_execute", refuse)


def _read(frame: object) -> Frame:
    if isinstance(frame, TextMessage):
        message: dict[str, Any] = json.loads(frame.data)
        return message
    assert isinstance(frame, CloseConnection)
    return int(frame.code)


def _is_of_sockets(greenlet: gevent.Greenlet) -> bool:
    return getattr(getattr(greenlet, "_run", None), "__module__", "") in (agents_socket.__name__, wire_module.__name__)
