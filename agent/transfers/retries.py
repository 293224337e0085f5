"""Trying again: what did not work this time is done until it works, with growing pauses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from ..runner import Say
from .server import Trouble

GIVE_UP_AFTER = 24 * 3600.0
LONGEST_PAUSE, MOST_GROWTH = 60.0, 10


def persistently(work: Callable[[], Any], say: Say, give_up_after: float = GIVE_UP_AFTER) -> Any:
    """Do `work` until it works, with pauses of random length in growing windows; say what is waited for.

    Raises what `work` refuses, and TimeoutError after `give_up_after` seconds without success.
    """
    began, tries = time.monotonic(), 0
    while True:
        say("")
        try:
            return work()
        except Trouble as trouble:
            if time.monotonic() - began > give_up_after:
                raise TimeoutError(f"given up after {give_up_after / 3600:.0f} hours: {trouble}") from None
            window = min(LONGEST_PAUSE, 0.5 * 2 ** min(tries, MOST_GROWTH))
            tries += 1
            _wait(trouble.pause if trouble.pause is not None else random.uniform(0, window), trouble, say)  # noqa: S311


def _wait(seconds: float, trouble: Trouble, say: Say) -> None:
    end = time.monotonic() + min(seconds, 600.0)
    while (left := end - time.monotonic()) > 0:
        say(f"Waiting: {trouble}." if left > 2 else "")
        time.sleep(min(0.2, left))
