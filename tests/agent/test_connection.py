"""The rules of the wire: every record once and in order through breaks, windows kept, a refused key said loudly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosedError

from agent import protocol
from agent.connection import Connection
from agent.connection.jobs import Reply
from agent.connection.session import Break, Session
from agent.connection.window import Window
from agent.errors import Fatal
from agent.protocol import JobSpec, Message, ProtocolError, encode
from agent.settings import Timings
from agent.spool import Final, Spool, SpoolReader
from tests.agent.fake_server import KEY, Attempt, FakeServer

TIMINGS = Timings(look=0.02, greeting=2.0, silence=1.0, backoff=0.1, refused=0.2, heartbeat=0.1)
SPEC = {
    "job": 1, "attempt": 1, "name": "n", "recipe": "r", "parameters": {}, "data": {}, "mapping": None,
    "base_model": "b", "base_name": "b",
}  # fmt: skip


class OneJob:
    """A held attempt whose spool the test writes."""

    def __init__(self, folder: Path, job: int = 1, attempt: int = 1) -> None:
        self.job, self.attempt = job, attempt
        self.spool = Spool(folder)
        self.reader = SpoolReader(folder)

    def print(self, count: int) -> None:
        start = self.spool.last["log"] + 1
        for number in range(start, start + count):
            self.spool.append("log", {"text": f"line {number}\n"})

    @property
    def lines(self) -> list[str]:
        return [f"line {number}" for number in range(1, self.spool.last["log"] + 1)]


class Answers:
    """Stands in for the agent behind the connection."""

    def __init__(self, *held: OneJob) -> None:
        self.jobs = list(held)
        self.offers: list[JobSpec] = []
        self.stops: list[tuple[int, int, str]] = []
        self.abandoned: list[tuple[int, int]] = []
        self.stored: list[tuple[int, int]] = []

    def hello(self) -> Message:
        jobs = [{"job": one.job, "attempt": one.attempt, "last": one.reader.last} for one in self.jobs]
        return {
            "protocol": 1, "version": "0", "agent": "a", "secret": "s", "boot": "b", "name": "n", "machine": {},
            "ready": True, "missing": [], "advice": None, "jobs": jobs,
        }  # fmt: skip

    def heartbeat(self) -> Message:
        return {"jobs": []}

    def held(self) -> list[OneJob]:
        return list(self.jobs)

    async def offered(self, spec: JobSpec) -> Reply | None:
        self.offers.append(spec)
        return "job_accept", {"job": spec.job, "attempt": spec.attempt}

    async def ordered(self, job: int, attempt: int, mode: str) -> Reply | None:
        self.stops.append((job, attempt, mode))
        return "stop_ack", {"job": job, "attempt": attempt, "mode": mode}

    async def abandon(self, job: int, attempt: int) -> None:
        self.abandoned.append((job, attempt))
        self.jobs = [one for one in self.jobs if (one.job, one.attempt) != (job, attempt)]

    async def final_stored(self, job: int, attempt: int) -> None:
        self.stored.append((job, attempt))
        self.jobs = [one for one in self.jobs if (one.job, one.attempt) != (job, attempt)]


class Line:
    """A connection that runs while the test does its part."""

    def __init__(self, site: FakeServer, answers: Answers, timings: Timings = TIMINGS, key: str = KEY) -> None:
        self.site, self.answers = site, answers
        self.said: list[tuple[str, str]] = []
        self._connection = Connection(site.url, key, answers, timings, lambda *said: self.said.append(said))
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Line:
        self.task = asyncio.create_task(self._connection.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Fatal):
            await self.task

    async def until(self, what: Callable[[], Any], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                assert not self.task.done() or self.task.cancelled(), self.task.exception()
                await asyncio.sleep(0.01)

    async def greeted(self) -> None:
        await self.until(lambda: self.site.hellos)

    async def says(self, words: str) -> None:
        """Until somebody at the terminal has read these words."""
        await self.until(lambda: any(words in said for _, said in self.said))

    async def brings(self, one: OneJob) -> None:
        """Until the server has every line of this job, once and in order."""
        stored = self.site.attempt(one.job, one.attempt)
        await self.until(lambda: stored.log().splitlines() == one.lines)


@pytest.fixture
def site(site: FakeServer) -> FakeServer:
    site.heartbeat_seconds = 0.2
    return site


@pytest.fixture
def stored(site: FakeServer) -> Attempt:
    """What the server has of `one`."""
    return site.attempt()


@pytest.fixture
def one(tmp_path: Path, stored: Attempt) -> OneJob:
    """A job that the server knows."""
    return OneJob(tmp_path)


def played(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test to its end, for half a minute at most."""

    @wraps(test)
    def whole(*given: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*given, **named), 30))

    return whole


@played
async def test_records_and_the_end_arrive_whole(site: FakeServer, one: OneJob, stored: Attempt) -> None:
    one.print(300)
    for step in range(1, 6):
        one.spool.append("metrics", {"steps": [step], "values": {"loss": [1.0]}})
    one.spool.append("event", {"kind": "stage", "stage": "done"})
    answers = Answers(one)
    async with Line(site, answers) as line:
        await line.brings(one)
        one.spool.finish(Final("completed"))
        await line.until(lambda: answers.stored == [(1, 1)])
    assert stored.steps() == [1, 2, 3, 4, 5]
    assert stored.final is not None and stored.final["log_sha256"] == one.spool.final["log_sha256"]  # type: ignore[index]
    assert stored.doubled == 0


@played
async def test_what_is_appended_later_follows_by_itself(site: FakeServer, one: OneJob) -> None:
    async with Line(site, Answers(one)) as line:
        for _ in range(5):
            one.print(3)
            await line.brings(one)


@played
async def test_the_handshake_carries_the_key_and_asks_for_no_extension(site: FakeServer) -> None:
    async with Line(site, Answers()) as line:
        await line.greeted()
    headers = {name.lower(): value for name, value in site.headers[0].items()}
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "sec-websocket-extensions" not in headers
    assert "origin" not in headers


@played
async def test_after_a_break_only_what_was_not_stored_is_sent_again(
    site: FakeServer, one: OneJob, stored: Attempt
) -> None:
    one.print(100)
    async with Line(site, Answers(one)) as line:
        await line.until(lambda: len(stored.log_lines()) == 100)
        site.cut()
        one.print(100)
        await line.until(lambda: len(stored.log_lines()) == 200)
        assert f"Not connected to {site.url} (the connection broke off). Trying again." in dict(line.said).values()
    assert stored.log().splitlines() == one.lines
    assert stored.doubled == 0


@pytest.mark.parametrize("every", [1, 2, 3])
@played
async def test_a_connection_that_keeps_breaking_still_brings_everything(
    site: FakeServer, one: OneJob, every: int
) -> None:
    one.print(60)
    site.window = {"window_bytes": 1 << 20, "window_records": 7}
    site.drop_every = every
    async with Line(site, Answers(one)) as line:
        if every == 1:
            await line.until(lambda: site.handshakes > 3)
            site.drop_every = None
        await line.brings(one)


@played
async def test_the_server_is_away_for_a_while(site: FakeServer, one: OneJob) -> None:
    site.stop()
    async with Line(site, Answers(one)) as line:
        await line.says("nothing answers there")
        one.print(50)
        site.start()
        await line.brings(one)


@played
async def test_never_more_is_under_way_than_the_window_allows(site: FakeServer, one: OneJob, stored: Attempt) -> None:
    one.print(5_000)
    site.window = {"window_bytes": 100_000, "window_records": 150}
    site.acknowledges = False
    async with Line(site, Answers(one)) as line:
        await line.until(lambda: site.most_flying["records"] == 150)
        await asyncio.sleep(0.1)
        assert len(stored.log_lines()) == 0
        site.release_acknowledgements()
        await line.until(lambda: len(stored.log_lines()) == 5_000)
    assert site.most_flying["records"] <= 150
    assert site.most_flying["bytes"] <= 100_000


@played
async def test_a_window_smaller_than_a_record_slows_down_and_does_not_stop(site: FakeServer, one: OneJob) -> None:
    one.print(20)
    site.window = {"window_bytes": 10, "window_records": 1}
    async with Line(site, Answers(one)) as line:
        await line.brings(one)
    assert site.most_flying["records"] == 1


@played
async def test_every_frame_fits_however_large_the_records(site: FakeServer, one: OneJob, stored: Attempt) -> None:
    for number in range(20):
        one.spool.append("log", {"text": chr(0x1F600 + number) * 7_000 + '"\\' * 500})
    async with Line(site, Answers(one)) as line:
        await line.until(lambda: stored.through("log") == 20)
    assert all(len(encode(**_type_first(m)).encode()) <= protocol.MAX_FRAME_BYTES for m in site.messages("records"))


def _type_first(message: Message) -> dict[str, Any]:
    return {"type_": message["type"], **{name: value for name, value in message.items() if name != "type"}}


@played
async def test_an_acknowledgement_of_what_was_never_sent_ends_the_connection(site: FakeServer, one: OneJob) -> None:
    one.print(10)
    site.acknowledge_too_high = True
    async with Line(site, Answers(one)) as line:
        await line.says("broke the protocol")
        site.acknowledge_too_high = False
        one.print(10)
        await line.brings(one)


@played
async def test_the_server_may_ask_again(site: FakeServer, one: OneJob, stored: Attempt) -> None:
    one.print(10)
    async with Line(site, Answers(one)) as line:
        await line.until(lambda: len(stored.log_lines()) == 10)
        stored.streams["log"] = {n: item for n, item in stored.streams["log"].items() if n <= 4}
        site.ask_again_from = 4
        one.print(5)
        await line.brings(one)


@played
async def test_records_nobody_acknowledges_are_sent_again(site: FakeServer, one: OneJob) -> None:
    one.print(3)
    site.acknowledges = False
    async with Line(site, Answers(one)) as line:
        await line.until(lambda: len(site.messages("records")) >= 2)
        site.acknowledges = True
        await line.brings(one)


@played
async def test_a_dead_connection_is_noticed_though_it_stands(site: FakeServer, one: OneJob) -> None:
    async with Line(site, Answers(one)) as line:
        await line.greeted()
        site.is_silent = True
        one.print(5)
        await line.says("no sign of the server")
        site.is_silent = False
        await line.brings(one)


@played
async def test_a_ping_is_answered(site: FakeServer) -> None:
    async with Line(site, Answers()) as line:
        await line.greeted()
        site.send(encode("ping", n=41))
        await line.until(lambda: [message["n"] for message in site.messages("pong")] == [41])


@played
async def test_heartbeats_keep_coming(site: FakeServer) -> None:
    async with Line(site, Answers()) as line:
        await line.until(lambda: len(site.messages("heartbeat")) >= 3 or site.send(encode("ping", n=1)))


@played
async def test_an_offer_is_passed_on_and_accepted(site: FakeServer) -> None:
    answers = Answers()
    async with Line(site, answers) as line:
        await line.greeted()
        site.offer(5)
        await line.until(lambda: site.attempt(5).accepted == 1)
    assert answers.offers[0].parameters == {}


@pytest.mark.parametrize("broken", [{"job": "../../x"}, {"attempt": True}, {"job": -1}])
@played
async def test_an_offer_that_names_no_job_is_a_breach_of_the_protocol(site: FakeServer, broken: dict[str, Any]) -> None:
    answers = Answers()
    async with Line(site, answers) as line:
        await line.greeted()
        site.send(encode("job_offer", spec={**SPEC, **broken}))
        await line.says("job offer")
    assert answers.offers == []


@pytest.mark.parametrize("broken", [
    {"parameters": []}, {"base_files": [1]}, {"mapping": "x"}, {"data": {"kind": "dataset", "bytes": 10**400}},
    {"base_files": [{"bytes": -1}]}, {"data": {"bytes": "1"}}, {"name": "n" * 30_000},
])  # fmt: skip
@played
async def test_an_offer_that_makes_no_sense_is_refused(site: FakeServer, broken: dict[str, Any]) -> None:
    answers = Answers()
    async with Line(site, answers) as line:
        await line.greeted()
        site.send(encode("job_offer", spec={**SPEC, **broken}))
        await line.until(lambda: site.attempt().refused)
    assert answers.offers == []


@played
async def test_a_stop_is_passed_on_and_acknowledged(site: FakeServer, one: OneJob) -> None:
    answers = Answers(one)
    async with Line(site, answers) as line:
        await line.greeted()
        site.order("cancel")
        await line.until(lambda: site.attempt().stop_acks == ["cancel"])
    assert answers.stops == [(1, 1, "cancel")]


@played
async def test_what_the_server_abandons_in_its_welcome_is_given_up(site: FakeServer, one: OneJob) -> None:
    site.abandoned.add((1, 1))
    answers = Answers(one)
    async with Line(site, answers) as line:
        await line.until(lambda: answers.abandoned == [(1, 1)])


class Closing:
    """A socket that the server has closed behind its last words: they can be read, and nothing can be sent any more."""

    def __init__(self, *words: str) -> None:
        self._words = list(words)
        self._sent = 0

    async def send(self, _text: str) -> None:
        self._sent += 1
        if self._sent > 1:  # the hello went through
            raise ConnectionClosedError(None, None)

    async def recv(self) -> str:
        if self._sent == 1 and len(self._words) < 3:  # behind the welcome nothing comes until somebody sends
            await asyncio.Event().wait()
        if not self._words:
            raise ConnectionClosedError(None, None)
        return self._words.pop(0)


@played
async def test_whoever_was_sending_when_the_server_ended_still_stays_away_for_as_long_as_it_said(one: OneJob) -> None:
    welcome = encode("welcome", protocol=1, heartbeat_seconds=15.0, window_bytes=1 << 20, window_records=2000,
                     server_time="2026-11-28T00:00:00Z", jobs=[])  # fmt: skip
    socket = Closing(welcome, encode("ping", n=1), encode("bye", reason="restart", retry_after=7.5))
    one.spool.append("log", {"text": "a line\n"})
    with pytest.raises(Break) as parting:
        await Session(socket, Answers(one), TIMINGS, lambda *_: None).run()  # type: ignore[arg-type]
    assert parting.value.pause == 7.5


@played
async def test_a_stale_attempt_is_given_up_and_the_connection_stays(site: FakeServer, one: OneJob) -> None:
    answers = Answers(one)
    async with Line(site, answers) as line:
        await line.greeted()
        site.abandoned.add((1, 1))
        one.print(1)
        await line.until(lambda: answers.abandoned == [(1, 1)])
        site.send(encode("ping", n=7))
        await line.until(lambda: site.messages("pong"))
    assert site.handshakes == 1


@played
async def test_frames_that_make_no_sense_are_noted_and_survived(site: FakeServer) -> None:
    async with Line(site, Answers()) as line:
        await line.greeted()
        site.send("nonsense", '{"type": "future_message"}', '{"type": "ack", "job": "x"}', encode("ping", n=3))
        await line.until(lambda: site.messages("pong"))
    assert site.handshakes == 1
    assert sum("does not understand" in said for _, said in line.said) == 3


@pytest.mark.parametrize("status", [401, 403])
@played
async def test_a_key_that_is_refused_at_the_first_try_ends_the_agent_with_a_sentence(
    site: FakeServer, status: int
) -> None:
    site.refuse_with = status
    async with Line(site, Answers()) as line:
        with pytest.raises(Fatal, match="was revoked or is wrong: make a new one on the Agents page"):
            await asyncio.wait_for(asyncio.shield(line.task), 5)


@played
async def test_a_wrong_key_never_speaks_to_the_server(site: FakeServer) -> None:
    async with Line(site, Answers(), key="ty_wrong") as line:
        with pytest.raises(Fatal) as failure:
            await asyncio.wait_for(asyncio.shield(line.task), 5)
    assert "ty_wrong" not in str(failure.value)
    assert site.received == []


@played
async def test_a_key_revoked_later_is_said_loudly_and_tried_again(site: FakeServer, one: OneJob) -> None:
    async with Line(site, Answers(one)) as line:
        await line.greeted()
        site.refuse_with = 401
        site.close_sockets(protocol.CLOSE_REVOKED, "the key was revoked")
        await line.until(lambda: any(state == "refused" for state, _ in line.said))
        site.refuse_with = None
        one.print(2)
        await line.brings(one)


@played
async def test_a_server_that_knows_only_newer_agents_ends_this_one(site: FakeServer) -> None:
    async with Line(site, Answers()) as line:
        await line.greeted()
        site.close_sockets(protocol.CLOSE_TOO_OLD, "download the agent again")
        with pytest.raises(Fatal, match="too old"):
            await asyncio.wait_for(asyncio.shield(line.task), 5)


@played
async def test_a_goodbye_is_obeyed(site: FakeServer) -> None:
    async with Line(site, Answers()) as line:
        await line.greeted()
        site.send(encode("bye", reason="restart", retry_after=0.5))
        await asyncio.sleep(0.3)
        assert site.handshakes == 1
        await line.until(lambda: site.handshakes == 2)


@played
async def test_no_redirect_is_followed(site: FakeServer) -> None:
    with FakeServer() as elsewhere:
        site.redirect_to = f"http://127.0.0.1:{elsewhere.port}/agent/socket"
        async with Line(site, Answers()) as line:
            await line.says("answered 302")
        assert elsewhere.handshakes == 0


KEY_OF_LOG = (1, 1, "log")


def test_a_server_that_is_away_for_weeks_is_still_tried() -> None:
    connection = Connection("ws://127.0.0.1:1", "key", Answers(), Timings(backoff=15.0), lambda *_: None)
    pauses = [connection._longest_pause(tries) for tries in range(10_000)]
    assert pauses == sorted(pauses) and pauses[0] == 1.0 and pauses[-1] == 15.0


def test_the_window_counts_what_flies() -> None:
    window = Window(100_000, 10)
    window.begin(KEY_OF_LOG, 5)
    window.sent(KEY_OF_LOG, 8, 40_000)
    assert (window.bytes, window.records, window.position(KEY_OF_LOG)) == (40_000, 3, 8)
    window.acknowledge(KEY_OF_LOG, 7)
    assert window.records == 3  # a batch is on its way until all of it is acknowledged
    window.acknowledge(KEY_OF_LOG, 8)
    assert window.is_empty


def test_the_window_refuses_what_was_never_sent() -> None:
    window = Window(1000, 10)
    window.sent(KEY_OF_LOG, 3, 10)
    with pytest.raises(ProtocolError):
        window.acknowledge(KEY_OF_LOG, 4)
    with pytest.raises(ProtocolError):
        window.rewind(KEY_OF_LOG, 4)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["send", "ack", "rewind"]), st.integers(0, 30)), max_size=60))
def test_whatever_happens_the_window_never_counts_wrong(steps: list[tuple[str, int]]) -> None:
    window = Window(1 << 20, 1000)
    for verb, number in steps:
        sent = window.position(KEY_OF_LOG)
        if verb == "send" and number:
            window.sent(KEY_OF_LOG, sent + number, number * 10)
        elif verb == "ack" and number <= sent:
            window.acknowledge(KEY_OF_LOG, number)
        elif verb == "rewind" and number <= sent:
            window.rewind(KEY_OF_LOG, number)
        assert window.bytes == window.records * 10 >= 0
        assert window.acknowledged(KEY_OF_LOG) <= window.position(KEY_OF_LOG)
    window.acknowledge(KEY_OF_LOG, window.position(KEY_OF_LOG))
    assert window.is_empty


def test_what_was_acknowledged_late_need_not_go_again() -> None:
    window = Window(100_000, 100)
    window.begin(KEY_OF_LOG, 0)
    window.sent(KEY_OF_LOG, 10, 1000)
    window.sent(KEY_OF_LOG, 20, 1000)
    window.rewind(KEY_OF_LOG, 0)  # nobody had answered for a while
    window.acknowledge(KEY_OF_LOG, 20)  # and now somebody does
    assert window.position(KEY_OF_LOG) == 20 and window.is_empty


def test_an_acknowledgement_that_was_overtaken_says_nothing_new() -> None:
    window = Window(100_000, 100)
    window.sent(KEY_OF_LOG, 10, 1000)
    window.acknowledge(KEY_OF_LOG, 10)
    window.acknowledge(KEY_OF_LOG, 5)
    assert window.position(KEY_OF_LOG) == window.acknowledged(KEY_OF_LOG) == 10


def test_a_slow_line_is_not_flooded_with_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    monkeypatch.setattr("agent.connection.window.time.monotonic", lambda: seconds[0])
    window = Window(100_000, 100)
    window.sent(KEY_OF_LOG, 10, 1000)
    window.sent(KEY_OF_LOG, 20, 1000)
    seconds[0] = 29.0
    window.acknowledge(KEY_OF_LOG, 10)
    seconds[0] = 58.0
    window.resend_older_than(30.0)
    assert window.position(KEY_OF_LOG) == 20
    seconds[0] = 60.0
    window.resend_older_than(30.0)
    assert window.position(KEY_OF_LOG) == 10
