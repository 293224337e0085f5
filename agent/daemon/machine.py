"""What the server is told about this machine, and whether something about it is worth telling again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from .. import hardware
from ..protocol import Message
from ..words import listed
from .options import Options

DISK_CHANGE_WORTH_TELLING = 256 << 20


class Machine:
    """This machine as the last look found it. `folder` is on the disk that jobs use; `note` tells the terminal."""

    def __init__(self, options: Options, folder: Path, note: Callable[[str], None]) -> None:
        self._options, self._folder, self._note = options, folder, note
        self._facts: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        self.missing: list[str] = []

    def look(self) -> None:
        """Take stock again; the GPUs only once, asking for them is slow."""
        if not self._facts:
            self._facts = hardware.machine(self._folder)
            # Both forms, so that the server can tell at once whether a path somebody types lies inside one.
            self._facts["roots"] = list(dict.fromkeys([*self._options.root_names, *map(str, self._options.roots)]))
            self._facts["scripts"] = self._options.allow_scripts
        self._facts["hours"] = self._options.hours.told(datetime.now())
        self._facts["torch"] = hardware.installed("torch")
        self._facts["disk_free_bytes"] = hardware.disk_free_bytes(self._folder)
        missing = hardware.missing()
        if missing != self.missing:
            self.missing = missing
            self._note(self._advice_line() if missing else "Everything that training needs is installed now.")

    def description(self) -> Message:
        """What hello says of it; from here on only what differs from that is news."""
        self._told = {
            "machine": dict(self._facts),
            "ready": not self.missing,
            "missing": list(self.missing),
            "advice": self.advice,
        }
        return self._told

    def is_news(self) -> bool:
        """Whether it has changed since it was last described."""
        told = self._told.get("machine", {})
        moved = abs(told.get("disk_free_bytes", 0) - self._facts["disk_free_bytes"])
        others = {name: value for name, value in self._facts.items() if name != "disk_free_bytes"}
        return (
            moved >= DISK_CHANGE_WORTH_TELLING
            or self.missing != self._told.get("missing")
            or any(told.get(name) != value for name, value in others.items())
        )

    @property
    def advice(self) -> str | None:
        """How to get what is missing."""
        return f"Install it with: {hardware.install_command()}" if self.missing else None

    def _advice_line(self) -> str:
        if self._options.allow_scripts:
            return f"Ready for scripts; language training needs {listed(self.missing)}. {self.advice}"
        return f"Not ready: {listed(self.missing)} missing. {self.advice}"
