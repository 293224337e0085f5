"""The gunicorn worker: what it puts aside at its start, and its end, before which what has to be said is said, once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.running import ROOT, until

pytestmark = pytest.mark.whole

SITE = """
import gc, os, pathlib, time
from flask import Flask

def goodbye():
    with open(os.environ["TOLD"], "a") as told:
        told.write("begun\\n")
    {said}
    with open(os.environ["TOLD"], "a") as told:
        told.write("done\\n")

app = Flask(__name__)
app.add_url_rule("/", "frozen", lambda: str(gc.get_freeze_count()))
app.extensions["before_end"] = goodbye
pathlib.Path(os.environ["TOLD"]).write_text("")
"""


class Site:
    """gunicorn with one worker, whose application says goodbye in its own way."""

    def __init__(self, folder: Path, said: str) -> None:
        self._told, self._address = folder / "told", str(folder / "socket")
        (folder / "site_that_ends.py").write_text(SITE.format(said=said))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-k", "services.web_worker.YardWorker", "--graceful-timeout", "3",
             "--bind", f"unix:{self._address}", "--pythonpath", str(folder), "site_that_ends:app"],
            cwd=ROOT, env={**os.environ, "TOLD": str(self._told)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        until(self._told.exists, 20, "the site serves")

    def answer(self) -> str:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(self._address)
            wire.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: wire.recv(4096), b"")).decode().rpartition("\r\n\r\n")[2]

    def ask_worker_to_end(self) -> None:
        for worker in psutil.Process(self._server.pid).children():
            worker.send_signal(signal.SIGTERM)

    def ask_to_end(self) -> None:
        self._server.send_signal(signal.SIGTERM)

    def told(self) -> list[str]:
        return self._told.read_text().split()

    def seconds_until_gone(self) -> float:
        begun = time.monotonic()
        self._server.wait(20)
        return time.monotonic() - begun

    def end(self) -> None:
        for process in (
            [*psutil.Process(self._server.pid).children(), self._server] if self._server.poll() is None else []
        ):
            process.kill()
        self._server.communicate()


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    found = Site(tmp_path, request.param)
    yield found
    found.end()


@pytest.mark.parametrize("site", ["pass"], indirect=True)
def test_what_the_application_is_made_of_is_not_looked_through_again_while_pages_wait(site: Site) -> None:
    assert int(site.answer()) > 10_000


@pytest.mark.parametrize("site", ["time.sleep(1)"], indirect=True)
def test_a_second_signal_does_not_overtake_the_goodbyes(site: Site) -> None:
    site.ask_to_end()
    until(site.told, 5, "the first goodbye")
    site.ask_worker_to_end()
    site.seconds_until_gone()
    assert site.told() == ["begun", "done"]


@pytest.mark.parametrize("site", ["raise RuntimeError('the database is away')"], indirect=True)
def test_a_goodbye_that_fails_keeps_no_worker_from_ending(site: Site) -> None:
    site.ask_to_end()
    assert site.seconds_until_gone() < 2.5
    assert site.told() == ["begun"]


@pytest.mark.parametrize("site", ["time.sleep(60)"], indirect=True)
def test_a_goodbye_that_hangs_is_given_two_seconds(site: Site) -> None:
    site.ask_to_end()
    assert site.seconds_until_gone() < 8
    assert site.told() == ["begun"]
