"""A yard under fire: real processes, waits shortened, a recipe that only counts, and a proxy before every machine.

FAULT_FULL=1 gives the lengths of the failure matrix; otherwise leases, heartbeats and faults last a fifth (`scaled`).
The limits within which things must be well again are those of the matrix in both cases.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, text

from tests.proxy import TcpProxy
from tests.running import AgentProcess, Member, RunningYard, until

HERE = Path(__file__).parent
FULL = os.environ.get("FAULT_FULL") == "1"
SCALE = 1.0 if FULL else 0.2
HEARTBEAT, SILENCE, LEASE, GIVE_UP = 15, 45, 90, 72


def scaled(seconds: float) -> float:
    """A length of the failure matrix, as long as it is in this run."""
    return seconds * SCALE


def chosen(short: int, full: int) -> int:
    """A number of times, for this run."""
    return full if FULL else short


SHORTER: dict[str, dict[str, Any]] = {
    "services.training_jobs.attempts": {"LEASE": {"seconds": scaled(LEASE)}},
    "services.agents": {"SILENCE": {"seconds": scaled(SILENCE)}, "RECONNECTS_WITHIN": {"seconds": scaled(10)}},
    "services.agent_sessions": {"HEARTBEAT_SECONDS": scaled(HEARTBEAT)},
    "routes.agents_socket": {"SILENCE_SECONDS": scaled(SILENCE), "PING_SECONDS": scaled(15)},
    "worker": {"RENEW_SECONDS": scaled(5), "GIVE_UP_SECONDS": scaled(GIVE_UP), "LAST_RESORT_SECONDS": scaled(80)},
}
TIMINGS = {"silence": scaled(SILENCE), "heartbeat": scaled(5), "figures": 2.0}


def environment(more: Mapping[str, Any] | None = None, shorter: bool = True) -> dict[str, str]:
    """What the processes of a yard or a machine under fire are told."""
    wanted: dict[str, Any] = {"recipes": str(HERE), **(more or {})}
    if shorter and not FULL:
        wanted |= {"constants": SHORTER, "faster": SCALE}
    told = {"PYTHONPATH": str(HERE / "site"), "FAULTS": json.dumps(wanted), "PYTHONDONTWRITEBYTECODE": "1"}
    return told if FULL or not shorter else {**told, "TRAINYARD_TIMINGS": json.dumps(TIMINGS)}


@dataclass
class Machine:
    """An agent and the wire to it."""

    agent: AgentProcess
    id: int
    wire: TcpProxy


@dataclass
class Scene:
    """A yard, a member on the largest plan with a small data set, and machines of hers."""

    yard: RunningYard
    alice: Member
    folder: Path
    dataset: int
    key: str
    machines: list[Machine] = field(default_factory=list)

    @property
    def desk(self) -> Machine:
        """The first machine."""
        return self.machines[0]

    def order(self, place: str | Machine, name: str = "count", recipe: str = "counting", **parameters: Any) -> int:
        """Order a training on `server` or on a machine; `max_steps` and what `counting` takes."""
        where: Any = place if isinstance(place, str) else {"agent": place.id}
        return self.alice.new_job(name, where, parameters, self.dataset, recipe=recipe)

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """Look into the yard's database."""
        return query(self.yard, statement, **values)

    def folder_of(self, place: str | Machine, job: int) -> Path:
        """Where the runner of a job keeps it."""
        return self.yard.var_dir / "jobs" / str(job) if isinstance(place, str) else place.agent.job_folder(job)

    def noted(self, machine: Machine, job: int, name: str, attempt: int = 1) -> psutil.Process:
        """The `child` or the `supervisor` of a job on a machine."""

        def look() -> psutil.Process | None:
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                path = machine.agent.job_folder(job) / "attempts" / str(attempt) / f"{name}.json"
                return psutil.Process(json.loads(path.read_text())["pid"])
            return None

        return until(look, 30, f"job {job} has a {name}", 0.02)

    def counted(self, place: str | Machine, job: int) -> int:
        """How many steps the training has counted itself, over all attempts, whoever heard of it."""
        return sum(len(read_ticks(path)) for path in self.folder_of(place, job).glob("ticks-*"))

    def new_machine(self, name: str, **more: str) -> Machine:
        """One more machine of hers, connected through a wire of its own."""
        wire = TcpProxy(self.yard.port).__enter__()
        agent = AgentProcess(self.yard, self.key, self.folder / name, name, port=wire.port,
                             environment={**environment(), **more}, options=("--max-jobs", "4"))  # fmt: skip
        agent.start()
        self.machines.append(Machine(agent, agent.wait_online(self.alice)["id"], wire))
        return self.machines[-1]

    def close(self) -> None:
        """Machines first, then the wires."""
        for machine in self.machines:
            machine.agent.close()
            machine.wire.__exit__()


def query(yard: RunningYard, statement: str, **values: Any) -> list[Any]:
    """Rows of a yard's database, whichever it is; what JSON the columns hold is not taken apart."""
    url = yard.settings.get("DATABASE_URL") or f"sqlite:///{yard.var_dir / 'trainyard.db'}"
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []
    finally:
        engine.dispose()


def read_ticks(path: Path) -> list[float]:
    """When a training counted, by the machine's monotonic clock; a line that is half written is left out."""
    return [float(line) for line in path.read_text().split("\n")[:-1]]


@contextlib.contextmanager
def settled(
    folder: Path, machines: int = 1, workers: int = 0, shorter: bool = True, **settings: str
) -> Iterator[Scene]:
    """Start a yard and let alice move in with her machines; whatever is left at the end is ended."""
    faults = environment(json.loads(settings.pop("FAULTS", "{}")), shorter)
    told = {name: value for name, value in faults.items() if not name.startswith("TRAINYARD")}
    with RunningYard(folder / "yard", WORKERS=str(workers), **told, **settings) as yard:
        alice = Member.signed_up(yard.url, "alice", "enterprise")
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps({"prompt": f"{n}?", "completion": f"{n}."}) + "\n" for n in range(20)))
        dataset = alice.new_dataset(rows)["id"]
        scene = Scene(yard, alice, folder, dataset, alice.new_key()["key"])
        try:
            for number in range(machines):
                scene.new_machine(f"desk-{number + 1}")
            yield scene
        finally:
            scene.close()


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began
