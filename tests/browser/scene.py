"""A yard with something in it: what pages look like to a member who has worked here for a while.

Everything is made through the same verbs as in life, the months before included (past.py); only the reports of the trainings
are written instead of trained.
"""

from __future__ import annotations

import base64
import io
import json
import math
import random
import struct
import zipfile
import zlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from agent import demo_data
from models.accounts import User
from models.base import db, now, transaction
from models.training_jobs import Attempt, TrainingJob
from services import (
    accounts,
    agents,
    api_keys,
    clock,
    datasets,
    model_versions,
    payments,
    price_list,
    training_jobs,
    uploads,
    workers,
)
from services.gateways import gateways
from services.gateways.storage import sha256_of
from services.model_versions import NewFile
from services.training_jobs import Final, Order, events
from tests.browser import past
from tests.factories import hello

PASSWORD = "correct horse battery"
EMAIL = "alice@example.com"
NEWCOMER = "bob@example.com"
ADMIN = "olga@example.com"
WALLS = (
    ("files", "mount namespace, read-only"), ("network", "network namespace without a network"),
    ("processes", "process namespace"), ("kernel", "seccomp, 70 system calls"), ("environment", "cleared"),
    ("devices", "its own /dev"), ("memory", "control group v2: memory, pids"), ("landlock", "ABI 7"),
)  # fmt: skip


@dataclass
class Scene:
    """The ids that pages are opened with."""

    dataset: int
    running: int
    completed: int
    failed: int
    paused: int
    away: int
    script: int
    uploaded: int
    model: int
    unmapped: str
    payer: int
    suspended: int
    refundable: int
    buyer: int
    archived_plan: int


def build(folder: Path) -> Scene:
    """Fill the database of the present application."""
    past.live_through(PASSWORD, owner="alice")
    alice = _named("alice")
    accounts.sign_up(NEWCOMER, "bob", PASSWORD)
    code = _dataset(alice, folder)
    workstation, laptop = _machine(alice, "workstation", True), _machine(alice, "laptop", False)
    completed = _job(alice, code, "describe-to-code", 300)
    model = _finish(completed, folder)
    failed = _job(alice, code, "too-long-rows", 40)
    message = "The loss stopped being a number at step 41, on the rows that begin in lines 812, 64, 1,203. The checkpoint of step 40 is kept."
    training_jobs.end(
        failed.id, 1, Final("failed", "data", message, "Lower the learning rate (it was 0.05), or look at these rows.")
    )
    paused = _job(alice, code, "evening-run", 120)
    training_jobs.stop(alice, paused.id)
    training_jobs.end(paused.id, 1, Final("stopped"))
    away = _job(alice, code, "at-home", 80, agent=laptop)
    running = _job(alice, code, "describe-to-code-long", 180, agent=workstation)
    script, uploaded = _script(alice, workstation), _uploaded_script(alice)
    for _ in range(2):
        training_jobs.create(alice, _order(code, "next-in-line"))
    with transaction():
        there, gone = agents.get_for(alice, workstation), agents.get_for(alice, laptop)
        there.last_seen_at = now() + timedelta(hours=1)  # nobody keeps it alive while the pages are looked at
        gone.session, gone.last_seen_at = None, now() - timedelta(minutes=12)
        db.session.get_one(TrainingJob, away.id).disconnected_since = gone.last_seen_at
    api_keys.create(alice, "notebook", "full")
    upload = uploads.receive(alice, "maths.jsonl", io.BytesIO(_questions()))
    tick()
    pack = next(one for one in payments.payments_of(alice.id) if one.kind == "pack")
    archived = next(plan for plan in price_list.all_plans() if plan.archived_at)
    return Scene(
        code, running.id, completed.id, failed.id, paused.id, away.id, script, uploaded, model, upload.id, _named("carol").id,
        _named("mallory").id, pack.id, alice.id, archived.id,
    )  # fmt: skip


def tick() -> None:
    """Let every entry of the schedule run once: nobody else winds the clock of this yard."""
    for entry in clock.SCHEDULE:
        clock.force(entry.name)


def _named(name: str) -> User:
    return db.session.scalars(db.select(User).where(User.username == name)).one()


def _dataset(owner: User, folder: Path) -> int:
    path = folder / "descriptions.jsonl"
    demo_data.build(path, rows=600)
    broken = path.read_bytes().splitlines()
    broken[41] = broken[41][:60]
    content = b"\n".join(broken)
    upload = uploads.receive(owner, "descriptions.jsonl", io.BytesIO(content))
    version = datasets.create(owner, upload, "standard-library", "code_generation", None)
    questions = uploads.receive(owner, "maths.jsonl", io.BytesIO(_questions()))
    datasets.create(owner, questions, "maths", "conversation", {"prompt": "question", "completion": "answer"})
    return version.dataset_id


def worker_is_there() -> None:
    """A worker of the server says what it keeps a script from; it counts as there for two minutes."""
    held = [
        {"name": name, "holds": True, "how": how, "detail": "Tried from inside, and refused."} for name, how in WALLS
    ]
    watched = {"name": "disk", "holds": True, "how": "watched", "detail": "The work folder is measured once a second."}
    told = {"lane": 2, "lane_name": "bwrap+seccomp+landlock+cgroup", "walls": [*held, watched], "todo": [],
            "facts": {"kernel": "6.1.0", "machine": "x86_64"}}  # fmt: skip
    workers.report("worker-1", "yard", 1, "cpu", told)


def _uploaded_script(owner: User) -> int:
    """A script with settings of its own, and a worker that may run it."""
    worker_is_there()
    manifest = (
        '[parameters.size]\ntype = "choice"\nchoices = ["small", "large"]\ndefault = "small"\nlabel = "Size"\n'
        '[parameters.lr]\ntype = "float"\ndefault = 0.001\nmaximum = 1.0\nlabel = "Learning rate"\n'
        '[parameters.amp]\ntype = "flag"\nlabel = "Half precision"\nexplanation = "Faster where the device has it."\n'
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in {
            "train.py": "print('loss: 1')",
            "model.py": "",
            "data/words.txt": "words",
            "yard.toml": manifest,
        }.items():
            archive.writestr(f"tiny-gpt/{name}", text)
    upload = uploads.receive(owner, "tiny-gpt.zip", io.BytesIO(packed.getvalue()))
    return datasets.create(owner, upload, "tiny-gpt", "script", None).dataset_id


def _questions() -> bytes:
    rows = [{"question": f"How much is {n} times {n}?", "answer": f"{n} times {n} is {n * n}."} for n in range(2, 90)]
    return "\n".join(json.dumps(row) for row in rows).encode()


def _machine(owner: User, name: str, ready: bool) -> int:
    key, _ = api_keys.create(owner, name, "agent")
    machine = {
        "os": "Debian GNU/Linux 12 (x86_64)", "python": "3.11.7", "torch": "2.13.0" if ready else None,
        "gpus": [{"name": "NVIDIA GeForce RTX 4090", "memory_bytes": 25_757_220_864}] if ready else [],
        "memory_bytes": 67_300_000_000, "disk_free_bytes": 412_000_000_000, "roots": [f"/home/{owner.username}/models"],
        "scripts": ready,
    }  # fmt: skip
    advice = (
        None
        if ready
        else 'Install it with: python -m pip install "torch==2.13.*" "transformers>=5,<6" peft safetensors tokenizers'
    )
    told = hello(
        name, name=name, machine=machine, ready=ready, missing=[] if ready else ["torch", "transformers"], advice=advice
    )
    return agents.enrol(key.user_id, key.id, told, session=f"session of {name}").id


def _order(dataset: int, name: str, agent: int | None = None) -> Order:
    return Order(
        name=name, recipe="language", base_model="yard-tiny", place={"agent": agent} if agent else "server",
        parameters={"method": "full", "max_steps": 300}, dataset_id=dataset,
        description="From a description to a function, with the standard library's own words.",
    )  # fmt: skip


def _job(owner: User, dataset: int, name: str, steps: int, agent: int | None = None) -> TrainingJob:
    """A job that has reported so many of 300 steps."""
    ready = None
    if agent is not None:
        ready = agents.get_for(owner, agent).ready
        with transaction():
            agents.get_for(owner, agent).ready = True
    job = training_jobs.create(owner, _order(dataset, name, agent))
    if agent is not None:
        with transaction():
            agents.get_for(owner, agent).ready = bool(ready)
    training_jobs.claim(job.id, 1, "worker")
    dice = random.Random(job.id)
    log = "4,000 rows make 3,920 training examples; 80 rows are held out to measure on.\n2,542,848 parameters are trained on the CPU.\n"
    training_jobs.record(job.id, 1, "event", 1, _events())
    values: dict[str, list[float | None]] = {
        "loss": [],
        "learning_rate": [],
        "grad_norm": [],
        "tokens_per_second": [],
        "eval_loss": [],
    }
    for step in range(1, steps + 1):
        loss = 1.9 + 3.7 * math.exp(-step / 45) + dice.gauss(0, 0.07)
        values["loss"].append(round(loss, 4))
        values["learning_rate"].append(0.002 * (1 - step / 400))
        values["grad_norm"].append(abs(dice.gauss(1, 0.2)))
        values["tokens_per_second"].append(dice.gauss(5200, 200))
        values["eval_loss"].append(round(loss + 0.12, 4) if step % 30 == 0 else None)
        if step % 10 == 0:
            log += f"Step {step} of 300: loss {loss:.4f}, 5,2{step % 90:02d} tokens/s.\n"
    training_jobs.record(job.id, 1, "log", 1, [{"text": log}])
    training_jobs.record(job.id, 1, "metrics", 1, [{"steps": list(range(1, steps + 1)), "values": values}])
    with transaction():
        db.session.get_one(TrainingJob, job.id).steps_per_second = 2.4
    return db.session.get_one(TrainingJob, job.id)


def _events() -> list[dict[str, object]]:
    example = [["<|begin|>user\nReturn the absolute value of the argument.<|end|>assistant\n", False],
               ["def fabs(x):\n    return x if x >= 0 else -x<|end|>", True]]  # fmt: skip
    return [
        {"kind": "stage", "stage": "prepare", "message": "Reading the data."},
        {"kind": "facts", "rows": 600, "total_parameters": 2_542_848, "trainable_parameters": 2_542_848, "example": example,
         "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "device": "CPU", "dtype": "float32"},
        {"kind": "stage", "stage": "train", "total_steps": 300, "message": "Training."},
        *_readings(),
    ]  # fmt: skip


def _readings() -> list[dict[str, object]]:
    """Twelve minutes of the figures of a machine with a graphics card."""
    dice = random.Random(7)
    return [
        {
            "kind": "system", "seconds": 5.0 * i, "processes": 5, "memory_bytes": 812_000_000 + 9_000_000 * min(i, 40),
            "cpu_percent": round(dice.gauss(180, 20), 1) if i else None, "cpu_temperature": round(48 + min(i, 30) / 2 + dice.random(), 1),
            "disk_free_bytes": 412_000_000_000 - 4_000_000 * i, "disk_read_per_second": round(abs(dice.gauss(2e6, 1e6))) if i else None,
            "disk_written_per_second": (90_000_000 if i % 36 == 35 else round(abs(dice.gauss(30_000, 20_000)))) if i else None,
            "network_received_per_second": round(abs(dice.gauss(9_000, 4_000))) if i else None,
            "network_sent_per_second": round(abs(dice.gauss(26_000, 9_000))) if i else None,
            "gpus": [{"name": "NVIDIA GeForce RTX 4090", "memory_bytes": 6_400_000_000 + 60_000_000 * min(i, 20),
                      "memory_total_bytes": 25_757_220_864, "percent": round(min(100, max(0, dice.gauss(93, 3)))),
                      "temperature": round(52 + min(i, 40) / 2 + dice.random()), "watts": round(dice.gauss(318, 12), 1)}],
        }
        for i in range(144)
    ]  # fmt: skip


def _script(owner: User, agent: int) -> int:
    """A script of somebody's own that has reported curves, how they were read, and samples."""
    job = training_jobs.create(
        owner,
        Order(
            name="mnist-script", recipe="script", base_model="none", place={"agent": agent},
            local_path=f"/home/{owner.username}/models/mnist", parameters={"entry": "train.py", "arguments": ["--epochs", "3"]},
        ),
    )  # fmt: skip
    training_jobs.claim(job.id, 1, "worker")
    with transaction():  # its readings and its curve took twelve minutes
        db.session.query(Attempt).filter_by(job_id=job.id).one().started_at = now() - timedelta(minutes=12)
    facts = {
        "kind": "facts", "command": ["python", "train.py", "--epochs", "3", "--lr", "0.001"], "interpreter": "Python 3.11.7",
        "environment": ["HF_TOKEN"], "outputs_wanted": ["out/*.safetensors"], "python": "3.11.7",
        "curves": [
            {"rule": "epochs", "label": "Lines such as: Epoch 3/10 loss=0.42 acc=0.91", "names": ["train_loss", "val_loss", "acc"],
             "example": "Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.300415", "points": 480},
            {"rule": "pairs", "label": "Lines such as: loss: 0.5 | lr: 1e-3", "names": ["lr"], "example": "lr: 0.001 | best: 3", "points": 160},
        ],
    }  # fmt: skip
    begun = {"kind": "stage", "stage": "train", "total_steps": 240, "message": "Training."}
    training_jobs.record(job.id, 1, "event", 1, [begun, facts, *_readings()])
    steps = list(range(1, 161))
    values: dict[str, list[float | None]] = {
        "train_loss": [round(0.05 + 2.2 * math.exp(-step / 30), 4) for step in steps],
        "val_loss": [round(0.08 + 2.2 * math.exp(-step / 30), 4) if step % 20 == 0 else None for step in steps],
        "acc": [round(1 - 0.9 * math.exp(-step / 35), 4) for step in steps],
        "lr": [0.001 * (1 - step / 300) for step in steps],
    }
    training_jobs.record(job.id, 1, "metrics", 1, [{"steps": steps, "values": values}])
    log = "".join(f"Train Epoch: {step // 60 + 1}\tLoss: {values['train_loss'][step - 1]}\n" for step in steps[::10])
    training_jobs.record(job.id, 1, "log", 1, [{"text": log}])
    training_jobs.record(job.id, 1, "samples", 1, _samples())
    with transaction():
        db.session.get_one(TrainingJob, job.id).steps_per_second = 2.4
    return job.id


def _samples() -> list[dict[str, object]]:
    pictures = [
        {"name": f"digits-{step}.png", "step": step, "type": "png", "data": base64.b64encode(picture(step)).decode()}
        for step in (40, 80, 120, 160)
    ]
    text = {
        "name": "answers-100.txt", "step": 100, "type": "text",
        "text": "What is drawn here?\n  a seven (0.94), a one (0.04)\n  a four (0.71), a nine (0.28)\n",
    }  # fmt: skip
    return [{**sample, "piece": 0, "pieces": 1, "bytes": 900} for sample in (*pictures[:2], text, *pictures[2:])]


def picture(step: int, side: int = 96) -> bytes:
    """A PNG (RFC 2083) of rings that become sharper with the steps, as a generative training shows them."""
    rows = b"".join(
        b"\0" + bytes(
            round(127 + 127 * math.tanh(step / 40 * math.sin(math.hypot(x - side / 2, y - side / 2) / (2 + step / 40))))
            for x in range(side)
        )
        for y in range(side)
    )  # fmt: skip

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _finish(job: TrainingJob, folder: Path) -> int:
    files = []
    for name, size in (
        ("model.safetensors", 10_171_392),
        ("config.json", 812),
        ("tokenizer.json", 7_440),
        ("README.md", 1_900),
    ):
        path = folder / name
        path.write_bytes(b"\0" * size)
        files.append(NewFile(name, path, size, sha256_of(path)))
    with model_versions.kept(files) as kept, transaction():
        version = model_versions.publish(db.session.get_one(TrainingJob, job.id), kept)
    training_jobs.end(job.id, 1, Final("completed", log_sha256=events.log_hash(job.id, 1)))
    assert gateways().storage.path(version.files[0].storage_key).exists()
    return version.id
