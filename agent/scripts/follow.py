"""A running script seen from outside: its output goes to the log and is read for curves, its files are noticed, an order
to stop is passed on. The script knows nothing of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..recipes import Assignment
from ..sandbox import Verdict
from .curves import RULES, Curves, HelperLines, Point
from .event_files import EventFiles
from .found_files import newest_checkpoint
from .manifest import steps_in
from .samples import Samples
from .setup import Setup, note_counting

LOOK_SECONDS = 1.0
FILES_SECONDS = 2.0
FACTS_SECONDS = 5.0
NAMES_EACH_TIME = 50  # where there are more, they are told less often
AFTER_END_SECONDS = 5.0
_PIECE = 65_536
_NOT_PRINTED = ("helper", "tensorboard")
_COUNTS_STEPS = ("helper", "trainer", "iterations")  # and not epochs, or lines
_MOST_RULES = 30_000  # bytes of JSON; a record holds 32 KiB
_TAIL_BYTES = 4096
_ERROR = re.compile(rb"^\w[\w.]*(?:Error|Exception|gaierror|OfflineModeIsEnabled)\b", re.MULTILINE)
_MISSING = re.compile(rb"ModuleNotFoundError: No module named '([\w.]{1,80})'")
# In the words of the system, of urllib3 below requests, of the Hugging Face libraries; torchvision has them on a second line.
_NO_NETWORK = re.compile(
    rb"Name or service not known|Temporary failure in name resolution|No address associated with hostname|Failed to resolve"
    rb"|Network is unreachable|couldn't connect to 'https?:|Couldn't reach .{1,300} on the Hub|LocalEntryNotFoundError"
    rb"|offline mode is enabled|outgoing traffic has been disabled"
)
_SIGNALS = {number.value for number in signal.Signals}  # a box tells of one as a shell does, as 128 and its number
_NUMBER = re.compile(r"(\d{1,9})(?!.*\d)")  # the last one: ckpt-200, step_200/model.pt


class Running(Protocol):
    """A started script: a process of one's own, or one in a box."""

    pid: int

    def poll(self) -> int | None: ...
    def heard(self, count: int) -> None: ...
    def look(self) -> Verdict | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def verdict(self, code: int) -> Verdict: ...
    def close(self) -> None: ...


class Follower:
    """Follows one script to its end. `stdout` and `events` are descriptors to read: what it prints, and what the helper
    `trainyard.log` tells. `before` are the sizes of the event files that were there when it was started."""

    def __init__(
        self,
        assignment: Assignment,
        setup: Setup,
        running: Running,
        stdout: int,
        events: int,
        before: Mapping[str, int],
    ) -> None:
        self._assignment, self._setup, self._running = assignment, setup, running
        self._stdout, self._events = stdout, events
        self._curves, self._helper = Curves(counting=setup.counting), HelperLines()
        self._counting = setup.counting
        self._exact: set[str] = set()  # names that the helper gives: they are read nowhere else
        self._folder = replace(setup.folder, attend=self._attend)
        self._event_files = EventFiles(self._folder, setup.since, before)
        self._samples = Samples(replace(setup.samples, attend=self._attend), setup.since)
        self._step, self._total = 0, 0
        self._promised = steps_in(setup.line(None)) or 0
        self._rules: list[dict[str, Any]] = []
        self._told_names = 0
        self._others: dict[str, dict[str, Any]] = {}
        self._checkpoint: tuple[str, float] | None = None
        self._notes: list[str] = []
        self._said: set[str] = set()
        self._files_at = self._facts_at = self._looked_at = 0.0
        self._stop_at: float | None = None
        self._tail = b""
        self.exit_code: int | None = None
        self._selector = selectors.DefaultSelector()
        for descriptor in (stdout, events):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)

    @property
    def was_stopped(self) -> bool:
        """Whether the script was asked to stop before it ended."""
        return self._stop_at is not None

    @property
    def missing_module(self) -> str | None:
        """The module for want of which it ended, if that is the last that it said."""
        named = _MISSING.match(self._last_error)
        return named[1].partition(b".")[0].decode() if named else None

    @property
    def wanted_the_network(self) -> bool:
        """Whether it ended because it reached for a network that is not there, if that is the last that it said."""
        return _NO_NETWORK.search(self._last_error) is not None

    @property
    def _last_error(self) -> bytes:
        """The last error that it printed, and what stands behind it."""
        starts = [found.start() for found in _ERROR.finditer(self._tail)]
        return self._tail[starts[-1] :] if starts else b""

    def to_the_end(self) -> Verdict:
        """Follow the script until it has ended and everything it said is told. Answers how it ended."""
        sys.stdout.flush()
        while (code := self._running.poll()) is None:
            self._pump(0.2)
            self._attend()
            self._look_at_files()
        self.exit_code = -(code - 128) if self._setup.terms.sandbox and code - 128 in _SIGNALS else code
        self._drain()
        self._look_at_files(last=True)
        return self._running.verdict(code)

    def _pump(self, seconds: float) -> bool:
        """Wait up to `seconds` and take in what there is; whether there was anything."""
        ready = self._selector.select(seconds)
        for key, _ in sorted(ready, key=lambda each: each[0].fd == self._stdout):  # the helper comes first
            with contextlib.suppress(BlockingIOError):
                data = os.read(key.fd, _PIECE)
                if not data:
                    self._selector.unregister(key.fd)
                elif key.fd == self._stdout:
                    self._printed(data)
                else:
                    self._told_by_helper(data)
        return bool(ready)

    def _printed(self, data: bytes) -> None:
        self._running.heard(len(data))
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        left = memoryview(data)
        while left:
            left = left[os.write(1, left) :]
        self._tell(self._curves.feed(data))

    def _told_by_helper(self, data: bytes) -> None:
        points = self._helper.feed(data)
        self._exact.update(name for point in points for name in point.values)
        self._curves.leave_out(self._exact)
        self._tell(points)

    def _in_event_files(self) -> Iterator[Point]:
        for point in self._event_files.poll():
            values = {name: value for name, value in point.values.items() if name not in self._exact}
            if values:
                yield point._replace(values=values)

    def _drain(self) -> None:
        """Read the pipes to their end; a descendant that keeps them open is not waited for longer than a moment."""
        end = time.monotonic() + AFTER_END_SECONDS
        while self._stdout in self._selector.get_map() and time.monotonic() < end:
            if not self._pump(0.2) and self._is_alone():
                break
        self._selector.unregister(self._events)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._events, _PIECE):
                self._told_by_helper(data)
        self._tell(self._curves.close())
        self._selector.close()

    def _is_alone(self) -> bool:
        """Whether nobody of the script's group is left who could still print."""
        try:
            os.killpg(self._running.pid, 0)
        except (ProcessLookupError, PermissionError):
            return True
        return False

    def _tell(self, points: Iterable[Point]) -> None:
        for point in points:
            self._step = max(self._step, point.step)
            if point.rule in _NOT_PRINTED:
                self._note_rule(point)
            total = point.total or self._total or (self._promised if point.rule in _COUNTS_STEPS else 0)
            if total != self._total and total >= point.step:
                self._total = total
                self._assignment.report("stage", stage="train", total_steps=total, message="Training.")
            if point.values:
                self._assignment.report("metrics", step=point.step, values=point.values)

    def _note_rule(self, point: Point) -> None:
        """Keep count of what came another way than printed, in the same shape as `Curves.rules`."""
        rule = self._others.setdefault(
            point.rule, {"rule": point.rule, "label": RULES[point.rule], "example": "", "names": [], "points": 0}
        )
        new = point.values.keys() - rule["names"]
        rule["names"] = sorted([*rule["names"], *new]) if new else rule["names"]
        rule["points"] += 1

    def _pass_on_a_stop(self) -> None:
        if self._stop_at is None:
            if self._assignment.stop_requested():
                self._stop_at = time.monotonic()
                self._running.terminate()
        elif time.monotonic() - self._stop_at > max(0.5, self._assignment.grace_seconds - 1):
            print("(The script did not end when it was asked to; it was ended by force.)", flush=True)
            self._running.kill()
            self._stop_at = float("inf")

    def _attend(self) -> None:
        """What may not wait, not even for a look at many files: an order to stop, and the limits."""
        self._pass_on_a_stop()
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._running.look()

    def _look_at_files(self, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._files_at < FILES_SECONDS:
            return
        self._files_at = now
        self._tell(self._in_event_files())
        for piece in self._samples.poll(self._step, last):
            self._assignment.report("sample", **piece)
        if last and self._helper.lost:
            print(f"({self._helper.lost} calls of the helper came too fast and were left out.)", flush=True)
        self._notice_checkpoint()
        self._say(self._samples.notes, self._event_files.notes, self._notes)
        self._keep_counting()
        if last or now - self._facts_at >= FACTS_SECONDS * max(1, self._told_names / NAMES_EACH_TIME):
            self._facts_at = now
            self._tell_rules()

    def _notice_checkpoint(self) -> None:
        newest = newest_checkpoint(self._folder, self._setup.checkpoints, self._setup.since, self._notes)
        if newest is None or newest == self._checkpoint:
            return
        self._checkpoint = newest
        number = _NUMBER.search(newest[0])
        self._assignment.report("checkpoint", step=int(number[1]) if number else self._step, file=newest[0])

    def _say(self, *notes: list[str]) -> None:
        """Print what was noted, each sentence once, and empty the lists."""
        for waiting in notes:
            for note in waiting:
                if note not in self._said:
                    self._said.add(note)
                    print(f"({note})", flush=True)
            waiting.clear()

    def _keep_counting(self) -> None:
        if self._curves.counting == self._counting:
            return
        self._counting = self._curves.counting
        with contextlib.suppress(OSError):  # a full disk is no reason to end a training
            note_counting(self._assignment.folder, self._setup.since, self._counting)

    def _tell_rules(self) -> None:
        rules = [*self._curves.rules(), *self._others.values()]
        if rules != self._rules:
            self._rules = [dict(rule) for rule in rules]
            self._told_names = sum(len(rule["names"]) for rule in rules)
            self._assignment.report("facts", curves=_in_a_record(self._rules))


def _in_a_record(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules with as many names each as a record holds."""
    told = rules
    for most in (500, 250, 100, 50):
        told = [rule | {"names": rule["names"][:most]} for rule in rules]
        if len(json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")) <= _MOST_RULES:
            break
    return told


def open_events(path: Path) -> int:
    """Make the pipe that `trainyard.log` writes to, and open it so that it stays open when a writer leaves."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    os.mkfifo(path, 0o666)
    path.chmod(0o666)  # in a box the script is another user
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)
