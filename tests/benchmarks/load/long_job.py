"""The page of a training with a million points and a million lines."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.benchmarks.figures import Figure, median, quantile
from tests.benchmarks.load.site import Load
from tests.benchmarks.load.stream import start_trainings
from tests.running import until

STEPS = 250_000  # each a record with four metrics
NAMES = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
LINES_A_STEP = 4  # each a record
ROWS_AT_ONCE = 50_000
MOST_SECONDS = 1.0
TAKE = "INSERT INTO training_events (job_id, number, attempt, stream, seq, at, payload) VALUES (?, ?, 1, ?, ?, ?, ?)"
# The curve is drawn when uPlot has put its canvas into the page; the time is that of the next frame.
NOTE_CURVE = """
(() => {
  const look = () => {
    if (document.querySelector("[data-curve-plot] canvas"))
      requestAnimationFrame(() => { window.curveAt = performance.now(); });
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();
"""


def long_job(load: Load, page: Page, opened: int, asked: int) -> list[Figure]:
    """Open the page so many times, and ask for all of its metrics so many times."""
    with load.crowd(1) as crowd:
        (job,) = start_trainings(load, 1)
        until(
            lambda: crowd.ask("state")["trainings"] and load.member.job(job)["status"] != "queued", 60, "it is at work"
        )
        began = time.monotonic()
        _fill(load.yard.var_dir / "trainyard.db", job)
        filled = time.monotonic() - began
        about = f"{STEPS * len(NAMES):,} points in {STEPS:,} records, {STEPS * LINES_A_STEP:,} lines in as many; filled in {filled:.0f} s"
        page.add_init_script(NOTE_CURVE)
        paints, curves, answers = zip(
            *(_opened(page, f"{load.yard.url}/training-jobs/{job}") for _ in range(opened)), strict=True
        )
        metrics, size = _asked(load, job, asked)
    first = f"first of {opened}: {paints[0]:.2f} s; median {median(paints):.2f} s"
    return [
        Figure("page of 1,000,000 points and lines, first paint, worst", max(paints), "s", MOST_SECONDS, f"{first}; {about}",
               {"seconds": list(paints)}),
        Figure("its curve drawn, worst", max(curves), "s", None, f"median {median(curves):.2f} s; HTML there after {median(answers):.2f} s"),
        Figure("its /api/training-jobs/<id>/metrics, p95", quantile(metrics, 0.95), "s", None,
               f"{asked} requests, {size / 1e6:.1f} MB each; median {median(metrics):.2f} s", {"seconds": metrics}),
    ]  # fmt: skip


def _opened(page: Page, url: str) -> tuple[float, float, float]:
    """Seconds to the first paint (PerformancePaintTiming), to the drawn curve, and to the first byte of the page."""
    page.goto(url, wait_until="load")
    page.wait_for_function("() => window.curveAt", timeout=60_000)
    page.wait_for_function("() => performance.getEntriesByType('paint').length > 0", timeout=60_000)
    times: dict[str, float] = page.evaluate(
        """() => ({
          paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
          curve: window.curveAt,
          answer: performance.getEntriesByType("navigation")[0].responseStart,
        })"""
    )
    return times["paint"] / 1000, times["curve"] / 1000, times["answer"] / 1000


def _asked(load: Load, job: int, count: int) -> tuple[list[float], int]:
    seconds, size = [], 0
    for _ in range(count):
        began = time.perf_counter()
        answer = load.member.ask("GET", f"/api/training-jobs/{job}/metrics")
        seconds.append(time.perf_counter() - began)
        assert answer.status == 200 and answer.json["series"]["loss"][-1][0] == STEPS
        size = len(answer.body)
    return seconds, size


def _fill(database: Path, job: int) -> None:
    """What a training of days would have reported, in the rows that `record` writes."""
    with contextlib.closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as connection:
        (last,) = connection.execute("SELECT last_event FROM training_jobs WHERE id = ?", (job,)).fetchone()
        rows = _rows(job, last)
        while batch := [row for _, row in zip(range(ROWS_AT_ONCE), rows, strict=False)]:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(TAKE, batch)
            connection.execute("UPDATE training_jobs SET last_event = ? WHERE id = ?", (batch[-1][1], job))
            connection.execute("COMMIT")
            time.sleep(0.05)  # the yard writes too
        stored = json.dumps({"metrics": STEPS, "log": STEPS * LINES_A_STEP})
        connection.execute(
            "UPDATE attempts SET stored = ?, first_step = 1, first_step_at = created_at WHERE job_id = ?", (stored, job)
        )
        connection.execute(
            "UPDATE training_jobs SET state = 'training', stage = 'train', step = ?, total_steps = ?, loss = 1.0, metric_names = ? WHERE id = ?",
            (STEPS, 2 * STEPS, json.dumps(NAMES), job),
        )  # fmt: skip
        connection.execute("ANALYZE")


def _rows(job: int, last: int) -> Iterator[tuple[Any, ...]]:
    at, number, dice = time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime()), last, random.Random(1)
    for step in range(1, STEPS + 1):
        loss = 1 + 3 / math.sqrt(step) + dice.gauss(0, 0.05)
        values = {
            "loss": [loss],
            "learning_rate": [2e-4 * (1 - step / STEPS)],
            "grad_norm": [0.7],
            "tokens_per_second": [3800.0],
        }
        number += 1
        yield job, number, "metrics", step, at, json.dumps({"steps": [step], "values": values})
        for line in range(LINES_A_STEP):
            number += 1
            text = f"step {step} part {line}: loss {loss:.4f}, learning rate 0.0002, 3,774 tokens/s\n"
            yield job, number, "log", (step - 1) * LINES_A_STEP + line + 1, at, json.dumps({"text": text})
