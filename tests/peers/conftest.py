"""A yard whose gateway is a peer: our code speaks Stripe's SDK over HTTP through the fault proxy, and its pages and its
webhook are served over HTTP as well."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import pytest
from flask import Flask
from stripe import HTTPClient
from werkzeug.serving import make_server

from services.config import Settings
from services.gateways import Gateways
from services.gateways.payments import Payments
from tests.peers import hooks as webhooks
from tests.peers import servers
from tests.peers.bridges import EmulateBridge, LocalstripeBridge
from tests.peers.hooks import Hooks
from tests.peers.proxy import Bridge, Plain, Proxy
from tests.peers.servers import Peer
from tests.peers.shop import Shop


@pytest.fixture(scope="session")
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


@pytest.fixture(scope="session")
def hooks() -> Iterator[Hooks]:
    made = Hooks()
    yield made
    made.close()


@pytest.fixture(scope="session")
def localstripe_peer(tmp_path_factory: pytest.TempPathFactory, hooks: Hooks) -> Iterator[Peer]:
    with servers.localstripe(tmp_path_factory.mktemp("localstripe")) as peer:
        peer.ask("POST", "/_config/webhooks/yard", url=hooks.url, secret=webhooks.SECRET).raise_for_status()
        yield peer


@pytest.fixture(scope="session")
def emulate_peer(tmp_path_factory: pytest.TempPathFactory, hooks: Hooks) -> Iterator[Peer]:
    with servers.emulate(tmp_path_factory.mktemp("emulate"), hooks.url, webhooks.SECRET) as peer:
        yield peer


@pytest.fixture(scope="session")
def mock_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with servers.mock(tmp_path_factory.mktemp("mock")) as peer:
        yield peer


@pytest.fixture
def localstripe(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, localstripe_peer: Peer
) -> Iterator[Shop]:
    """A shop whose peer is localstripe, empty, with webhooks that arrive a moment later."""
    localstripe_peer.ask("DELETE", "/_config/data").raise_for_status()
    for shop in _shop(request, monkeypatch, localstripe_peer, LocalstripeBridge()):
        shop.hooks.listen(lambda event: localstripe_peer.ask("GET", f"/v1/events/{event['id']}").ok)
        yield shop


@pytest.fixture
def emulate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, emulate_peer: Peer) -> Iterator[Shop]:
    """A shop whose peer is emulate, with webhooks that arrive before the peer answers."""
    for shop in _shop(request, monkeypatch, emulate_peer, EmulateBridge()):
        shop.hooks.listen()
        yield shop


@pytest.fixture
def remembering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, mock_peer: Peer) -> Iterator[Shop]:
    """A shop whose peer answers a repeated key with the first answer."""
    yield from _shop(request, monkeypatch, mock_peer, Plain())


def _shop(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, peer: Peer, bridge: Bridge
) -> Iterator[Shop]:
    app, proxy = _application(request), request.getfixturevalue("proxy")
    proxy.aim(peer.url, bridge)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0.01)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(app.extensions, "gateways", _through(app.extensions["gateways"], url, proxy.url))
    try:
        yield Shop(app, url, peer, proxy, request.getfixturevalue("hooks"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _through(doors: Gateways, url: str, api: str) -> Gateways:
    """The same doors, but payments go to Stripe's SDK and from there to `api`."""
    env = {
        "PAYMENTS": "stripe", "STRIPE_SECRET_KEY": servers.SECRET_KEY, "STRIPE_WEBHOOK_SECRET": webhooks.SECRET,
        "STRIPE_API_BASE": api, "PUBLIC_URL": url, "VAR_DIR": str(doors.settings.var_dir),
        "DATABASE_URL": doors.settings.database_url, "REDIS_URL": doors.settings.redis_url,
        "SECRET_KEY": doors.settings.secret_key,
    }  # fmt: skip
    settings = Settings.from_env(env)
    return dataclasses.replace(doors, settings=settings, payments=Payments(settings))


def _application(request: pytest.FixtureRequest) -> Flask:
    app: Flask = request.getfixturevalue("app" if "app" in request.fixturenames else "sqlite_app")
    return app
