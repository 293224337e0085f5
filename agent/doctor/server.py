"""Doctor, the way to the server: reachable, how quickly it answers, both clocks, proxies on the way, and the key."""

from __future__ import annotations

import asyncio
import email.utils
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from ..addresses import http_base, is_loopback

Finding = tuple[bool, str, str]
PATIENCE = 10.0
CLOCKS_MAY_DIFFER = 120.0
SLOW = 1.0


def findings(server_url: str | None, key: str | None) -> list[Finding]:
    """What stands between here and the server."""
    if server_url is None:
        return [(False, "server", "no address given: add --server-url ws://HOST:PORT")]
    found = _proxy(server_url)
    unreachable = _unreachable(server_url)
    if unreachable is not None:
        return [*found, (False, "server", unreachable)]
    found += _asked(server_url)
    if key is None:
        return [*found, (False, "key", "none given: add --api-key KEY")]
    return [*found, asyncio.run(_greet(server_url, key))]


def _proxy(server_url: str) -> list[Finding]:
    """The proxy that the environment names for this address; on the way to this machine itself none is used."""
    parts = urlsplit(http_base(server_url))
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return []
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy:
        return []
    shown = urlsplit(proxy)
    where = f"{shown.hostname}:{shown.port}" if shown.port else str(shown.hostname)
    return [(True, "proxy", f"{where} is used; it must hand on WebSockets. To go round it: export no_proxy={host}")]


def _unreachable(server_url: str) -> str | None:
    parts = urlsplit(server_url)
    if _proxy(server_url):
        return None  # the proxy is asked below; a direct connection may well be closed off
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=PATIENCE):
            return None
    except OSError as error:
        reason = error.strerror or str(error)
        return f"{server_url} cannot be reached ({reason}): check the address, and that the server runs"


def _asked(server_url: str) -> list[Finding]:
    """One request over HTTP: how long it takes, and what the server's clock says."""
    handlers: list[urllib.request.BaseHandler] = []
    if is_loopback(urlsplit(server_url).hostname):
        handlers.append(urllib.request.ProxyHandler({}))
    began = time.monotonic()
    try:
        with urllib.request.build_opener(*handlers).open(
            f"{http_base(server_url)}/healthz", timeout=PATIENCE
        ) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        with error:
            date = error.headers.get("Date")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return [(False, "server", f"{server_url} takes connections and does not answer over HTTP ({reason})")]
    seconds = time.monotonic() - began
    slow = ", which is slow: training is not held up, pages follow a little later" if seconds > SLOW else ""
    return [(True, "server", f"{server_url} answers in {seconds * 1000:.0f} ms{slow}"), *clock(date, time.time())]


def clock(date: str | None, here: float) -> list[Finding]:
    """How far this machine's clock (`here`, seconds since 1970) is from the `Date` header of the server (RFC 9110, 6.6.1)."""
    try:
        there = email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return []
    ahead = here - there
    if abs(ahead) <= CLOCKS_MAY_DIFFER:
        return [(True, "clock", f"{abs(ahead):.0f} s from the server's")]
    words = f"{abs(ahead) / 60:.0f} min {'ahead of' if ahead > 0 else 'behind'} the server's"
    return [(False, "clock", f"{words}: certificates and --hours go by it; set it right (timedatectl set-ntp true)")]


async def _greet(server_url: str, key: str) -> Finding:
    """Open the agents' socket with the key and close it again without a word."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus

    from ..connection.websocket import open_socket

    try:
        async with open_socket(server_url, key, PATIENCE):
            return True, "key", "accepted"
    except InvalidStatus as answer:
        status = answer.response.status_code
        if status in (401, 403):
            return False, "key", f"refused: make a new one at {http_base(server_url)}/agents"
        return False, "key", f"the server answered {status}: is {server_url} the address of a Trainyard server?"
    except ssl.SSLCertVerificationError as error:
        return False, "key", f"the server's certificate is not valid: {error.verify_message}"
    except (OSError, InvalidHandshake, TimeoutError) as error:
        return False, "key", f"no WebSocket could be opened: {error}"
