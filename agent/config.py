"""What holds: what was typed, else the environment, else the configuration file, else the address inside this file."""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import config_file, hours, settings
from .addresses import is_loopback
from .arguments import Usage
from .build import carried_address
from .config_file import BadConfig
from .workspace import FOLDER

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
# What would decide which code runs, or hands out the agent's own key.
_NEVER_PASSED = re.compile(
    r"(LD_|DYLD_|TRAINYARD_).*|PYTHON(STARTUP|HOME|PATH|INSPECT|BREAKPOINT)|BASH_ENV|ENV|IFS", re.IGNORECASE
)
LONGEST_NAME = 80


def settled(typed: argparse.Namespace, environment: Mapping[str, str]) -> argparse.Namespace:
    """`typed` with everything that was not typed filled in from the other places. Raises Usage.

    `switched_off` names the switches that were typed with a `no`: the file may say otherwise. `given` names what was typed
    or stood in the environment, and the address inside this file where the configuration file has none.
    """
    try:
        given = _file(typed)
    except BadConfig as fault:
        raise Usage(str(fault)) from None
    from_environment = {
        "api_key": environment.get(settings.API_KEY),
        "server_url": environment.get(settings.SERVER_URL),
    }
    if typed.verb == "upload":
        given.pop("name", None)  # that of the machine
    said = {name: getattr(typed, name, None) for name in _defaults()}
    said |= {name: value for name, value in from_environment.items() if value and said[name] is None}
    said = {name: value for name, value in said.items() if value is not None}
    whole = argparse.Namespace(
        **vars(typed) | _defaults() | given | said, given={*said, *({"server_url"} - set(given))}
    )
    whole.switched_off = [name for name in ("allow_scripts", "insecure") if getattr(typed, name, None) is False]
    whole.home = Path(whole.home).expanduser().resolve()
    return whole


def _file(typed: argparse.Namespace) -> dict[str, Any]:
    named = getattr(typed, "config", None)
    if named is not None:
        return config_file.read(Path(named).expanduser())
    home = Path(getattr(typed, "home", None) or Path.home()).expanduser()
    usual = home / FOLDER / config_file.NAME
    return config_file.read(usual) if usual.exists() else {}


def _defaults() -> dict[str, Any]:
    return {
        "api_key": None, "server_url": carried_address(), "name": None, "root": [], "max_jobs": 1, "hours": [],
        "allow_scripts": False, "pass_env": [], "home": str(Path.home()), "insecure": False,
    }  # fmt: skip


def server_of(options: argparse.Namespace) -> str:
    """The server's ws address. Raises Usage for one that is missing, no address, or not encrypted on the way."""
    given = options.server_url
    if not given:
        raise Usage("Which server? Give its address with --server-url ws://HOST:PORT; the Agents page shows it.")
    scheme, _, rest = given.strip().rstrip("/").partition("://")
    scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        named = re.fullmatch(r"[\w.:-]+", parts.hostname or "") is not None
        valid = scheme in ("ws", "wss") and named and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.path or parts.query or parts.username:
        raise Usage(f"{given} is not an address of a server. It looks like ws://localhost:5000 or wss://example.com.")
    if scheme == "ws" and not is_loopback(parts.hostname) and not options.insecure:
        raise Usage(
            f"The connection to {parts.hostname} would not be encrypted: anybody on the way could read your key. Use "
            f"wss://{parts.netloc}, or add --insecure if you trust the whole network between here and there."
        )
    return f"{scheme}://{parts.netloc}"


def key_of(options: argparse.Namespace) -> str:
    """The API key. Raises Usage when there is none or it cannot be one."""
    key = (options.api_key or "").strip()
    if not key and options.verb == "upload":
        raise Usage(
            "Which key? Make one that may do everything on the site's page /account and give it with --api-key."
        )
    if not key:
        raise Usage("Which key? Make one on the site's Agents page and give it with --api-key KEY.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Usage("The key holds characters that no key has. Copy it again from the Agents page.")
    return str(key)


def name_of(options: argparse.Namespace) -> str:
    """How the site calls this machine."""
    return str(options.name or socket.gethostname())[:LONGEST_NAME]


def max_jobs_of(options: argparse.Namespace) -> int:
    """How many jobs at a time. Raises Usage."""
    if options.max_jobs < 1:
        raise Usage("--max-jobs must be 1 or more.")
    return int(options.max_jobs)


def hours_of(options: argparse.Namespace) -> hours.Hours:
    """When new jobs are taken. Raises Usage."""
    try:
        return hours.parsed(options.hours)
    except hours.BadHours as fault:
        raise Usage(str(fault)) from None


def passed_names(options: argparse.Namespace) -> tuple[str, ...]:
    """The environment variables that scripts may be given. Raises Usage for what is no name, or should never be passed."""
    for name in options.pass_env:
        if not _VARIABLE.fullmatch(name):
            raise Usage(
                f"--pass-env {name[:60]!r} is no name of an environment variable. Give the name alone, as HF_TOKEN."
            )
        if _NEVER_PASSED.fullmatch(name):
            raise Usage(
                f"--pass-env {name}: this variable decides which code runs, or is the agent's own. It is not passed on."
            )
    return tuple(dict.fromkeys(options.pass_env))
