"""What is going on in the agent's folder, for the other programs of its machine: `running.json`, and the open attempts.

The agent replaces the file whenever something in it changes and removes it when it leaves. Whoever reads it checks that the
process it names is alive and still the same one, so a file left by an agent that was killed means nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .runner import processes
from .workspace import AttemptFolder

NAME = "running.json"
STOP_JOBS = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGTERM
"""The signal on which an agent stops its jobs with checkpoints before it leaves."""


class Announcement:
    """The file as this process keeps it. `folder` is the agent's own; a full disk costs news and nothing else."""

    def __init__(self, folder: Path, **always: Any) -> None:
        self._path = folder / NAME
        self._written: dict[str, Any] = {}
        pid = os.getpid()
        self._always = {"pid": pid, "known_as": processes.fingerprint(pid), "since": time.time(), **always}

    def write(self, **news: Any) -> None:
        """Replace the file if something in it is new."""
        content = {**self._always, **news}
        if content != self._written:
            with contextlib.suppress(OSError):
                aside = self._path.with_name(f".{NAME}")
                with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                    json.dump(content, file)
                aside.replace(self._path)
                self._written = content

    def remove(self) -> None:
        """This agent leaves."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def running(folder: Path) -> dict[str, Any] | None:
    """What the agent that runs with this folder has told last; None when none runs."""
    try:
        told = json.loads((folder / NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("pid"), int):
        return None
    return told if processes.is_alive(told["pid"], str(told.get("known_as"))) else None


def open_attempts(folder: Path) -> Iterator[AttemptFolder]:
    """Every attempt of every server that still has something to do or to tell."""
    found = [path for path in folder.glob("jobs/*/*/attempts/*") if path.name.isdigit()]
    for path in sorted(found, key=lambda path: (path.parts[-4], path.parts[-3], int(path.name))):
        attempt = AttemptFolder(path)
        if attempt.job_folder.name.isdigit() and attempt.is_open and (path / "task.json").exists():
            yield attempt
