"""What the person at the terminal sees: the connection, the running jobs with a bar and the time left, and notes.

On a terminal this is a live view (rich); into a file or a pipe it is plain lines, one for each thing that changes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, Protocol

from .addresses import http_base
from .job_lines import Line, job_rows, printable
from .progress import Progress

__all__ = ["Line", "LiveScreen", "PlainScreen", "Progress", "Screen", "job_url", "open_screen"]

_PLAIN_EVERY_PERCENT = 10


class Screen(Protocol):
    """Both views. `connection` is called with connected, waiting or refused."""

    def connection(self, state: str, sentence: str) -> None: ...
    def note(self, sentence: str) -> None: ...
    def jobs(self, lines: Iterable[Line]) -> None: ...
    def close(self) -> None: ...


def open_screen() -> Screen:
    """The live view on a terminal that can show it, plain lines anywhere else."""
    if sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
        try:
            return LiveScreen()
        except ImportError:
            pass
    return PlainScreen()


def job_url(server_url: str, job: int) -> str:
    """The address of a job's page on the server the agent is connected to."""
    return f"{http_base(server_url)}/training-jobs/{job}"


class PlainScreen:
    """One line for each change."""

    def __init__(self) -> None:
        self._connection = ""
        self._shown: dict[int, tuple[str, int]] = {}

    def connection(self, state: str, sentence: str) -> None:
        if sentence != self._connection:
            self._connection = sentence
            self.note(sentence)

    def note(self, sentence: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more; the jobs go on all the same
            print(f"{time.strftime('%H:%M:%S')}  {_encodable(printable(sentence), sys.stdout)}", flush=True)

    def jobs(self, lines: Iterable[Line]) -> None:
        for line in lines:
            now = (line.progress.stage, line.progress.percent // _PLAIN_EVERY_PERCENT)
            if now == self._shown.get(line.job):
                continue
            where = f"  {line.url}" if line.url and line.job not in self._shown else ""
            self._shown[line.job] = now
            self.note(f"Job {line.job} ({line.name})  {line.progress.sentence()}{where}")

    def close(self) -> None:
        pass


class LiveScreen:
    """The connection on top, a line for each job, notes scrolling above. Redrawn when something has changed.

    rich leaves out colours where NO_COLOR is set. A terminal that cannot show the bar's letters gets plain ones.
    """

    _COLOURS = {"connected": "green", "waiting": "yellow", "refused": "bold red"}
    _STYLES = {"number": "dim", "done": "green", "rest": "dim", "left": "bold", "detail": "", "speed": "dim"}

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._is_ascii = self._console.options.ascii_only
        self._state: tuple[str, str] = ("waiting", "Connecting.")
        self._lines: list[Line] = []
        self._told: set[int] = set()
        self._live = Live(self._drawn(), console=self._console, auto_refresh=False)
        self._live.start()

    def connection(self, state: str, sentence: str) -> None:
        if (state, sentence) != self._state:
            self._state = (state, sentence)
            self._refresh()

    def note(self, sentence: str) -> None:
        from rich.text import Text

        with contextlib.suppress(OSError):  # the terminal is gone; the jobs go on all the same
            self._console.print(Text(f"{time.strftime('%H:%M:%S')}  {self._shown(sentence)}"))

    def jobs(self, lines: Iterable[Line]) -> None:
        self._lines = list(lines)
        for line in self._lines:
            if line.url and line.job not in self._told:  # in letters too: not every terminal follows links
                self._told.add(line.job)
                self.note(f"Job {line.job} ({line.name}) is at {line.url}")
        self._refresh()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()

    def _refresh(self) -> None:
        with contextlib.suppress(OSError):
            self._live.update(self._drawn(), refresh=True)

    def _shown(self, text: str) -> str:
        return _encodable(printable(text, self._is_ascii), self._console.file)

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        state, sentence = self._state
        mark = "*" if self._is_ascii else "●"
        head = Text.assemble((f"{mark} ", self._COLOURS.get(state, "white")), self._shown(sentence))
        if not self._lines:
            return Group(head, Text("  No job is running. Start one on the site; leave this window open.", style="dim"))
        rows = job_rows(self._lines, self._console.width, self._is_ascii)
        return Group(head, *(self._row(line, row) for line, row in zip(self._lines, rows, strict=True)))

    def _row(self, line: Line, parts: Iterable[tuple[str, str]]) -> Any:
        from rich.style import Style
        from rich.text import Text

        text = Text(no_wrap=True, overflow="crop")
        for piece, role in parts:
            style = Style.parse(self._STYLES.get(role, ""))
            if role == "name" and line.url:
                style = Style(link=printable(line.url))
            text.append(_encodable(piece, self._console.file), style)
        return text


def _encodable(text: str, file: Any) -> str:
    """The text with what the terminal's encoding has no letter for replaced."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding, "replace")
