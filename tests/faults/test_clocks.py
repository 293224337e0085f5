"""Wrong clocks: on a member's machine, and on the server while trainings run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import checks
from tests.faults.conftest import Figure
from tests.faults.scene import Scene, environment, settled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

HOUR, DAY = 3600, 86_400


@pytest.fixture(scope="module")
def yard_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seconds by which the yard's clock is wrong."""
    file = tmp_path_factory.mktemp("clock") / "wrong-by"
    file.write_text("0")
    return file


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, yard_clock: Path) -> Iterator[Scene]:
    """A yard whose clock can be moved, with a worker and a machine."""
    faults = json.dumps({"clock": str(yard_clock)})
    with settled(tmp_path_factory.mktemp("clocks"), machines=1, workers=1, FAULTS=faults) as found:
        found.alice.wait_for_status(found.order("server", max_steps=5), "completed")
        yield found
        yard_clock.write_text("0")
        checks.at_rest(found)


def test_row_17_a_machine_whose_clock_is_wrong_and_jumps_loses_nothing(
    scene: Scene, figure: Figure, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong-by"
    wrong.write_text(str(17 * 60))
    machine = scene.new_machine("skewed", **environment({"clock": str(wrong)}))
    job = scene.order(machine, max_steps=150, lines=10, pause=0.05)
    for seconds in (-DAY, 17 * 60, 0):
        time.sleep(1.5)
        wrong.write_text(str(seconds))
    scene.alice.wait_for_status(job, "completed")
    checks.every_line_once(scene, job, 1500)
    checks.one_end(scene, job, "completed")
    checks.made_what_was_counted(scene, job, 150)
    figure("row 17: a machine 17 minutes ahead, then a day behind, in the middle of a job: every line, one end")


def test_row_17_a_jump_of_the_servers_clock_ends_no_attempt_and_charges_nothing_wrong(
    scene: Scene, figure: Figure, yard_clock: Path
) -> None:
    before = scene.alice.credits()["remaining"]
    jobs = {"server": scene.order("server", max_steps=300, lines=5, pause=0.05),
            "machine": scene.order(scene.desk, max_steps=300, lines=5, pause=0.05)}  # fmt: skip
    for job in jobs.values():
        scene.alice.wait_for_step(job, 10)
    for seconds in (HOUR, -HOUR, 0):
        yard_clock.write_text(str(seconds))
        time.sleep(4)
    for place, job in jobs.items():
        scene.alice.wait_for_status(job, "completed", seconds=120)
        done = scene.alice.job(job)
        figure(f"row 17: the server's clock an hour ahead, then an hour behind: the job on the {place} ended after "
               f"{done['attempt']} attempt, {done['credits']['charged'] - done['credits']['refunded']} credits")  # fmt: skip
        checks.never_twice_at_once(scene, "server" if place == "server" else scene.desk, job)
        checks.every_line_once(scene, job, 1500, attempt=done["attempt"])
    checks.ledger_adds_up(scene)
    charged = scene.alice.job(jobs["server"])["credits"]
    assert before - scene.alice.credits()["remaining"] == charged["charged"] - charged["refunded"]
    assert all(scene.alice.job(job)["attempt"] == 1 for job in jobs.values())
    assert charged["charged"] <= 1, "fifteen seconds of training are one started minute"
