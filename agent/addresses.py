"""The addresses of the one server: the page that belongs to a socket, and whether it is this machine itself."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit


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
