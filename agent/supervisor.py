"""One process for each job, which outlives the agent: it owns the training, the pipes, the spool and the transfers.

It learns everything from the attempt's folder and tells everything through it, so it needs no connection to the agent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from . import runner, settings
from .settings import Timings
from .spool import Final, Spool
from .transfers.depot import ServerDepot
from .workspace import AttemptFolder

KILLED = "(The supervisor of this job was ended: what was printed in its last second may be missing here.)\n"


class NotedChild(runner.SpawnedChild):
    """Writes down which process the training is, so that a later agent can end it when the supervisor is gone."""

    def __init__(self, attempt: AttemptFolder, environment: dict[str, str]) -> None:
        super().__init__(attempt.job_folder, environment)
        self._attempt = attempt

    def start(self, assignment: dict[str, Any]) -> None:
        super().start(assignment)
        self._attempt.note_process("child", self.pid, mark=self.mark)


def supervise(path: Path) -> int:
    """The verb `supervise`: carry out the attempt whose folder this is. Returns the exit code."""
    attempt = AttemptFolder(path.resolve())
    timings = Timings.from_environment(os.environ)
    with _only_supervisor(attempt) as alone:
        if not alone:
            return 0
        attempt.note_process("supervisor", os.getpid())
        if not attempt.is_open:  # it was abandoned before this process was known
            return 0
        spool = Spool(attempt.spool, sync_seconds=timings.sync)
        if spool.final is not None:
            return 0
        task = attempt.task(timings)
        asked_to_end = _AskedToEnd()
        runner.run(
            task.spec,
            attempt.job_folder,
            spool,
            ServerDepot(task),
            NotedChild(attempt, settings.for_training(os.environ, task.terms.environment)),
            lambda: attempt.order() or asked_to_end.order,
            timings=timings,
            terms=task.terms.as_dict(),
            secrets=[os.environ[name] for name in task.terms.environment if name in os.environ],
        )
        spool.close()
    return 0


def end_for(attempt: AttemptFolder, reason: str) -> bool:
    """Write the end of an attempt whose supervisor is gone, after whatever it left behind was ended.

    False, and nothing done, when a supervisor is alive after all. Raises OSError when there is no room for it.
    """
    with _only_supervisor(attempt, patience=0.0) as alone:
        if not alone:
            return False
        attempt.end_processes()
        advice = "Press Try again: it goes on from the last checkpoint on this machine."
        with contextlib.closing(Spool(attempt.spool)) as spool:
            if spool.final is None and not _is_noted(spool):
                spool.append("log", {"text": KILLED})
            spool.finish(Final("failed", "member_machine", reason, advice))
    return True


def _is_noted(spool: Spool) -> bool:
    """Whether a try before this one, for whose end there was no room, said it already."""
    last = spool.last["log"]
    return last > 0 and spool.read("log", last - 1, 1 << 16)[1] == [{"text": KILLED}]


@contextlib.contextmanager
def _only_supervisor(attempt: AttemptFolder, patience: float = 5.0) -> Iterator[bool]:
    """Hold the attempt's lock while the block runs; False when somebody else keeps it for `patience` seconds."""
    descriptor = os.open(attempt.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + patience
    alone = False
    try:
        while not alone:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                if time.monotonic() >= end:
                    break
                time.sleep(0.1)
        yield alone
    finally:
        os.close(descriptor)


class _AskedToEnd:
    """SIGTERM, as at the shutdown of the machine, counts as a stop: the checkpoint is written and the job pauses."""

    def __init__(self) -> None:
        self.order: str | None = None
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.order = "stop"
