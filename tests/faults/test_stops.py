"""Stop, pressed at any moment, and for trainings that do not want to; and orders that come twice."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults import checks
from tests.faults.conftest import Figure
from tests.faults.scene import Scene, Watch, chosen, settled
from tests.running import Refused, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

WORST, TYPICAL = 15.0, 2.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A yard with a worker and a machine."""
    with settled(tmp_path_factory.mktemp("stops"), machines=1, workers=1) as found:
        found.alice.wait_for_status(found.order("server", max_steps=5), "completed")
        yield found
        checks.at_rest(found)


@pytest.mark.parametrize("place", ["server", pytest.param("agent", marks=pytest.mark.faults_quick)])
def test_row_23_a_stop_at_any_moment_ends_in_one_state_without_a_process(
    scene: Scene, figure: Figure, place: str
) -> None:
    dice, took = random.Random(23), []
    for number in range(chosen(8, 150)):
        # Three in four fall into the start, where most of the races are.
        moment = dice.uniform(0, 1.5) if number % 4 else dice.uniform(0, chosen(4, 30))
        job = scene.order("server" if place == "server" else scene.desk, f"stop-{number}", max_steps=1_000_000, lines=1)
        time.sleep(moment)
        watch = Watch()
        scene.alice.order(job, "stop")
        scene.alice.wait_for_status(job, "paused", "cancelled", seconds=30)
        checks.nothing_runs(scene)
        took.append(watch.seconds)
        checks.every_line_once(scene, job, scene.counted("server" if place == "server" else scene.desk, job))
        scene.alice.order(job, "cancel")
        checks.one_end(scene, job, "cancelled")
    figure(f"row 23, {place}: {len(took)} stops, {statistics.median(took):.1f} s typically (limit 2 s), "
           f"{max(took):.1f} s at the worst (limit 15 s), until no process was left")  # fmt: skip
    assert max(took) <= WORST and statistics.median(took) < TYPICAL


@pytest.mark.parametrize("trouble", ["deaf", "brood"])
def test_row_24_a_training_that_ignores_the_stop_is_ended_with_all_it_started(
    scene: Scene, figure: Figure, trouble: str
) -> None:
    job = scene.order(scene.desk, max_steps=1_000_000, lines=1, trouble=trouble, at=2)
    scene.alice.wait_for_step(job, 5)
    if trouble == "brood":
        until(lambda: len(scene.desk.agent.jobs_at_work()) >= 50, 20, "the fifty children are there")
    watch = Watch()
    scene.alice.order(job, "stop")
    scene.alice.wait_for_status(job, "paused", seconds=30)
    took = watch.seconds
    checks.nothing_runs(scene, seconds=1)
    assert took <= WORST
    said = scene.alice.log(job)
    if trouble == "brood":
        assert "(Processes that the training had left behind were ended: 50.)" in said, said[-500:]
    figure(
        f"row 24, {trouble}: all dead {took:.1f} s after the stop (limit 15 s); the page says: {said.splitlines()[-1]}"
    )
    scene.alice.order(job, "cancel")


@pytest.mark.faults_quick
def test_row_21_two_browsers_and_a_double_press_make_one_job_and_one_charge(scene: Scene, figure: Figure) -> None:
    before = scene.alice.credits()["remaining"]
    body = {"name": "twice", "recipe": "counting", "base_model": "yard-tiny", "place": "server",
            "parameters": {"max_steps": 5}, "dataset_id": scene.dataset}  # fmt: skip

    def press(_number: int) -> Any:
        return scene.alice.ask("POST", "/api/training-jobs", body, {"Idempotency-Key": "the-same-press"})

    answers = _at_once(press, 6)
    made = {answer.json["id"] for answer in answers if answer.status in (200, 201)}
    assert len(made) == 1 and all(answer.status in (200, 201, 409) for answer in answers), answers
    (job,) = made
    _at_once(lambda _number: _told(lambda: scene.alice.order(job, "cancel")), 4)
    until(lambda: scene.alice.job(job)["status"] in ("cancelled", "completed"), 20, "it is at an end")
    checks.nothing_runs(scene)
    jobs = scene.rows("SELECT count(*) FROM training_jobs WHERE name = 'twice'")
    charged = scene.alice.job(job)["credits"]["charged"]
    assert jobs[0][0] == 1 and scene.alice.credits()["remaining"] == before - charged
    checks.ledger_adds_up(scene)
    figure(f"row 21: 6 presses of Start at once made one job, 4 of Cancel one end, {charged} credits charged")


def _told(act: Any) -> Any:
    try:
        return act()
    except Refused as refusal:
        return refusal


def _at_once(act: Any, times: int) -> list[Any]:
    answers: list[Any] = [None] * times
    barrier = threading.Barrier(times)

    def run(number: int) -> None:
        barrier.wait()
        answers[number] = act(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
