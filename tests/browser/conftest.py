"""A real server with a filled yard, and Chromium looking at it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from app import create_app
from models.base import db
from services import yard
from services.config import Settings
from tests.browser import scene

ROOT = Path(__file__).parent.parent.parent
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
]


def chromium_path() -> str:
    """The Chromium of this machine."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.fail("There is no Chromium: `make test` installs it, or set CHROMIUM to one.")
    return found


@dataclass
class Site:
    """Where the server answers, what is in it, the settings it runs with, and the cookies of who has logged in, by e-mail."""

    url: str
    scene: scene.Scene
    settings: Settings
    sessions: dict[str, list[Any]] = field(default_factory=dict)


@pytest.fixture(scope="session")
def site(redis_url: str, quick_folder: Path) -> Iterator[Site]:
    folder = quick_folder / "site"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"VAR_DIR": str(folder / "var"), "PORT": str(port), "REDIS_URL": redis_url, "SECRET_KEY": "only for tests"}
    settings = Settings.from_env(env)
    app = create_app(settings)
    yard.prepare(app, settings)
    with app.app_context():
        built = scene.build(folder)
        db.session.remove()
    command = [sys.executable, "-m", "gunicorn", "-k", "services.web_worker.YardWorker", "-b", f"127.0.0.1:{port}",
               "--graceful-timeout", "1", "--no-control-socket", "wsgi:app"]  # fmt: skip
    with open(folder / "web.log", "wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=log, stderr=log)
    try:
        _wait(f"http://localhost:{port}/healthz")
        yield Site(f"http://localhost:{port}", built, settings)
    finally:
        server.terminate()
        server.wait(20)


def _wait(url: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the server did not answer")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """One visitor's window; it keeps what the console complained about."""

    def __init__(self, site: Site, context: BrowserContext) -> None:
        self.site, self.context = site, context
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error":
            self.complaints.append(text)

    def open(self, path: str) -> Page:
        self.page.goto(self.site.url + path)
        return self.page

    def log_in(self, email: str = scene.EMAIL) -> Page:
        """Through the form the first time, later with the same session: the site allows ten log-ins a minute."""
        if email in self.site.sessions:
            self.context.clear_cookies()
            self.context.add_cookies(self.site.sessions[email])
            return self.open("/dashboard")
        self.open("/login")
        self.page.fill("input[name=email]", email)
        self.page.fill("input[name=password]", scene.PASSWORD)
        self.page.click("main button[type=submit]")
        self.page.wait_for_url("**/dashboard")
        self.site.sessions[email] = self.context.cookies()
        return self.page


@pytest.fixture
def visit(site: Site, chromium: Browser) -> Iterator[Visit]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    yield Visit(site, context)
    context.close()
