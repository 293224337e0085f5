"""Stop, resume and cancel, on the server and on a member's machine."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from tests.running import Refused, until
from tests.whole.conftest import PLACES, STEPS, Scene
from tests.whole.reported import assert_no_hole, receipt_adds_up, told

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]


@pytest.mark.parametrize("place", PLACES)
def test_a_stopped_training_resumes_and_ends_on_the_curve_of_one_that_was_left_alone(
    scene: Scene, undisturbed_curve: list[list[Any]], place: str
) -> None:
    job = scene.train(place, f"stopped-{place}")
    scene.alice.wait_for_step(job, 3)
    scene.training_process(place, job).suspend()  # on a fast machine it would be done before the order arrives
    try:
        assert scene.alice.order(job, "stop")["status"] == "training"
    finally:
        scene.training_process(place, job).resume()
    paused = scene.alice.wait_for_status(job, "paused")
    assert 3 <= paused["step"] < STEPS and paused["error"] is None and paused["can"]["resume"]
    assert scene.alice.curve(job) == undisturbed_curve[: paused["step"]]
    scene.alice.order(job, "resume")
    done = scene.alice.wait_for_status(job, "completed", seconds=180)
    assert done["attempt"] == 2 and scene.alice.curve(job) == undisturbed_curve
    assert_no_hole(scene.alice, job, list(range(1, STEPS + 1)))
    (resumed,) = [e.data for e in told(scene.alice, job) if e.name == "checkpoint" and e.data.get("resumed")]
    assert (resumed["step"], resumed["verdict"], resumed["differences"]) == (paused["step"], "exact", [])
    receipt_adds_up(scene.alice, job)


@pytest.mark.parametrize("place", PLACES)
def test_a_cancelled_training_ends_for_good_and_leaves_no_process(scene: Scene, place: str) -> None:
    before = scene.alice.credits()["remaining"]
    job = scene.train(place, f"cancelled-{place}", max_steps=100_000)
    scene.alice.wait_for_step(job, 2)
    training = scene.training_process(place, job)
    assert scene.alice.order(job, "cancel")["status"] == "cancelled"
    until(lambda: _is_gone(training), 30, "the training process is gone")
    if place == "server":
        until(lambda: scene.yard.horse() is None, 30, "its runner is gone")
    else:
        until(lambda: not scene.agent.jobs_at_work(), 30, "the supervisor is gone")
    credits = receipt_adds_up(scene.alice, job)
    assert scene.alice.credits() == {**scene.alice.credits(), "remaining": before - credits["charged"], "held": 0}
    for verb in ("stop", "resume", "retry"):
        with pytest.raises(Refused) as refused:
            scene.alice.order(job, verb)
        assert refused.value.status == 409
    assert scene.alice.order(job, "cancel")["status"] == "cancelled"


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
