"""The configuration file: TOML, every key an option of `connect`, written by hand and never by the agent.

A key that does not exist is an error with its line. A file that holds the API key must be readable by its owner alone.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

NAME = "agent.toml"
Kind = Literal["text", "list", "number", "switch"]
_KINDS: dict[Kind, str] = {
    "text": "a text in quotes", "list": "a list of texts, such as {example}", "number": "a whole number",
    "switch": "true or false",
}  # fmt: skip


class BadConfig(Exception):
    """The file cannot be used; `str()` says which line and what to write there."""


@dataclass(frozen=True)
class Key:
    """One key: its kind, what it means, and how it is written."""

    kind: Kind
    about: str
    example: str


KEYS: dict[str, Key] = {
    "server_url": Key("text", "Where to connect. A downloaded agent knows its site already.", '"wss://example.com"'),
    "api_key": Key("text", "A key from the site's Agents page. With it, the file must be yours alone: chmod 600.", '"ty_..."'),
    "name": Key("text", "How the site calls this machine. Default: its host name.", '"desk"'),
    "root": Key("list", "Folders that jobs may read data, models and scripts from. Default: none.", '["~/models", "~/data"]'),
    "max_jobs": Key("number", "How many jobs at a time. Default: 1.", "1"),
    "hours": Key("list", "When new jobs are taken, by this machine's clock. Default: always.", '["20:00-08:00"]'),
    "allow_scripts": Key("switch", "Whether jobs may run scripts that lie inside a root. Default: false.", "false"),
    "pass_env": Key("list", "Environment variables that scripts of jobs are given. Default: none.", '["HF_TOKEN"]'),
    "home": Key("text", "Where the agent keeps its own files, in .trainyard. Default: your home.", '"/data/agent"'),
    "insecure": Key("switch", "Allow an unencrypted connection to another machine. Default: false.", "false"),
}  # fmt: skip


def template(home: str = "~") -> str:
    """A whole file with every key explained and switched off by a comment sign; `home` is where the agent keeps its files."""
    head = (
        f"# Configuration of the Trainyard agent. Save it as {home}/.trainyard/{NAME} with mode 600, or anywhere and name it\n"
        "# with --config FILE. Take away the # in front of what you set. What is typed on the command line wins over the\n"
        "# environment (TRAINYARD_API_KEY, TRAINYARD_SERVER_URL), and that wins over this file.\n"
    )
    return head + "".join(f"\n# {key.about}\n# {name} = {key.example}\n" for name, key in KEYS.items())


def read(path: Path) -> dict[str, Any]:
    """What the file sets, by the names of KEYS. Raises BadConfig."""
    try:
        mode, text = path.stat().st_mode, path.read_text("utf-8")
    except UnicodeDecodeError:
        raise BadConfig(f"{path} is not UTF-8 text. Save it again as UTF-8.") from None
    except OSError as error:
        raise BadConfig(f"{path} cannot be read: {error.strerror}.") from None
    try:
        given = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadConfig(f"{path} is not TOML: {error}. `train_agent.py config` prints a file to begin from.") from None
    for name, value in given.items():
        _check(path, text, name, value)
    if "api_key" in given and os.name != "nt" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadConfig(f"{path} holds a key and others may read it. Make it yours alone: chmod 600 {path}")
    return given


def _check(path: Path, text: str, name: str, value: Any) -> None:
    where = f"{path}, line {_line_of(text, name)}"
    key = KEYS.get(name)
    if key is None:
        raise BadConfig(f"{where}: there is no setting {name[:60]!r}. There are: {', '.join(KEYS)}.")
    fits = {
        "text": isinstance(value, str),
        "list": isinstance(value, list) and all(isinstance(one, str) for one in value),
        "number": isinstance(value, int) and not isinstance(value, bool),
        "switch": isinstance(value, bool),
    }[key.kind]
    if not fits:
        raise BadConfig(f"{where}: {name} must be {_KINDS[key.kind].format(example=key.example)}.")


def _line_of(text: str, name: str) -> int:
    """The first line that begins with this key or opens a table of its name; tomllib does not tell."""
    key = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if key.match(line)), 1)
