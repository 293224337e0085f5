"""Things that tests need to be there: data, plans, jobs, machines. Made through the same verbs as everybody's."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import event

from models.accounts import User
from models.agents import Agent
from models.base import db
from models.datasets import DatasetVersion
from models.training_jobs import TrainingJob
from services import agents, api_keys, datasets, price_list, subscriptions, training_jobs, uploads
from services.training_jobs import Order


def plan_id(name: str) -> int:
    return next(plan.id for plan in price_list.plans() if plan.name == name)


def on_plan(user: User, name: str) -> User:
    """Put somebody on a plan, as an admin may."""
    subscriptions.give(user.id, price_list.plan(plan_id(name)), None)
    return user


def rows_file(rows: int = 40) -> bytes:
    """Prompt/completion rows as JSONL."""
    lines = [json.dumps({"prompt": f"How much is {i} and {i}?", "completion": f"It is {2 * i}."}) for i in range(rows)]
    return "\n".join(lines).encode()


def make_dataset(
    owner: User, name: str = "sums", content: bytes | None = None, file: str = "sums.jsonl"
) -> DatasetVersion:
    upload = uploads.receive(owner, file, io.BytesIO(rows_file() if content is None else content))
    return datasets.create(owner, upload, name, "conversation", None)


def order(dataset: DatasetVersion, **given: Any) -> Order:
    values: dict[str, Any] = {
        "name": "first", "recipe": "language", "base_model": "yard-tiny", "place": "server",
        "parameters": {"method": "full", "max_steps": 10}, "dataset_id": dataset.dataset_id,
    }  # fmt: skip
    return Order(**{**values, **given})


def make_server_job(owner: User, **given: Any) -> TrainingJob:
    """A server job of somebody on a paid plan, with its data."""
    if not subscriptions.limit(owner, "server_jobs"):
        on_plan(owner, "basic")
    return training_jobs.create(owner, order(make_dataset(owner), **given))


def hello(machine_id: str = "machine-1", **given: Any) -> dict[str, Any]:
    values = {
        "type": "hello", "protocol": 1, "version": "0.1.0", "agent": machine_id, "secret": f"secret of {machine_id}",
        "boot": "boot-1", "name": "workstation", "ready": True, "missing": [], "advice": None, "jobs": [],
        "machine": {"os": "Linux", "python": "3.11.7", "torch": "2.13.0", "gpus": [], "memory_bytes": 8 * 10**9,
                    "disk_free_bytes": 10**11, "roots": ["/home/alice/models"], "scripts": False},
    }  # fmt: skip
    return {**values, **given}


def make_agent(owner: User, machine_id: str = "machine-1") -> Agent:
    """A connected machine."""
    key, _ = api_keys.create(owner, f"key of {machine_id}", "agent")
    return agents.enrol(key.user_id, key.id, hello(machine_id), session=f"session of {machine_id}")


def make_agent_job(owner: User, **given: Any) -> TrainingJob:
    agent = make_agent(owner)
    return training_jobs.create(owner, order(make_dataset(owner), place={"agent": agent.id}, **given))


def steps(first: int, last: int, loss: float = 2.0) -> dict[str, Any]:
    """A metrics record of steps first..last."""
    numbers = list(range(first, last + 1))
    return {"steps": numbers, "values": {"loss": [loss / number for number in numbers]}}


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    asked = list[str]()

    def note(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        asked.append(text)

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
