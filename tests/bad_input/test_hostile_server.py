"""What a server that means harm, or is broken, can make an agent do: nothing. The last line of the frames."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agent.connection.session import Session
from agent.protocol import encode
from agent.settings import Timings
from tests.agent.conftest import site as site_of_agents
from tests.agent.fake_server import FakeServer
from tests.agent.test_connection import SPEC, TIMINGS, Answers, Line, OneJob, played

server = site_of_agents  # the fixture of the agent's own tests


@pytest.fixture
def site(server: FakeServer) -> FakeServer:
    server.heartbeat_seconds = 0.2
    return server


async def survives(site: FakeServer, line: Line, *frames: str) -> None:
    """Send these frames and see that the same connection goes on."""
    seen = len(site.messages("pong"))
    site.send(*frames, encode("ping", n=7))
    await line.until(lambda: len(site.messages("pong")) > seen)


@pytest.mark.parametrize("frame", [
    "", "{", "[]", "null", '"x"', "[" * 50_000, '{"type": "ack"}', '{"type": "future"}', '{"type": "hello"}', '{"type": "ping", "n": NaN}',
    '{"type": "ack", "job": "1", "attempt": 1, "stream": "log", "through": 1}',
    '{"type": "ack", "job": 1, "attempt": 1, "stream": "passwords", "through": 1}',
    '{"type": "ack", "job": 1, "attempt": 1, "stream": "log", "through": 18446744073709551616}',
    '{"type": "ack", "job": 1, "attempt": 1, "stream": "log", "through": -1}',
    '{"type": "job_stop", "job": 1, "attempt": 1, "mode": 7}', '{"type": "job_offer", "spec": []}', '{"type": "update", "url": "http://x/"}',
    '{"type": "config", "roots": ["/"]}', '{"type": "run", "command": "rm -rf ~"}', '{"type": "error", "code": "x", "message": "\\u001b]0;x\\u0007"}',
])  # fmt: skip
@played
async def test_a_frame_that_makes_no_sense_is_survived(site: FakeServer, frame: str) -> None:
    answers = Answers()
    async with Line(site, answers) as line:
        await line.greeted()
        await survives(site, line, frame)
    assert (site.handshakes, answers.offers, answers.stops) == (1, [], [])


@pytest.mark.parametrize("spec", [
    {**SPEC, "parameters": "rm -rf ~"}, {**SPEC, "parameters": ["a", "b"]}, {**SPEC, "data": "/etc/passwd"}, {**SPEC, "recipe": ["sh"]},
    {**SPEC, "base_files": [{"path": "/etc"}, 7]}, {**SPEC, "name": 7}, {**SPEC, "token": None}, {**SPEC, "grace_seconds": "10 days"},
    {"job": 1, "attempt": 1},
])  # fmt: skip
@played
async def test_an_offer_that_makes_no_sense_is_refused_and_not_begun(site: FakeServer, spec: dict[str, Any]) -> None:
    answers = Answers()
    async with Line(site, answers) as line:
        await line.greeted()
        site.send(encode("job_offer", spec=spec))
        await line.until(lambda: site.attempt().refused)
    assert answers.offers == []
    assert site.attempt().refused["cause"] == "platform"  # type: ignore[index]


@played
async def test_an_offer_larger_than_any_offer_ends_the_connection_and_the_agent_comes_back(site: FakeServer) -> None:
    answers = Answers()
    async with Line(site, answers) as line:
        await line.greeted()
        site.send(json.dumps({"type": "job_offer", "spec": {**SPEC, "parameters": {"text": "x" * 3_000_000}}}))
        await line.until(lambda: site.handshakes == 2)
        await line.until(lambda: len(site.hellos) == 2)
        await survives(site, line)
    assert answers.offers == []


@played
async def test_the_same_offer_twice_gets_the_same_answer(site: FakeServer) -> None:
    answers = Answers()
    async with Line(site, answers) as line:
        await line.greeted()
        site.send(*[encode("job_offer", spec={**SPEC, "token": "", "base_files": []})] * 2)
        await line.until(lambda: site.attempt().accepted == 2)


@played
async def test_an_acknowledgement_of_more_than_was_sent_ends_the_connection_and_all_is_sent_again(
    site: FakeServer, tmp_path: Path
) -> None:
    site.attempt()
    one = OneJob(tmp_path)
    one.print(5)
    site.acknowledge_too_high = True
    async with Line(site, Answers(one)) as line:
        await line.says("broke the protocol")
        site.acknowledge_too_high = False
        await line.brings(one)


def welcomed(answers: Answers, **given: Any) -> Session:
    """A session that has taken in a welcome with these values."""
    session = Session(None, answers, Timings(), lambda *_: None)  # type: ignore[arg-type]
    welcome = {
        "type": "welcome", "protocol": 1, "heartbeat_seconds": 15, "window_bytes": 1, "window_records": 1, "server_time": "",
        "jobs": [], **given,
    }  # fmt: skip
    asyncio.run(session._welcome(welcome))
    return session


@pytest.mark.parametrize("seconds", [0, -5.0, 1e-9, 864_000, 1e300])
def test_an_absurd_interval_is_brought_to_five_seconds_to_five_minutes(seconds: float) -> None:
    assert 5 <= welcomed(Answers(), heartbeat_seconds=seconds).heartbeat_seconds <= 300


@pytest.mark.parametrize("entry", [
    7, None, [], {}, {"job": 1}, {"job": "x", "attempt": [], "decision": "abandon"}, {"job": {}, "attempt": 1},
    {"job": 1, "attempt": 1, "decision": "resume", "after": "x"}, {"job": 1, "attempt": 1, "decision": "resume", "after": [1]},
    {"job": 1, "attempt": 1, "decision": "resume", "after": {"log": "1", "metrics": -5, "event": None, "passwords": 3}},
    {"job": 1, "attempt": 1, "decision": ["abandon"]}, {"job": 1, "attempt": 1},
])  # fmt: skip
def test_a_welcome_that_says_nonsense_about_a_job_abandons_nothing(tmp_path: Path, entry: object) -> None:
    one = OneJob(tmp_path)
    one.print(3)
    answers = Answers(one)
    welcomed(answers, jobs=[entry])
    assert answers.abandoned == [] and one.reader.acknowledged["log"] == 0


@pytest.mark.parametrize("seconds", [-1.0, 0, 0.01])
@played
async def test_a_goodbye_without_a_pause_is_no_busy_loop(site: FakeServer, seconds: float) -> None:
    async with Line(site, Answers()) as line:
        await line.greeted()
        site.send(encode("bye", reason="\x1b[2Jx" * 1000, retry_after=seconds))
        await line.until(lambda: site.handshakes == 2)
    assert all(len(said) < 1000 for _, said in line.said)


@played
async def test_a_welcome_with_no_room_at_all_slows_the_agent_down_and_does_not_stop_it(
    site: FakeServer, tmp_path: Path
) -> None:
    site.attempt()
    one = OneJob(tmp_path)
    one.print(5)
    site.window = {"window_bytes": 0, "window_records": 0}
    async with Line(site, Answers(one), TIMINGS) as line:
        await line.brings(one)
