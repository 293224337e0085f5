"""Parts of the yard are killed while trainings run: nothing is lost, nothing is stored twice."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from agent.spool import SpoolReader
from tests.running import until
from tests.whole.conftest import PARAMETERS, PLACES, STEPS, Scene
from tests.whole.reported import assert_no_hole, receipt_adds_up, steps_of, told

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]

SECONDS_AWAY = 5.0
LONGER = 150


def test_trainings_go_on_while_the_web_is_killed_and_nothing_is_missing_afterwards(own_scene: Scene) -> None:
    scene = own_scene
    jobs = {place: scene.train(place, f"outage-{place}", max_steps=LONGER) for place in PLACES}
    for job in jobs.values():
        scene.alice.wait_for_step(job, 3)
    with scene.yard.without_web():
        at_first = {place: scene.logged_steps(place, job) for place, job in jobs.items()}
        time.sleep(SECONDS_AWAY)
        for place, job in jobs.items():
            enough = min(LONGER, at_first[place] + 2)
            until(lambda place=place, job=job, enough=enough: scene.logged_steps(place, job) >= enough, 60,  # type: ignore[misc]
                  f"the training on the {place} goes on without the web")  # fmt: skip
        spooled = _spooled_log(scene, jobs["agent"])
    for job in jobs.values():
        scene.alice.wait_for_status(job, "completed", seconds=180)
        assert scene.alice.job(job)["attempt"] == 1
        assert_no_hole(scene.alice, job, list(range(1, LONGER + 1)))
    assert scene.alice.curve(jobs["server"]) == scene.alice.curve(jobs["agent"])
    assert scene.alice.log(jobs["agent"]).startswith(spooled) and spooled
    folder = scene.job_folder("server", jobs["server"]) / "attempts" / "1" / "spool"
    assert scene.alice.log(jobs["server"]) == _text(SpoolReader(folder))
    receipt_adds_up(scene.alice, jobs["server"])


def _spooled_log(scene: Scene, job: int) -> str:
    return _text(SpoolReader(scene.agent.job_folder(job) / "attempts" / "1" / "spool"))


def _text(reader: SpoolReader) -> str:
    _, items = reader.read("log", 0, 1 << 24, 1_000_000)
    return "".join(item["text"] for item in items)


@pytest.fixture(scope="module")
def quiet_curve(own_scene: Scene) -> list[list[Any]]:
    """The loss of PARAMETERS on this yard when nothing comes between."""
    job = own_scene.train("server", "quiet")
    own_scene.alice.wait_for_status(job, "completed", seconds=180)
    return own_scene.alice.curve(job)


def test_a_training_process_that_is_killed_is_tried_again_and_its_minutes_are_given_back(
    own_scene: Scene, quiet_curve: list[list[Any]]
) -> None:
    scene = own_scene
    before = scene.alice.credits()["remaining"]
    job = scene.train("server", "killed-child")
    scene.alice.wait_for_step(job, 3)
    scene.training_process("server", job).kill()
    _is_tried_again(scene, job, before, quiet_curve)


def test_a_runner_that_is_killed_takes_its_training_along_and_is_tried_again(
    own_scene: Scene, quiet_curve: list[list[Any]]
) -> None:
    scene = own_scene
    before = scene.alice.credits()["remaining"]
    job = scene.train("server", "killed-runner")
    scene.alice.wait_for_step(job, 3)
    training, runner = scene.training_process("server", job), scene.yard.horse()
    assert runner is not None
    runner.kill()
    until(lambda: not training.is_running() or training.status() == "zombie", 10, "the training died with its runner")
    with scene.database() as database:  # the lease would run out after 90 s
        database.execute(
            "UPDATE attempts SET lease_until = '2020-01-01 00:00:00.000000' WHERE job_id = ? AND number = 1", (job,)
        )
    _is_tried_again(scene, job, before, quiet_curve)


def test_a_runner_that_is_killed_before_it_has_taken_its_job_is_not_waited_for(own_scene: Scene) -> None:
    scene = own_scene
    scene.alice.wait_for_status(scene.train("server", "before", max_steps=4), "completed", seconds=180)
    job = scene.train("server", "killed-early", max_steps=4)
    until(scene.yard.horse, 30, "there is a runner", 0.005).kill()
    with scene.database() as database:  # a queued job counts as lost some time after it was pushed
        database.execute(
            "UPDATE training_jobs SET dispatched_at = '2020-01-01 00:00:00.000000' WHERE id = ? AND state = 'queued'",
            (job,),
        )
        database.execute("UPDATE attempts SET lease_until = '2020-01-01 00:00:00.000000' WHERE job_id = ?", (job,))
    scene.alice.wait_for_status(job, "completed", seconds=120)
    receipt_adds_up(scene.alice, job)


def _is_tried_again(scene: Scene, job: int, before: int, curve: list[list[Any]]) -> None:
    done = scene.alice.wait_for_status(job, "completed", seconds=180)
    first, second = done["debugData"]["attempts"]
    assert (first["outcome"], first["cause"], second["outcome"]) == ("failed", "platform", "completed")
    steps = steps_of(told(scene.alice, job))
    begun = steps.index(1, 1)  # without a checkpoint the second attempt begins at the beginning
    assert steps[:begun] == list(range(1, begun + 1)) and steps[begun:] == list(range(1, STEPS + 1))
    assert scene.alice.curve(job) == curve
    credits = receipt_adds_up(scene.alice, job)
    assert credits["refunded"] == first["minutes_charged"] >= 1
    assert credits["charged"] - credits["refunded"] == second["minutes_charged"]
    assert scene.alice.credits()["remaining"] == before - second["minutes_charged"]


def test_a_queue_that_was_emptied_is_filled_again_from_the_table(own_scene: Scene) -> None:
    scene = own_scene
    first = scene.train("server", "at-work", max_steps=100_000)
    scene.alice.wait_for_step(first, 2)
    second = scene.train("server", "waiting", max_steps=4)
    queue = redis.Redis(unix_socket_path=str(scene.yard.var_dir / "redis" / "redis.sock"))
    until(lambda: queue.exists(f"rq:job:job-{second}-1"), 10, "the second job is in the queue")
    queue.flushall()
    scene.alice.order(first, "stop")
    assert scene.alice.wait_for_status(first, "paused")["step"] >= 2
    assert scene.alice.job(second)["status"] == "queued"
    with scene.database() as database:  # a job counts as lost a minute after it was pushed
        database.execute(
            "UPDATE training_jobs SET dispatched_at = '2020-01-01 00:00:00.000000' WHERE id = ?", (second,)
        )
    scene.alice.wait_for_status(second, "completed", seconds=120)
    assert_no_hole(scene.alice, second, list(range(1, 5)))
    scene.alice.order(first, "cancel")


def test_redis_may_die_in_the_middle_of_a_training(own_scene: Scene, quiet_curve: list[list[Any]]) -> None:
    scene = own_scene
    job = scene.train("server", "redis-killed", **PARAMETERS)
    scene.alice.wait_for_step(job, 3)
    scene.yard.redis().kill()
    scene.alice.wait_for_status(job, "completed", seconds=180)
    assert scene.alice.curve(job) == quiet_curve
    assert_no_hole(scene.alice, job, list(range(1, STEPS + 1)))
    later = scene.train("server", "after-redis", max_steps=4)
    scene.alice.wait_for_status(later, "completed", seconds=180)


def test_a_worker_that_is_killed_leaves_its_runner_at_work_and_is_started_again(
    own_scene: Scene, quiet_curve: list[list[Any]]
) -> None:
    scene = own_scene
    job = scene.train("server", "worker-killed")
    scene.alice.wait_for_step(job, 3)
    scene.yard.worker().kill()
    done = scene.alice.wait_for_status(job, "completed", seconds=180)
    assert done["attempt"] == 1 and scene.alice.curve(job) == quiet_curve
    assert_no_hole(scene.alice, job, list(range(1, STEPS + 1)))
    later = scene.train("server", "after-worker", max_steps=4)
    scene.alice.wait_for_status(later, "completed", seconds=180)


def test_the_runner_of_a_killed_worker_ends_with_the_yard_and_saves_a_checkpoint(own_scene: Scene) -> None:
    scene = own_scene
    job = scene.train("server", "orphan", max_steps=100_000)
    scene.alice.wait_for_step(job, 3)
    horse = scene.yard.horse()
    assert horse is not None
    scene.yard.worker().kill()
    until(lambda: horse.ppid() == scene.yard.parent().pid, 10, "the runner is the yard's own")
    scene.alice.wait_for_step(job, scene.alice.job(job)["step"] + 2)
    assert scene.yard.stop() == 0  # no process is left
    scene.yard.start()
    again = until(
        lambda: (told := scene.alice.job(job))["attempt"] == 2 and told["step"] > 3 and told, 60, "it goes on"
    )
    (first, _) = again["debugData"]["attempts"]
    assert (first["outcome"], first["cause"]) == ("stopped", "preempted")
    scene.alice.order(job, "cancel")
