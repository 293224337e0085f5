"""Asynchronous work in tests that are not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def at_once(work: Coroutine[Any, Any, Any], seconds: float = 60) -> Any:
    """Carry out asynchronous work in a thread: this one may have a loop of its own, left running by a browser."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, asyncio.wait_for(work, seconds)).result()
