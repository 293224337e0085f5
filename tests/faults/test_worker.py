"""The server's own trainings under fire: worker, runner and training are killed, frozen and raced."""

from __future__ import annotations

import contextlib
import random
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.faults import checks, counting
from tests.faults.conftest import Figure
from tests.faults.scene import GIVE_UP, LEASE, Scene, Watch, chosen, read_ticks, scaled, settled
from tests.running import lives, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

AGAIN, AGAIN_SHORT = 105, 120  # seconds: a long job, and one of many short ones


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A yard with two workers."""
    with settled(tmp_path_factory.mktemp("worker"), machines=0, workers=2) as found:
        warm = found.order("server", max_steps=5)
        found.alice.wait_for_status(warm, "completed")
        yield found
        checks.at_rest(found)


def test_row_3_a_killed_worker_with_its_runner_is_replaced_in_time_and_never_trains_twice(
    scene: Scene, figure: Figure
) -> None:
    steps = 60
    job = scene.order("server", max_steps=steps, lines=10, pause=0.05)
    scene.alice.wait_for_step(job, 10)
    horse, child = scene.yard.horse(), scene.yard.child()
    assert horse is not None and child is not None
    worker = horse.parent()
    assert worker is not None
    watch = Watch()
    worker.kill()
    horse.kill()
    until(lambda: not lives(child), scaled(GIVE_UP), "the training is dead", 0.02)
    dead = watch.seconds
    until(lambda: scene.alice.job(job)["attempt"] == 2 and scene.alice.job(job)["status"] == "training",
          scaled(AGAIN) + 10, "it trains again")  # fmt: skip
    again = watch.seconds
    scene.alice.wait_for_status(job, "completed")
    spans = checks.never_twice_at_once(scene, "server", job)
    assert len(spans) == 2
    checks.one_end(scene, job, "completed", attempts=2)
    checks.every_line_once(scene, job)
    checks.every_line_once(scene, job, steps * 10, attempt=2)
    checks.made_what_was_counted(scene, job, steps)
    checks.ledger_adds_up(scene)
    assert again <= scaled(LEASE) + 15
    figure(f"row 3: training dead {dead:.2f} s after its runner (limit 72 s), running again after {again:.1f} s with a lease "
           f"of {scaled(LEASE):g} s (limit 105 s with 90 s), {spans[1][0] - spans[0][1]:.1f} s apart")  # fmt: skip


def test_row_3_a_runner_that_is_frozen_leaves_no_training_beside_the_next_attempt(scene: Scene, figure: Figure) -> None:
    job = scene.order("server", max_steps=100_000, lines=1, pause=0.05)
    scene.alice.wait_for_step(job, 10)
    horse, child = scene.yard.horse(), scene.yard.child()
    assert horse is not None and child is not None
    horse.suspend()  # it can neither renew its lease nor end the training
    watch = Watch()
    try:
        until(lambda: not lives(child), scaled(LEASE) + 5, "the training has ended itself", 0.02)
        dead = watch.seconds
        until(lambda: scene.alice.job(job)["attempt"] == 2 and scene.alice.job(job)["step"] > 0, scaled(AGAIN) + 10,
              "the other worker has begun")  # fmt: skip
        again = watch.seconds
        time.sleep(1)
    finally:
        horse.resume()
    scene.alice.order(job, "cancel")
    checks.nothing_runs(scene)
    spans = checks.never_twice_at_once(scene, "server", job)
    figure(f"row 3, frozen runner: its training ended itself after {dead:.1f} s, the next began after {again:.1f} s, "
           f"{spans[1][0] - spans[0][1]:.1f} s apart (lease {scaled(LEASE):g} s)")  # fmt: skip


SCRIPT = """
import os, sys, time
start = int(open(sys.argv[2]).read()) if len(sys.argv) > 1 else 0
for step in range(start + 1, 201):
    print(f"iter {step}: loss {1 / step:.4f}, time 50ms", flush=True)
    with open("ckpt.tmp", "w") as file:
        file.write(str(step))
    os.replace("ckpt.tmp", "ckpt")
    time.sleep(0.05)
"""


def test_a_host_that_restarts_goes_on_with_what_was_at_work_in_the_sandbox_too(scene: Scene, figure: Figure) -> None:
    packed = scene.folder / "script.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("train.py", SCRIPT)
    script = scene.alice.new_dataset(packed, kind="script")["id"]
    counting = scene.order("server", max_steps=200, lines=10, pause=0.05)
    settings = {"outputs": ["ckpt"], "checkpoints": ["ckpt"], "resume": ["--resume", "{checkpoint}"]}
    boxed = scene.alice.new_job("boxed", "server", settings, script, recipe="script")
    for job in (counting, boxed):
        scene.alice.wait_for_step(job, 10)
    groups = set(Path("/sys/fs/cgroup").rglob("trainyard-*"))
    scene.yard.lose_power()
    scene.yard.start()
    watch = Watch()
    for job in (counting, boxed):
        until(lambda: scene.alice.job(job)["attempt"] == 2 and scene.alice.job(job)["status"] == "training",  # noqa: B023
              scaled(AGAIN) + 15, "it trains again")  # fmt: skip
    again = watch.seconds
    for job in (counting, boxed):
        scene.alice.wait_for_status(job, "completed")
        checks.one_end(scene, job, "completed", attempts=2)
    checks.never_twice_at_once(scene, "server", counting)
    checks.every_line_once(scene, counting, 2000, attempt=2)
    steps = [step for step, _ in scene.alice.curve(boxed)]
    lost = 200 - len(steps)
    assert steps == sorted(set(steps)) and steps[-1] == 200 and lost <= 20, (
        steps
    )  # what was in the pipe, a second at most
    assert {"ckpt", "run.json"} <= {file["name"] for file in scene.alice.get(f"/api/training-jobs/{boxed}/artifacts")}
    checks.nothing_runs(scene)
    checks.ledger_adds_up(scene)
    assert not groups & set(Path("/sys/fs/cgroup").rglob("trainyard-*"))
    figure(f"a host restarted in the middle of two trainings: both at work again {again:.1f} s after the yard was up, with a lease "
           f"of {scaled(LEASE):g} s; {lost} of 200 steps of the script were under way and are not in its curve")  # fmt: skip


def test_row_4_jobs_whose_worker_is_killed_around_their_start_and_end_all_run(scene: Scene, figure: Figure) -> None:
    dice, count, watch = random.Random(4), chosen(6, 100), Watch()
    jobs = [scene.order("server", f"short-{number}", max_steps=3, pause=0.01) for number in range(count)]
    killed, last = 0, watch
    while open_ := _open(scene, jobs):
        assert watch.seconds < AGAIN_SHORT + 10 * count, f"{open_} wait for ever"
        horse = scene.yard.horse()
        if horse is None or killed == count:
            time.sleep(0.1)
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = horse.parent()
            assert worker is not None
            time.sleep(dice.uniform(0, 2))  # before the claim, in it, at the end, between two
            worker.kill()
            killed, last = killed + 1, Watch()
            if killed % 2:
                horse.kill()
    settled_after = last.seconds
    for job in jobs:
        told = scene.alice.job(job)
        assert told["status"] == "completed", told["error"]
        checks.never_twice_at_once(scene, "server", job)
        checks.made_what_was_counted(scene, job, 3)
        checks.every_line_once(scene, job, 3, attempt=told["attempt"])
    checks.ledger_adds_up(scene)
    again = _seconds_until_queued_again(scene, jobs)
    figure(f"row 4: {count} jobs all ran, with {killed} workers killed, in {watch.seconds:.0f} s; {len(again)} were begun and "
           f"lost, and queued again {max(again, default=0):.0f} s after that at the worst; nothing left to do "
           f"{settled_after:.0f} s after the last kill (limits 120 s)")  # fmt: skip
    assert max(again, default=0) <= AGAIN_SHORT and settled_after <= AGAIN_SHORT


def _open(scene: Scene, jobs: list[int]) -> list[int]:
    rows = scene.rows("SELECT id FROM training_jobs WHERE state NOT IN ('completed', 'failed')")
    return [job for (job,) in rows if job in jobs]


def _seconds_until_queued_again(scene: Scene, jobs: list[int]) -> list[float]:
    """From the beginning of each attempt that was lost until the next one waited; how long it waits then is the queue's."""
    rows = scene.rows(
        "SELECT lost.job_id, lost.started_at, again.created_at FROM attempts AS lost "
        "JOIN attempts AS again ON again.job_id = lost.job_id AND again.number = lost.number + 1"
    )
    moments = [[datetime.fromisoformat(str(moment)) for moment in row[1:]] for row in rows if row[0] in jobs]
    return [(again - begun).total_seconds() for begun, again in moments]


@pytest.mark.parametrize(("trouble", "words"), [
    ("killed", "signal 9"), ("segfault", "signal 11"), ("torn", "exit code 0"),
])  # fmt: skip
def test_row_5_a_server_training_that_dies_is_tried_again_and_refunded_when_it_stays_so(
    scene: Scene, figure: Figure, trouble: str, words: str
) -> None:
    before = scene.alice.credits()["remaining"]
    job = scene.order("server", max_steps=100, trouble=trouble, at=20)
    until(lambda: scene.alice.job(job)["attempt"] == 2, 60, "it is tried again", 0.05)
    first = min(scene.folder_of("server", job).glob("ticks-*"), key=lambda path: read_ticks(path)[:1])
    took = time.monotonic() - read_ticks(first)[-1]
    failed = scene.alice.wait_for_status(job, "failed", seconds=90)
    attempts = failed["debugData"]["attempts"]
    assert failed["error"]["cause"] == "platform" and words in failed["error"]["message"], failed["error"]
    assert took < 5 and all(words in attempt["message"] for attempt in attempts), attempts
    checks.every_line_once(scene, job, 19)
    if trouble in ("killed", "torn"):
        assert counting.counted(scene.folder_of("server", job) / "checkpoints") == 19
    assert failed["credits"]["charged"] == failed["credits"]["refunded"]
    assert scene.alice.credits()["remaining"] == before and scene.alice.credits()["held"] == 0
    checks.never_twice_at_once(scene, "server", job)
    checks.nothing_runs(scene)
    figure(f"row 5, {trouble} on the server: told {took:.1f} s after the last step (limit 5 s), {len(attempts)} attempts, "
           "every credit back")  # fmt: skip
