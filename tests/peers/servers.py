"""The peers as processes, each on a port of loopback: fetched once for a machine, started once for a test process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.running import ROOT, end_with_starter, free_port, until

HERE = Path(__file__).parent
START_SECONDS = 30.0
STARTS = 3
FETCH_SECONDS = 120
SECRET_KEY = "sk_test_peers"  # noqa: S105
EMULATE, MOCK = "emulate@0.11.2", "stripe-stateful-mock@0.0.16"
# It would listen on every interface, write its store to one fixed file, which parallel runs would share, and send each
# webhook a whole second late.
LOCALSTRIPE = """
import asyncio, sys, types
from aiohttp import web
from localstripe import webhooks
from localstripe.resources import Store
soon = lambda seconds: asyncio.sleep(seconds / 20)
webhooks.asyncio = types.SimpleNamespace(sleep=soon, ensure_future=asyncio.ensure_future)
Store.dump_to_disk = lambda self: None
from localstripe.server import app
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""


@dataclass(frozen=True)
class Peer:
    """A peer that runs, and what a test asks of it by plain HTTP."""

    url: str

    def ask(self, method: str, path: str, **form: Any) -> requests.Response:
        """One request with Stripe's kind of key; `__` in a name opens a bracket: `card__number` is `card[number]`."""
        fields = {_bracketed(name): value for name, value in form.items()}
        headers = {"Authorization": f"Bearer {SECRET_KEY}"}
        return requests.request(
            method, self.url + path, headers=headers, timeout=START_SECONDS, allow_redirects=False,
            **{"params" if method == "GET" else "data": fields},  # type: ignore[arg-type]
        )  # fmt: skip

    def do(self, method: str, path: str, **form: Any) -> dict[str, Any]:
        """A request that must succeed."""
        answered = self.ask(method, path, **form)
        assert answered.ok, f"{method} {path}: {answered.status_code} {answered.text}"
        found: dict[str, Any] = answered.json()
        return found


def _bracketed(name: str) -> str:
    first, *rest = name.split("__")
    return first + "".join(f"[{one}]" for one in rest)


@contextlib.contextmanager
def localstripe(folder: Path) -> Iterator[Peer]:
    with _running([sys.executable, "-c", LOCALSTRIPE, "{port}"], folder, "/v1/events") as peer:
        yield peer


@contextlib.contextmanager
def emulate(folder: Path, hook: str, secret: str) -> Iterator[Peer]:
    """The emulator, which is told at its start where webhooks go."""
    program = fetched(EMULATE) / "node_modules/emulate/dist/index.js"
    seed = folder / "emulate.json"
    seed.write_text(json.dumps({"stripe": {"webhooks": [{"url": hook, "events": ["*"], "secret": secret}]}}))
    command = [
        "node", "-r", str(HERE / "loopback.cjs"), str(program), "start", "--service", "stripe", "--port", "{port}",
        "--seed", str(seed), "--base-url", "http://127.0.0.1:{port}",
    ]  # fmt: skip
    with _running(command, folder, "/v1/customers") as peer:
        yield peer


@contextlib.contextmanager
def mock(folder: Path) -> Iterator[Peer]:
    """The one that honours idempotency keys."""
    program = fetched(MOCK) / "node_modules/stripe-stateful-mock/dist/cli.js"
    with _running(["node", "-r", str(HERE / "loopback.cjs"), str(program)], folder, "/v1/customers") as peer:
        yield peer


def fetched(package: str) -> Path:
    """The folder that holds an npm package, fetched the first time anybody on this machine asks for it."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{package} left out: there is no {' and no '.join(missing)} on this machine.")
    store = Path(os.environ.get("VAR_DIR") or ROOT / "var").expanduser().resolve() / "peers"
    store.mkdir(parents=True, exist_ok=True)
    folder = store / package
    with (store / f"{package}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(package, folder)
    return folder


def _fetch(package: str, folder: Path) -> None:
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"]
    try:
        command = ["npm", "install", *quiet, "--prefix", str(draft), package]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} left out: npm did not fetch it within {FETCH_SECONDS} seconds.")
    else:
        if done.returncode:
            pytest.skip(f"{package} left out: npm could not fetch it ({done.stderr.strip()[:200]}).")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _running(command: list[str], folder: Path, path: str) -> Iterator[Peer]:
    """A process that answers at `path`, on another port when somebody else took the first."""
    for _ in range(STARTS):
        peer, process, log = _start(command, folder)
        try:
            if _comes_up(peer, path, process):
                yield peer
                return
        finally:
            _end(process)
    raise AssertionError(f"A peer did not start:\n{log.read_text()}")


def _start(command: list[str], folder: Path) -> tuple[Peer, subprocess.Popen[bytes], Path]:
    port = free_port()
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [word.replace("{port}", str(port)) for word in command], cwd=folder, stdout=output,
            stderr=subprocess.STDOUT, preexec_fn=end_with_starter,
            env={**os.environ, "PORT": str(port), "TMPDIR": str(folder)},
        )  # fmt: skip
    return Peer(f"http://127.0.0.1:{port}"), process, log


def _comes_up(peer: Peer, path: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a peer answers; False when its process ended instead."""
    until(lambda: process.poll() is not None or _answers(peer, path), START_SECONDS, f"{peer.url} answers")
    return process.poll() is None


def _answers(peer: Peer, path: str) -> bool:
    try:
        return peer.ask("GET", path).status_code == 200
    except requests.ConnectionError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(1)  # localstripe waits for its open connections, and nothing is kept that could be lost
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
