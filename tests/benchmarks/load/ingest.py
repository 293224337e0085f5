"""How many lines and points one process stores in a second, beside MLflow on the same disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask_migrate import upgrade
from sqlalchemy import func, select

from app import create_app
from models.base import db, release
from models.training_jobs import TrainingEvent
from services import accounts, agents, api_keys, catalogues, price_list, training_jobs
from services.config import Settings
from services.training_jobs import Order
from tests.benchmarks.figures import Figure, median
from tests.benchmarks.pages import redis
from tests.factories import hello
from tests.running import ROOT

MLFLOW = "3.17.2"
MLFLOW_PROGRAM = Path(__file__).with_name("mlflow_ingest.py")
AT_ONCE = 1000  # lines or points in one call: the most that MLflow takes
ROUNDS = 5
AT_LEAST, TIMES_MLFLOW = 50_000.0, 6.0
NAMES = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
LINE = "step {:>9}: loss 2.3104, learning rate 0.0002, 3,774 tokens/s, memory 2.1 GB\n"
Items = list[dict[str, Any]]


def ingest(scratch: Path, calls: int) -> list[Figure]:
    """Store so many calls of 1,000 lines, of 1,000 points, and of 1,000 points with MLflow, in turns."""
    with tempfile.TemporaryDirectory(prefix="trainyard-ingest-") as temporary, redis(Path(temporary)) as redis_url:
        folder = Path(temporary)
        app = create_app(Settings.from_env({"VAR_DIR": str(folder / "var"), "REDIS_URL": redis_url}))
        with app.app_context():
            upgrade(directory=str(ROOT / "migrations"))
            price_list.install(catalogues.DEFAULT)
        mlflow = _mlflow(scratch, folder / "mlflow.db")
        shapes: dict[str, Callable[[int], Items]] = {
            "points": _gathered_points, "lines": _gathered_lines, "points one by one": _single_points,
            "lines one by one": _single_lines,
        }  # fmt: skip
        rates: dict[str, list[float]] = {name: [] for name in (*shapes, "mlflow")}
        try:
            for number in range(ROUNDS):
                for name, shape in shapes.items():
                    stream = "metrics" if name.startswith("points") else "log"
                    with app.app_context():
                        rates[name].append(_rate(_job(f"{name} {number}"), stream, shape, calls))
                if mlflow is not None:
                    rates["mlflow"].append(_mlflow_rate(mlflow, max(2, calls // 10)))
        finally:
            if mlflow is not None:
                mlflow.kill()
                mlflow.communicate()
    return _figures(rates, calls)


def _figures(rates: dict[str, list[float]], calls: int) -> list[Figure]:
    def told(name: str, shape: str) -> str:
        return (
            f"median of {ROUNDS} × {calls} calls of 1,000; {shape}; {min(rates[name]):,.0f} to {max(rates[name]):,.0f}"
        )

    def figure(name: str, what: str, shape: str, at_least: float | None) -> Figure:
        unit = f"{name.split()[0]}/s"
        return Figure(what, median(rates[name]), unit, None, told(name, shape), {"rates": rates[name]}, at_least)

    figures = [
        figure(
            "points", "metric points stored", "as an agent gathers them: 25 steps of 4 metrics in a record", AT_LEAST
        ),
        figure("lines", "log lines stored", "as an agent gathers them: 25 lines in a record", AT_LEAST),
        figure("points one by one", "metric points stored, each step a record", "4 points in a record", None),
        figure("lines one by one", "log lines stored, each a record", "1 line in a record", None),
    ]
    if not rates["mlflow"]:
        missing = f"MLflow {MLFLOW} could not be installed: the ratio is left out"
        return [*figures, Figure("metric points, times MLflow", 0, "×", None, missing)]
    ratio = median(rates["points"]) / median(rates["mlflow"])
    single = median(rates["points one by one"]) / median(rates["mlflow"])
    details = f"MLflow {MLFLOW}, SQLite, log_batch of 1,000: {median(rates['mlflow']):,.0f} points/s; each step a record: {single:.1f} ×"
    return [
        *figures,
        Figure("metric points, times MLflow", ratio, "×", None, details, {"rates": rates["mlflow"]}, TIMES_MLFLOW),
    ]


def _job(name: str) -> int:
    """A job of somebody's machine, at work."""
    owner = accounts.sign_up(f"{name.replace(' ', '-')}@example.com", name.replace(" ", "-"), "correct horse battery")
    key, _ = api_keys.create(owner, "desk", "agent")
    agent = agents.enrol(key.user_id, key.id, hello(f"machine {name}"), session="session")
    order = Order(
        "ingest",
        "language",
        "yard-tiny",
        {"agent": agent.id},
        {"method": "lora"},
        local_path="/home/alice/models/rows.jsonl",
    )
    job = training_jobs.create(owner, order)
    assert training_jobs.claim(job.id, 1, f"agent {agent.id}") is not None
    release()
    return job.id


def _rate(job: int, stream: str, shape: Callable[[int], Items], calls: int) -> float:
    """Lines or points a second. What is sent is made before; what was stored is counted after."""
    batches = [shape(number) for number in range(calls)]
    first = 1
    began = time.perf_counter()
    for items in batches:
        training_jobs.record(job, 1, stream, first, items)
        release()  # as the socket does after every message
        first += len(items)
    seconds = time.perf_counter() - began
    query = select(func.count()).where(TrainingEvent.job_id == job, TrainingEvent.stream == stream)
    assert db.session.scalar(query) == first - 1
    return AT_ONCE * calls / seconds


def _gathered_points(call: int) -> Items:
    return [_points(call * 250 + 1 + start, 25) for start in range(0, 250, 25)]


def _single_points(call: int) -> Items:
    return [_points(call * 250 + 1 + start, 1) for start in range(250)]


def _points(first: int, count: int) -> dict[str, Any]:
    steps = list(range(first, first + count))
    return {"steps": steps, "values": {name: [n + 1 / step for step in steps] for n, name in enumerate(NAMES)}}


def _gathered_lines(call: int) -> Items:
    return [_lines(call * AT_ONCE + start, 25) for start in range(0, AT_ONCE, 25)]


def _single_lines(call: int) -> Items:
    return [_lines(call * AT_ONCE + start, 1) for start in range(AT_ONCE)]


def _lines(first: int, count: int) -> dict[str, Any]:
    return {"text": "".join(LINE.format(number) for number in range(first, first + count))}


# --- MLflow, in an environment of its own --------------------------------------------------------------------------------


def _mlflow(scratch: Path, database: Path) -> subprocess.Popen[str] | None:
    """A program that logs to MLflow when it is told to; None when MLflow cannot be installed."""
    environment = scratch / f"mlflow-{MLFLOW}"
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"mlflow=={MLFLOW}"]
    for command in ([sys.executable, "-m", "venv", str(environment)], install):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
    process = subprocess.Popen(
        [str(python), str(MLFLOW_PROGRAM), str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
    )  # fmt: skip
    assert process.stdout is not None
    return process if process.stdout.readline().strip() == "ready" else None


def _mlflow_rate(process: subprocess.Popen[str], calls: int) -> float:
    """Points a second of so many calls of log_batch."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{calls}\n")
    process.stdin.flush()
    told = json.loads(process.stdout.readline())
    assert told["points"] == AT_ONCE * calls, told
    return float(told["points"] / told["seconds"])
