"""Bulk over HTTP: data and base models come down, artifacts go up, both resumable.

Every address is a path under /api/ of the one server the agent was started with: no redirect is followed and no other
host is ever contacted. A broken connection or a server in trouble is tried again with growing pauses for up to a day;
a refusal that will not change (401, 404, 409) means that the job is not wanted any more.

    GET    <path>                              bytes of a file, from any offset (Range, RFC 9110 section 14)
    POST   /api/uploads                        {"name", "size", "sha256"} -> {"id", "offset", "chunk_bytes"}
    HEAD   /api/uploads/<id>                   Upload-Offset
    PATCH  /api/uploads/<id>                   raw bytes at Upload-Offset -> the next one, or 409 with the right one
    POST   /api/uploads/<id>/complete          the server checks the hash
    POST   /api/agents/jobs/<j>/attempts/<a>/artifacts   {"files": [{"name", "upload"}]}
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import json
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from .errors import JobFailed
from .protocol import JobSpec
from .roots import PathRefused, resolve_inside
from .runner import Say, Withdrawn
from .workspace import Task

GIVE_UP_AFTER = 24 * 3600.0
LONGEST_PAUSE = 60.0
PIECE = 1 << 18
MAX_ANSWER = 1 << 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,120}")
_GONE = (401, 403, 404, 409, 410)
_TRY_AGAIN = (408, 423, 425, 429, 500, 502, 503, 504, 507, 509)


class Refused(Exception):
    """The server says no, and asking again would not change it: `status` is the HTTP status, `str()` its sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Trouble(Exception):
    """It did not work this time; `str()` says why. `pause` is what the server asked to wait, in seconds."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def http_base(server_url: str) -> str:
    """The http(s) address that belongs to the ws(s) address of a server, without a slash at the end."""
    parts = urlsplit(server_url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return f"{scheme}://{parts.netloc}"


def is_loopback(host: str | None) -> bool:
    """Whether a host name means this machine itself."""
    if host is None:
        return False
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


@dataclass(frozen=True)
class Server:
    """One server and the token that opens it. `seconds` is how long a request may go without a byte."""

    base: str
    token: str
    seconds: float = 30.0

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request, `body` being bytes or JSON, and its whole answer. Raises Refused, or _Trouble to try again."""
        with self.open(method, path, body, headers) as response:
            try:
                content = response.read(MAX_ANSWER)
            except (OSError, http.client.HTTPException) as error:
                raise _Trouble(f"the connection broke ({error})") from None
            return Answer(response.status, dict(response.headers), content)

    @contextlib.contextmanager
    def open(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The same with the answer still to be read."""
        if not path.startswith("/api/") or any(ord(character) <= 32 for character in path) or "/../" in path:
            raise Refused(0, f"The server named an address that this agent does not open: {path[:200]}")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Authorization": f"Bearer {self.token}", "User-Agent": "trainyard-agent", **(headers or {})}
        if data is not None and not isinstance(body, bytes):
            told.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.base + path, data=data, headers=told, method=method)  # noqa: S310
        try:
            response = self._opener().open(request, timeout=self.seconds)
        except urllib.error.HTTPError as error:
            with error:
                raise _problem(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Trouble(f"the server cannot be reached ({reason})") from None
        with response:
            yield response

    def _opener(self) -> urllib.request.OpenerDirector:
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if is_loopback(urlsplit(self.base).hostname):
            handlers.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*handlers)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """The answer as an object. Raises _Trouble for anything else: a proxy's page, say."""
        with contextlib.suppress(ValueError):
            read = json.loads(self.content)
            if isinstance(read, dict):
                return read
        raise _Trouble("the server's answer is not JSON")

    def offset(self) -> int:
        """The next byte an upload wants. Raises _Trouble when the answer does not say."""
        text = next((value for name, value in self.headers.items() if name.lower() == "upload-offset"), "")
        if not text.isdigit():
            raise _Trouble("the server's answer has no Upload-Offset")
        return int(text)


def _problem(error: urllib.error.HTTPError) -> Exception:
    message = error.reason
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        message = str(json.loads(error.read(MAX_ANSWER))["error"]["message"])
    if error.code in _TRY_AGAIN:
        pause = error.headers.get("Retry-After", "")
        return _Trouble(f"the server answered {error.code}: {message}", float(pause) if pause.isdigit() else None)
    return Refused(error.code, message or f"The server answered {error.code}.")


def persistently(work: Callable[[], Any], say: Say, give_up_after: float = GIVE_UP_AFTER) -> Any:
    """Do `work` until it works, with pauses of random length in growing windows; say what is waited for.

    Raises what `work` refuses, and TimeoutError after `give_up_after` seconds without success.
    """
    began, tries = time.monotonic(), 0
    while True:
        say("")
        try:
            return work()
        except _Trouble as trouble:
            if time.monotonic() - began > give_up_after:
                raise TimeoutError(f"given up after {give_up_after / 3600:.0f} hours: {trouble}") from None
            window = min(LONGEST_PAUSE, 0.5 * 2**tries)
            tries += 1
            _wait(trouble.pause if trouble.pause is not None else random.uniform(0, window), trouble, say)  # noqa: S311


def _wait(seconds: float, trouble: _Trouble, say: Say) -> None:
    end = time.monotonic() + min(seconds, 600.0)
    while (left := end - time.monotonic()) > 0:
        say(f"Waiting: {trouble}." if left > 2 else "")
        time.sleep(min(0.2, left))


def download(server: Server, path: str, target: Path, sha256: str, say: Say, size: int | None = None) -> Path:
    """Bring a file from the server to `target`, going on where an earlier try broke off, and check its hash.

    What is there already with the right hash is kept. Raises Refused, and JobFailed (platform) for a hash that stays wrong.
    """
    if target.is_file() and file_sha256(target, say) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_name(f"{target.name}.part")
    for _ in range(2):
        persistently(lambda: _download_rest(server, path, partial, say, size), say)
        if file_sha256(partial, say) == sha256:
            partial.replace(target)
            return target
        partial.unlink()
    raise JobFailed(
        "platform",
        f"{target.name} arrived twice with other bytes than the server announced.",
        "Press retry. If it happens again, the stored file is damaged: upload it once more.",
    )


def _download_rest(server: Server, path: str, partial: Path, say: Say, size: int | None) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    if partial.exists() and start == size:
        return
    if size is not None and start > size:
        partial.unlink()
        start = 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        with server.open("GET", path, headers=headers) as response, open(partial, "ab") as file:
            if response.status != 206:
                file.truncate(0)
            _copy(response, file, say, size)
    except Refused as refusal:
        if refusal.status != 416:
            raise
        # What lies here is longer than the file: it is another one.
        partial.unlink(missing_ok=True)
        raise _Trouble("what had arrived so far does not belong to this file") from None


def _copy(response: http.client.HTTPResponse, file: IO[bytes], say: Say, size: int | None) -> None:
    expected = response.length
    received = 0
    while True:
        try:
            piece = response.read(PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise _Trouble(f"the connection broke ({error})") from None
        if not piece:
            break
        file.write(piece)
        received += len(piece)
        say(f"Received {_shown(file.tell())} of {_shown(size)}." if size else "")
    if expected is not None and received < expected:
        raise _Trouble("the connection broke")


def upload(server: Server, file: Path, name: str, say: Say) -> str:
    """Bring a file to the server and return the id of the upload. Raises Refused."""
    size, sha256 = file.stat().st_size, file_sha256(file, say)
    order = {"name": name, "size": size, "sha256": sha256}
    made = persistently(lambda: server.request("POST", "/api/uploads", order).json(), say)
    upload_id, chunk_bytes = str(made["id"]), int(made.get("chunk_bytes") or 8 << 20)
    address = f"/api/uploads/{upload_id}"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", upload_id):
        raise Refused(0, "The server gave the upload a name this agent does not accept.")
    for _ in range(2):
        _send(server, address, file, size, chunk_bytes, say, int(made.get("offset") or 0))
        try:
            persistently(lambda: server.request("POST", f"{address}/complete"), say)
            return upload_id
        except Refused as refusal:
            if refusal.status != 422:  # 422: other bytes arrived than announced; once more from the beginning
                raise
    raise Refused(422, f"{name} arrived twice with other bytes than it has here.")


def _send(server: Server, address: str, file: Path, size: int, chunk_bytes: int, say: Say, offset: int) -> None:
    place = [offset]

    def step() -> None:
        chunk = _chunk(file, place[0], chunk_bytes)
        headers = {"Upload-Offset": str(place[0]), "Content-Type": "application/offset+octet-stream"}
        try:
            place[0] = server.request("PATCH", address, chunk, headers).offset()
        except Refused as refusal:
            if refusal.status != 409:
                raise
            before, place[0] = place[0], server.request("HEAD", address).offset()
            if place[0] == before:
                raise _Trouble(str(refusal)) from None
        except _Trouble:
            # What of the piece has arrived is known by the server alone; the pause comes before the next piece.
            place[0] = server.request("HEAD", address).offset()
            raise

    place[0] = persistently(lambda: server.request("HEAD", address).offset(), say)
    while place[0] < size:
        persistently(step, say)
        say(f"Sent {_shown(place[0])} of {_shown(size)} of {file.name}.")


def _chunk(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def file_sha256(path: Path, say: Say = lambda _message: None) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(4 << 20):
            digest.update(piece)
            say("")
    return digest.hexdigest()


def safe_name(name: str) -> str:
    """A relative path of plain names as it came from the server. ValueError for anything that could lead elsewhere."""
    parts = name.split("/")
    if len(parts) > 8 or not all(_SAFE_NAME.fullmatch(part) for part in parts):
        raise ValueError(f"{name[:200]!r} is not a plain file name")
    return name


def _shown(size: int | None) -> str:
    """A size as a person reads it."""
    if size is None:
        return "?"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


class ServerDepot:
    """The depot of an agent's job: the server's data and base models, local files inside the roots, uploads."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._server = Server(http_base(task.server_url), task.spec.token, task.timings.request)

    def fetch_data(self, spec: JobSpec, folder: Path, say: Say) -> Path:
        """Download the data set, or check again that the local file lies inside a root. Raises JobFailed, Withdrawn."""
        if spec.data["kind"] == "local":
            return self._local(str(spec.data["path"]), "file", "data")
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", str(spec.data["name"]))[-80:].lstrip(".") or "data"
        with self._refusals("data"):
            return download(
                self._server,
                str(spec.data["path"]),
                folder / "data" / name,
                spec.data["sha256"],
                say,
                spec.data["bytes"],
            )

    def fetch_base(self, spec: JobSpec, folder: Path, say: Say) -> str:
        """Bring a model of the member's, or check a local folder; yard-tiny and hub ids are the recipe's to load."""
        if spec.base_model.startswith("folder:"):
            return f"folder:{self._local(spec.base_model.removeprefix('folder:'), 'folder', 'base_model')}"
        if spec.base_model != "model":
            return spec.base_model
        with self._refusals("base_model"):
            for file in spec.base_files:
                name = safe_name(str(file["name"]))
                download(
                    self._server,
                    str(file["path"]),
                    folder / "base" / name,
                    file["sha256"],
                    say,
                    file["bytes"],
                )
        return f"folder:{folder / 'base'}"

    def deliver(self, spec: JobSpec, output: Path, say: Say) -> None:
        """Upload every file under `output` and have them published together. Raises JobFailed, Withdrawn."""
        files = sorted(path for path in output.rglob("*") if path.is_file()) if output.is_dir() else []
        if not files:
            raise JobFailed("platform", "The training wrote no files to keep.", "Press retry; the log may say why.")
        with self._refusals("member_machine"):
            entries = []
            for file in files:
                name = file.relative_to(output).as_posix()
                entries.append({"name": name, "upload": upload(self._server, file, name, say)})
            address = f"/api/agents/jobs/{spec.job}/attempts/{spec.attempt}/artifacts"
            persistently(lambda: self._server.request("POST", address, {"files": entries}), say)

    def _local(self, text: str, kind: Any, cause: str) -> Path:
        try:
            return resolve_inside(text, [Path(root) for root in self._task.roots], kind)
        except PathRefused as refusal:
            raise JobFailed(cause, str(refusal), "Mend that on the machine, then press retry.") from None

    @contextlib.contextmanager
    def _refusals(self, cause: str) -> Iterator[None]:
        """Turn what the server refuses into the end of the job."""
        try:
            yield
        except Refused as refusal:
            if refusal.status in _GONE:
                raise Withdrawn(f"The server does not want this attempt any more: {refusal}") from None
            raise JobFailed(cause, str(refusal), "Mend what the server names, then press retry.") from None
        except ValueError as error:
            raise JobFailed(
                cause, f"The server named a file that cannot be stored: {error}.", "Tell the operator."
            ) from None
        except TimeoutError as error:
            raise JobFailed(
                "member_machine",
                f"The server could not be reached: {error}.",
                "Check the connection, then press retry.",
            ) from None
