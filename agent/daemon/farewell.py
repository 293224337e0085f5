"""How the agent leaves: at once when asked to, after a moment on Ctrl-C, with checkpoints when it is pressed again.

The first stop fixes the latest moment of leaving, and pressing a third time leaves at once: the jobs stop by themselves
under their supervisors, and the next start of the agent tells the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection

from ..held_job import HeldJob
from ..words import listed

SECOND_PRESS = 5.0
LONGEST_FAREWELL = 90.0


class Farewell:
    """Waits until it is time to go. `held` names the jobs this machine has; `is_heard` says whether the server can be
    told of their ends now; `note` tells the terminal."""

    def __init__(
        self, held: Callable[[], Collection[HeldJob]], is_heard: Callable[[], bool], note: Callable[[str], None]
    ) -> None:
        self._held, self._is_heard, self._note = held, is_heard, note
        self._leave_at: float | None = None
        self._is_stopping = False
        self._leaving = asyncio.Event()

    @property
    def is_under_way(self) -> bool:
        """Whether the agent is about to leave, so that nothing new should begin."""
        return self._leave_at is not None or self._leaving.is_set()

    def leave_now(self) -> None:
        """Go at once; jobs train on."""
        self._leaving.set()

    def interrupt(self) -> None:
        """Ctrl-C leaves jobs running; pressed again it stops them first; pressed a third time it leaves at once."""
        running = [held for held in self._held() if held.is_running]
        if self._is_stopping or (not running and self._leave_at is None):
            self._leaving.set()
        elif self._leave_at is None:
            self._leave_at = time.monotonic() + SECOND_PRESS
            names = listed([f"job {held.job}" for held in running])
            self._note(
                f"Leaving in {SECOND_PRESS:.0f} s; {names} will train on without the agent, which takes it up again "
                "when it is started. Press Ctrl-C again to stop it with a checkpoint instead."
            )
        else:
            self.stop_jobs()

    def stop_jobs(self) -> None:
        """Order every job to stop and leave once that is told, after 90 s at the latest."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._leave_at = time.monotonic() + LONGEST_FAREWELL
        for held in self._held():
            if held.is_running:
                held.folder.give_order("stop")
        self._note("Stopping: waiting for the jobs to end. Press Ctrl-C once more to leave without waiting.")

    async def wait(self) -> None:
        """Return when it is time to go: asked to, some time after Ctrl-C, or once everything has stopped and is told. A
        server that cannot be told now is not waited for: the next start of the agent does it."""
        while not self._leaving.is_set():
            if self._leave_at is not None and time.monotonic() >= self._leave_at:
                return
            if self._is_stopping and self._is_done():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self._leaving.wait()

    def _is_done(self) -> bool:
        held = self._held()
        return not held or (not self._is_heard() and not any(one.is_running for one in held))
