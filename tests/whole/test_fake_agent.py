"""What a machine may do wrong on the socket of a real server, in the words of the shared examples."""

from __future__ import annotations

import pytest

from agent import protocol
from tests.faults.fake_agent import FakeAgent
from tests.whole.conftest import Scene

pytestmark = [pytest.mark.whole, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def key(scene: Scene) -> str:
    return str(scene.alice.new_key("misbehaving")["key"])


def test_a_second_hello_ends_the_connection(scene: Scene, key: str) -> None:
    with FakeAgent(scene.yard.socket_url, key, "twice") as agent:
        assert agent.greet()["type"] == "welcome"
        agent.say("hello", agent=agent.machine)
        assert agent.closed_with() == protocol.CLOSE_BAD_MESSAGE


def test_what_is_said_about_a_foreign_job_changes_nothing(scene: Scene, key: str) -> None:
    foreign = 2**30
    with FakeAgent(scene.yard.socket_url, key, "foreign") as agent:
        welcome = agent.greet(jobs=[{"job": foreign, "attempt": 1}])
        assert [one["decision"] for one in welcome["jobs"]] == ["abandon"]
        agent.repeat(3, "records", job=foreign)
        assert [agent.next("error")["code"] for _ in range(3)] == ["stale_attempt"] * 3
        agent.say("job_accept", job=foreign)
        assert agent.next("job_stop")["mode"] == "cancel"
        agent.say("job_final", job=foreign)
        assert agent.next("job_final_ack")["job"] == foreign


def test_who_vanishes_may_come_back_at_once(scene: Scene, key: str) -> None:
    with FakeAgent(scene.yard.socket_url, key, "vanishing") as agent:
        assert agent.greet()["type"] == "welcome"
        agent.vanish()
    with FakeAgent(scene.yard.socket_url, key, "vanishing") as agent:
        assert agent.greet()["type"] == "welcome"


@pytest.mark.parametrize("frames, code", [
    ([b"\0\1"], 1003), (["[]", "{", "null"], protocol.CLOSE_BAD_MESSAGE),
])  # fmt: skip
def test_frames_that_are_no_text_or_no_messages_end_it(
    scene: Scene, key: str, frames: list[str | bytes], code: int
) -> None:
    with FakeAgent(scene.yard.socket_url, key, "babbling") as agent:
        agent.greet()
        agent.send_raw(*frames)
        assert agent.closed_with() == code
    assert scene.yard.answers()
