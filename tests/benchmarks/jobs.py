"""A yard with a member and a machine, and what is measured there of a training: its start, and its way to the browser."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent import demo_data
from tests.benchmarks.figures import Figure, median, quantile
from tests.running import AgentProcess, Member, RunningYard, until

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


# --- from the step to the browser --------------------------------------------------------------------------------------


class StepWatch:
    """Notes when each line of a training's own log appears, looking every 20 ms."""

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
