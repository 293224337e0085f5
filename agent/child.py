"""The training process: carries out one assignment, and reports as JSON lines on a pipe of its own.

Everything printed goes to the log. The last report is {"kind": "end", "outcome", "cause", "message", "advice"}; a
process that ends without one was killed or crashed, and the runner says so from how it ended.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from . import recipes
from .errors import AgentFailed, Fatal, JobFailed
from .runner import processes
from .words import beginning

Report = dict[str, Any]
MOST_WAITING = 10_000


class Reporter:
    """Writes reports to the pipe from a thread of its own, so that training does not wait for whoever reads them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._writer = threading.Thread(target=self._write, name="reports", daemon=True)
        self._writer.start()

    def __call__(self, kind: str, **fields: Any) -> None:
        """Report one thing; the fields must be JSON. Numbers that JSON lacks are the runner's to replace."""
        self._waiting.put(json.dumps({"kind": kind, **fields}, default=str).encode() + b"\n")

    def close(self) -> None:
        """Return when everything has been written."""
        self._waiting.put(None)
        self._writer.join()

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            with contextlib.suppress(BrokenPipeError):
                while line:
                    line = line[os.write(self._descriptor, line) :]


class StopFlag:
    """Set by SIGTERM; recipes look at it after each step, save a checkpoint and end."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True

    def __call__(self) -> bool:
        return self.is_set


def spawned(events: int, parent: int) -> int:
    """The verb `child`: read the assignment from standard input and carry it out. Returns the exit code."""
    processes.die_with_parent(parent)
    processes.be_first_to_go()
    given = json.load(sys.stdin)
    sys.stdin = open(os.devnull, encoding="utf-8")
    return main(given, events)


def main(given: Report, events: int) -> int:
    """Carry out one assignment: the fields of `recipes.Assignment` that are plain data, `recipe`, and `blame`.

    `blame` is the cause of a failure that nobody foresaw: `member_machine` there, `platform` on the server.
    Returns the exit code: 0 when the end was reported, whatever it was.
    """
    stop = StopFlag()
    reporter = Reporter(events)
    for stream in (sys.stdout, sys.stderr):  # the name of a file need not be text
        stream.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]
    try:
        end = _carry_out(given, reporter, stop)
    except JobFailed as failure:
        end = _failed(failure.cause, failure.message, failure.advice)
    except (AgentFailed, Fatal) as failure:
        end = _failed(
            given["blame"],
            str(failure),
            "When that is mended, press Try again: it goes on from the last checkpoint.",
        )
    except BaseException as failure:
        end = _unforeseen(failure, given["blame"], _told(failure, given), given["folder"])
    sys.stdout.flush()
    sys.stderr.flush()
    reporter("end", **end)
    reporter.close()
    return 0


def _carry_out(given: Report, report: Reporter, stop: StopFlag) -> Report:
    recipe = recipes.load(given["recipe"])
    assignment = recipes.Assignment(
        parameters=given["parameters"],
        data=Path(given["data"]),
        mapping=given["mapping"],
        base_model=given["base_model"],
        base_name=given["base_name"],
        folder=Path(given["folder"]),
        name=given["name"],
        report=report,
        stop_requested=stop,
        checkpoint_seconds=given["checkpoint_seconds"],
        private_data=given["private_data"],
        grace_seconds=given["grace_seconds"],
        terms=given["terms"],
    )
    outcome = recipe.train(assignment)
    return {"outcome": outcome, "cause": None, "message": None, "advice": None}


def _failed(cause: str, message: str, advice: str) -> Report:
    return {"outcome": "failed", "cause": cause, "message": message, "advice": advice}


def _told(failure: BaseException, given: Report) -> str:
    """Print what happened and return it in one line. The words of an error may quote a row: with data that may not
    leave this machine they are written to a file here instead."""
    name = type(failure).__name__
    if not given["private_data"]:
        traceback.print_exception(failure)
        said = str(failure).strip().splitlines()
        return f"{name}: {beginning(said[0], 500)}" if said else name
    file = Path(given["folder"]) / "error.txt"
    with contextlib.suppress(OSError):
        file.write_text("".join(traceback.format_exception(failure)), encoding="utf-8")
    traceback.print_tb(failure.__traceback__)
    return f"{name} (its full text is in {file} on the machine, because it may quote your data)"


def _unforeseen(failure: BaseException, blame: str, told: str, folder: str) -> Report:
    if isinstance(failure, MemoryError) or _is_memory(failure):
        return _failed(
            "out_of_memory",
            "There was not enough memory for this training.",
            "Use a smaller batch size, a shorter longest example, or LoRA instead of full training; then press Try again.",
        )
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failed(
            blame,
            f"The disk is full ({shutil.disk_usage(folder).free:,} bytes are free).",
            "Free some space, then press Try again: it goes on from the last checkpoint.",
        )
    return _failed(
        blame,
        f"The training ended with an error nobody foresaw: {told}",
        "The log shows where it happened. Press Try again; if it happens again, report it with the log.",
    )


def _is_memory(failure: BaseException) -> bool:
    """torch has its own kinds: OutOfMemoryError for devices, a RuntimeError of the CPU allocator."""
    if type(failure).__name__ == "OutOfMemoryError":
        return True
    return isinstance(failure, RuntimeError) and "can't allocate memory" in str(failure)
