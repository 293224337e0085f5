"""The whole agent in real processes against a server that misbehaves: nothing is lost, nothing is left alive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.machine import Machine as Looked
from agent.daemon.options import Options
from agent.hours import parsed
from agent.protocol import encode
from agent.runner import processes
from agent.scripts.terms import Terms
from agent.settings import Timings
from agent.spool import SpoolReader
from agent.workspace import Workspace
from tests.agent import pretend_recipe
from tests.agent.fake_server import KEY, FakeServer


class Machine:
    """A member's machine: a home, a folder of data, and agents started in it."""

    def __init__(self, folder: Path, site: FakeServer) -> None:
        self.site = site
        self.home = folder / "home"
        self.models = folder / "models"
        for one in (self.home, self.models):
            one.mkdir()
        self.environment = pretend_recipe.environment(folder, HOME=str(self.home))
        self.output = folder / "agent.out"
        self.agents: list[subprocess.Popen[bytes]] = []

    def start(self, *more: str, roots: bool = True) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "agent", "--api-key", KEY, "--server-url", self.site.url, "--name", "desk"]
        command += ["--root", str(self.models)] if roots else []
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                [*command, *more], env=self.environment, stdout=output, stderr=output, cwd=self.home
            )
        self.agents.append(process)
        return process

    def connected(self, *more: str) -> subprocess.Popen[bytes]:
        seen = len(self.site.hellos)
        process = self.start(*more)
        self.site.wait_for(lambda: len(self.site.hellos) > seen)
        return process

    def training(self, steps: int = 1000, **offer: Any) -> subprocess.Popen[bytes]:
        """An agent whose first job has come so far that a few of its steps are stored."""
        agent = self.connected()
        self.site.offer(parameters={"steps": steps, "seconds": 0.02}, **offer)
        self.site.wait_for(trains(self.site))
        return agent

    def kill(self, agent: subprocess.Popen[bytes]) -> None:
        agent.kill()
        agent.wait()

    def said(self) -> str:
        return self.output.read_text("utf-8", "replace")

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.home, self.site.url)

    def processes(self, job: int = 1, attempt: int = 1) -> dict[str, int]:
        folder = self.workspace.attempt(job, attempt)
        noted = {name: folder.process(name) for name in ("supervisor", "child")}
        return {name: found["pid"] for name, found in noted.items() if found is not None}

    def tidy(self) -> None:
        """End what a test left running, and fail when something outlives its job."""
        for agent in self.agents:
            if agent.poll() is None:
                self.kill(agent)
        for folder in self.workspace.attempts():
            folder.end_processes()


@pytest.fixture
def machine(tmp_path: Path, site: FakeServer) -> Iterator[Machine]:
    one = Machine(tmp_path, site)
    yield one
    one.tidy()


def trains(site: FakeServer, steps: int = 3) -> Callable[[], bool]:
    """Whether the first job has come so far that this many of its steps are stored."""
    return lambda: len(site.attempt().steps()) >= steps


def is_alive(pid: int) -> bool:
    return processes.fingerprint(pid) is not None


def test_a_job_from_offer_to_delivery(machine: Machine, site: FakeServer) -> None:
    machine.connected()
    site.offer(parameters={"steps": 10})
    stored = site.attempt()
    site.wait_for(lambda: stored.final)
    assert stored.final is not None and stored.final["outcome"] == "completed"
    assert stored.log_lines() == [f"line {number}" for number in range(1, 11)]
    assert stored.steps() == list(range(1, 11))
    assert stored.artifacts == ["merged/config.json", "model.safetensors"]
    hello = site.hellos[0]
    assert set(hello["machine"]) >= {"os", "python", "torch", "gpus", "memory_bytes", "disk_free_bytes", "roots"}
    assert hello["machine"]["roots"] == [str(machine.models)]
    folder = machine.workspace.attempt(1, 1)
    site.wait_for(lambda: folder.is_closed and not folder.spool.exists())
    site.wait_for(lambda: not (folder.path / "child.json").exists())
    assert not (folder.path / "task.json").exists()
    assert (folder.job_folder / "output" / "model.safetensors").exists()
    assert not (folder.job_folder / "data").exists()
    assert not folder.is_supervised()


def test_what_the_agent_keeps_is_its_owners_alone_and_no_process_shows_a_key(
    machine: Machine, site: FakeServer
) -> None:
    machine.training(steps=500)
    files = [path for path in machine.workspace.path.rglob("*") if path.name in ("agent.json", "task.json")]
    assert len(files) == 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert machine.workspace.path.stat().st_mode & 0o777 == 0o700
    for pid in machine.processes().values():
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert KEY.encode() not in shown and b"tj_1_1_token" not in shown
    site.order("cancel")
    site.end()


def test_a_stop_is_obeyed_and_the_job_can_be_resumed(machine: Machine, site: FakeServer) -> None:
    data = site.dataset(b"one\n")
    machine.training(steps=400, data=data)
    site.order("stop")
    site.wait_for(lambda: site.attempt().stop_acks == ["stop"])
    final = site.end()
    assert final["outcome"] == "stopped"
    stopped_at = site.attempt().steps()[-1]
    site.offer(attempt=2, parameters={"steps": 400, "seconds": 0.02}, data=data)
    again = site.attempt(1, 2)
    site.wait_for(lambda: again.steps())
    assert again.steps()[0] == stopped_at + 1
    site.order("cancel", attempt=2)
    assert site.wait_for(lambda: again.final)["outcome"] == "cancelled"


def test_an_order_that_comes_after_the_end_is_answered_and_not_said_to_have_ended_it(
    machine: Machine, site: FakeServer
) -> None:
    machine.connected()
    site.acknowledges = False  # so the agent still holds what has ended
    site.offer(parameters={"steps": 1})
    folder = machine.workspace.attempt(1, 1)
    site.wait_for(lambda: (folder.spool / "final.json").exists())
    site.order("cancel")
    site.wait_for(lambda: site.attempt().stop_acks == ["cancel"])
    site.release_acknowledgements()
    assert site.end()["outcome"] == "completed"
    assert "ordered" not in machine.said()


def test_a_stop_while_the_data_is_still_coming(machine: Machine, site: FakeServer) -> None:
    machine.connected()
    site.broken = "/"
    site.offer(parameters={"steps": 5})
    site.wait_for(lambda: len(site.requests) >= 2)
    site.order("stop")
    assert site.end()["outcome"] == "stopped"
    assert "child" not in machine.processes()


def test_a_stop_while_the_result_is_being_uploaded(machine: Machine, site: FakeServer) -> None:
    machine.connected()
    site.broken = "/api/uploads"
    site.offer(parameters={"steps": 3})
    site.wait_for(lambda: any(request == "POST /api/uploads" for request in site.requests))
    site.order("stop")
    assert site.end()["outcome"] == "stopped"
    assert site.attempt().artifacts is None


def test_a_stop_given_while_the_machine_was_away_is_done_when_it_returns(machine: Machine, site: FakeServer) -> None:
    machine.training()
    site.stop()
    site.order("stop")
    time.sleep(0.3)
    site.start()
    assert site.end()["outcome"] == "stopped"


def test_the_server_is_away_and_the_window_full_and_no_line_is_lost(machine: Machine, site: FakeServer) -> None:
    site.window = {"window_bytes": 60_000, "window_records": 5}
    machine.connected()
    site.offer(parameters={"steps": 150, "seconds": 0.01})
    site.wait_for(trains(site))
    site.acknowledges = False
    time.sleep(0.3)
    site.stop()
    time.sleep(0.7)
    site.acknowledges = True
    site.start()
    stored = site.attempt()
    assert site.wait_for(lambda: stored.final)["outcome"] == "completed"
    assert stored.log_lines() == [f"line {number}" for number in range(1, 151)]
    assert stored.steps() == list(range(1, 151))
    assert site.most_flying["records"] <= 5


def test_the_agent_is_killed_and_training_goes_on_and_every_line_arrives(machine: Machine, site: FakeServer) -> None:
    agent = machine.training(steps=250)
    before = machine.processes()
    machine.kill(agent)
    time.sleep(0.4)
    machine.connected()
    assert machine.processes() == before
    stored = site.attempt()
    assert site.wait_for(lambda: stored.final)["outcome"] == "completed"
    assert stored.log_lines() == [f"line {number}" for number in range(1, 251)]
    assert stored.steps() == list(range(1, 251))
    assert stored.accepted == 1
    assert "is taken up again" in machine.said()


def test_a_job_that_ended_while_no_agent_ran_is_told_by_the_next(machine: Machine, site: FakeServer) -> None:
    agent = machine.connected()
    site.offer(parameters={"steps": 20})
    site.wait_for(trains(site, 1))
    machine.kill(agent)
    reader = SpoolReader(machine.workspace.attempt(1, 1).spool)
    site.wait_for(lambda: reader.final)
    machine.connected()
    assert site.end()["outcome"] == "completed"
    assert len(site.attempt().log_lines()) == 20


def test_the_supervisor_is_killed_and_the_agent_says_so(machine: Machine, site: FakeServer) -> None:
    machine.training()
    found = machine.processes()
    os.kill(found["supervisor"], signal.SIGKILL)
    final = site.end()
    assert (final["outcome"], final["cause"]) == ("failed", "member_machine")
    assert "supervisor of this job on the machine was killed" in final["message"]
    assert not is_alive(found["child"])
    steps = site.attempt().steps()
    assert steps == list(range(1, len(steps) + 1))


def test_supervisor_and_agent_are_killed_together(machine: Machine, site: FakeServer) -> None:
    agent = machine.training()
    found = machine.processes()
    machine.kill(agent)
    os.kill(found["supervisor"], signal.SIGKILL)
    machine.connected()
    assert site.end()["cause"] == "member_machine"
    assert not is_alive(found["child"])


def test_the_training_is_killed_and_the_signal_is_named(machine: Machine, site: FakeServer) -> None:
    machine.training()
    os.kill(machine.processes()["child"], signal.SIGKILL)
    final = site.end()
    assert (final["outcome"], final["cause"]) == ("failed", "member_machine")
    assert "signal 9, SIGKILL" in final["message"]


def test_a_supervisor_that_cannot_start_is_reported_with_its_last_words(machine: Machine, site: FakeServer) -> None:
    machine.environment["BREAK_SUPERVISOR"] = "1"
    machine.connected()
    site.offer(parameters={"steps": 1})
    final = site.end()
    assert final["cause"] == "member_machine"
    assert "Its last words: cannot start today" in final["message"]


def test_an_attempt_that_is_fenced_off_is_ended_and_its_folder_kept(machine: Machine, site: FakeServer) -> None:
    machine.training()
    found = machine.processes()
    site.abandoned.add((1, 1))
    folder = machine.workspace.attempt(1, 1)
    site.wait_for(lambda: folder.is_abandoned)
    site.wait_for(lambda: not any(is_alive(pid) for pid in found.values()))
    assert folder.job_folder.exists()


def test_a_welcome_that_says_abandon_ends_what_went_on_meanwhile(machine: Machine, site: FakeServer) -> None:
    agent = machine.training()
    found = machine.processes()
    machine.kill(agent)
    site.abandoned.add((1, 1))
    machine.connected()
    site.wait_for(lambda: not any(is_alive(pid) for pid in found.values()))


def test_the_same_offer_twice_is_one_job(machine: Machine, site: FakeServer) -> None:
    machine.connected()
    site.offer(parameters={"steps": 150, "seconds": 0.02})
    site.wait_for(lambda: site.attempt().accepted == 1)
    before = site.wait_for(lambda: machine.processes() if len(machine.processes()) == 2 else None)
    site.offer(parameters={"steps": 150, "seconds": 0.02})
    site.wait_for(lambda: site.attempt().accepted == 2)
    assert machine.processes() == before
    assert site.end()["outcome"] == "completed"
    assert len(site.attempt().log_lines()) == 150


def test_a_second_job_waits_until_the_first_has_ended(machine: Machine, site: FakeServer) -> None:
    machine.connected()
    site.offer(1, parameters={"steps": 150, "seconds": 0.02})
    site.wait_for(lambda: site.attempt(1).accepted)
    site.offer(2, parameters={"steps": 2})
    time.sleep(0.3)
    assert site.attempt(2).accepted == 0 and site.attempt(2).refused is None
    site.end(1)
    site.offer(2, parameters={"steps": 2})
    assert site.end(2)["outcome"] == "completed"


def test_local_data_is_used_inside_the_roots_and_none_of_it_leaves(machine: Machine, site: FakeServer) -> None:
    (machine.models / "rows.jsonl").write_text("my secret diary\n" * 3)
    machine.connected()
    site.offer(parameters={"steps": 3}, data={"kind": "local", "path": str(machine.models / "rows.jsonl")})
    stored = site.attempt()
    assert site.wait_for(lambda: stored.final)["outcome"] == "completed"
    sent = json.dumps([stored.streams, site.received])
    assert "secret diary" not in sent and "a row of the data" not in sent
    facts = [item for item in stored.streams["event"].values() if item["kind"] == "facts"]
    assert facts[0]["rows"] == 3


@pytest.mark.parametrize("kind", ["outside", "link", "base"])
def test_paths_outside_the_roots_are_refused_with_a_sentence(machine: Machine, site: FakeServer, kind: str) -> None:
    outside = machine.home / "private.jsonl"
    outside.write_text("secret\n")
    (machine.models / "link.jsonl").symlink_to(outside)
    machine.connected()
    if kind == "base":
        site.offer(base_model=f"folder:{machine.home}")
    else:
        path = outside if kind == "outside" else machine.models / "link.jsonl"
        site.offer(data={"kind": "local", "path": str(path)})
    refused = site.refusal()
    assert refused["cause"] == ("base_model" if kind == "base" else "data")
    assert "outside the folders this agent may use (--root …)" in refused["message"]
    assert refused["advice"]


def test_a_recipe_it_does_not_know_is_refused(machine: Machine, site: FakeServer) -> None:
    machine.connected()
    site.offer(recipe="future")
    refused = site.refusal()
    assert "does not know the recipe" in refused["message"]


def test_a_stop_for_a_job_it_never_had_is_answered(machine: Machine, site: FakeServer) -> None:
    machine.connected()
    site.send(encode("job_stop", job=77, attempt=1, mode="stop"))
    site.refusal(77)


def test_another_job_of_the_same_number_does_not_get_the_checkpoints(machine: Machine, site: FakeServer) -> None:
    machine.training()
    site.order("stop")
    site.end()
    site.attempts.clear()  # the server was set up anew and counts from 1 again
    site.orders.clear()
    site.offer(name="another", parameters={"steps": 5})
    assert site.end()["outcome"] == "completed"
    assert site.attempt().steps() == [1, 2, 3, 4, 5]
    kept = [path for path in machine.workspace.jobs.iterdir() if "set-aside" in path.name]
    assert len(kept) == 1 and list((kept[0] / "checkpoints").iterdir())


def test_a_second_agent_in_the_same_home_is_refused(machine: Machine, site: FakeServer) -> None:
    machine.connected()
    second = machine.start()
    assert second.wait(10) == 2
    assert "An agent is running with the folder" in machine.said()


def test_a_machine_keeps_its_identity(machine: Machine, site: FakeServer) -> None:
    agent = machine.connected()
    agent.terminate()
    assert agent.wait(10) == 0
    machine.connected()
    assert site.hellos[0]["agent"] == site.hellos[1]["agent"]
    assert site.hellos[0]["secret"] == site.hellos[1]["secret"]
    assert site.hellos[0]["boot"] != site.hellos[1]["boot"]


def test_ctrl_c_twice_stops_the_job_and_leaves(machine: Machine, site: FakeServer) -> None:
    agent = machine.training()
    agent.send_signal(signal.SIGINT)
    site.wait_for(lambda: "Press Ctrl-C again" in machine.said())
    agent.send_signal(signal.SIGINT)
    assert agent.wait(15) == 0
    assert site.attempt().final is not None and site.attempt().final["outcome"] == "stopped"


def test_the_wrong_key_ends_the_agent_with_code_two(machine: Machine, site: FakeServer) -> None:
    agent = machine.start("--api-key", "ty_wrong")
    assert agent.wait(10) == 2
    assert "make a new one on the Agents page" in machine.said()
    assert "ty_wrong" not in machine.said()


def test_packages_that_are_installed_later_are_noticed_without_a_restart(
    machine: Machine, site: FakeServer, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    machine.environment["PYTHONPATH"] += os.pathsep + str(packages)
    # Without the site's packages except those the agent itself needs.
    import rich
    import websockets

    for module in (rich, websockets):
        (packages / module.__name__).symlink_to(Path(module.__file__).parent)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    command = [bare / "bin" / "python", "-m", "agent", "--api-key", KEY, "--server-url", site.url]
    with machine.output.open("ab") as output:
        agent = subprocess.Popen(command, env=machine.environment, stdout=output, stderr=output, cwd=machine.home)
    machine.agents.append(agent)
    site.wait_for(lambda: site.hellos)
    hello = site.hellos[0]
    assert hello["ready"] is False
    assert hello["missing"] == ["torch", "transformers", "peft", "safetensors", "tokenizers"]
    assert f"{bare / 'bin' / 'python'} -m pip install" in hello["advice"]
    site.offer(parameters={"steps": 2})
    refused = site.refusal()
    assert refused["cause"] == "member_machine" and refused["advice"] == hello["advice"]
    for name, version in {
        "torch": "2.13.0",
        "transformers": "5.1",
        "peft": "0.21",
        "safetensors": "0.8",
        "tokenizers": "0.23",
    }.items():
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    site.wait_for(lambda: any(message.get("ready") for message in site.messages("heartbeat")))
    site.offer(2, parameters={"steps": 2})
    assert site.end(2)["outcome"] == "completed"


@pytest.mark.parametrize(
    ("scripts", "said"), [(True, "Ready for scripts; language training needs torch and peft. "), (False, "Not ready: ")]
)
def test_an_agent_that_lacks_packages_says_what_it_can_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: bool, said: str
) -> None:
    monkeypatch.setattr("agent.hardware.missing", lambda: ["torch", "peft"])
    notes: list[str] = []
    options = Options("ws://localhost:1", KEY, "desk", (tmp_path,), 1, scripts, (), (), parsed([]))
    Looked(options, tmp_path, notes.append).look()
    assert len(notes) == 1 and notes[0].startswith(said) and notes[0].count("pip install") == 1


def test_tasks_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    from agent.protocol import JobSpec
    from agent.workspace import Task

    spec: Any = JobSpec(1, 2, "n", "r", {"a": 1}, {"kind": "local", "path": "/a"}, None, "b", "b", token="t")
    task = Task(spec, "ws://localhost:1", Terms(roots=("/models",)), Timings())
    folder = Workspace(tmp_path, task.server_url).attempt(1, 2)
    folder.write_task(task)
    assert folder.task(Timings()) == task
