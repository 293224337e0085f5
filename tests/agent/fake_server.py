"""A server on loopback that speaks the agents' protocol, WebSocket and HTTP on one port, and misbehaves on command.

It keeps what it stored (`attempts`), every message it got (`received`), and the most that was ever unacknowledged
(`most_flying`). Each attribute below `# misbehaviour` may be set at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from agent import protocol
from agent.protocol import Message, encode

KEY = "ty_good-key-of-a-test"
Held = tuple[int, int]


@dataclass
class Attempt:
    """What the server has of one attempt. `streams` maps numbers to items; `doubled` counts records that came again."""

    streams: dict[str, dict[int, dict[str, Any]]] = field(default_factory=lambda: {s: {} for s in protocol.STREAMS})
    doubled: int = 0
    final: Message | None = None
    accepted: int = 0
    refused: Message | None = None
    stop_acks: list[str] = field(default_factory=list)
    artifacts: list[str] | None = None

    def through(self, stream: str) -> int:
        """The last number stored without a hole."""
        stored, number = self.streams[stream], 0
        while number + 1 in stored:
            number += 1
        return number

    def log(self) -> str:
        return "".join(self.streams["log"][number]["text"] for number in sorted(self.streams["log"]))

    def steps(self) -> list[int]:
        items = [self.streams["metrics"][number] for number in sorted(self.streams["metrics"])]
        return [step for item in items for step in item["steps"]]

    def log_lines(self) -> list[str]:
        """The lines that the pretend recipe counts."""
        return [line for line in self.log().splitlines() if line.startswith("line ")]


class FakeServer:
    def __init__(self) -> None:
        self.attempts: dict[Held, Attempt] = {}
        self.received: list[Message] = []
        self.hellos: list[Message] = []
        self.handshakes = 0
        self.headers: list[dict[str, str]] = []
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.models: list[dict[str, Any]] = []
        self.most_flying = {"bytes": 0, "records": 0}
        self.window = {"window_bytes": 1 << 20, "window_records": 2000}
        self.heartbeat_seconds = 0.5
        self.chunk_bytes = 1000  # the largest piece of an upload
        self.abandoned: set[Held] = set()
        self.orders: dict[Held, str] = {}
        # misbehaviour
        self.refuse_with: int | None = None  # HTTP status of the handshake
        self.redirect_to: str | None = None
        self.acknowledges = True
        self.acknowledge_too_high = False
        self.is_silent = False  # the connection stands and nothing comes
        self.drop_every: int | None = None  # cut the connection after so many records messages
        self.ask_again_from: int | None = None  # answer the next log records with resend_from
        self.trouble: list[str] = []  # for the next HTTP requests: cut, half, 500, 503, page, conflict
        self.broken: str | None = None  # HTTP answers 500 to every path that begins so
        self.gone = False  # HTTP answers 404
        self._offers: list[dict[str, Any]] = []
        self._flying = {"bytes": 0, "records": 0}
        self._withheld: list[tuple[_Link, Message, int]] = []
        self._links: list[_Link] = []
        self._lock = threading.RLock()
        self._listener: socket.socket | None = None
        self.port = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before when it was stopped."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(50)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: nothing listens and every connection is cut."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()

    def cut(self) -> None:
        """Cut every connection without a word."""
        for link in list(self._links):
            link.cut()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65_536)
                if not piece:
                    return
                head += piece
            if b"upgrade: websocket" in head.lower():
                _Link(self, connection).run(head)
            else:
                _Http(self, connection).run(head)

    # --- what a test says and asks ------------------------------------------------------------------------------------

    def attempt(self, job: int = 1, number: int = 1) -> Attempt:
        with self._lock:
            return self.attempts.setdefault((job, number), Attempt())

    def offer(self, job: int = 1, attempt: int = 1, **fields: Any) -> None:
        """Offer a job now, and again at each hello until it is accepted or refused."""
        spec: dict[str, Any] = {
            "job": job, "attempt": attempt, "name": f"job {job}", "recipe": "pretend", "parameters": {},
            "data": fields.get("data") or self.dataset(b"one\ntwo\n"), "mapping": None, "base_model": "yard-tiny",
            "base_name": "yard-tiny", "base_files": [], "token": f"tj_{job}_{attempt}_token", "grace_seconds": 5.0,
            **fields,
        }  # fmt: skip
        self.attempt(job, attempt)
        with self._lock:
            self._offers.append(spec)
        self.send(encode("job_offer", spec=spec))

    def dataset(
        self, content: bytes, path: str = "/api/agents/jobs/1/data", name: str = "rows.jsonl"
    ) -> dict[str, Any]:
        self.files[path] = content
        digest = hashlib.sha256(content).hexdigest()
        return {"kind": "dataset", "path": path, "sha256": digest, "bytes": len(content), "name": name}

    def order(self, mode: str, job: int = 1, attempt: int = 1) -> None:
        """Order a stop; repeated at the next hello like everything that is a row."""
        self.orders[(job, attempt)] = mode
        self.send(encode("job_stop", job=job, attempt=attempt, mode=mode))

    def send(self, *frames: str) -> None:
        for link in list(self._links):
            link.send(*frames)

    def close_sockets(self, code: int, reason: str = "") -> None:
        for link in list(self._links):
            link.close(code, reason)

    def release_acknowledgements(self) -> None:
        """Acknowledge now what was withheld, and go on acknowledging."""
        self.acknowledges = True
        with self._lock:
            withheld, self._withheld = self._withheld, []
        for link, message, size in withheld:
            self._acknowledge(link, message, size)

    def messages(self, type_: str) -> list[Message]:
        with self._lock:
            return [message for message in self.received if message["type"] == type_]

    def wait_for(self, what: Callable[[], Any], seconds: float = 20.0) -> Any:
        """The first true answer of `what`; AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        while not (answer := what()):
            types = [message["type"] for message in self.received][-20:]
            assert time.monotonic() < end, f"waited {seconds} s in vain; the last messages were {types}"
            time.sleep(0.02)
        return answer

    def end(self, job: int = 1, number: int = 1) -> Message:
        """How an attempt ended, as soon as the agent has told it."""
        return self.wait_for(lambda: self.attempt(job, number).final)

    def refusal(self, job: int = 1, number: int = 1) -> Message:
        """Why an offer was refused, as soon as it is."""
        return self.wait_for(lambda: self.attempt(job, number).refused)

    # --- what it answers ----------------------------------------------------------------------------------------------

    def handle(self, link: _Link, message: Message, size: int) -> None:
        with self._lock:
            self.received.append(message)
        handler = getattr(self, f"_on_{message['type']}", None)
        if handler is not None:
            handler(link, message, size)

    def _on_hello(self, link: _Link, message: Message, _: int) -> None:
        with self._lock:
            self._flying = {"bytes": 0, "records": 0}
            self._withheld.clear()
        entries = []
        for told in message["jobs"]:
            held = (told["job"], told["attempt"])
            stored = self.attempts.get(held)
            gone = stored is None or held in self.abandoned
            after = {} if gone or stored is None else {stream: stored.through(stream) for stream in protocol.STREAMS}
            entries.append(
                {"job": held[0], "attempt": held[1], "decision": "abandon" if gone else "resume", "after": after}
            )
        link.send(
            encode(
                "welcome", protocol=1, heartbeat_seconds=self.heartbeat_seconds, server_time="2026-11-21T00:00:00Z",
                jobs=entries, **self.window,
            )
        )  # fmt: skip
        for (job, attempt), mode in self.orders.items():
            if self.attempt(job, attempt).final is None:
                link.send(encode("job_stop", job=job, attempt=attempt, mode=mode))
        for spec in list(self._offers):
            link.send(encode("job_offer", spec=spec))
        self.hellos.append(message)

    def _on_heartbeat(self, link: _Link, message: Message, _: int) -> None:
        link.send(encode("ping", n=len(self.received)))

    def _on_job_accept(self, link: _Link, message: Message, _: int) -> None:
        self.attempt(message["job"], message["attempt"]).accepted += 1
        self._withdraw(message)

    def _on_job_refuse(self, link: _Link, message: Message, _: int) -> None:
        self.attempt(message["job"], message["attempt"]).refused = message
        self._withdraw(message)

    def _withdraw(self, message: Message) -> None:
        with self._lock:
            self._offers = [s for s in self._offers if (s["job"], s["attempt"]) != (message["job"], message["attempt"])]

    def _on_stop_ack(self, link: _Link, message: Message, _: int) -> None:
        self.attempt(message["job"], message["attempt"]).stop_acks.append(message["mode"])

    def _on_records(self, link: _Link, message: Message, size: int) -> None:
        held = (message["job"], message["attempt"])
        if held not in self.attempts or held in self.abandoned:
            link.send(
                encode(
                    "error",
                    code="stale_attempt",
                    message="That attempt is over.",
                    of="records",
                    job=held[0],
                    attempt=held[1],
                )
            )
            return
        with self._lock:
            self._flying["bytes"] += size
            self._flying["records"] += len(message["items"])
            for name, value in self._flying.items():
                self.most_flying[name] = max(self.most_flying[name], value)
        if message["stream"] == "log" and self.ask_again_from is not None:
            after, self.ask_again_from = self.ask_again_from, None
            link.send(encode("resend_from", job=held[0], attempt=held[1], stream="log", after=after))
            return
        if self.drop_every is not None and len(self.messages("records")) % self.drop_every == 0:
            link.cut()
            return
        if self.acknowledges:
            self._acknowledge(link, message, size)
        else:
            with self._lock:
                self._withheld.append((link, message, size))

    def _acknowledge(self, link: _Link, message: Message, size: int) -> None:
        stored = self.attempt(message["job"], message["attempt"])
        with self._lock:
            for number, item in enumerate(message["items"], message["first"]):
                stored.doubled += number in stored.streams[message["stream"]]
                stored.streams[message["stream"]].setdefault(number, item)
            self._flying["bytes"] -= size
            self._flying["records"] -= len(message["items"])
        about = {name: message[name] for name in ("job", "attempt", "stream")}
        through = stored.through(message["stream"])
        if through < message["first"] - 1:
            link.send(encode("resend_from", **about, after=through))
        else:
            link.send(encode("ack", **about, through=through + (1000 if self.acknowledge_too_high else 0)))

    def _on_job_final(self, link: _Link, message: Message, _: int) -> None:
        stored = self.attempt(message["job"], message["attempt"])
        missing = [s for s in protocol.STREAMS if stored.through(s) < message["last"].get(s, 0)]
        for stream in missing:
            about = {"job": message["job"], "attempt": message["attempt"], "stream": stream}
            link.send(encode("resend_from", **about, after=stored.through(stream)))
        if not missing:
            stored.final = message
            link.send(encode("job_final_ack", job=message["job"], attempt=message["attempt"]))


class _Link:
    """One WebSocket, driven by the library's protocol without its I/O."""

    def __init__(self, server: FakeServer, connection: socket.socket) -> None:
        self.server, self.connection = server, connection
        self.protocol = ServerProtocol()
        self._writing = threading.Lock()

    def run(self, head: bytes) -> None:
        self.server.handshakes += 1
        self.protocol.receive_data(head)
        request = next(event for event in self.protocol.events_received() if isinstance(event, Request))
        self.server.headers.append(dict(request.headers.raw_items()))
        if self._refused(request):
            return
        self.protocol.send_response(self.protocol.accept(request))
        self.server._links.append(self)
        try:
            self._flush()
            self._read()
        finally:
            self.server._links.remove(self)

    def _refused(self, request: Request) -> bool:
        status = self.server.refuse_with
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            status = 401
        if request.path != "/agent/socket":
            status = 404
        if status is None and self.server.redirect_to is None:
            return False
        response = self.protocol.reject(status or 302, "no\n")
        if self.server.redirect_to:
            response.headers["Location"] = self.server.redirect_to
        self.protocol.send_response(response)
        self._flush()
        return True

    def _read(self) -> None:
        while True:
            data = self.connection.recv(65_536)
            if not data:
                return
            self.protocol.receive_data(data)
            for event in self.protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT and not self.server.is_silent:
                    self.server.handle(self, protocol.decode(bytes(event.data).decode(), "agent"), len(event.data))
            self._flush()

    def send(self, *frames: str) -> None:
        with contextlib.suppress(OSError, ConnectionClosed, AssertionError), self._writing:
            for frame in frames:
                self.protocol.send_text(frame.encode())
            self._send_out()

    def close(self, code: int, reason: str) -> None:
        with contextlib.suppress(OSError, ConnectionClosed, AssertionError), self._writing:
            self.protocol.send_close(code, reason)
            self._send_out()

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _flush(self) -> None:
        with self._writing:
            self._send_out()

    def _send_out(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.connection.sendall(data)
            else:  # the library's way to say: this is the end of what we send
                self.connection.shutdown(socket.SHUT_WR)


class _Http:
    """One HTTP request and its answer; the connection is closed afterwards."""

    def __init__(self, server: FakeServer, connection: socket.socket) -> None:
        self.server, self.connection = server, connection

    def run(self, head: bytes) -> None:
        text, _, body = head.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        wanted = int(self.headers.get("content-length", "0"))
        self.server.requests.append(f"{self.method} {self.path}")
        trouble = self.server.trouble.pop(0) if self.server.trouble else ""
        if self.server.broken and self.path.startswith(self.server.broken):
            trouble = "500"
        if trouble == "cut":
            return
        while len(body) < wanted:
            piece = self.connection.recv(65_536)
            if not piece:
                return
            body += piece
            if trouble == "half" and len(body) > wanted // 2 and self.method == "PATCH":
                self._patch(body[: wanted // 2])
                return
        if trouble.isdigit():
            self._answer(int(trouble), {"error": {"code": "x", "message": "The server is in trouble."}})
        elif trouble == "scope":
            self._answer(403, {"error": {"code": "wrong_scope", "message": "A key of scope `agent` only connects."}})
        elif trouble == "mapping":
            self._answer(422, {"error": {"code": "mapping_needed", "message": "Say which column is what."}})
        elif trouble == "page":
            self._send(200, b"<html>a proxy</html>", {})
        elif self.server.gone:
            self._answer(404, {"error": {"code": "not_found", "message": "There is no such attempt."}})
        elif not self.headers.get("authorization", "").startswith("Bearer "):
            self._answer(401, {"error": {"code": "unauthorized", "message": "Who are you?"}})
        else:
            self._route(body, trouble)

    def _route(self, body: bytes, trouble: str) -> None:
        if self.method == "GET" and self.path in self.server.files:
            self._file(self.server.files[self.path], trouble)
        elif (self.method, self.path) == ("POST", "/api/uploads"):
            given = json.loads(body)
            name = f"up{len(self.server.uploads) + 1}"
            self.server.uploads[name] = {**given, "data": bytearray(), "complete": False}
            self._answer(201, {"id": name, "offset": 0, "chunk_bytes": self.server.chunk_bytes})
        elif self.path.startswith("/api/uploads/"):
            self._upload(body, trouble)
        elif self.path.endswith("/artifacts"):
            job, attempt = int(self.path.split("/")[4]), int(self.path.split("/")[6])
            self.server.attempt(job, attempt).artifacts = [file["name"] for file in json.loads(body)["files"]]
            self._answer(201, {"model_version_id": 1})
        elif (self.method, self.path) == ("POST", "/api/datasets"):
            given = json.loads(body)
            upload = self.server.uploads[given["file"]]
            rows = bytes(upload["data"]).count(b"\n")
            self._answer(
                201,
                {
                    "id": 5,
                    "version": 1,
                    "kind": given.get("kind", "conversation"),
                    "format": "text",
                    "rows": rows,
                    "bad_rows": [],
                    "given": given,
                },
            )
        elif (self.method, self.path) == ("POST", "/api/models"):
            given = json.loads(body)
            self.server.models.append({**given, "key": self.headers.get("idempotency-key")})
            self._answer(201, {"id": 9, "version": 1, "name": given["name"]})
        else:
            self._answer(404, {"error": {"code": "not_found", "message": "There is no such page."}})

    def _file(self, content: bytes, trouble: str) -> None:
        start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start > len(content) or (start and start == len(content)):
            self._answer(416, {"error": {"code": "range", "message": "Beyond the end."}})
            return
        piece = content[start:]
        sent = piece[: len(piece) // 2] if trouble == "half" else piece
        self._send(206 if start else 200, sent, {}, length=len(piece))

    def _upload(self, body: bytes, trouble: str) -> None:
        name, _, verb = self.path.removeprefix("/api/uploads/").partition("/")
        upload = self.server.uploads[name]
        if self.method == "HEAD":
            self._send(200, b"", {"Upload-Offset": str(len(upload["data"]))})
        elif self.method == "PATCH":
            if trouble == "conflict":
                self._send(409, b"{}", {"Upload-Offset": str(len(upload["data"]))})
            else:
                self._patch(body)
        elif verb == "complete":
            digest = hashlib.sha256(upload["data"]).hexdigest()
            if digest != upload["sha256"]:
                upload["data"].clear()
                self._answer(422, {"error": {"code": "damaged", "message": "Other bytes arrived."}})
            else:
                upload["complete"] = True
                self._answer(200, {"id": name, "sha256": digest})

    def _patch(self, body: bytes) -> None:
        upload = self.server.uploads[self.path.removeprefix("/api/uploads/")]
        if int(self.headers["upload-offset"]) != len(upload["data"]):
            self._send(409, b"{}", {"Upload-Offset": str(len(upload["data"]))})
            return
        upload["data"] += body
        if len(body) == int(self.headers["content-length"]):
            self._send(204, b"", {"Upload-Offset": str(len(upload["data"]))})

    def _answer(self, status: int, body: Any) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        told = {"Content-Length": str(len(body) if length is None else length), "Connection": "close", **headers}
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in told.items()) + "\r\n"
        self.connection.sendall(head.encode() + body)
