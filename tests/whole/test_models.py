"""A model that was trained somewhere else: brought along with the agent's `upload`, and trained on from, on both places."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, clean_environment
from tests.whole.conftest import PARAMETERS, PLACES, Scene

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]


def test_a_model_brought_along_is_trained_on_from(scene: Scene, tmp_path: Path) -> None:
    parameters = {**PARAMETERS, "method": "full", "max_steps": 3}
    first = scene.alice.new_job("parent", "server", parameters, scene.dataset)
    scene.alice.wait_for_status(first, "completed")
    folder = scene.alice.download(first, tmp_path / "brought-along")
    (folder / "optimizer.pt").write_bytes(b"\x80\x02stays at home")
    key = scene.alice.new_key("bring", "full")["key"]
    command = [
        sys.executable,
        "-m",
        "agent",
        "upload",
        str(folder),
        "--api-key",
        key,
        "--server-url",
        scene.yard.socket_url,
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment({"HOME": str(tmp_path)}), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "brought-along, version 1" in done.stdout and "left out: optimizer.pt" in done.stdout
    found = re.search(r"Model (\d+):", done.stdout)
    assert found is not None
    model = scene.alice.get(f"/api/models/{found[1]}")
    assert model["job_id"] is None and model["parameters"] > 1_000_000
    for place in PLACES:
        where = "server" if place == "server" else {"agent": scene.machine}
        job = scene.alice.new_job(f"on-{place}", where, parameters, scene.dataset, base_model=f"model:{found[1]}")
        done_job = scene.alice.wait_for_status(job, "completed")
        assert done_job["step"] == 3
    curves = [
        scene.alice.curve(job["id"]) for job in scene.alice.get("/api/training-jobs") if job["name"].startswith("on-")
    ]
    assert curves[0] == curves[1] and curves[0][0][1] < scene.alice.curve(first)[0][1]
