"""status and stop, the hours and the farewell: what another program of the machine asks of a running agent."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent import daemon, protocol
from agent.__main__ import main
from agent.daemon import farewell
from agent.daemon.machine import Machine
from agent.daemon.options import Options
from agent.hours import parsed
from agent.protocol import encode
from agent.running import NAME, Announcement, running
from tests.agent.fake_server import FakeServer
from tests.agent.test_daemon import Machine as Desk
from tests.agent.test_daemon import is_alive, trains


@pytest.fixture
def desk(tmp_path: Path, site: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A machine; the verbs that this test process runs look into its home."""
    one = Desk(tmp_path, site)
    monkeypatch.setenv("HOME", str(one.home))
    yield one
    one.tidy()


@pytest.fixture
def status(desk: Desk, capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    """What `status --format json` prints, with its exit code."""

    def ask() -> dict[str, Any]:
        capsys.readouterr()
        code = main(["status", "--format", "json"])
        return {**json.loads(capsys.readouterr().out), "code": code}

    return ask


def test_without_an_agent_status_says_so(
    status: Callable[[], dict[str, Any]], desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status() == {"running": False, "folder": str(desk.home / ".trainyard"), "jobs": [], "code": 1}
    assert main(["status"]) == 1
    assert "No agent is running" in capsys.readouterr().out
    assert not (desk.home / ".trainyard").exists()  # a question leaves nothing behind


def test_status_tells_the_connection_and_how_far_jobs_are(
    desk: Desk, site: FakeServer, status: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    agent = desk.training()
    site.wait_for(lambda: status()["jobs"] and status()["jobs"][0]["step"] >= 2)
    found = status()
    assert (found["code"], found["running"], found["pid"], found["state"]) == (0, True, agent.pid, "connected")
    assert found["name"] == "desk" and found["server_url"] == site.url and found["hours"] is None
    (job,) = found["jobs"]
    assert (job["job"], job["attempt"], job["state"], job["stage"], job["total_steps"]) == (
        1,
        1,
        "running",
        "train",
        1000,
    )
    assert job["percent"] == 100 * job["step"] // 1000
    assert main(["status"]) == 0
    assert re.search(r"Job 1 \(job 1\), attempt 1: train, step \d+ of 1,000, \d+ %", capsys.readouterr().out)


def test_status_tells_that_the_server_is_away(
    desk: Desk, site: FakeServer, status: Callable[[], dict[str, Any]]
) -> None:
    desk.connected()
    site.stop()
    site.wait_for(lambda: status()["state"] == "waiting" and "Not connected" in status()["sentence"])


def test_status_finds_jobs_whose_agent_was_killed(
    desk: Desk, site: FakeServer, status: Callable[[], dict[str, Any]]
) -> None:
    agent = desk.training()
    desk.kill(agent)
    found = status()
    assert (found["code"], found["running"]) == (1, False)
    assert [(job["job"], job["state"], job["name"]) for job in found["jobs"]] == [(1, "running", "job 1")]
    os.kill(desk.processes()["supervisor"], signal.SIGKILL)
    site.wait_for(lambda: status()["jobs"][0]["state"] == "interrupted")


def test_a_file_left_by_a_killed_agent_means_nothing(tmp_path: Path) -> None:
    announcement = Announcement(tmp_path)
    announcement.write(state="connected")
    told = json.loads((tmp_path / NAME).read_text())
    assert running(tmp_path) is not None and (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    (tmp_path / NAME).write_text(json.dumps({**told, "known_as": "another process of this number"}))
    assert running(tmp_path) is None
    for text in ("", "[]", "{}", '{"pid": "x"}'):
        (tmp_path / NAME).write_text(text)
        assert running(tmp_path) is None
    announcement.remove()
    announcement.remove()


def test_stop_lets_the_agent_leave_and_the_job_train_on(
    desk: Desk, site: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = desk.training()
    before = desk.processes()
    assert main(["stop"]) == 0
    assert "The agent has left; job 1 will train on" in capsys.readouterr().out
    assert agent.wait(1) == 0 and all(is_alive(pid) for pid in before.values())
    assert running(desk.home / ".trainyard") is None
    desk.connected()
    steps = len(site.attempt().steps())
    site.wait_for(trains(site, steps + 3))
    assert desk.processes() == before


def test_stop_with_jobs_saves_them_first_and_tells_the_server(
    desk: Desk, site: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = desk.training()
    assert main(["stop", "--jobs"]) == 0
    assert "The agent has left. No job is running." in capsys.readouterr().out
    assert agent.wait(1) == 0
    final = site.attempt().final
    assert final is not None and final["outcome"] == "stopped"


def test_stop_with_jobs_reaches_jobs_without_an_agent(
    desk: Desk, site: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = desk.training()
    desk.kill(agent)
    pids = desk.processes()
    assert main(["stop", "--jobs"]) == 0
    assert "Job 1: stopped." in capsys.readouterr().out
    assert not any(is_alive(pid) for pid in pids.values())
    desk.connected()
    assert site.end()["outcome"] == "stopped"


def test_stop_without_anything_to_stop_is_no_fault(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["stop"]), main(["stop", "--jobs"])) == (0, 0)
    said = capsys.readouterr().out
    assert "No agent is running" in said and "No job is running." in said


def test_outside_its_hours_a_machine_takes_no_job_and_lets_one_train_on(desk: Desk, site: FakeServer) -> None:
    desk.training(steps=400)
    site_hours = datetime.now() + timedelta(hours=2)
    closed = f"{site_hours:%H}:00-{site_hours + timedelta(hours=1):%H}:00"
    desk.kill(desk.agents[0])
    desk.connected("--hours", closed, "--max-jobs", "5")
    hello = site.hellos[-1]
    assert hello["machine"]["hours"] == {"windows": [closed], "open": False, "opens_at": closed[:5]}
    site.offer(job=2)
    steps = len(site.attempt().steps())
    site.wait_for(trains(site, steps + 5))
    assert site.attempt(2).accepted == 0 and site.attempt(2).refused is None
    assert desk.workspace.attempt(2, 1).path.exists() is False


def test_when_a_window_opens_the_server_is_told_by_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wall(datetime):
        shown = datetime(2026, 11, 21, 19, 59)

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return cls.shown

    monkeypatch.setattr("agent.daemon.machine.datetime", Wall)
    options = Options("ws://localhost:1", "ty_x", "desk", (), hours=parsed(["20:00-08:00"]))
    machine = Machine(options, tmp_path, lambda _said: None)
    machine.look()
    assert machine.description()["machine"]["hours"]["open"] is False
    machine.look()
    assert not machine.is_news()
    Wall.shown = datetime(2026, 11, 21, 20, 0)
    machine.look()
    assert machine.is_news()
    assert machine.description()["machine"]["hours"] == {"windows": ["20:00-08:00"], "open": True, "opens_at": None}


def test_inside_its_hours_a_machine_takes_jobs(desk: Desk, site: FakeServer) -> None:
    desk.connected("--hours", "00:00-12:00", "--hours", "12:00-24:00")
    site.offer(parameters={"steps": 3})
    assert site.end()["outcome"] == "completed"


def test_a_third_ctrl_c_leaves_at_once_and_the_job_still_saves(desk: Desk, site: FakeServer) -> None:
    agent = desk.training()
    site.acknowledges = False  # the end is never confirmed, so without the third press it would wait
    for said in ("Press Ctrl-C again", "Press Ctrl-C once more"):
        agent.send_signal(signal.SIGINT)
        site.wait_for(lambda said=said: said in desk.said())
    agent.send_signal(signal.SIGINT)
    assert agent.wait(10) == 0
    site.acknowledges = True
    desk.connected()
    assert site.end()["outcome"] == "stopped"


def test_stop_waits_for_no_server_that_refuses_the_key(desk: Desk, site: FakeServer) -> None:
    agent = desk.training()
    site.refuse_with = 401
    site.close_sockets(protocol.CLOSE_REVOKED, "the key was revoked")
    site.wait_for(lambda: "This key was revoked" in desk.said())
    begun = time.monotonic()
    assert main(["stop", "--jobs"]) == 0
    assert agent.wait(1) == 0 and time.monotonic() - begun < farewell.LONGEST_FAREWELL / 3


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(farewell.time, "monotonic", lambda: self.now)


def test_the_first_stop_fixes_the_latest_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, orders = Clock(monkeypatch), []

    class Job:
        job, is_running = 1, True

        class folder:  # noqa: N801 - stands in for the attempt's folder
            give_order = staticmethod(orders.append)

    leaving = daemon.Farewell(lambda: [Job()], lambda: True, lambda _said: None)  # type: ignore[list-item]
    assert not leaving.is_under_way
    leaving.interrupt()
    assert leaving.is_under_way and leaving._leave_at == clock.now + farewell.SECOND_PRESS
    leaving.interrupt()
    fixed = leaving._leave_at
    clock.now += 60
    leaving.stop_jobs()
    assert leaving._leave_at == fixed == 1000.0 + farewell.LONGEST_FAREWELL and orders == ["stop"]
    leaving.interrupt()
    assert leaving._leaving.is_set()


def test_a_server_for_other_versions_is_told_apart_with_its_command(desk: Desk, site: FakeServer) -> None:
    agent = desk.connected()
    command = "curl -fO https://yard.example/train_agent.py"
    site.send(
        encode("error", code="too_new", message=f"It is newer than this server. Take its own: {command}", of="hello")
    )
    assert agent.wait(10) == 2
    assert "This agent is version" in desk.said() and command in desk.said()


def test_a_deploy_is_waited_out_and_the_job_goes_on(desk: Desk, site: FakeServer) -> None:
    desk.training()
    before, handshakes = desk.processes(), site.handshakes
    site.send(encode("bye", reason="restart", retry_after=1.5))
    site.close_sockets(1012, "the server restarts")
    site.wait_for(lambda: not site._links)
    assert site.handshakes == handshakes  # it stays away for as long as it was told
    site.wait_for(lambda: site.handshakes == handshakes + 1)
    steps = len(site.attempt().steps())
    site.wait_for(trains(site, steps + 3))
    assert desk.processes() == before and site.attempt().doubled == 0
