"""Executes one attempt of one job, the same on a member's machine and on the server.

    prepare   the depot brings the data and the base model
    train     a child process carries out the recipe; what it prints and reports goes to the spool
    upload    the depot delivers what the recipe wrote to `output/`
    done

The order of control: `run` here, the child in `training`, its process in `children`, its words in `output` and
`recording`, the process table in `processes`. Whoever calls `run` reads the spool and passes it on.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import AgentFailed, Fatal, JobFailed
from ..masking import SecretMasker
from ..protocol import JobSpec
from ..settings import Timings
from ..spool import Final, Spool, SpoolReader
from ..spool.room import is_full
from ..words import beginning
from .children import Child, ForkedChild, SpawnedChild
from .recording import Recorder
from .training import Orders, Training

__all__ = [
    "Child",
    "Depot",
    "Final",
    "ForkedChild",
    "Say",
    "SpawnedChild",
    "Spool",
    "SpoolReader",
    "Timings",
    "Withdrawn",
    "run",
]

Say = Callable[[str], None]
Result = TypeVar("Result")

OUTPUT = "output"
CHECKPOINT_SECONDS = 300.0
_PATIENCE_WITH_A_DEPOT = 1.0


class Withdrawn(Exception):
    """A depot raises it when the server does not want this attempt any more: it was cancelled or another has begun."""


class Depot(Protocol):
    """Where data comes from and where results go. Each verb may raise JobFailed or Withdrawn.

    While it works it calls `say` about once a second: that reports progress (an empty text reports nothing) and lets an
    order interrupt it.
    """

    def fetch_data(self, spec: JobSpec, folder: Path, say: Say) -> Path:
        """Return the local data file."""

    def fetch_base(self, spec: JobSpec, folder: Path, say: Say) -> str:
        """Return the base model as `recipes.Assignment` takes it: yard-tiny, folder:/absolute/path or a hub id."""

    def deliver(self, spec: JobSpec, output: Path, say: Say) -> None:
        """Return when the server has published everything under `output`."""


class _Interrupted(Exception):
    """An order came while a depot was working."""


def run(
    spec: JobSpec,
    folder: Path,
    spool: Spool,
    depot: Depot,
    child: Child,
    orders: Callable[[], str | None],
    *,
    blame: str = "member_machine",
    timings: Timings | None = None,
    terms: dict[str, Any] | None = None,
    secrets: Iterable[str] = (),
) -> Final:
    """Execute one attempt and return how it ended; the spool is finished then, and no process of the job is alive.

    `folder` belongs to the job: an earlier attempt's checkpoints in it are picked up. `orders` answers stop, cancel,
    kill or None. `blame` is the cause of failures nobody foresaw: `member_machine` there, `platform` on the server.
    `terms` is what a script is allowed here (`scripts.terms`). `secrets` are kept out of everything that is told, beside
    those that the environment names as such.
    """
    timings = timings or Timings()
    masker = SecretMasker.from_environment(os.environ, spec.token, *secrets)
    recorder = Recorder(spool, spec, masker, timings)
    watch = Orders(orders, timings.orders)
    try:
        final = _execute(spec, folder, recorder, depot, child, watch, blame, timings, terms or {})
    except _Interrupted:
        final = watch.final()
    except Withdrawn as reason:
        final = Final("cancelled", message=str(reason))
    except JobFailed as failure:
        final = Final("failed", failure.cause, failure.message, failure.advice)
    except (AgentFailed, Fatal) as failure:
        final = Final("failed", blame, str(failure), "When that is mended, press Try again.")
    except Exception as failure:
        recorder.line(traceback.format_exc())
        final = _unforeseen(failure, blame)
    finally:
        child.close()
    final = Final(final.outcome, *(masker.mask(text) for text in (final.cause, final.message, final.advice)))
    recorder.close()
    _tell(final, spool, watch, timings)
    return final


def _tell(final: Final, spool: Spool, orders: Orders, timings: Timings) -> None:
    """Write the end. On a full disk it waits for room: whoever reads it shall learn how it went, not that its teller died.

    Raises OSError on a broken disk, and on a full one when nobody wants the attempt any more.
    """
    while True:
        try:
            spool.finish(final)
            return
        except OSError as error:
            if not is_full(error) or orders.now() in ("cancel", "kill"):
                raise
        time.sleep(timings.orders)


def _first_words(spec: JobSpec) -> str:
    if spec.recipe != "script":
        return "Fetching the data and the base model."
    return "Looking at the script." if spec.data["kind"] == "local" else "Fetching the script."


def _execute(
    spec: JobSpec,
    folder: Path,
    recorder: Recorder,
    depot: Depot,
    child: Child,
    orders: Orders,
    blame: str,
    timings: Timings,
    terms: dict[str, Any],
) -> Final:
    stages = _Stages(recorder, orders, timings)
    recorder.event("stage", stage="prepare", message=_first_words(spec))
    data = stages.work("prepare", lambda say: depot.fetch_data(spec, folder, say))
    base = stages.work("prepare", lambda say: depot.fetch_base(spec, folder, say))
    assignment = {
        "recipe": spec.recipe,
        "parameters": spec.parameters,
        "data": str(data),
        "mapping": spec.mapping,
        "base_model": base,
        "base_name": spec.base_name,
        "folder": str(folder),
        "name": spec.name,
        "checkpoint_seconds": CHECKPOINT_SECONDS,
        "private_data": recorder.is_private,
        "blame": blame,
        "grace_seconds": spec.grace_seconds,
        "terms": terms,
    }
    final = Training(spec, folder, recorder, child, orders, blame, timings).run(assignment)
    if final.outcome != "completed":
        return final
    recorder.gather(end=True)
    if spec.recipe != "script" or any((folder / OUTPUT).iterdir()):  # a script need not leave anything
        recorder.event("stage", stage="upload", message="Saving what it made.")
        stages.work("upload", lambda say: depot.deliver(spec, folder / OUTPUT, say))
    recorder.event("stage", stage="done", message="Done.")
    return final


class _Stages:
    """Lets a depot work in a thread of its own, so that an order is obeyed at once even while a connection hangs."""

    def __init__(self, recorder: Recorder, orders: Orders, timings: Timings) -> None:
        self._recorder, self._orders, self._timings = recorder, orders, timings

    def work(self, stage: str, verb: Callable[[Say], Result]) -> Result:
        interrupted = threading.Event()
        results: list[Result] = []
        failures: list[BaseException] = []

        def say(message: str) -> None:
            if interrupted.is_set():
                raise _Interrupted
            self._recorder.progress(stage, message)

        def body() -> None:
            try:
                results.append(verb(say))
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=body, name=stage, daemon=True)
        thread.start()
        while thread.is_alive():
            if self._orders.now() is not None:
                interrupted.set()
                thread.join(_PATIENCE_WITH_A_DEPOT)
                raise _Interrupted
            thread.join(self._timings.orders)
            self._recorder.gather()
        if failures:
            raise failures[0]
        return results[0]


def _unforeseen(failure: Exception, blame: str) -> Final:
    if isinstance(failure, OSError) and is_full(failure):
        return Final("failed", blame, "The disk is full.", "Free some space, then press Try again.")
    return Final(
        "failed",
        blame,
        f"The job could not be carried out: {type(failure).__name__}: {beginning(str(failure), 500)}",
        "The log shows where it happened. Press Try again; if it happens again, report it with the log.",
    )
