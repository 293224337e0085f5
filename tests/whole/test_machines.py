"""Machines of members: killed and started again, with a revoked key, without torch, with files that stay at home."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.running import AgentProcess, Member, Refused, until
from tests.whole.conftest import PARAMETERS, STEPS, Scene, write_rows
from tests.whole.reported import assert_no_hole

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]

MARKER = "heliotrope-kestrel-7731"


def test_an_agent_that_was_killed_takes_its_training_up_again(scene: Scene, undisturbed_curve: list[list[Any]]) -> None:
    job = scene.train("agent", "killed-agent")
    scene.alice.wait_for_step(job, 3)
    training = scene.training_process("agent", job)
    training.suspend()  # otherwise a fast machine is done before the next agent is there
    scene.agent.kill()
    assert training.is_running()
    scene.agent.start()
    scene.agent.wait_online(scene.alice)
    training.resume()
    done = scene.alice.wait_for_status(job, "completed")
    assert done["attempt"] == 1 and "is taken up again" in scene.agent.said
    assert scene.alice.curve(job) == undisturbed_curve
    assert_no_hole(scene.alice, job, list(range(1, STEPS + 1)))
    until(lambda: not scene.agent.jobs_at_work(), 30, "nothing of the job is left")


def test_an_agent_whose_key_is_revoked_is_let_go_at_once_and_says_so(scene: Scene, tmp_path: Path) -> None:
    key = scene.alice.new_key("lent")
    with AgentProcess(scene.yard, key["key"], tmp_path, "lent") as agent:
        agent.wait_online(scene.alice)
        assert scene.alice.ask("DELETE", f"/api/keys/{key['id']}").status == 204
        until(lambda: scene.alice.agent_named("lent")["status"] == "offline", 5, "the connection has ended")  # type: ignore[index]
        until(lambda: "revoked" in agent.said, 10, "the agent says why")
        agent.leave()
        agent.start()
        assert until(lambda: agent.said.count("revoked") > 1, 15, "a new start says it as well")


def test_a_python_without_packages_connects_and_names_what_is_missing(scene: Scene, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60)
    key = scene.alice.new_key("bare")["key"]
    with AgentProcess(scene.yard, key, tmp_path, "bare", str(tmp_path / "bare" / "bin" / "python")) as agent:
        machine = agent.wait_online(scene.alice)
        assert machine["ready"] is False and "torch" in machine["missing"] and "pip install" in machine["advice"]
        assert machine["machine"]["torch"] is None and machine["status"] == "online"
        with pytest.raises(Refused) as refused:
            scene.alice.new_job("impossible", {"agent": machine["id"]}, PARAMETERS, scene.dataset)
        assert refused.value.status == 409 and "torch" in refused.value.error["message"]
        assert all(job["name"] != "impossible" for job in scene.alice.get("/api/training-jobs"))


def test_a_file_on_the_machine_is_trained_on_and_its_content_stays_there(scene: Scene) -> None:
    file = write_rows(scene.agent.root / "private.jsonl", more=f" {MARKER}")
    with open(file, "a") as rows:
        rows.write(f'{{"prompt": "{MARKER}", broken\n')  # a bad row must not be quoted either
    job = scene.alice.new_job("private", {"agent": scene.machine}, {**PARAMETERS, "max_steps": 4}, local_path=str(file))
    scene.alice.wait_for_status(job, "completed")
    assert len(scene.alice.curve(job)) == 4 and scene.alice.artifacts(job)
    assert "Line 61 is left out" in scene.alice.log(job)
    assert _files_with(scene.yard.var_dir, MARKER) == []
    for path in ("", "/logs", "/metrics", "/artifacts"):
        assert MARKER.encode() not in scene.alice.ask("GET", f"/api/training-jobs/{job}{path}").body
    page = scene.alice.ask("GET", f"/training-jobs/{job}", headers={"Accept": "text/html"})
    assert page.status == 200 and MARKER.encode() not in page.body


def _files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_path_outside_the_allowed_folder_is_refused_before_anything_is_made(scene: Scene) -> None:
    before = len(scene.alice.get("/api/training-jobs?limit=200"))
    for path in ("/etc/passwd", f"{scene.agent.root}/../secret.jsonl", "rows.jsonl"):
        with pytest.raises(Refused) as refused:
            scene.alice.new_job("outside", {"agent": scene.machine}, PARAMETERS, local_path=path)
        assert refused.value.status == 422 and "local_path" in refused.value.error["fields"]
    assert len(scene.alice.get("/api/training-jobs?limit=200")) == before


def test_a_link_that_leads_out_of_the_allowed_folder_is_refused_by_the_machine(scene: Scene, tmp_path: Path) -> None:
    outside = write_rows(tmp_path / "outside.jsonl")
    link = scene.agent.root / "link.jsonl"
    link.symlink_to(outside)
    job = scene.alice.new_job("link", {"agent": scene.machine}, PARAMETERS, local_path=str(link))
    failed = scene.alice.wait_for_status(job, "failed")
    assert failed["error"]["cause"] == "data" and "outside" in failed["error"]["message"]
    assert failed["error"]["advice"] and scene.alice.curve(job) == []


def test_what_a_machine_says_about_itself_is_told_to_its_owner_alone(scene: Scene) -> None:
    machine = scene.alice.agent_named(scene.agent.name)
    assert machine is not None and machine["ready"] and machine["missing"] == []
    assert set(machine["machine"]) >= {"os", "python", "torch", "gpus", "memory_bytes", "disk_free_bytes"}
    bob = Member.signed_up(scene.yard.url, "bob")
    assert bob.agents() == []
    with pytest.raises(Refused) as refused:
        bob.new_job("not-mine", {"agent": scene.machine}, PARAMETERS, scene.dataset)
    assert refused.value.status == 404
    assert json.dumps(scene.alice.agents()).find(scene.agent.key) == -1
