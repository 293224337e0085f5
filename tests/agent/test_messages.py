"""Every message of the protocol as the agent reads and answers it; the server's half is in tests/services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError

from agent import protocol
from agent.connection.session import Break, Session
from agent.settings import Timings
from agent.spool import Final
from tests.agent.test_connection import Answers, OneJob
from tests.faults.messages import FROM_AGENT, FROM_SERVER, example, frame

ENDINGS = (Break, ConnectionClosedError)


class Line:
    """A socket over which the server says a few frames and then hangs up."""

    def __init__(self, *frames: str) -> None:
        self._frames = list(frames)
        self.sent: list[protocol.Message] = []

    async def send(self, text: str) -> None:
        self.sent.append(protocol.decode(text, "agent"))

    async def recv(self) -> str:
        await asyncio.sleep(0.02)
        if not self._frames:
            raise ConnectionClosedError(None, None)
        return self._frames.pop(0)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[OneJob]:
    """An attempt with two lines in its spool."""
    one = OneJob(tmp_path)
    one.print(2)
    yield one
    one.spool.close()


def told(jobs: Answers, *frames: str) -> tuple[Line, list[tuple[str, str]]]:
    """Let a session hear a welcome and these frames; what it sent, and what it said to the terminal."""
    line, said = Line(frame("welcome"), *frames), list[tuple[str, str]]()
    session = Session(line, jobs, Timings(look=0.01), lambda *words: said.append(words))  # type: ignore[arg-type]
    with pytest.raises(ENDINGS):
        asyncio.run(session.run())
    return line, said


def test_there_is_an_example_of_every_message() -> None:
    assert set(FROM_AGENT) == set(protocol._TO_SERVER) and set(FROM_SERVER) == set(protocol._TO_AGENT)


@pytest.mark.parametrize("type_", FROM_AGENT)
def test_what_an_agent_says_survives_the_wire(type_: str) -> None:
    assert protocol.decode(frame(type_), "agent") == example(type_)
    with pytest.raises(protocol.ProtocolError):
        protocol.decode(frame(type_), "server")


@pytest.mark.parametrize("type_", FROM_SERVER)
def test_what_a_server_says_survives_the_wire(type_: str) -> None:
    assert protocol.decode(frame(type_), "server") == example(type_)
    with pytest.raises(protocol.ProtocolError):
        protocol.decode(frame(type_), "agent")


@pytest.mark.parametrize("type_", [*FROM_AGENT, *FROM_SERVER])
def test_no_field_may_be_missing_or_of_another_type(type_: str) -> None:
    sender: Any = "agent" if type_ in FROM_AGENT else "server"
    shape = (protocol._TO_SERVER if sender == "agent" else protocol._TO_AGENT)[type_]
    for name in shape:
        if not name.endswith("?"):
            lacking = {key: value for key, value in example(type_).items() if key not in (name, "type")}
            with pytest.raises(protocol.ProtocolError, match="lacks"):
                protocol.decode(protocol.encode(type_, **lacking), sender)
        with pytest.raises(protocol.ProtocolError, match="wrong type"):
            protocol.decode(frame(type_, **{name.rstrip("?"): [[]] if shape[name] is not list else {}}), sender)


@pytest.mark.parametrize("type_", [one for one in FROM_SERVER if one not in ("welcome", "bye")])
def test_the_agent_takes_every_message_of_the_server(job: OneJob, type_: str) -> None:
    line, said = told(Answers(job), frame("ping", n=1), frame(type_), frame("ping", n=2))
    assert [one["n"] for one in line.sent if one["type"] == "pong"][-1] == 2, "it went on after that message"
    assert not any("does not understand" in sentence for _, sentence in said)


def test_each_has_its_effect(job: OneJob) -> None:
    jobs = Answers(job)
    line, said = told(jobs, frame("job_offer"), frame("job_stop"), frame("job_final_ack"), frame("error"))
    assert [one.job for one in jobs.offers] == [1] and jobs.stops == [(1, 1, "stop")]
    assert jobs.stored == [(1, 1)] and jobs.abandoned == [(1, 1)]
    assert ("note", "The server says: Attempt 1 of job 1 is over.") in said
    records = [one for one in line.sent if one["type"] == "records"]
    assert records[0] == {"type": "records", "job": 1, "attempt": 1, "stream": "log", "first": 1,
                          "items": [{"text": "line 1\n"}, {"text": "line 2\n"}]}  # fmt: skip


def test_an_acknowledgement_and_a_wish_to_have_it_again(job: OneJob) -> None:
    job.spool.finish(Final("completed"))
    line, _ = told(Answers(job), frame("ping"), frame("ack"), frame("ping"), frame("ping"))
    assert [one["type"] for one in line.sent if one["type"] in ("records", "job_final")] == ["records", "job_final"]
    line, _ = told(Answers(job), frame("ping"), frame("resend_from"), frame("ping"), frame("ping"))
    assert [one["first"] for one in line.sent if one["type"] == "records"] == [1, 2]


def test_a_goodbye_ends_the_session_with_its_pause(job: OneJob) -> None:
    line = Line(frame("welcome"), frame("bye"))
    with pytest.raises(Break, match="restart") as ended:
        asyncio.run(Session(line, Answers(job), Timings(), lambda *_: None).run())  # type: ignore[arg-type]
    assert ended.value.pause == 0.5


@pytest.mark.parametrize("field", ["reason", "\\ud83d"])
def test_half_a_surrogate_pair_is_no_message(field: str) -> None:
    text = protocol.encode("bye", reason="X", retry_after=1).replace("X", field)
    if field == "reason":
        assert protocol.decode(text, "server")["reason"] == field
        return
    with pytest.raises(protocol.ProtocolError, match="not JSON"):
        protocol.decode(text, "server")


def test_what_is_no_text_is_replaced_before_it_is_sent() -> None:
    frame = protocol.encode("job_refuse", job=1, attempt=1, cause="data", message="half \ud83d", advice="")
    assert protocol.decode(frame.encode().decode(), "agent")["message"] == "half ?"


@pytest.mark.parametrize(("mark", "understood"), [({"may_ignore": True}, True), ({}, False)])
def test_what_a_newer_server_lets_the_agent_ignore_is_passed_over_without_a_word(
    job: OneJob, mark: dict[str, Any], understood: bool
) -> None:
    _, said = told(Answers(job), json.dumps({"type": "news", "text": "A new recipe.", **mark}))
    assert any("does not understand" in text for _, text in said) is not understood
