"""One attempt this machine has: its supervisor, its spool, and how far it is."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

from .protocol import Message
from .screen import Progress
from .spool import SpoolReader
from .words import beginning
from .workspace import AttemptFolder


class HeldJob:
    """An attempt this machine has: running under its supervisor, or waiting for the server to store its end."""

    def __init__(self, folder: AttemptFolder, name: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.folder, self.name, self.process = folder, name, process
        self.reader = SpoolReader(folder.spool)
        self._screen_reader = SpoolReader(folder.spool)  # the screen has a place of its own in the streams
        self.progress = Progress()
        self.unwritten: str | None = None  # why its end could not be written yet

    @property
    def job(self) -> int:
        return self.folder.job

    @property
    def attempt(self) -> int:
        return self.folder.number

    @property
    def is_running(self) -> bool:
        return self.reader.final is None

    def has_supervisor(self) -> bool:
        if self.process is not None and self.process.poll() is None:
            return True
        return self.folder.is_supervised()

    def follow(self) -> Progress:
        """How far it is now."""
        self.progress.follow(self._screen_reader)
        return self.progress

    def close(self) -> None:
        """Let go of the spool, and of the supervisor once it has ended."""
        self.reader.close()
        self._screen_reader.close()
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2.0)

    def entry(self) -> Message:
        """As hello and heartbeat name it."""
        state = "running" if self.is_running else "finished"
        return {"job": self.job, "attempt": self.attempt, "last": self.reader.last, "state": state}

    def shown(self) -> dict[str, Any]:
        """As `status` shows it on this machine; `seconds_left` is None while nobody knows."""
        progress = self.follow()
        left = progress.seconds_left
        return {
            "job": self.job, "attempt": self.attempt, "name": self.name,
            "state": "running" if self.is_running else "finished", "stage": progress.stage, "step": progress.step,
            "total_steps": progress.total_steps, "percent": progress.percent, "loss": progress.loss,
            "seconds_left": None if left is None else round(left), "message": progress.message,
        }  # fmt: skip

    def last_words(self) -> str:
        """The end of what the supervisor itself printed: the reason when it could not even start."""
        try:
            lines = self.folder.log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f" Its last words: {beginning(lines[-1], 300)}" if lines else ""
