"""Turns at looking into what members bring: each look is a process with memory of its own, so few run at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.errors import TooBusy

AT_ONCE = 2  # in one web process, and of each member one
PATIENCE_SECONDS = 10.0  # how long a request waits for its turn
COME_BACK_SECONDS = 30

_looking: set[int] = set()  # whose files are being looked into
_changed = threading.Condition()


@contextmanager
def turn(member: int) -> Iterator[None]:
    """Wait a little for this member's turn, and have it during the block. Raises TooBusy."""
    with _changed:
        if not _changed.wait_for(lambda: member not in _looking and len(_looking) < AT_ONCE, PATIENCE_SECONDS):
            raise _too_busy(member)
        _looking.add(member)
    try:
        yield
    finally:
        with _changed:
            _looking.discard(member)
            _changed.notify_all()


def _too_busy(member: int) -> TooBusy:
    whose = "Another file of yours is being read" if member in _looking else "Files of other members are being read"
    return TooBusy(f"{whose}. Try again in half a minute.", code="reading", retry_after=COME_BACK_SECONDS)
