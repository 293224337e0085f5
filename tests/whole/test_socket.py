"""The agents' socket, spoken to by something that is no agent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from agent import protocol
from tests.factories import hello
from tests.running import until
from tests.whole.conftest import Scene

pytestmark = [pytest.mark.whole, pytest.mark.timeout(120)]


@contextlib.contextmanager
def opened(scene: Scene, **headers: str) -> Iterator[ClientConnection]:
    address = f"{scene.yard.socket_url}/agent/socket"
    with connect(
        address, additional_headers=headers, compression=None, open_timeout=10, close_timeout=2, proxy=None
    ) as socket:
        yield socket


@pytest.fixture(scope="module")
def key(scene: Scene) -> str:
    return str(scene.alice.new_key("stranger")["key"])


def closed_with(socket: ClientConnection, seconds: float = 10) -> int | None:
    """Read until the server closes; its code."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(timeout=seconds)
    return closed.value.rcvd.code if closed.value.rcvd else None


@pytest.mark.parametrize("headers, status", [
    ({}, 401),
    ({"Authorization": "Bearer ty_nobody-has-this-key"}, 401),
    ({"Authorization": "Basic YWxpY2U6eA=="}, 401),
])  # fmt: skip
def test_without_a_living_key_there_is_no_upgrade(scene: Scene, headers: dict[str, str], status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(scene, **headers):
        pass
    assert refused.value.response.status_code == status


def test_a_browser_gets_no_socket_even_with_a_key(scene: Scene, key: str) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(scene, Authorization=f"Bearer {key}", Origin=scene.yard.url):
        pass
    assert refused.value.response.status_code == 403


def test_frames_that_are_no_messages_are_answered_and_then_end_the_connection(scene: Scene, key: str) -> None:
    with opened(scene, Authorization=f"Bearer {key}") as socket:
        socket.send(protocol.encode(**_hello("garbage")))
        assert json.loads(socket.recv(timeout=10))["type"] == "welcome"
        for frame in ("no json", '{"type": "records"}', "[]"):
            socket.send(frame)
        answers = [json.loads(socket.recv(timeout=10)) for _ in range(3)]
        assert {answer["code"] for answer in answers} == {"bad_message"} and "JSON" in answers[0]["message"]
        assert closed_with(socket) == protocol.CLOSE_BAD_MESSAGE
    assert scene.yard.answers()


def test_the_first_frame_must_be_a_hello(scene: Scene, key: str) -> None:
    with opened(scene, Authorization=f"Bearer {key}") as socket:
        socket.send(protocol.encode("pong", n=1))
        assert closed_with(socket) == protocol.CLOSE_BAD_MESSAGE


def test_a_frame_above_64_kib_ends_the_connection(scene: Scene, key: str) -> None:
    with opened(scene, Authorization=f"Bearer {key}") as socket:
        socket.send(json.dumps({**_hello("large"), "type": "hello", "name": "x" * 70_000}))
        assert closed_with(socket) == 1009
    assert scene.yard.answers()


def test_who_says_nothing_is_let_go(scene: Scene, key: str) -> None:
    with opened(scene, Authorization=f"Bearer {key}") as socket:
        assert closed_with(socket, 30) == protocol.CLOSE_NO_HELLO


@pytest.mark.parametrize(("spoken", "code"), [(0, "too_old"), (99, "too_new")])
def test_an_agent_of_another_protocol_is_told_the_command_that_mends_it(
    scene: Scene, key: str, spoken: int, code: str
) -> None:
    with opened(scene, Authorization=f"Bearer {key}") as socket:
        socket.send(protocol.encode(**{**_hello("other"), "protocol": spoken}))
        told = json.loads(socket.recv(timeout=10))
        assert (told["type"], told["code"]) == ("error", code)
        assert "curl -fO http" in told["message"] and "/train_agent.py" in told["message"]
        assert closed_with(socket) == protocol.CLOSE_TOO_OLD
    assert scene.alice.agent_named("other") is None


@pytest.mark.parametrize("differs", [{"boot": "another start"}, {"secret": "another secret"}])
def test_a_copy_of_a_machine_is_refused_and_the_machine_stays(scene: Scene, key: str, differs: dict[str, str]) -> None:
    with opened(scene, Authorization=f"Bearer {key}") as original:
        original.send(protocol.encode(**_hello("twin")))
        assert json.loads(original.recv(timeout=10))["type"] == "welcome"
        with opened(scene, Authorization=f"Bearer {key}") as copy:
            copy.send(protocol.encode(**{**_hello("twin"), **differs}))
            told = json.loads(copy.recv(timeout=10))
            assert (told["type"], told["code"]) == ("error", "cloned") and "agent.json" in told["message"]
            assert closed_with(copy) == protocol.CLOSE_TAKEN
        original.send(protocol.encode("heartbeat", jobs=[]))
        assert scene.alice.agent_named("twin")["status"] == "online"  # type: ignore[index]
    until(lambda: scene.alice.agent_named("twin")["status"] == "offline", 10, "its connection has ended")  # type: ignore[index]


def test_an_order_for_somebody_elses_job_changes_nothing(scene: Scene, key: str) -> None:
    with opened(scene, Authorization=f"Bearer {key}") as socket:
        socket.send(protocol.encode(**_hello("thief")))
        socket.recv(timeout=10)
        socket.send(protocol.encode("records", job=999_999, attempt=1, stream="log", first=1, items=[{"text": "mine"}]))
        answer = json.loads(socket.recv(timeout=10))
        assert (answer["type"], answer["code"]) == ("error", "stale_attempt")
    until(lambda: scene.alice.agent_named("thief")["status"] == "offline", 10, "its connection has ended")  # type: ignore[index]


def _hello(name: str) -> dict[str, Any]:
    told = hello(name, name=name)
    return {"type_": told.pop("type"), **told}
