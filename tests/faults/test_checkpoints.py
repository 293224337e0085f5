"""Checkpoints under fire: killed while one is written, 200 times, and a training that goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import checks
from tests.faults.conftest import Figure
from tests.faults.scene import FULL, Scene, chosen, settled
from tests.running import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

KILLS = 200
MEGABYTES = 200 if FULL else 4

# Writes checkpoints of so many megabytes for ever, the step in every number of them; says when one begins.
_WRITER = """
import os, sys, torch
from pathlib import Path
from agent.training import checkpoint
folder, step, words = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) * 131072
log = folder / "log"
log.write_text("{}")
while True:
    step += 1
    state = torch.full((words,), float(step))
    os.write(1, b"%d\\n" % step)
    checkpoint.write(folder / "checkpoints", step, ("model.safetensors", {"w": state}), {"m": state}, {"step": step}, log)
"""


@pytest.mark.faults_quick
def test_row_25_killed_200_times_while_saving_there_is_always_one_whole_checkpoint(
    tmp_path: Path, figure: Figure
) -> None:
    from agent.training import checkpoint

    dice, step, kills, torn, saved = random.Random(25), 0, 0, 0, 0
    # A forked writer dies like any other; starting torch 200 times would take an hour.
    with _Forge(tmp_path) as forge:
        while kills < KILLS:
            forge.fork(step)
            for _ in range(1 if kills % 4 else 2):
                step = forge.wait_for_next()
            time.sleep(dice.uniform(0, 1.6 * forge.seconds_a_save))
            step = max(step, forge.kill())
            kills += 1
            found = checkpoint.latest(tmp_path / "checkpoints")
            if found is None:
                assert step == 1, "the first one was never whole, and later there is none"
                continue
            assert found.step in (step, step - 1), (found.step, step)
            torn, saved = torn + (found.step < step), saved + (found.step == step)
            manifest = json.loads((found.folder / "manifest.json").read_text())
            for name, entry in manifest["files"].items():
                assert hashlib.sha256((found.folder / name).read_bytes()).hexdigest() == entry["sha256"]
            assert float(found.weights()["w"][0]) == float(found.optimizer()["m"][-1]) == found.step
            assert found.position()["step"] == found.step
            left = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.endswith(".partial")]
            assert len(left) <= 1, f"leftovers pile up: {left}"
            step = found.step
    assert torn >= KILLS // 10, "too few kills fell into the writing to show anything"
    figure(f"row 25: {kills} kills with a state of {MEGABYTES} MB, {torn} in the middle of a save, {saved} after it: always "
           "one whole checkpoint, its files as its manifest says")  # fmt: skip


class _Forge:
    """A process with torch loaded that forks a writer for each kill."""

    def __init__(self, folder: Path) -> None:
        program = (
            "import os, sys, signal\n"
            "import torch\n"
            "torch.set_num_threads(1)\n"
            "from agent.training import checkpoint\n"
            f"code = compile({_WRITER!r}, 'writer', 'exec')\n"
            "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
            "for line in sys.stdin:\n"
            "    if line == 'said all\\n':\n"
            "        os.write(1, b'said all\\n')\n"
            "        continue\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            f"        sys.argv = ['writer', {str(folder)!r}, line.strip(), '{MEGABYTES}']\n"
            "        exec(code, {'__name__': 'writer'})\n"
            "    os.write(1, b'pid %d\\n' % pid)\n"
        )
        (folder / "checkpoints").mkdir()
        self._process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)  # fmt: skip
        self._writer = 0
        self._steps: list[int] = []
        self._said_all = False
        self.seconds_a_save = 0.05

    def __enter__(self) -> _Forge:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    def fork(self, step: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        self._writer, self._steps = 0, []
        while not self._writer:
            self._read()

    def wait_for_next(self) -> int:
        """The step whose save begins now."""
        began = time.monotonic()
        while not self._steps:
            self._read()
        if len(self._steps) and self._steps[0] > 1:
            self.seconds_a_save = 0.8 * self.seconds_a_save + 0.2 * min(10.0, time.monotonic() - began)
        return self._steps.pop(0)

    def kill(self) -> int:
        """End the writer; the last save that it had begun."""
        os.kill(self._writer, signal.SIGKILL)
        end = time.monotonic() + 10
        while Path(f"/proc/{self._writer}").exists() and time.monotonic() < end:
            time.sleep(0.002)
        return self._last_announced()

    def _last_announced(self) -> int:
        """The last save that the writer began: it may have begun more than were read when it was killed."""
        assert self._process.stdin is not None
        self._process.stdin.write("said all\n")
        self._process.stdin.flush()
        self._said_all = False
        while not self._said_all:
            self._read()
        return self._steps[-1] if self._steps else 0

    def _read(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the writers' parent has ended"
        if line.startswith("said all"):
            self._said_all = True
        elif line.startswith("pid"):
            self._writer = int(line.split()[1])
        elif line.strip().isdigit():
            self._steps.append(int(line))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A yard with a machine that really trains."""
    with settled(tmp_path_factory.mktemp("exact"), machines=1) as found:
        yield found
        checks.at_rest(found)


def test_row_26_a_training_stopped_at_a_random_step_ends_with_the_weights_of_one_that_was_not(
    scene: Scene, figure: Figure
) -> None:
    steps, dice = 30, random.Random(26)
    settings = {"method": "lora", "max_steps": steps, "batch_size": 4, "max_length": 64, "seed": 3}
    whole = scene.order(scene.desk, "whole", recipe="language", **settings)
    scene.alice.wait_for_status(whole, "completed", seconds=240)
    wanted, curve = _weights(scene, whole), scene.alice.curve(whole)
    for number in range(chosen(2, 30)):
        job = scene.order(scene.desk, f"stopped-{number}", recipe="language", **settings)
        scene.alice.wait_for_step(job, dice.randint(1, steps // 2), seconds=120)
        scene.alice.order(job, "stop")
        paused = scene.alice.wait_for_status(job, "paused", "completed", seconds=60)
        if paused["status"] == "paused":
            scene.alice.order(job, "resume")
            scene.alice.wait_for_status(job, "completed", seconds=240)
        assert _weights(scene, job) == wanted and scene.alice.curve(job) == curve
        figure(f"row 26: stopped at step {paused['step']} of {steps}, resumed: weights and curve equal bit by bit")


def _weights(scene: Scene, job: int) -> dict[str, str]:
    listed = {one["name"]: one["sha256"] for one in scene.alice.artifacts(job)}
    return {name: value for name, value in listed.items() if name.endswith(".safetensors")}
