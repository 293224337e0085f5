"""A recipe without torch: counts its steps, keeps a checkpoint of the count, and misbehaves when its parameters say so.

`install` makes it known to this process as the recipe `pretend`; `environment` to processes that are started with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

# Read by every Python that starts in the environment below, before anything else.
_SITE = """\
import os, sys
if os.environ.get("BREAK_SUPERVISOR") and "supervise" in sys.orig_argv:
    os.write(2, b"cannot start today\\n")
    os._exit(1)
sys.path.append({folder!r})
try:
    import agent.recipes
except ImportError:
    pass
else:
    import pretend_recipe
    pretend_recipe.install()
"""


def install() -> None:
    """Enter the recipe in the catalogue of this process."""
    from agent import recipes

    recipes.CATALOG["pretend"] = recipes.Recipe(
        "pretend", "Pretend", recipes.LANGUAGE.parameters, "pretend_recipe", recipes.LANGUAGE.settle
    )
    if str(Path(__file__).parent) not in sys.path:
        sys.path.append(str(Path(__file__).parent))


def environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which every Python knows the recipe, and every wait is short."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_SITE.format(folder=str(Path(__file__).parent)))
    timings = {
        "gather": 0.05, "orders": 0.05, "look": 0.05, "sync": 0.2, "figures": 0.3, "saving": 3.0, "cancel": 0.3,
        "pipes": 1.0, "greeting": 5.0, "silence": 3.0, "backoff": 0.2, "healthy": 60.0, "refused": 0.3, "request": 5.0,
        "heartbeat": 0.3,
    }  # fmt: skip
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("TRAINYARD")},
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
        "TRAINYARD_TIMINGS": json.dumps(timings),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


def train(assignment: Any) -> str:
    """Count to `steps`, `seconds` apart; `misbehave` names what goes wrong, at step `at`."""
    wanted = assignment.parameters
    steps, pause = wanted.get("steps", 5), wanted.get("seconds", 0.01)
    checkpoints = assignment.folder / "checkpoints"
    step = _resumed(checkpoints)
    assignment.report("facts", rows=len(assignment.data.read_text().splitlines()), example="a row of the data")
    assignment.report("stage", stage="train", total_steps=steps, message="Counting.")
    print(f"counting from {step} to {steps}, base {assignment.base_model}")
    while step < steps:
        step += 1
        if wanted.get("misbehave") and step == wanted.get("at", 1):
            _MISBEHAVIOUR[wanted["misbehave"]](assignment)
        assignment.report("metrics", step=step, values={"loss": 1 / step, "odd": float("nan")})
        print(f"line {step}")
        time.sleep(pause)
        if assignment.stop_requested() and wanted.get("misbehave") != "ignore_stop":
            _save(checkpoints, step, wanted.get("saving", 0.0))
            assignment.report("checkpoint", step=step, path=f"checkpoint-{step}")
            return "stopped"
    _save(checkpoints, step, 0.0)
    output = assignment.folder / "output"
    (output / "merged").mkdir(parents=True, exist_ok=True)
    (output / "model.safetensors").write_bytes(b"weights " * wanted.get("output_words", 10))
    (output / "merged" / "config.json").write_text("{}")
    return "completed"


def _save(folder: Path, step: int, seconds: float) -> None:
    if (folder / f"checkpoint-{step}").exists():
        return
    aside = folder / f"checkpoint-{step}.partial"
    aside.mkdir(parents=True, exist_ok=True)
    time.sleep(seconds)
    (aside / "state.json").write_text(json.dumps({"step": step}))
    aside.rename(folder / f"checkpoint-{step}")


def _resumed(folder: Path) -> int:
    return max((int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*[0-9]")), default=0)


def _leave_processes(_: Any) -> None:
    """Children that hold our output open, one of them in a session of its own with nothing that names us as parent."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    subprocess.Popen(sleep)
    if os.fork() == 0:
        os.setsid()
        subprocess.Popen(sleep)
        os._exit(0)


def _raise(assignment: Any) -> None:
    raise ValueError(f"cannot read {assignment.data.read_text()!r}")


def _job_failed(_: Any) -> None:
    from agent.errors import JobFailed

    raise JobFailed("data", "Line 3 is broken.", "Mend line 3.")


def _full_disk(_: Any) -> None:
    from agent.errors import AgentFailed

    raise AgentFailed("The disk is full: checkpoint-1 could not be written.")


def _print_much(_: Any) -> None:
    sys.stdout.buffer.write(b"bytes \xff\xfe that are no text\n")
    sys.stdout.write("\x1b[31mred\x1b[0m and \x1b]0;title\x07done\n")
    sys.stdout.write("".join(f"\r{percent}%" for percent in range(101)) + "\n")
    sys.stdout.write("x" * 200_000 + "\n")
    sys.stdout.write(os.environ.get("PRETEND_TOKEN", "") + "\n")


def _odd_reports(assignment: Any) -> None:
    assignment.report("metrics", step=1, values={"loss": float("inf"), "name" * 100: 1})
    assignment.report("big", text="y" * 100_000, many=list(range(100_000)))
    assignment.report("sample", text="a row of the data")
    assignment.report("metrics", step="no number", values=None)


_MISBEHAVIOUR: dict[str, Callable[[Any], Any]] = {
    "ignore_stop": lambda _: None,
    "segfault": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(3),
    "raise": _raise,
    "memory": lambda _: (_ for _ in ()).throw(MemoryError),
    "job_failed": _job_failed,
    "full_disk": _full_disk,
    "leave_processes": _leave_processes,
    "print_much": _print_much,
    "odd_reports": _odd_reports,
}
