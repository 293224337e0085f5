"""What comes over the agents' socket that no agent sends: the right close code, and everybody else goes on."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from agent import protocol
from tests.bad_input import wire
from tests.bad_input.conftest import Door
from tests.bad_input.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Stranger, frame
from tests.running import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(120)]

MEMORY_ROOM = 12 * 1024 * 1024


def upgrade(door: Door, version: str = "1.1", **headers: str | None) -> wire.Answer:
    """Ask for the socket; a header that is None is left out."""
    asked = {**wire.UPGRADE, "Authorization": f"Bearer {door.key}", **headers}
    kept = {name.replace("_", "-"): value for name, value in asked.items() if value is not None}
    return wire.ask(door.port, wire.request("GET", "/agent/socket", kept, version=version))


@pytest.fixture
def stranger(door: Door, request: pytest.FixtureRequest) -> Iterator[Stranger]:
    """A client that has been welcomed."""
    with Stranger(door.port, door.key) as one:
        one.greet(request.node.name[:60])
        yield one


class TestUpgrade:
    @pytest.mark.parametrize("headers, status, code", [
        ({"Authorization": None}, 401, "unauthorized"),
        ({"Authorization": "Bearer ty_nobody-has-this-key"}, 401, "unauthorized"),
        ({"Origin": "http://localhost"}, 403, "foreign_site"),
        ({"Origin": "null"}, 403, "foreign_site"),
        ({"Sec-WebSocket-Key": None}, 400, "no_upgrade"),
        ({"Sec-WebSocket-Key": "short"}, 400, "no_upgrade"),
        ({"Sec-WebSocket-Key": base64.b64encode(b"x" * 17).decode()}, 400, "no_upgrade"),
        ({"Sec-WebSocket-Version": "8"}, 400, "no_upgrade"),
        ({"Sec-WebSocket-Version": None}, 400, "no_upgrade"),
        ({"Upgrade": None, "Connection": "close"}, 400, "bad_request"),
    ])  # fmt: skip
    def test_what_is_no_upgrade_is_refused_with_a_reason(
        self, door: Door, headers: dict[str, str | None], status: int, code: str
    ) -> None:
        refused = upgrade(door, **headers)
        assert (refused.status, refused.json["error"]["code"]) == (status, code)

    def test_http_of_the_last_century_gets_no_socket(self, door: Door) -> None:
        assert upgrade(door, version="1.0").status == 400

    def test_a_key_in_the_address_opens_nothing_and_is_worth_nothing_afterwards(self, door: Door) -> None:
        key = door.alice.new_key("careless")["key"]
        asked = wire.request("GET", f"/agent/socket?key={key}", {**wire.UPGRADE})
        assert wire.ask(door.port, asked).json["error"]["code"] == "key_in_address"
        assert upgrade(door, Authorization=f"Bearer {key}").status == 401

    def test_no_extension_is_agreed_to_so_nothing_small_becomes_large(self, door: Door) -> None:
        with Stranger(door.port, door.key, {"Sec-WebSocket-Extensions": "permessage-deflate"}) as one:
            assert "extensions" not in one.head
            one.greet("deflate")
            one.send(frame(TEXT, zlib.compress(b"a" * 50_000_000)[2:-4], rsv=4))
            assert one.closed_with() == 1002


class TestFrames:
    @pytest.mark.parametrize("frames, code", [
        ([frame(TEXT, b"{}", masked=False)], 1002),
        ([frame(TEXT, b"{}", rsv=4)], 1002),
        ([frame(TEXT, b"{}", rsv=1)], 1002),
        ([frame(3, b"{}")], 1002),
        ([frame(11, b"{}")], 1002),
        ([frame(PING, b"a" * 126)], 1002),
        ([frame(PING, b"a", fin=False)], 1002),
        ([frame(CONTINUATION, b"a")], 1002),
        ([frame(TEXT, b"{", fin=False), frame(TEXT, b"}")], 1002),
        ([frame(TEXT, b"", told=2**63 + 5)], 1002),
        ([frame(CLOSE, b"a")], 1002),
        ([frame(CLOSE, struct.pack(">H", 999))], 1002),
        ([frame(CLOSE)], 1005),
        ([frame(TEXT, b"\xff\xfe")], 1007),
        ([frame(TEXT, b'{"half": "\xe2\x82')], 1007),
        ([frame(BINARY, b"{}")], 1003),
        ([frame(BINARY, b"{", fin=False), frame(CONTINUATION, b"}")], 1003),
        ([frame(TEXT, b"a" * 65_537)], 1009),
        ([frame(TEXT, b"a" * 1_000_000)], 1009),
        ([frame(TEXT, b"{", fin=False), frame(CONTINUATION, b"a" * 40_000, fin=False) * 2], 1009),
        ([frame(TEXT, b"{", fin=False), frame(CONTINUATION, b"a", fin=False) * 70_000], 1009),
        ([frame(TEXT, b"{", fin=False), frame(CONTINUATION, fin=False) * 1_000_000], 1009),
        ([frame(PING, b"x") * 10_000], 1008),
        ([frame(PONG) * 10_000], 1008),
    ], ids=[
        "unmasked", "first-reserved-bit", "last-reserved-bit", "opcode-3", "opcode-11", "large-ping", "ping-in-pieces",
        "continues-nothing", "text-in-text", "negative-length", "close-of-one-byte", "close-code-999", "close-without-code",
        "no-utf-8", "half-a-character", "binary", "binary-in-pieces", "above-64-kib", "a-megabyte", "large-in-pieces",
        "tiny-pieces", "a-million-empty-pieces", "ping-flood", "pong-flood",
    ])  # fmt: skip
    def test_a_frame_no_agent_sends_ends_the_connection(
        self, door: Door, stranger: Stranger, frames: list[bytes], code: int
    ) -> None:
        stranger.send(*frames)
        assert stranger.closed_with() == code
        assert door.yard.answers()

    def test_a_message_in_a_few_pieces_is_a_message(self, stranger: Stranger) -> None:
        whole = json.dumps(
            {"type": "records", "job": 9, "attempt": 1, "stream": "log", "first": 1, "items": []}
        ).encode()
        stranger.send(frame(TEXT, whole[:20], fin=False), frame(PING, b"between"), frame(CONTINUATION, whole[20:]))
        assert stranger.pong() == b"between"
        assert stranger.hear()["code"] == "stale_attempt"

    def test_a_pong_nobody_asked_for_is_no_harm(self, stranger: Stranger) -> None:
        stranger.send(frame(PONG, b"hello"))
        stranger.say({"type": "heartbeat", "jobs": []})
        stranger.send(frame(PING, b"still there"))
        assert stranger.pong() == b"still there"

    def test_an_announced_length_reserves_nothing(self, door: Door, stranger: Stranger) -> None:
        before = memory(door)
        stranger.send(frame(TEXT, b"a" * 1000, told=2**62))
        time.sleep(0.5)
        assert memory(door) - before < MEMORY_ROOM
        stranger.send(b"a" * 70_000)
        assert stranger.closed_with() == 1009


class TestTurns:
    def test_a_second_hello_ends_the_connection(self, stranger: Stranger) -> None:
        stranger.say(wire.hello("another"))
        assert stranger.closed_with() == protocol.CLOSE_BAD_MESSAGE

    @pytest.mark.parametrize("message", [
        {"type": "heartbeat", "jobs": []}, {"type": "job_accept", "job": 1, "attempt": 1}, {"type": "nonsense"}, [], "text",
    ])  # fmt: skip
    def test_nothing_comes_before_hello(self, door: Door, message: object) -> None:
        with Stranger(door.port, door.key) as one:
            one.say(json.dumps(message))
            assert one.closed_with() == protocol.CLOSE_BAD_MESSAGE

    def test_a_byte_a_second_is_no_hello(self, door: Door) -> None:
        with Stranger(door.port, door.key) as one:
            begun, whole = time.monotonic(), frame(TEXT, json.dumps(wire.hello("slow")).encode())
            stop = threading.Event()
            threading.Thread(target=drip, args=(one, whole, stop), daemon=True).start()
            assert one.closed_with(25) == protocol.CLOSE_NO_HELLO
            stop.set()
            assert time.monotonic() - begun > 8

    @pytest.mark.parametrize("message", [
        "no json", "[" * 60_000, "[]", "{}", '"text"', '{"type": "records"}', '{"type": "future"}', '{"type": "\\ud800"}',
        '{"type": "pong", "n": NaN}', '{"type": "pong", "n": ' + "9" * 5000 + "}",
        {"type": "ack", "job": 1, "attempt": 1, "stream": "log", "through": 3},
        {"type": "job_offer", "spec": {}}, {"type": "welcome"}, {"type": "bye", "reason": "x", "retry_after": 1},
        {"type": "job_stop", "job": 1, "attempt": 1, "mode": "kill"},
        {"type": "records", "job": 1, "attempt": 1, "stream": "log", "first": "1", "items": []},
        {"type": "records", "job": 1, "attempt": 1, "stream": "log", "first": -1, "items": []},
        {"type": "records", "job": 1, "attempt": 1, "stream": "log", "first": 2**64, "items": []},
        {"type": "records", "job": 1, "attempt": 1, "stream": "secrets", "first": 1, "items": []},
        {"type": "heartbeat", "jobs": [{"job": "1"}]}, {"type": "heartbeat", "jobs": [[]]},
    ])  # fmt: skip
    def test_what_is_no_message_is_answered_and_the_third_time_the_last(self, door: Door, message: object) -> None:
        with Stranger(door.port, door.key) as one:
            one.greet("garbage")
            for _ in range(3):
                one.say(message)
            answers = [one.hear() for _ in range(3)]
            assert {(answer["type"], answer["code"]) for answer in answers} == {("error", "bad_message")}
            assert all(len(answer["message"]) < 600 and "Traceback" not in answer["message"] for answer in answers)
            assert one.closed_with() == protocol.CLOSE_BAD_MESSAGE

    @pytest.mark.parametrize("message", [
        {"type": "pong", "n": 1}, {"type": "heartbeat", "jobs": []}, {"type": "stop_ack", "job": 1, "attempt": 1, "mode": "stop"},
    ])  # fmt: skip
    def test_ten_thousand_messages_an_agent_has_no_reason_for_are_a_flood(
        self, stranger: Stranger, message: object
    ) -> None:
        stranger.send(frame(TEXT, json.dumps(message).encode()) * 10_000)
        assert stranger.closed_with(5) == 1008

    def test_ten_thousand_tiny_frames_that_are_no_messages_are_answered_as_three(self, stranger: Stranger) -> None:
        stranger.send(frame(TEXT, b"y") * 10_000)
        assert stranger.closed_with(5) == protocol.CLOSE_BAD_MESSAGE

    def test_records_of_a_job_that_is_not_mine_and_of_none_get_the_same_answer(
        self, door: Door, stranger: Stranger
    ) -> None:
        answers = []
        for job in (1, 999_999):
            stranger.say({"type": "records", "job": job, "attempt": 1, "stream": "log", "first": 1, "items": []})
            answers.append(stranger.hear())
        assert [answer["code"] for answer in answers] == ["stale_attempt"] * 2
        assert answers[0]["message"].replace("job 1 ", "job N ") == answers[1]["message"].replace(
            "job 999999 ", "job N "
        )


def test_who_misbehaves_takes_nobody_with_them(door: Door) -> None:
    """Six kinds of abuse at once, while an honest machine and a page are answered and memory stays where it is."""
    before = memory(door)
    abuse = [
        frame(TEXT, b"{", fin=False) + frame(CONTINUATION, fin=False) * 300_000,
        frame(TEXT, b"{}") * 300_000,
        frame(TEXT, b"a" * 1_000_000),
        frame(PING) * 300_000,
        frame(TEXT, json.dumps({"type": "pong", "n": 1}).encode()) * 100_000,
        frame(TEXT, b"x" * 60_000) * 100,
    ]
    bullies = [threading.Thread(target=bully, args=(door, n, frames), daemon=True) for n, frames in enumerate(abuse)]
    with Stranger(door.port, door.key) as honest:
        honest.greet("honest")
        for one in bullies:
            one.start()
        waits, highest, end = [], 0, time.monotonic() + 6
        while time.monotonic() < end:
            begun = time.monotonic()
            honest.send(frame(PING, b"there"))
            assert honest.pong() == b"there"
            assert door.yard.answers()
            waits.append(time.monotonic() - begun)
            highest = max(highest, memory(door) - before)
            time.sleep(0.4)
    print(f"slowest answer {max(waits):.2f} s, memory + {highest / 1e6:.1f} MB")
    assert max(waits) < 5
    assert highest < MEMORY_ROOM


def test_an_abrupt_end_is_noticed(door: Door) -> None:
    with Stranger(door.port, door.key) as one:
        one.greet("abrupt")
        assert door.alice.agent_named("abrupt")["status"] != "offline"  # type: ignore[index]
        one.connection.setsockopt(wire.socket.SOL_SOCKET, wire.socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: door.alice.agent_named("abrupt")["status"] == "offline", 10, "its connection has ended")  # type: ignore[index]


def memory(door: Door) -> int:
    """Bytes of the web process."""
    return int(door.yard.web_worker().memory_info().rss)


def drip(one: Stranger, data: bytes, stop: threading.Event) -> None:
    for byte in data:
        if stop.wait(1):
            return
        one.send(bytes([byte]))


def bully(door: Door, number: int, frames: bytes) -> None:
    with Stranger(door.port, door.key) as one:
        one.greet(f"bully {number}")
        one.send(frames)
        try:
            one.closed_with(20)
        except (AssertionError, OSError):
            return
