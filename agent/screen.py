"""What the person at the terminal sees: the connection, the running jobs with a bar and the time left, and notes.

On a terminal this is a live view (rich); into a file or a pipe it is plain lines, one for each thing that changes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .spool import Item, SpoolReader
from .words import duration

_STAGES = {"prepare": "Prepare", "train": "Train", "upload": "Upload", "done": "Done"}
_PLAIN_EVERY_PERCENT = 10


@dataclass
class Progress:
    """How far a job is, followed from its spool with places of its own."""

    stage: str = "prepare"
    message: str = ""
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    _first: tuple[int, float] | None = None
    _after: dict[str, int] = field(default_factory=lambda: {"event": 0, "metrics": 0})

    def follow(self, reader: SpoolReader) -> bool:
        """Take in what is new in the spool; whether there was anything."""
        changed = False
        for stream, take in (("event", self.take_event), ("metrics", self.take_metrics)):
            _, items = reader.read(stream, self._after[stream], 1 << 20)
            self._after[stream] += len(items)
            for item in items:
                take(item)
            changed = changed or bool(items)
        return changed

    def take_event(self, item: Item) -> None:
        if item.get("kind") == "stage":
            self.stage = str(item.get("stage") or self.stage)
            self.message = str(item.get("message") or "")
            if isinstance(item.get("total_steps"), int):
                self.total_steps = item["total_steps"]

    def take_metrics(self, item: Item) -> None:
        if not item["steps"]:
            return
        self.step = item["steps"][-1]
        if self._first is None:
            self._first = (item["steps"][0], time.monotonic())
        losses = [loss for loss in item["values"].get("loss", []) if loss is not None]
        self.loss = losses[-1] if losses else self.loss

    @property
    def percent(self) -> int:
        return min(100, 100 * self.step // self.total_steps) if self.total_steps else 0

    @property
    def seconds_left(self) -> float | None:
        """At the speed since the first step that was seen."""
        if self._first is None or self.stage != "train" or self.step <= self._first[0] or not self.total_steps:
            return None
        return (time.monotonic() - self._first[1]) / (self.step - self._first[0]) * (self.total_steps - self.step)

    def sentence(self) -> str:
        """`Train  step 40 of 100, loss 2.31, 2 min left`."""
        parts = [f"step {self.step:,} of {self.total_steps:,}"] if self.total_steps and self.stage == "train" else []
        if self.loss is not None and self.stage == "train":
            parts.append(f"loss {self.loss:.4f}")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return f"{_STAGES.get(self.stage, self.stage)}: {', '.join(parts) or self.message}"


@dataclass
class Line:
    """A running job as it is shown."""

    job: int
    name: str
    progress: Progress


class Screen(Protocol):
    """Both views. `connection` is called with connected, waiting or refused."""

    def connection(self, state: str, sentence: str) -> None: ...
    def note(self, sentence: str) -> None: ...
    def jobs(self, lines: Iterable[Line]) -> None: ...
    def close(self) -> None: ...


def open_screen() -> Screen:
    """The live view on a terminal that can show it, plain lines anywhere else."""
    if sys.stdout.isatty():
        try:
            return LiveScreen()
        except ImportError:
            pass
    return PlainScreen()


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
            print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)

    def jobs(self, lines: Iterable[Line]) -> None:
        for line in lines:
            now = (line.progress.stage, line.progress.percent // _PLAIN_EVERY_PERCENT)
            if now != self._shown.get(line.job):
                self._shown[line.job] = now
                self.note(f"Job {line.job} ({line.name})  {line.progress.sentence()}")

    def close(self) -> None:
        pass


class LiveScreen:
    """The connection on top, a bar for each job, notes scrolling above. Redrawn when something has changed."""

    _COLOURS = {"connected": "green", "waiting": "yellow", "refused": "bold red"}

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._state: tuple[str, str] = ("waiting", "Connecting.")
        self._lines: list[Line] = []
        self._live = Live(self._drawn(), console=self._console, auto_refresh=False)
        self._live.start()

    def connection(self, state: str, sentence: str) -> None:
        if (state, sentence) != self._state:
            self._state = (state, sentence)
            self._refresh()

    def note(self, sentence: str) -> None:
        from rich.text import Text

        self._live.console.print(Text(f"{time.strftime('%H:%M:%S')}  {sentence}"))

    def jobs(self, lines: Iterable[Line]) -> None:
        self._lines = list(lines)
        self._refresh()

    def close(self) -> None:
        self._live.stop()

    def _refresh(self) -> None:
        self._live.update(self._drawn(), refresh=True)

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state, sentence = self._state
        head = Text.assemble(("● ", self._COLOURS.get(state, "white")), sentence)
        if not self._lines:
            return Group(head, Text("  No job is running. Start one on the site; leave this window open.", style="dim"))
        table = Table.grid(padding=(0, 1))
        for column in range(5):
            table.add_column(no_wrap=True, max_width=24 if column == 1 else None)
        for line in self._lines:
            table.add_row(
                Text(f"  {line.job} "),
                Text(line.name, overflow="ellipsis"),
                ProgressBar(total=100, completed=line.progress.percent, width=16),
                Text(f"{line.progress.percent:3} %"),
                Text(line.progress.sentence(), overflow="ellipsis"),
            )
        return Group(head, table)
