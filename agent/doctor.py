"""The verb `doctor`: looks at everything a training needs and says for each what is fine or what to do."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

from . import hardware
from .addresses import http_base
from .workspace import FOLDER

LEAST_DISK = 5e9
PATIENCE = 10.0


def examine(server_url: str | None, key: str | None, home: Path) -> bool:
    """Print one line for each thing examined; True when a job could run here now."""
    findings = [_python(), *_packages(), _gpu(), _memory(), _disk(home), _folder(home)]
    if server_url is None:
        findings.append((False, "server", "no address given: add --server-url ws://HOST:PORT"))
    else:
        findings += _server(server_url, key)
    width = max(len(name) for _, name, _ in findings)
    for fine, name, words in findings:
        print(f"{'ok  ' if fine else 'FIX '} {name:<{width}}  {words}")
    return all(fine for fine, _, _ in findings)


Finding = tuple[bool, str, str]


def _python() -> Finding:
    return True, "python", f"{platform.python_version()} ({sys.executable}), {hardware.operating_system()}"


def _packages() -> list[Finding]:
    missing = {entry.split(">")[0].split(" ")[0]: entry for entry in hardware.missing()}
    findings = []
    for package in hardware.NEEDED:
        version = hardware.installed(package)
        if package in missing:
            found = "not installed" if version is None else f"{version} does not fit ({missing[package]})"
            findings.append((False, package, f"{found}: {hardware.install_command()}"))
        else:
            findings.append((True, package, str(version)))
    return findings


def _gpu() -> Finding:
    gpus = hardware.gpus()
    if not gpus:
        return True, "gpu", "none found; training runs on the processor"
    names = [f"{gpu['name']} ({(gpu['memory_bytes'] or 0) / 2**30:.0f} GB)" for gpu in gpus]
    return True, "gpu", ", ".join(names)


def _memory() -> Finding:
    return True, "memory", f"{hardware.memory_bytes() / 1e9:.1f} GB"


def _disk(home: Path) -> Finding:
    free = hardware.disk_free_bytes(home)
    words = f"{free / 1e9:.1f} GB free at {home}"
    return (
        free >= LEAST_DISK,
        "disk",
        words if free >= LEAST_DISK else f"{words}: free some space, or use --home on another disk",
    )


def _folder(home: Path) -> Finding:
    folder = home / FOLDER
    place = folder if folder.exists() else home
    if os.access(place, os.W_OK | os.X_OK):
        return True, "folder", str(folder)
    return (
        False,
        "folder",
        f"{place} cannot be written: check who owns it, or give another folder with --home",
    )


def _server(server_url: str, key: str | None) -> list[Finding]:
    parts = urlsplit(server_url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=PATIENCE):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        return [
            (
                False,
                "server",
                f"{server_url} cannot be reached ({reason}): check the address, and that the server runs",
            )
        ]
    if key is None:
        return [(True, "server", f"{server_url} answers"), (False, "key", "none given: add --api-key KEY")]
    return [(True, "server", f"{server_url} answers"), asyncio.run(_greet(server_url, key))]


async def _greet(server_url: str, key: str) -> Finding:
    """Open the agents' socket with the key and close it again without a word."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus

    from .connection.websocket import open_socket

    try:
        async with open_socket(server_url, key, PATIENCE):
            return True, "key", "accepted"
    except InvalidStatus as answer:
        status = answer.response.status_code
        if status in (401, 403):
            return False, "key", f"refused: make a new one at {http_base(server_url)}/agents"
        return (
            False,
            "key",
            f"the server answered {status}: is {server_url} the address of a Trainyard server?",
        )
    except ssl.SSLCertVerificationError as error:
        return False, "key", f"the server's certificate is not valid: {error.verify_message}"
    except (OSError, InvalidHandshake, TimeoutError) as error:
        return False, "key", f"no WebSocket could be opened: {error}"
