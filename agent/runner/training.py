"""The middle of a job: one child process from its start to the last byte it printed, stopped when that is ordered."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..protocol import JobSpec
from ..settings import Timings
from ..spool import Final
from . import processes
from .children import Child
from .figures import Meter
from .recording import Recorder

LONGEST_GRACE = 120.0
AFTER_SAVING = 5.0
_PIECE = 65_536
_RANK = {"stop": 1, "cancel": 2, "kill": 3}


class Orders:
    """The strongest order so far. `look` is asked at most every `seconds` and answers stop, cancel, kill or None."""

    def __init__(self, look: Callable[[], str | None], seconds: float) -> None:
        self._look, self._seconds = look, seconds
        self._due = 0.0
        self.given: set[str] = set()

    def now(self) -> str | None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._seconds
            order = self._look()
            if order in _RANK:
                self.given.add(order)
        return max(self.given, key=_RANK.__getitem__, default=None)

    def final(self, message: str | None = None) -> Final:
        """How an attempt ends that was ordered to."""
        outcome = "stopped" if "stop" in self.given and "cancel" not in self.given else "cancelled"
        return Final(outcome, message=message)


class Training:
    """Runs the child and obeys orders; `run` returns how it ended, and then nothing of it is alive."""

    def __init__(
        self,
        spec: JobSpec,
        folder: Path,
        recorder: Recorder,
        child: Child,
        orders: Orders,
        blame: str,
        timings: Timings,
    ) -> None:
        self.spec, self.folder, self.recorder, self.child = spec, folder, recorder, child
        self.orders, self.blame, self.timings = orders, blame, timings
        self._asked: dict[str, float] = {}  # order -> when it was passed on
        self._saving_at = float("-inf")  # when a checkpoint was last seen being written
        self._was_killed = False
        self._left_behind = set[int]()  # processes that had to be ended beside the child
        self._was_short = False  # of memory

    def run(self, assignment: dict[str, Any]) -> Final:
        memory_kills = processes.out_of_memory_kills()
        self.child.start(assignment)
        meter = Meter(self.timings.figures, self.folder)
        pipes = _Pipes({self.child.stdout: self.recorder.printed, self.child.events: self.recorder.reported})
        try:
            while (code := self.child.poll()) is None:
                pipes.pump(min(self.timings.orders, self.timings.gather))
                self.recorder.gather()
                self._obey()
                self._was_short = self._was_short or processes.memory_is_short()
                figures = meter.read_when_due(self.child.pid)
                if figures is not None:
                    self.recorder.event("system", **figures)
        finally:
            meter.close()
            self._clear_up(pipes)
        return self._verdict(code, self._was_short and processes.out_of_memory_kills() > memory_kills)

    def _obey(self) -> None:
        order = self.orders.now()
        if order is None:
            return
        if order not in self._asked:
            self._asked[order] = time.monotonic()
            if order == "stop":
                # To the recipe alone: it ends its own helpers once the checkpoint is written.
                self.child.signal(signal.SIGTERM)
            else:
                self.child.signal_group(signal.SIGTERM)
        waited = time.monotonic() - self._asked[order]
        if not self._was_killed and waited >= self._patience(order):
            self._was_killed = True
            self._kill_group()

    def _kill_group(self) -> None:
        self._left_behind |= {one.pid for one in processes.left_over(self.child.pid, self.child.mark)}
        self.child.signal_group(signal.SIGKILL)

    def _patience(self, order: str) -> float:
        if order == "kill":
            return 0.0
        if order == "cancel":
            return self.timings.cancel
        if self._is_saving():
            self._saving_at = time.monotonic()
        # Once the checkpoint is whole the process still needs a moment to end by itself.
        saved = min(self._saving_at - self._asked[order] + AFTER_SAVING, self.timings.saving)
        return max(min(max(self.spec.grace_seconds, 0.0), LONGEST_GRACE), saved)

    def _is_saving(self) -> bool:
        """A checkpoint is written aside under this name and renamed when it is whole."""
        return any((self.folder / "checkpoints").glob("*.partial"))

    def _clear_up(self, pipes: _Pipes) -> None:
        """End whatever is left, and read the pipes to their end: a descendant may have kept them open."""
        if self.child.poll() is None:
            self._kill_group()
        self._left_behind |= processes.sweep(self.child.pid, self.child.mark)
        while self.child.poll() is None:
            time.sleep(0.01)
        end = time.monotonic() + self.timings.pipes
        while pipes.are_open and time.monotonic() < end:
            pipes.pump(0.05)
        pipes.close()
        count = len(self._left_behind - {self.child.pid})
        if count:
            self.recorder.line(f"(Processes that the training had left behind were ended: {count}.)")

    def _verdict(self, code: int, out_of_memory: bool) -> Final:
        if self.orders.given:
            return self.orders.final(self._unsaved())
        end = self.recorder.end
        if end is None:
            return _death(code, out_of_memory, self.blame)
        if end.get("outcome") in ("completed", "stopped"):
            return Final(end["outcome"])
        texts = [str(end[name]) if end.get(name) else None for name in ("cause", "message", "advice")]
        return Final("failed", *texts)

    def _unsaved(self) -> str | None:
        if not self._was_killed or "stop" not in self.orders.given:
            return None
        return "It did not end in time and was ended by force. It goes on from the last checkpoint that was complete."


class _Pipes:
    """Reads several descriptors at once and hands what comes to their takers."""

    def __init__(self, takers: dict[int, Callable[[bytes], None]]) -> None:
        self._selector = selectors.DefaultSelector()
        for descriptor, take in takers.items():
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, take)

    @property
    def are_open(self) -> bool:
        return bool(self._selector.get_map())

    def pump(self, seconds: float) -> None:
        """Wait up to `seconds` for something and take one piece of each pipe that has some."""
        if not self.are_open:
            time.sleep(min(seconds, 0.05))  # the process itself is about to end
            return
        for key, _ in self._selector.select(seconds):
            with contextlib.suppress(BlockingIOError):
                data = os.read(key.fd, _PIECE)
                if data:
                    key.data(data)
                else:
                    self._selector.unregister(key.fd)

    def close(self) -> None:
        self._selector.close()


def _death(code: int, out_of_memory: bool, blame: str) -> Final:
    """What a process that ended without a word died of."""
    again = "Press Try again: it goes on from the last checkpoint."
    if code == -signal.SIGKILL and out_of_memory:
        return Final(
            "failed",
            "out_of_memory",
            "The system ended the training because the machine had run out of memory.",
            "Use a smaller batch size, a shorter longest example, or LoRA; then press Try again.",
        )
    if code < 0:
        name = _signal_name(-code)
        what = "was killed from outside" if -code in (signal.SIGKILL, signal.SIGTERM) else "crashed"
        return Final("failed", blame, f"The training process {what} (signal {-code}, {name}).", again)
    return Final(
        "failed",
        blame,
        f"The training process ended with exit code {code} before it could say why.",
        f"The end of the log may show it. {again}",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
