"""The verb `stop`: asks the agent of this machine to leave. Jobs train on without it, or are stopped first."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from .runner import processes
from .running import STOP_JOBS, open_attempts, running
from .words import listed
from .workspace import FOLDER, AttemptFolder

LEAVES_WITHIN = 15.0
STOPS_WITHIN = 120.0


class NotStopped(Exception):
    """Something is running still; `str()` says what."""


def stop(home: Path, *, jobs: bool) -> str:
    """Ask the agent to leave and wait until it has; with `jobs`, stop those first. Raises NotStopped.

    Returns a sentence about what happened. Nothing to stop is no fault.
    """
    folder = home / FOLDER
    agent = running(folder)
    if agent is None:
        return _stop_alone(folder) if jobs else f"No agent is running with the folder {folder}."
    left = _at_work(folder)
    patience = STOPS_WITHIN if jobs else LEAVES_WITHIN
    os.kill(agent["pid"], STOP_JOBS if jobs else signal.SIGTERM)
    if not _within(patience, lambda: not processes.is_alive(agent["pid"], agent["known_as"])):
        raise NotStopped(
            f"The agent (process {agent['pid']}) has not left after {patience:.0f} s. Ask again, or end it."
        )
    if jobs or not left:
        return "The agent has left." if not jobs else f"The agent has left. {_stop_alone(folder)}"
    return f"The agent has left; {listed([f'job {one.job}' for one in left])} will train on and is taken up by its next start."


def _stop_alone(folder: Path) -> str:
    """Stop what trains without an agent; its supervisor saves the checkpoint and writes the end down."""
    left = _at_work(folder)
    if not left:
        return "No job is running."
    for attempt in left:
        attempt.give_order("stop")
    names = listed([f"job {attempt.job}" for attempt in left])
    if not _within(STOPS_WITHIN, lambda: not any(attempt.is_supervised() for attempt in left)):
        raise NotStopped(f"{names.capitalize()}: ordered to stop, and not over after {STOPS_WITHIN:.0f} s.")
    return f"{names.capitalize()}: stopped. The next start of the agent tells the server."


def _at_work(folder: Path) -> list[AttemptFolder]:
    return [attempt for attempt in open_attempts(folder) if attempt.is_supervised()]


def _within(seconds: float, over: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not over():
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True
