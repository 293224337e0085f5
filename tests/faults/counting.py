"""A recipe without torch for the tests of faults: prints numbered lines, keeps a checkpoint of its count, and
misbehaves when its parameters say so. `site/sitecustomize.py` makes it known as the recipe `counting`.

Beside its log it leaves `ticks-<pid>`, one instant a step by the machine's monotonic clock: two that overlap ran at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BROOD = 50
DEFAULTS = {"lines": 1, "pause": 0.01, "at": 1, "trouble": "none", "weights": 1000}
_SLEEP = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"


def train(assignment: Any) -> str:
    """Count to `max_steps`, `pause` seconds apart, `lines` lines each."""
    wanted = DEFAULTS | {name: value for name, value in assignment.parameters.items() if value is not None}
    steps, checkpoints = wanted["max_steps"], assignment.folder / "checkpoints"
    step = counted(checkpoints)
    is_deaf = wanted["trouble"] in ("deaf", "brood")
    if is_deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assignment.report("stage", stage="train", total_steps=steps, message="Counting.")
    due = time.monotonic()
    with open(assignment.folder / f"ticks-{os.getpid()}", "ab", buffering=0) as ticks:
        while step < steps:
            step += 1
            if step == wanted["at"]:
                misbehave(wanted["trouble"], checkpoints, step)
            _say(step, wanted["lines"])
            assignment.report("metrics", step=step, values={"loss": 1 / step})
            with contextlib.suppress(OSError):  # a full disk
                ticks.write(f"{time.monotonic()}\n".encode())
            if assignment.stop_requested() and not is_deaf:
                save(checkpoints, step)
                assignment.report("checkpoint", step=step, path=f"checkpoint-{step}")
                return "stopped"
            due += wanted["pause"]
            time.sleep(max(0.0, due - time.monotonic()))
    _deliver(assignment.folder / "output", steps, wanted["weights"])
    return "completed"


def _say(step: int, lines: int) -> None:
    first = (step - 1) * lines + 1
    if lines:
        print("\n".join(f"line {number}" for number in range(first, first + lines)))


def save(folder: Path, step: int) -> None:
    """Write the count aside and let it appear whole."""
    aside = folder / f"checkpoint-{step}.partial"
    aside.mkdir(parents=True, exist_ok=True)
    (aside / "state.json").write_text(json.dumps({"step": step}))
    if not (folder / f"checkpoint-{step}").exists():
        aside.rename(folder / f"checkpoint-{step}")


def counted(folder: Path) -> int:
    """Where the last whole checkpoint stands."""
    return max((int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*[0-9]")), default=0)


def misbehave(how: str, checkpoints: Path, step: int) -> None:
    """What goes wrong at the step that `at` names."""
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "killed":
        save(checkpoints, step - 1)
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "memory":
        raise MemoryError
    elif how == "torn":  # half a checkpoint, and gone with a good exit code
        save(checkpoints, step - 1)
        (checkpoints / f"checkpoint-{step}.partial").mkdir(exist_ok=True)
        os._exit(0)
    elif how == "brood":
        _breed()
    elif how == "full":
        _save_without_room(checkpoints / f"checkpoint-{step}.partial")


def _save_without_room(aside: Path) -> None:
    """Wait until the disk is full, then write a checkpoint as a recipe does."""
    while shutil.disk_usage(aside.parent.parent).free > 4096:
        time.sleep(0.05)
    aside.mkdir(parents=True, exist_ok=True)
    (aside / "model.safetensors").write_bytes(b"\0" * (8 << 20))


def _breed() -> None:
    """Fifty children that ignore SIGTERM and hold our output open, every other one in a session of its own without us."""
    for number in range(BROOD):
        if number % 2:
            subprocess.Popen([sys.executable, "-S", "-c", _SLEEP])
        elif os.fork() == 0:
            os.setsid()
            subprocess.Popen([sys.executable, "-S", "-c", _SLEEP])
            os._exit(0)


def made(steps: int, size: int) -> bytes:
    """The weights that a training of so many steps makes: a safetensors file."""
    header = json.dumps({"count": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<Q", steps) * (size // 8) + b"\0" * (size % 8)


def _deliver(output: Path, steps: int, size: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "model.safetensors").write_bytes(made(steps, size))
    (output / "config.json").write_text("{}")
