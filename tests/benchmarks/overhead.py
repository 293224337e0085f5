"""What runner, worker and streaming cost a training on the server, against the same recipe in a plain script.

Both trainings are alive together and take turns: while one works through a block of steps, every process of the other is
stopped. Neighbouring blocks are compared, and which goes first alternates, so a machine that is slower for a while is so
for both. Timers of the yard go on by the clock while it is stopped and are due at once when it wakes, so its share is
rather overstated.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from agent import recipes
from tests.benchmarks.figures import Figure, median, quantile
from tests.benchmarks.jobs import PATIENCE, REALISTIC, Bench
from tests.running import ROOT, clean_environment, until

LOOK_SECONDS = 0.005
RESAMPLES = 2_000
Family = Callable[[], list[psutil.Process]]


def overhead(bench: Bench, pairs: int, steps: int) -> list[Figure]:
    """Per cent by which a step of a server job that a page follows takes longer than one of the plain script."""
    parameters = {**REALISTIC, "max_steps": (pairs + 2) * (steps + 2)}
    with _plain(bench, parameters) as plain, _in_yard(bench, parameters) as yard:
        for number in range(pairs):
            for side in (plain, yard) if number % 2 else (yard, plain):
                side.work(steps)
    percent = [100 * (mine / alone - 1) for mine, alone in zip(yard.seconds, plain.seconds, strict=True)]
    low, high = _interval(percent)
    others = 100 * yard.others_seconds / (sum(yard.seconds) * steps * psutil.cpu_count())
    details = (
        f"{pairs} pairs of blocks of {steps} steps, 95 % interval {low:+.1f} to {high:+.1f} %; a step takes "
        f"{1000 * median(plain.seconds):.0f} ms alone; {others:.1f} % of the processors' time goes to everything but the "
        "training"
    )
    raw = {"percent": percent, "plain_seconds_per_step": plain.seconds, "yard_seconds_per_step": yard.seconds}
    return [Figure("overhead of runner and streaming, median", median(percent), "%", 2.0, details, raw)]


@dataclass
class Side:
    """One of two trainings that take turns: its log of steps and the processes it consists of."""

    log: Path
    family: Family
    training: Callable[[], psutil.Process]
    seconds: list[float] = field(default_factory=list)  # per step, one for each block
    others_seconds: float = 0.0  # processor time of all processes but the training, over all blocks
    _stopped: list[psutil.Process] = field(default_factory=list)

    def work(self, steps: int) -> None:
        """Go on for one block, counted from the first whole step, and stop again."""
        training = self.training().pid
        self.resume()
        before = self._others(training)
        number, began = self._reached(self._lines() + 1)
        _, ended = self._reached(number + steps)
        self.others_seconds += sum(used - before.get(pid, 0.0) for pid, used in self._others(training).items())
        self.stop()
        self.seconds.append((ended - began) / steps)

    def ready(self) -> None:
        """Wait until it trains, then stop."""
        until(lambda: self.log.exists() and self._lines() >= 2, PATIENCE, "the training takes steps")
        self.stop()

    def stop(self) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                self._stopped.append(process)

    def resume(self) -> None:
        for process in self._stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self._stopped.clear()

    def _lines(self) -> int:
        return self.log.read_bytes().count(b"\n")

    def _reached(self, number: int) -> tuple[int, float]:
        """Wait for line `number`; it, and when it was written."""
        while self._lines() < number:
            time.sleep(LOOK_SECONDS)
        return number, self.log.stat().st_mtime

    def _others(self, training: int) -> dict[int, float]:
        used = {}
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid != training:
                    times = process.cpu_times()
                    used[process.pid] = times.user + times.system
        return used


@contextmanager
def _plain(bench: Bench, parameters: dict[str, Any]) -> Iterator[Side]:
    """The recipe without runner, spool, worker or server: a warm process that forks for the training."""
    folder = bench.folder / "plain"
    folder.mkdir()
    resolved, errors = recipes.check("language", parameters, recipes.YARD_TINY)
    assert not errors, errors
    script = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("plain.py"))], cwd=ROOT, env=clean_environment({}), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert script.stdin is not None and script.stdout is not None
    process = psutil.Process(script.pid)
    side = Side(
        folder / "trainer_log.jsonl",
        family=lambda: [process, *process.children(recursive=True)],
        training=lambda: process.children()[0],
    )
    try:
        script.stdout.readline()  # it is warm
        given = {"folder": str(folder), "data": str(bench.data), "parameters": resolved}
        print(json.dumps(given), file=script.stdin, flush=True)
        side.ready()
        yield side
    finally:
        for one in side.family():
            one.kill()
        script.wait()


@contextmanager
def _in_yard(bench: Bench, parameters: dict[str, Any]) -> Iterator[Side]:
    """A server job that a page follows; the yard and the agent are the processes of this side."""

    def training() -> psutil.Process:
        child = bench.yard.child()
        assert child is not None, "the training has ended"
        return child

    job = bench.order("server", parameters)
    page = threading.Thread(target=lambda: list(bench.member.events(job, seconds=PATIENCE)), daemon=True)
    page.start()
    side = Side(
        bench.job_folder("server", job) / "trainer_log.jsonl",
        family=lambda: [*bench.yard.family(), *bench.agent.family()],
        training=training,
    )
    try:
        side.ready()
        yield side
    finally:
        side.resume()
    bench.member.order(job, "cancel")
    bench.member.wait_for_status(job, "cancelled")
    page.join()


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the medians of samples drawn from `values` with replacement (bootstrap percentile interval)."""
    draw = random.Random(1)
    medians = [median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return quantile(medians, 0.025), quantile(medians, 0.975)
