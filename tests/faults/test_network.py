"""The wire between a machine and its yard: cut, silent, flapping, slow, and delivering everything three times."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.faults import checks
from tests.faults.conftest import Figure
from tests.faults.scene import FULL, SILENCE, Scene, Watch, chosen, scaled, settled
from tests.proxy import Cut, Wire
from tests.running import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

BACKLOG = 60_000


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One yard and one machine, whose wire each test mends before it ends."""
    with settled(tmp_path_factory.mktemp("network")) as found:
        yield found
        checks.at_rest(found)


@pytest.mark.parametrize("kind", ["silent", pytest.param("refuse", marks=pytest.mark.faults_quick)])
def test_row_11_sixty_thousand_lines_of_a_cut_come_back_in_order_and_a_stop_in_it_is_carried_out(
    scene: Scene, figure: Figure, kind: Cut
) -> None:
    lines, pause = (10, 0.1) if FULL else (1000, 0.1)
    job = scene.order(scene.desk, max_steps=1_000_000, lines=lines, pause=pause)
    scene.alice.wait_for_step(job, 3)
    began = scene.counted(scene.desk, job)
    scene.desk.wire.cut(kind)
    cut = Watch()
    try:
        until(lambda: (scene.counted(scene.desk, job) - began) * lines >= BACKLOG, 700, "60,000 lines are printed", 0.5)
        time.sleep(max(0.0, scaled(SILENCE) + 3 - cut.seconds))  # long enough that both ends notice
        assert scene.alice.order(job, "stop")["status"] == "training"
    finally:
        scene.desk.wire.heal()
    healed = Watch()
    scene.alice.wait_for_status(job, "paused", seconds=60)
    took = healed.seconds
    there = checks.every_line_once(scene, job, scene.counted(scene.desk, job) * lines)
    checks.log_is_verified(scene, job)
    checks.nothing_runs(scene)
    figure(
        f"row 11, {kind}: {there:,} lines in order {took:.1f} s after the wire was mended (limit 30 s), stopped by then"
    )
    assert took <= 30
    scene.alice.order(job, "cancel")


def test_row_11_connections_that_are_reset_again_and_again_lose_nothing(scene: Scene, figure: Figure) -> None:
    steps = 200
    job = scene.order(scene.desk, max_steps=steps, lines=50, pause=0.1)
    scene.alice.wait_for_step(job, 2)
    for _ in range(chosen(20, 200)):
        scene.desk.wire.cut("reset")
        time.sleep(0.5)
    healed = Watch()
    scene.alice.wait_for_status(job, "completed")
    took = healed.seconds
    checks.every_line_once(scene, job, steps * 50)
    checks.log_is_verified(scene, job)
    checks.made_what_was_counted(scene, job, steps)
    figure(f"row 11, reset: all {steps * 50:,} lines in order, done {took:.1f} s after the last reset (limit 30 s)")
    assert took <= 30


def test_row_13_a_flapping_wire_brings_progress_without_a_storm_of_handshakes(scene: Scene, figure: Figure) -> None:
    windows = chosen(10, 120)
    job = scene.order(scene.desk, max_steps=1_000_000, lines=10, pause=0.1)
    scene.alice.wait_for_step(job, 3)
    opened, progress, step = len(scene.desk.wire.opened), 0, 0
    for _ in range(windows):
        scene.desk.wire.cut("refuse")
        time.sleep(3)
        scene.desk.wire.heal()
        time.sleep(2)
        now = scene.alice.job(job)["step"]
        progress, step = progress + (now > step), now
    handshakes = len(scene.desk.wire.opened) - opened
    figure(f"row 13: {windows} windows of 2 s, {handshakes} handshakes, progress in {progress}")
    assert handshakes <= windows
    scene.alice.order(job, "stop")
    scene.alice.wait_for_status(job, "paused", seconds=60)
    checks.every_line_once(scene, job, scene.counted(scene.desk, job) * 10)
    assert progress >= windows // 2, "nothing came through for most of the windows"
    scene.alice.order(job, "cancel")


@pytest.mark.parametrize("wire, weights", [
    (Wire(delay=scaled(2) / 2, jitter=scaled(1) / 2, rate=64_000), 10_000_000 if FULL else 1_000_000),
    pytest.param(Wire(delay=1.0, jitter=0.5, rate=8_000), 2_000_000, marks=pytest.mark.skipif(not FULL, reason="4 minutes")),
    (Wire(chop=1), 10_000),
], ids=["slow", "64 kbit/s", "chopped"])  # fmt: skip
def test_row_14_a_slow_wire_starves_no_heartbeat(scene: Scene, figure: Figure, wire: Wire, weights: int) -> None:
    scene.desk.wire.wire = wire
    watch, away = Watch(), 0
    try:
        job = scene.order(scene.desk, max_steps=50, lines=20, pause=0.05, weights=weights)
        while scene.alice.job(job)["status"] not in ("completed", "failed", "cancelled") and watch.seconds < 600:
            away += scene.alice.job(job)["disconnected_since"] is not None
            time.sleep(0.5)
    finally:
        scene.desk.wire.wire = Wire()
    scene.alice.wait_for_status(job, "completed", seconds=5)
    assert not away, "the machine was shown as away although it was there"
    checks.every_line_once(scene, job, 1000)
    checks.made_what_was_counted(scene, job, 50, weights)
    figure(
        f"row 14: {weights:,} bytes delivered in {watch.seconds:.0f} s over a wire with {vars(wire)}, never shown as away"
    )
