"""Start, overhead and lag of trainings, measured on a whole yard with an agent."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from agent import demo_data, recipes
from tests.benchmarks.figures import Figure, median, quantile
from tests.running import ROOT, AgentProcess, Member, RunningYard, clean_environment, until

ROWS = 400
REALISTIC = {"method": "lora", "batch_size": 8, "max_length": 256, "seed": 1}
SMALL = {"method": "lora", "batch_size": 2, "max_length": 128, "max_steps": 3, "seed": 1}
LOOK_SECONDS = 0.02
PATIENCE = 600.0


@dataclass
class Bench:
    """A yard at work, somebody in it with data, and a machine of theirs."""

    folder: Path
    yard: RunningYard
    member: Member
    agent: AgentProcess
    machine: int
    dataset: int = 0

    @property
    def data(self) -> Path:
        return self.folder / "rows.jsonl"

    def warm_up(self) -> None:
        """Bring the data and let the worker and the agent do a job each, so that files are in memory."""
        demo_data.build(self.data, ROWS)
        self.dataset = int(self.member.new_dataset(self.data)["id"])
        for place in ("server", "agent"):
            self.member.wait_for_status(self.order(place, SMALL), "completed", seconds=PATIENCE)

    def order(self, place: str, parameters: dict[str, Any]) -> int:
        where = "server" if place == "server" else {"agent": self.machine}
        return self.member.new_job("bench", where, parameters, self.dataset)

    def job_folder(self, place: str, job: int) -> Path:
        return self.yard.var_dir / "jobs" / str(job) if place == "server" else self.agent.job_folder(job)

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """Yard and agent take no processor time inside the block."""
        halted = [*self.yard.family(), *self.agent.family()]
        for process in halted:
            process.suspend()
        try:
            yield
        finally:
            for process in halted:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()


# --- from "start" pressed to the first stored step ---------------------------------------------------------------------


def start(bench: Bench, count: int) -> list[Figure]:
    """Seconds from the POST that orders a server job to the commit of its first step, by the machine's clock."""
    seconds = []
    for _ in range(count):
        pressed = time.time()
        job = bench.order("server", SMALL)
        bench.member.wait_for_status(job, "completed", seconds=PATIENCE)
        seconds.append(_first_metrics_at(bench.yard, job) - pressed)
    details = f"{count} starts; worst {max(seconds):.2f} s; the worker is warm"
    return [
        Figure("start pressed to first stored step, median", median(seconds), "s", 5.0, details, {"seconds": seconds})
    ]


def _first_metrics_at(yard: RunningYard, job: int) -> float:
    """When the first step was stored, in seconds since the epoch; the API tells whole seconds only."""
    query = "SELECT min(at) FROM training_events WHERE job_id = ? AND stream = 'metrics'"
    with contextlib.closing(sqlite3.connect(yard.var_dir / "trainyard.db", timeout=15)) as database:
        (at,) = database.execute(query, (job,)).fetchone()
    return datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()


# --- what runner and streaming cost ------------------------------------------------------------------------------------


class StepWatch:
    """Notes when each line of a training's own log appears, looking every 20 ms: the same way for every kind of run."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.times: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> list[float]:
        """When step 1, 2, ... was written, in seconds since the epoch."""
        self._over.set()
        self._thread.join()
        return self.times

    @property
    def seconds_per_step(self) -> float:
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)

    def _watch(self) -> None:
        size = 0
        while True:
            last = self._over.is_set()
            with contextlib.suppress(OSError):
                if self._log.stat().st_size != size:
                    content = self._log.read_bytes()
                    size = len(content)
                    self.times += [time.time()] * (content.count(b"\n") - len(self.times))
            if last:
                return
            self._over.wait(LOOK_SECONDS)


class PlainScript:
    """The recipe without runner, spool, worker or server: a warm process that forks for each training."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("plain.py"))], cwd=ROOT, env=clean_environment({}), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it is warm

    def train(self, parameters: dict[str, Any]) -> float:
        """Seconds per step of one run, everything else asleep."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._count += 1
        folder = self._bench.folder / "plain" / str(self._count)
        folder.mkdir(parents=True)
        resolved, errors = recipes.check("language", parameters, recipes.YARD_TINY)
        assert not errors, errors
        given = {"folder": str(folder), "data": str(self._bench.data), "parameters": resolved}
        with self._bench.asleep():
            watch = StepWatch(folder / "trainer_log.jsonl")
            print(json.dumps(given), file=self._process.stdin, flush=True)
            code = self._process.stdout.readline().strip()
            watch.close()
        assert code == "0", f"the plain training ended with {code}"
        return watch.seconds_per_step

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def overhead(bench: Bench, pairs: int, steps: int) -> list[Figure]:
    """Seconds per step of a server job that a page follows, against the plain script; same data, same steps, in turns."""
    parameters = {**REALISTIC, "max_steps": steps}
    plain = PlainScript(bench)
    ratios, plain_seconds, yard_seconds = [], [], []
    try:
        for number in range(pairs):
            if number % 2:
                in_yard, alone = _trained_in_yard(bench, parameters), plain.train(parameters)
            else:
                alone, in_yard = plain.train(parameters), _trained_in_yard(bench, parameters)
            plain_seconds.append(alone)
            yard_seconds.append(in_yard)
            ratios.append(100 * (in_yard / alone - 1))
    finally:
        plain.close()
    details = (
        f"{pairs} pairs of {steps} steps; {min(ratios):+.1f} to {max(ratios):+.1f} %; "
        f"a step takes {1000 * median(plain_seconds):.0f} ms alone"
    )
    raw = {"percent": ratios, "plain_seconds_per_step": plain_seconds, "yard_seconds_per_step": yard_seconds}
    return [Figure("overhead of runner and streaming, median", median(ratios), "%", 2.0, details, raw)]


def _trained_in_yard(bench: Bench, parameters: dict[str, Any]) -> float:
    return _followed(bench, "server", parameters)[1].seconds_per_step


# --- from the step to the browser --------------------------------------------------------------------------------------


def lag(bench: Bench, steps: int) -> list[Figure]:
    """Seconds from the line that a training writes about a step to the arrival of the step at a page that follows."""
    figures = []
    for place in ("server", "agent"):
        arrivals, watch = _followed(bench, place, {**REALISTIC, "max_steps": steps})
        lags = [arrivals[step] - written for step, written in enumerate(watch.times, 1)]
        details = f"{len(lags)} steps; median {median(lags):.2f} s, worst {max(lags):.2f} s"
        figures.append(
            Figure(f"step to browser, {place} job, p95", quantile(lags, 0.95), "s", 1.5, details, {"seconds": lags})
        )
    return figures


def _followed(bench: Bench, place: str, parameters: dict[str, Any]) -> tuple[dict[int, float], StepWatch]:
    """Train while a reader of Server-Sent Events follows; when each step arrived there, and when it was written."""
    job = bench.order(place, parameters)
    watch = StepWatch(bench.job_folder(place, job) / "trainer_log.jsonl")
    arrivals: dict[int, float] = {}
    for event in bench.member.events(job, seconds=PATIENCE):
        if event.name == "metrics":
            arrivals.update(dict.fromkeys(event.data["steps"], event.at))
    watch.close()
    status = bench.member.job(job)["status"]
    assert status == "completed" and len(arrivals) == parameters["max_steps"] == len(watch.times), status
    until(lambda: not bench.agent.jobs_at_work(), 30, "the agent has cleared up")
    return arrivals, watch
