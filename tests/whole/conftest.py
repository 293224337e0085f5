"""A yard with somebody in it, a data set and an agent: real processes, started once for all tests that do no harm to them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.running import AgentProcess, Member, RunningYard, until

STEPS = 60
PARAMETERS = {"method": "lora", "max_steps": STEPS, "batch_size": 4, "max_length": 128, "seed": 7}
ROWS = 60
PLACES = ("server", "agent")


@dataclass
class Scene:
    """A yard, a member on the largest plan with a data set, and a machine of hers that is online."""

    yard: RunningYard
    alice: Member
    agent: AgentProcess
    machine: int
    dataset: int

    def train(self, place: str, name: str = "sums", **parameters: Any) -> int:
        """Order the training that every test here uses, on `server` or `agent`."""
        where = "server" if place == "server" else {"agent": self.machine}
        return self.alice.new_job(name, where, {**PARAMETERS, **parameters}, self.dataset)

    def job_folder(self, place: str, job: int) -> Path:
        """Where the runner of a job keeps it."""
        return self.yard.var_dir / "jobs" / str(job) if place == "server" else self.agent.job_folder(job)

    def training_process(self, place: str, job: int, attempt: int = 1) -> psutil.Process:
        """The child that trains a running job."""

        def look() -> psutil.Process | None:
            if place == "server":
                return self.yard.child()
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                noted = self.agent.job_folder(job) / "attempts" / str(attempt) / "child.json"
                return psutil.Process(json.loads(noted.read_text())["pid"])
            return None

        return until(look, 30, f"job {job} has a training process")

    def logged_steps(self, place: str, job: int) -> int:
        """How many steps the training has written down itself, whoever hears of it."""
        log = self.job_folder(place, job) / "trainer_log.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    def database(self) -> sqlite3.Connection:
        """The yard's own database file, to look and to turn back a clock in it."""
        return sqlite3.connect(self.yard.var_dir / "trainyard.db", timeout=15)


def write_rows(path: Path, rows: int = ROWS, more: str = "") -> Path:
    """A data set of sums; `more` is said in every answer."""
    lines = [
        json.dumps({"prompt": f"How much is {i} and {i}?", "completion": f"It is {2 * i}{more}."}) for i in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@contextlib.contextmanager
def settled(folder: Path) -> Iterator[Scene]:
    """Start a yard and let alice move in."""
    with RunningYard(folder / "yard") as yard:
        alice = Member.signed_up(yard.url, "alice", "enterprise")
        dataset = alice.new_dataset(write_rows(folder / "sums.jsonl"))["id"]
        with AgentProcess(yard, alice.new_key()["key"], folder / "agent") as agent:
            yield Scene(yard, alice, agent, agent.wait_online(alice)["id"], dataset)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Shared by every test that leaves the yard and the agent as they were."""
    with settled(tmp_path_factory.mktemp("scene")) as found:
        yield found


@pytest.fixture(scope="module")
def own_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A yard of this module alone, for tests that kill parts of it."""
    with settled(tmp_path_factory.mktemp("own-scene")) as found:
        yield found


@dataclass
class Finished:
    """The same training, done on the server and on the agent."""

    jobs: dict[str, int]
    before: dict[str, int]
    after: dict[str, int]


@pytest.fixture(scope="session")
def finished(scene: Scene) -> Finished:
    """The main job: both trainings at the same time, from the order to the end, with the credits before and after."""
    before = scene.alice.credits()
    jobs = {place: scene.train(place, f"main-{place}") for place in PLACES}
    for job in jobs.values():
        scene.alice.wait_for_status(job, "completed", seconds=240)
    return Finished(jobs, before, scene.alice.credits())


@pytest.fixture(scope="session")
def undisturbed_curve(scene: Scene, finished: Finished) -> list[list[Any]]:
    """The loss of PARAMETERS when nothing comes between."""
    return scene.alice.curve(finished.jobs["server"])
