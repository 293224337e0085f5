"""Doctor, the agent's own folder: whether it can be written, is private, and what its spools still hold."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ..running import open_attempts, running
from ..words import file_size
from ..workspace import FOLDER

Finding = tuple[bool, str, str]


def findings(home: Path) -> list[Finding]:
    """The state of `<home>/.trainyard`."""
    folder = home / FOLDER
    return [_folder(home, folder), _agent(folder), _spool(folder)]


def _folder(home: Path, folder: Path) -> Finding:
    place = next(path for path in (folder, home, *home.absolute().parents) if path.exists())  # made when it is needed
    if not os.access(place, os.W_OK | os.X_OK):
        words = f"{place} cannot be written: check who owns it, or give another folder with --home"
        return False, "folder", words
    secret = folder / "agent.json"
    with contextlib.suppress(OSError):
        if secret.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return False, "folder", f"others may read the secret of this machine: chmod 600 {secret}"
    return True, "folder", str(folder)


def _agent(folder: Path) -> Finding:
    agent = running(folder)
    if agent is None:
        return True, "agent", "not running with this folder"
    return agent.get("state") != "refused", "agent", f"running (process {agent['pid']}): {agent.get('sentence')}"


def _spool(folder: Path) -> Finding:
    attempts = list(open_attempts(folder))
    if not attempts:
        return True, "spool", "empty: the server has been told everything"
    size = 0
    for attempt in attempts:
        for file in attempt.spool.glob("**/*"):
            with contextlib.suppress(OSError):
                size += file.stat().st_size
            if not os.access(file, os.R_OK | os.W_OK):
                return (
                    False,
                    "spool",
                    f"{file} cannot be read and written: give it back to the account the agent runs as",
                )
    count = f"{len(attempts)} {'job' if len(attempts) == 1 else 'jobs'}"
    return True, "spool", f"{file_size(size)} of {count} kept until the server has stored it"
