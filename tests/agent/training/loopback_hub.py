"""A small hub on loopback that speaks as much of the protocol of huggingface.co as fetching a model takes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """What the hub has: folders by model id; ids that are gated; files that are listed but lost; how long it takes to
    answer; what was asked."""

    def __init__(self) -> None:
        self.models: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.delay = 0.0
        self.broken = False
        self.lost: set[str] = set()
        self.sizes: dict[str, int] = {}  # files it says to be larger than they are
        self.asked: list[str] = []
        self.address = ""


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers at `address` until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _answer(hub, self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _answer(hub: Hub, request: BaseHTTPRequestHandler) -> None:
    path = request.path.split("?")[0].strip("/")
    hub.asked.append(path)
    time.sleep(hub.delay)
    if hub.broken:
        return _send(request, 503, b"")
    parts = path.removeprefix("api/models/").split("/")
    name, rest = "/".join(parts[:2]), parts[2:]
    if name not in hub.models:
        return _send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
    if name in hub.gated and rest[:1] != ["revision"] and rest:
        return _send(request, 403, b"", {"X-Error-Code": "GatedRepo"})
    if not path.startswith("api/"):
        file = "/".join(rest[2:])
        return _send_file(request, hub.models[name] / ("nothing" if file in hub.lost else file))
    files = sorted(p.relative_to(hub.models[name]).as_posix() for p in hub.models[name].rglob("*") if p.is_file())
    if rest[:1] == ["tree"]:
        listing = [_entry(hub.models[name] / file, file) for file in files]
        return _send(request, 200, json.dumps(listing).encode())
    if rest[:1] == ["auth-check"]:
        return _send(request, 200, b"{}")
    info = {
        "id": name,
        "modelId": name,
        "sha": COMMIT,
        "private": False,
        "gated": "manual" if name in hub.gated else False,
        "tags": [],
        "downloads": 0,
        "siblings": [_sibling(hub, name, file, with_size="blobs=true" in request.path.lower()) for file in files],
    }
    return _send(request, 200, json.dumps(info).encode())


def _sibling(hub: Hub, name: str, file: str, with_size: bool) -> dict[str, object]:
    size = hub.sizes.get(file, (hub.models[name] / file).stat().st_size)
    return {"rfilename": file, "size": size} if with_size else {"rfilename": file}


def _entry(path: Path, name: str) -> dict[str, object]:
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}


def _send_file(request: BaseHTTPRequestHandler, path: Path) -> None:
    if not path.is_file():
        return _send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
    return _send(request, 200, path.read_bytes(), {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT})


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked may have given up
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
