"""Opens the one WebSocket: to the address that was typed, with the key, and to nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit

from websockets.asyncio.client import connect

from .. import __version__
from ..addresses import is_loopback

SOCKET_PATH = "/agent/socket"
MAX_MESSAGE_BYTES = 1 << 20


def open_socket(server_url: str, key: str, patience: float) -> connect:
    """The WebSocket of an agent, to be entered with `async with`.

    Raises OSError, TimeoutError and InvalidHandshake, of which InvalidStatus carries the server's refusal.
    """
    return _Connect(
        server_url.rstrip("/") + SOCKET_PATH,
        additional_headers={"Authorization": f"Bearer {key}"},
        user_agent_header=f"trainyard-agent/{__version__}",
        compression=None,
        max_size=MAX_MESSAGE_BYTES,
        ping_interval=None,
        open_timeout=patience,
        close_timeout=1.0,
        # `True` means: the one that the environment names, if any.
        proxy=None if is_loopback(urlsplit(server_url).hostname) else True,
    )


class _Connect(connect):
    """Follows no redirect: the address typed by the member is the only one there is."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc
