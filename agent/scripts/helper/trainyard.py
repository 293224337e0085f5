"""Curves in two lines, for a training script that runs as a job of Trainyard, and anywhere else:

    from trainyard import log

    log(loss=0.5, step=10)

Outside of a job the calls do nothing. Inside, a call writes one line into a pipe; it takes some hundredths of a millisecond and
never waits: what does not fit into the pipe is left out and counted.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from typing import Any

__all__ = ["log"]

_LONGEST_LINE = (
    4000  # bytes; a pipe takes up to 4,096 at once, or nothing, also from several processes (POSIX PIPE_BUF)
)
_LONGEST_NAME = 60

_lock = threading.Lock()
_pipe = -1
_owner = 0  # the process that opened the pipe
_steps = 0
_lost = 0


def log(values: Mapping[str, Any] | None = None, /, step: int | None = None, **more: Any) -> None:
    """Add a point to the curves: `log(loss=0.5, step=10)` or `log({"loss": 0.5}, step=10)`.

    Numbers and one-element arrays and tensors count; anything else is left out. Without `step` the calls are counted.
    """
    global _steps, _lost
    if not os.environ.get("TRAINYARD_EVENTS"):
        return
    try:
        numbers = _numbers({**(values or {}), **more})
    except Exception:
        return
    with _lock:
        _reopen_after_fork()
        whole = _whole(step)
        _steps = whole + 1 if whole is not None else _steps + 1
        if numbers and not _written(_line(_steps - 1, numbers)):
            _lost += 1


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, value in values.items():
        try:
            if isinstance(value, (str, bytes)):
                continue
            value = float(value)
        except Exception:  # noqa: S112 - whatever the class of the value raises
            continue
        found[str(name)[:_LONGEST_NAME]] = value if math.isfinite(value) else None
    return found


def _whole(step: Any) -> int | None:
    try:
        step = int(step)
    except Exception:
        return None
    return step if 0 <= step < 2**31 else None


def _line(step: int, numbers: dict[str, float | None]) -> bytes:
    """As many of the numbers as fit into a line."""
    while True:
        said = {"step": step, "values": numbers, "lost": _lost} if _lost else {"step": step, "values": numbers}
        line = json.dumps(said).encode("ascii") + b"\n"
        if len(line) <= _LONGEST_LINE:
            return line
        numbers = dict(list(numbers.items())[: len(numbers) * _LONGEST_LINE // (len(line) + 200)])


def _written(line: bytes) -> bool:
    global _lost
    if _pipe < 0:
        return False
    try:
        os.write(_pipe, line)
    except OSError:  # full, or nobody reads any more
        return False
    _lost = 0
    return True


def _reopen_after_fork() -> None:
    global _pipe, _owner, _lost
    if _owner == os.getpid():
        return
    _owner, _lost = os.getpid(), 0
    if _pipe >= 0:
        os.close(_pipe)
    try:
        _pipe = os.open(os.environ["TRAINYARD_EVENTS"], os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        _pipe = -1


def _new_lock() -> None:
    """A thread of the parent may have held the lock in the moment of the fork."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)
