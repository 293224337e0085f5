"""The main job: the same training on the server and on a member's machine, from the order to the loaded model."""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.spool import SpoolReader
from tests.running import ROOT
from tests.whole.conftest import PARAMETERS, PLACES, STEPS, Finished, Scene
from tests.whole.reported import assert_no_hole, receipt_adds_up, told

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=PLACES)
def downloaded(
    request: pytest.FixtureRequest, scene: Scene, finished: Finished, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Everything a job has made, in a folder."""
    place: str = request.param
    return scene.alice.download(finished.jobs[place], tmp_path_factory.mktemp(place))


def test_both_places_give_the_same_curve_number_by_number_and_the_loss_falls(scene: Scene, finished: Finished) -> None:
    server, agent = (scene.alice.curve(finished.jobs[place]) for place in PLACES)
    assert server == agent
    assert [step for step, _ in server] == list(range(1, STEPS + 1))
    assert server[-1][1] < server[0][1] / 2
    for name in ("learning_rate", "grad_norm"):
        assert scene.alice.curve(finished.jobs["server"], name) == scene.alice.curve(finished.jobs["agent"], name)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_told_about_a_finished_job_fits_together(scene: Scene, finished: Finished, place: str) -> None:
    job = finished.jobs[place]
    now = scene.alice.job(job)
    assert (now["status"], now["stage"], now["progress"], now["attempt"]) == ("completed", "done", 100, 1)
    assert now["step"] == now["total_steps"] == STEPS and now["error"] is None and now["eta_seconds"] is None
    assert now["loss"] == scene.alice.curve(job)[-1][1]
    assert now["place"] == ("server" if place == "server" else {"agent": scene.machine, "name": scene.agent.name})
    assert {**PARAMETERS, "epochs": None}.items() <= now["debugData"]["resolved_parameters"].items()
    assert "torch" in now["debugData"]["versions"] and now["model_version_id"] is not None
    assert_no_hole(scene.alice, job, list(range(1, STEPS + 1)))
    stages = [event.data["stage"] for event in told(scene.alice, job) if event.name == "stage"]
    assert list(dict.fromkeys(stages)) == ["prepare", "train", "upload", "done"]
    assert f"Done: {STEPS} steps" in scene.alice.log(job)


def test_the_log_of_the_server_is_the_spool_of_its_runner(scene: Scene, finished: Finished) -> None:
    job = finished.jobs["server"]
    spool = SpoolReader(scene.job_folder("server", job) / "attempts" / "1" / "spool")
    _, items = spool.read("log", 0, 1 << 24, 1_000_000)
    assert "".join(item["text"] for item in items) == scene.alice.log(job)
    assert spool.final is not None and spool.final["outcome"] == "completed"


def test_a_stream_that_was_lost_goes_on_after_the_last_event_it_had(scene: Scene, finished: Finished) -> None:
    events = told(scene.alice, finished.jobs["agent"])
    middle = events[len(events) // 2].number
    later = [
        event for event in scene.alice.events(finished.jobs["agent"], middle) if event.name not in ("status", "end")
    ]
    kept = [event for event in events if event.number > middle and event.name not in ("status", "end")]
    assert [(e.name, e.number, e.data) for e in later] == [(e.name, e.number, e.data) for e in kept]


@pytest.mark.parametrize("place", PLACES)
def test_artifacts_are_what_their_hashes_say(scene: Scene, finished: Finished, place: str, tmp_path: Path) -> None:
    listed = scene.alice.artifacts(finished.jobs[place])
    names = {artifact["name"] for artifact in listed}
    assert names >= {
        "adapter_model.safetensors", "adapter_config.json", "merged/model.safetensors", "merged/config.json", "tokenizer.json",
        "chat_template.jinja", "README.md", "trainer_log.jsonl", "training_args.json",
    }  # fmt: skip
    folder = scene.alice.download(finished.jobs[place], tmp_path)
    for artifact in listed:
        content = (folder / artifact["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (artifact["bytes"], artifact["sha256"]), artifact[
            "name"
        ]


def test_both_places_make_the_same_weights(scene: Scene, finished: Finished) -> None:
    hashes = []
    for place in PLACES:
        artifacts = {artifact["name"]: artifact["sha256"] for artifact in scene.alice.artifacts(finished.jobs[place])}
        hashes.append({name: value for name, value in artifacts.items() if name.endswith(".safetensors")})
    assert hashes[0] == hashes[1] and len(hashes[0]) == 2


def test_the_merged_model_loads_in_plain_transformers_and_writes(downloaded: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(downloaded / "merged")
    model = AutoModelForCausalLM.from_pretrained(downloaded / "merged")
    assert len(_written(model, tokenizer)) > 0


def test_the_adapter_loads_in_plain_peft_on_its_base_and_writes_the_same(downloaded: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from agent.training import yard_tiny

    tokenizer = AutoTokenizer.from_pretrained(downloaded)
    adapted = PeftModel.from_pretrained(yard_tiny.model(), downloaded)
    merged = AutoModelForCausalLM.from_pretrained(downloaded / "merged")
    assert _written(adapted, tokenizer) == _written(merged, tokenizer)


def test_full_training_gives_one_model_that_loads_and_writes(scene: Scene, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = scene.train("server", "full", method="full", max_steps=4)
    scene.alice.wait_for_status(job, "completed", seconds=180)
    folder = scene.alice.download(job, tmp_path)
    assert not (folder / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert len(_written(model, AutoTokenizer.from_pretrained(folder))) > 0


def _written(model: Any, tokenizer: Any) -> list[int]:
    question = [{"role": "user", "content": "How much is 21 and 21?"}]
    given = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**given, max_new_tokens=8, do_sample=False)
    return list(answer[0, given["input_ids"].shape[1] :].tolist())


def test_the_server_job_costs_its_minutes_and_the_agent_job_nothing(scene: Scene, finished: Finished) -> None:
    server, agent = (receipt_adds_up(scene.alice, finished.jobs[place]) for place in PLACES)
    assert 1 <= server["charged"] <= server["at_most"] and server["refunded"] == 0
    assert (agent["quoted"], agent["charged"]) == (0, 0)
    assert finished.before["remaining"] - finished.after["remaining"] == server["charged"]
    assert finished.after["held"] == finished.before["held"] == 0
    with scene.alice.open("GET", f"/training-jobs/{finished.jobs['server']}", headers={"Accept": "text/html"}) as page:
        receipt = page.read().decode().partition('id="receipt-title"')[2].partition("</section>")[0]
    numbers = [int(number) for number in re.findall(r'<td class="number">(\d+)</td>', receipt.partition("<tfoot>")[0])]
    total = re.search(r'<td class="number">(\d+)</td>', receipt.partition("<tfoot>")[2])
    assert sum(numbers[1::2]) == server["charged"] and total is not None and int(total.group(1)) == server["charged"]


def test_the_time_told_for_the_phases_is_a_time(scene: Scene, finished: Finished) -> None:
    timings = scene.alice.job(finished.jobs["server"])["debugData"]["timings"]
    assert all(math.isfinite(seconds) and seconds >= 0 for seconds in timings.values())
    assert timings["whole"] >= timings["training"]


def test_the_ledger_of_the_yard_is_in_order(scene: Scene, finished: Finished) -> None:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "credits-reconcile"]
    done = subprocess.run(
        command, cwd=ROOT, env=scene.yard.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
