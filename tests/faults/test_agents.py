"""Machines of members under fire: the training, its supervisor and the agent are killed, frozen and copied."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.faults import checks, counting
from tests.faults.conftest import Figure
from tests.faults.scene import SILENCE, Machine, Scene, Watch, chosen, read_ticks, scaled, settled
from tests.running import AgentProcess, lives, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One yard and one machine for all rows here: each leaves them as they were."""
    with settled(tmp_path_factory.mktemp("agents")) as found:
        yield found
        checks.at_rest(found)


@pytest.mark.parametrize("trouble, cause, words", [
    ("killed", "member_machine", "signal 9"),
    ("segfault", "member_machine", "signal 11"),
    ("memory", "out_of_memory", "memory"),
    ("torn", "member_machine", "exit code 0"),
])  # fmt: skip
@pytest.mark.faults_quick
def test_row_5_a_training_that_dies_says_of_what_and_keeps_its_last_checkpoint(
    scene: Scene, figure: Figure, trouble: str, cause: str, words: str
) -> None:
    job = scene.order(scene.desk, max_steps=1000, trouble=trouble, at=20)
    failed = scene.alice.wait_for_status(job, "failed", seconds=30)
    (ticks,) = scene.folder_of(scene.desk, job).glob("ticks-*")
    took = time.monotonic() - read_ticks(ticks)[-1]
    assert took < 5 and failed["error"]["cause"] == cause and words in failed["error"]["message"], failed["error"]
    assert failed["error"]["advice"]
    checks.every_line_once(scene, job, 19)
    checks.log_is_verified(scene, job)
    figure(f"row 5, {trouble}: final state {took:.1f} s after the last step (limit 5 s)")
    if trouble in ("killed", "torn"):
        assert counting.counted(scene.folder_of(scene.desk, job) / "checkpoints") == 19


def test_row_6_an_agent_that_is_killed_and_started_again_has_lost_nothing(scene: Scene, figure: Figure) -> None:
    for away in (1.0, scaled(60), *([600.0] if chosen(0, 1) else [])):
        steps = int((away + 8) * 10)
        job = scene.order(scene.desk, max_steps=steps, lines=100, pause=0.1)
        scene.alice.wait_for_step(job, 5)
        child = scene.noted(scene.desk, job, "child")
        scene.desk.agent.kill()
        before = scene.counted(scene.desk, job)
        time.sleep(away)
        assert child.is_running() and scene.counted(scene.desk, job) > before, "the training went on alone"
        watch = Watch()
        scene.desk.agent.start()
        until(lambda job=job: scene.alice.job(job)["disconnected_since"] is None  # type: ignore[misc]
              and scene.alice.agent_named(scene.desk.agent.name)["status"] != "offline", 10, "shown as running")  # type: ignore[index]  # fmt: skip
        figure(f"row 6, away {away:g} s: shown as running {watch.seconds:.1f} s after the start (limit 10 s)")
        scene.alice.wait_for_status(job, "completed")
        checks.every_line_once(scene, job, steps * 100)
        checks.log_is_verified(scene, job)
        checks.one_end(scene, job, "completed")
        checks.made_what_was_counted(scene, job, steps)


@pytest.mark.faults_quick
def test_row_7_a_supervisor_that_is_killed_leaves_no_training_behind(scene: Scene, figure: Figure) -> None:
    job = scene.order(scene.desk, max_steps=100_000, lines=100, pause=0.1)
    scene.alice.wait_for_step(job, 5)
    child, supervisor = scene.noted(scene.desk, job, "child"), scene.noted(scene.desk, job, "supervisor")
    watch = Watch()
    supervisor.kill()
    until(lambda: not lives(child), 10, "the training is ended", 0.02)
    dead = watch.seconds
    failed = scene.alice.wait_for_status(job, "failed", seconds=10)
    printed = scene.counted(scene.desk, job) * 100
    assert failed["error"]["cause"] == "member_machine" and "supervisor" in failed["error"]["message"]
    there = checks.every_line_once(scene, job)
    assert printed - there <= 1000 + 200, "at most a second of lines is lost"
    figure(f"row 7: training dead {dead:.2f} s after its supervisor, told after {watch.seconds:.1f} s (limit 10 s), "
           f"{printed - there} of {printed} lines not kept")  # fmt: skip
    checks.nothing_runs(scene)


def test_row_16_a_frozen_agent_is_shown_as_away_and_comes_back_without_loss(scene: Scene, figure: Figure) -> None:
    steps = int(scaled(60) * 10 + 60)
    job = scene.order(scene.desk, max_steps=steps, lines=10, pause=0.1)
    scene.alice.wait_for_step(job, 3)
    agent = psutil.Process(scene.desk.agent.pid)
    agent.suspend()
    watch = Watch()
    try:
        waiting = scene.order(scene.desk, "pending", max_steps=5)
        until(
            lambda: _status(scene, scene.desk) == "offline", scaled(SILENCE) + 5, "the machine is shown as away", 0.05
        )
        noticed = watch.seconds
        until(lambda: scene.alice.job(job)["disconnected_since"], scaled(15) + 5, "its job says so", 0.05)
        told = watch.seconds
        time.sleep(max(0.0, scaled(60) - watch.seconds))
        assert scene.alice.job(job)["status"] == "training"
    finally:
        agent.resume()
    figure(
        f"row 16: away after {noticed:.1f} s (the limit of 45 s is {scaled(SILENCE):g} s here), its job says so after {told:.1f} s"
    )
    assert noticed <= scaled(SILENCE) + 1
    for one, last in ((job, steps * 10), (waiting, 5)):
        scene.alice.wait_for_status(one, "completed")
        checks.every_line_once(scene, one, last)
        checks.one_end(scene, one, "completed")


def test_row_22_a_copy_of_a_machine_is_refused_and_no_job_runs_twice(scene: Scene, figure: Figure) -> None:
    job = scene.order(scene.desk, max_steps=150, lines=1, pause=0.05)
    scene.alice.wait_for_step(job, 3)
    folder = scene.folder / "copy"
    home = folder / "home" / ".trainyard"
    home.mkdir(parents=True)
    shutil.copy(scene.desk.agent.home / ".trainyard" / "agent.json", home)
    with AgentProcess(scene.yard, scene.key, folder, "copy", environment=scene.desk.agent.environment) as copy:
        until(lambda: "copied" in copy.said, 20, f"the copy is told; it said {copy.said}")
        second = scene.order(scene.desk, "beside", max_steps=20)
        for one, last in ((job, 150), (second, 20)):
            scene.alice.wait_for_status(one, "completed")
            checks.every_line_once(scene, one, last)
            checks.never_twice_at_once(scene, scene.desk, one)
        assert not (home / "jobs").exists() or not list((home / "jobs").glob("*/*/attempts"))
    assert scene.alice.agent_named(scene.desk.agent.name)["status"] != "offline"  # type: ignore[index]
    figure("row 22: the copy was refused, both jobs ran on the machine itself")


def _status(scene: Scene, machine: Machine) -> str:
    found = scene.alice.agent_named(machine.agent.name)
    assert found is not None
    return str(found["status"])
