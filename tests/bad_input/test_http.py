"""What reaches the web server before it is a request of ours: refused once, and never taken for two requests."""

from __future__ import annotations

import json
import socket

import pytest

from tests.bad_input import wire
from tests.bad_input.conftest import Door
from tests.bad_input.wire import ask, request

pytestmark = [pytest.mark.whole, pytest.mark.timeout(120)]

HOST = {"Host": "localhost"}
JSON = {**HOST, "Content-Type": "application/json"}
HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def chunked(pieces: list[bytes]) -> bytes:
    """A body in chunks, with its end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def everything(port: int, sent: bytes, seconds: float = 3.0) -> bytes:
    """All that comes back until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(sent)
        data = b""
        try:
            while piece := connection.recv(65_536):
                data += piece
        except OSError:
            pass
        return data


@pytest.mark.parametrize("headers", [
    {"Content-Length": "6", "Transfer-Encoding": "chunked"},
    {"Transfer-Encoding": "chunked", "Content-Length": "6"},
    {"Content-Length": "2", "content-length": "44"},
    {"Content-Length": "-1"}, {"Content-Length": "+6"}, {"Content-Length": "0x6"}, {"Content-Length": "6, 6"}, {"Content-Length": "٦"},
    {"Content-Length ": "6"}, {"Transfer-Encoding": "xchunked"}, {"Transfer-Encoding": "chunked, identity"},
    {"Transfer-Encoding": "\x0bchunked"},
])  # fmt: skip
def test_a_body_with_two_lengths_or_a_strange_one_is_one_refusal(door: Door, headers: dict[str, str]) -> None:
    encoded = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    back = everything(door.port, request("POST", "/login", {**JSON, **encoded}, b"0\r\n\r\n" + HIDDEN))
    assert back.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
    assert back.count(b"HTTP/1.1 ") == 1 and b"Traceback" not in back


@pytest.mark.parametrize("sent, status", [
    (request("TRACE", "/", {**HOST, "Cookie": "session=secret"}), 405),
    (request("TRACE", "/api/keys", {**HOST, "Cookie": "session=secret"}), 405),
    (request("TRACK", "/api/keys", HOST), 405),
    (request("GET", "/", {**HOST, "X-Much": "a" * 100_000}), 431),
    (request("GET", "/", {**HOST, **{f"X-{n}": "a" for n in range(2000)}}), 431),
    (request("GET", "/" + "a" * 100_000, HOST), 414),
    (b"GET /\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\nHost: localhost\n\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (request("GET", "/healthz", HOST, version="9.9"), 400),
], ids=["trace", "trace-api", "track", "huge-header", "many-headers", "long-line", "no-version", "bare-lf", "folded", "tls", "http-9"])  # fmt: skip
def test_what_is_no_request_gets_the_status_that_says_so(door: Door, sent: bytes, status: int) -> None:
    back = everything(door.port, sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    first = back.split(b"\r\n", 1)[0]
    assert int(first.split()[1]) == status
    assert b"secret" not in back and b"Traceback" not in back


@pytest.mark.parametrize("path", [
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/%252e%252e/app.py", "/static/..%2fapp.py", "/static/..\\app.py",
    "/static/..%5capp.py", "/static/....//app.py", "/static/%00", "/static/css/trainyard.css%00.txt", "/static/%ff%fe",
    "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/healthz;x=1", "/healthz/..;/admin", "/%2e%2e/%2e%2e/etc/passwd",
    "/api/models/1/files/..%2f..%2fapp.py", "/.env", "/.git/config", "/static/vendor/../../.env",
])  # fmt: skip
def test_a_path_is_decoded_once_and_leads_nowhere_else(door: Door, path: str) -> None:
    headers = {**HOST, "Authorization": f"Bearer {full_key(door)}"}
    answer = ask(door.port, request("GET", path, headers))
    assert answer.status == 404
    assert b"root:" not in answer.body and b"create_app" not in answer.body


@pytest.mark.parametrize("name", ["evil.example", "evil.example:80@localhost", "localhost\\@evil.example", "[::1"])
def test_a_forged_host_leads_nobody_astray(door: Door, name: str) -> None:
    answer = ask(door.port, request("GET", "/dashboard", {"Host": name}))
    assert answer.status in (302, 303, 400)
    assert not answer.headers.get("location", "/").startswith(("http", "//"))


class TestBodies:
    def test_a_body_above_the_limit_is_refused_before_it_is_sent(self, door: Door) -> None:
        answer = ask(door.port, request("POST", "/login", {**JSON, "Content-Length": "10000000"}, b"{}"))
        assert answer.status == 413 and answer.json["error"]["code"] == "request_entity_too_large"

    @pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
    def test_a_body_without_an_announced_length_is_counted_and_never_cut_off(self, door: Door, kind: str) -> None:
        fields = (
            b'{"email": "a@example.com", "password": "x"}' if "json" in kind else b"email=a%40example.com&password=x&"
        )
        headers = {**HOST, "Content-Type": kind, "Transfer-Encoding": "chunked", "Accept": "application/json"}
        endless = chunked([fields] + [b" " * 65_536] * 17 + [b"&password=other"])
        assert ask(door.port, request("POST", "/login", headers, endless)).status == 413
        whole = ask(door.port, request("POST", "/login", headers, chunked([fields[:7], fields[7:]])))
        assert whole.status == (400 if kind == "text/plain" else 401)

    def test_an_upload_without_an_announced_length_ends_at_its_size(self, door: Door) -> None:
        key = full_key(door)
        made = door.alice.post("/api/uploads", {"name": "rows.jsonl", "size": 100_000})
        headers = {
            **HOST, "Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream", "Upload-Offset": "0",
            "Transfer-Encoding": "chunked",
        }  # fmt: skip
        path = f"/api/uploads/{made['id']}"
        assert ask(door.port, request("PATCH", path, headers, chunked([b"a" * 65_536] * 2))).status == 413
        answer = ask(door.port, request("PATCH", path, headers, chunked([b"a" * 65_536])))
        assert (answer.status, answer.headers["upload-offset"]) == (204, "65536")

    @pytest.mark.parametrize("body", [b"-1\r\n\r\n0\r\n\r\n", b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n"])
    def test_chunks_that_lie_are_refused(self, door: Door, body: bytes) -> None:
        back = everything(door.port, request("POST", "/login", {**JSON, "Transfer-Encoding": "chunked"}, body + HIDDEN))
        assert back.startswith(b"HTTP/1.1 4") and back.count(b"HTTP/1.1 ") == 1 and b"Traceback" not in back

    def test_a_body_that_breaks_off_is_refused(self, door: Door) -> None:
        with socket.create_connection(("127.0.0.1", door.port), timeout=5) as connection:
            connection.sendall(request("POST", "/login", {**JSON, "Content-Length": "50"}, b'{"email"'))
            connection.shutdown(socket.SHUT_WR)
            assert wire.read_answer(connection, 5).status == 400

    def test_two_requests_in_one_packet_are_two(self, door: Door) -> None:
        body = json.dumps({"email": "a@example.com", "password": "x"}).encode()
        first = request("POST", "/login", {**JSON, "Content-Length": str(len(body))}, body)
        back = everything(door.port, first + HIDDEN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert back.count(b"HTTP/1.1 ") == 2 and b'{"status":"ok"}' in back


class TestPace:
    def test_whoever_stops_in_the_middle_is_let_go(self, door: Door) -> None:
        with socket.create_connection(("127.0.0.1", door.port), timeout=50) as connection:
            connection.sendall(request("POST", "/login", {**JSON, "Content-Length": "50"}, b'{"email"'))
            assert wire.read_answer(connection, 50).status == 408


def full_key(door: Door) -> str:
    """A key that may do everything, made once for this module."""
    if not hasattr(door, "full"):
        door.full = door.alice.new_key("everything", "full")["key"]  # type: ignore[attr-defined]
    return str(door.full)  # type: ignore[attr-defined]
