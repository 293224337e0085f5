"""A program that runs in a box: asked to end, made to end, watched, and judged afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from io import FileIO
from pathlib import Path
from types import TracebackType

from ..runner import processes
from . import watch
from .cgroups import Group
from .limits import Limits, Verdict, amount

END_SECONDS = 10.0
_SCAN_SHARE = 20  # reading the work folder may take a twentieth of the time
_SCRATCH = ("tmp", "dev/shm", "home/script")
_BUG = "This is not the script's fault. Try again; if it stays, the operator finds the box's message in the log."
_SIGNAL_HINTS = {
    signal.SIGSEGV: "The program, or a library of it, used memory that is not its own.",
    signal.SIGKILL: "Something made it end at once.",
    signal.SIGTERM: "It was asked to end and did.",
    signal.SIGABRT: "The program, or a library of it, gave up by itself; the last lines of the log say why.",
}


class Running:
    """`pid` is the family's leader out here, `first` the first process of the box (the same in lane 0)."""

    def __init__(
        self, process: subprocess.Popen[bytes], pipes: tuple[FileIO, FileIO, FileIO], folder: Path, limits: Limits,
        group: Group | None, mark: str, scratch: str | None,
    ) -> None:  # fmt: skip
        self.process, self.pid, self.first = process, process.pid, process.pid
        # What bwrap tells, which a script may be able to forge; what the launcher said before it became the script; and
        # bwrap's status, which stays open: it would die of writing to nobody.
        self._told, self._said, self._status = pipes
        self._heard: dict[FileIO, str] = {}
        self._folder, self._limits, self._group, self._mark, self._scratch = folder, limits, group, mark, scratch
        self._began = time.monotonic()
        self._next_scan = 0.0
        self._printed = 0
        self._ended_by: Verdict | None = None
        self._closed = False

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def poll(self) -> int | None:
        """None while it runs, then the exit code as a shell shows it: 128 and the number for a signal."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        code = self.process.wait(timeout)
        return code if code >= 0 else 128 - code

    def heard(self, count: int) -> None:
        """Say how many bytes more it has printed; the limit on them is looked at with the others."""
        self._printed += count

    def terminate(self) -> None:
        """Ask the script to end (SIGTERM to its first process, as a container does), so that it can save its state."""
        script = self._script()
        if script is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(script, signal.SIGTERM)

    def kill(self) -> None:
        """End everything in the box at once, and wait until it is gone."""
        if self._group is not None:
            self._group.kill()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()  # the box's first process dies with it, and everything inside with that one
        if self.first == self.pid:  # lane 0 has no namespace that ends
            processes.sweep(self.pid, self._mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        end = time.monotonic() + END_SECONDS
        while self.first != self.pid and processes.fingerprint(self.first) and time.monotonic() < end:
            time.sleep(0.005)

    def look(self) -> Verdict | None:
        """Whether a limit is broken; if so, everything in the box has been killed. Call it about once a second."""
        if self._ended_by is None and self.process.poll() is None:
            self._ended_by = self._broken_limit()
            if self._ended_by is not None:
                self.kill()
        return self._ended_by

    def verdict(self, code: int) -> Verdict:
        """How it ended, once it has ended with this code (`poll`, `wait`)."""
        if self._ended_by is not None:
            return self._ended_by
        if self._group is not None and self._group.out_of_memory():
            return self._too_much_memory()
        if not self._words():
            return Verdict(
                "sandbox_error", f"The sandbox broke before the script began: {self.complaint()[:500]}", _BUG, True
            )
        failure = self._failure()
        return failure or self._by_code(code)

    def complaint(self) -> str:
        """What bwrap said so far. Nothing is decided by it once the launcher has said something."""
        return self._read(self._told)

    def _words(self) -> list[str]:
        """What the launcher said, line by line."""
        return self._read(self._said).splitlines()

    def _read(self, pipe: FileIO) -> str:
        if not pipe.closed:
            with contextlib.suppress(OSError):
                more = pipe.read(65_536) or b""  # all that a pipe holds
                self._heard[pipe] = self._heard.get(pipe, "") + more.decode("utf-8", "replace")
        return self._heard.get(pipe, "").strip()

    def facts(self) -> dict[str, str]:
        """Which walls stand that a lane may do without: the version of Landlock, the kind of control group."""
        known: dict[str, str] = {}
        for line in self._words():
            if line.startswith("ready "):
                known["landlock"] = str(json.loads(line.removeprefix("ready "))["landlock"])
        if self._group is not None:
            known["cgroup"] = f"v{self._group.version}: {', '.join(sorted(self._group.limits))}"
        return known

    def close(self) -> None:
        """Leave nothing: no process, no control group, no scratch folder. May be called again."""
        if self._closed:
            return
        self._closed = True
        self.kill()
        for pipe in (self._told, self._said):
            self._read(pipe)
            pipe.close()
        self._status.close()
        if self._group is not None:
            self._group.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _failure(self) -> Verdict | None:
        for line in self._words():
            if line.startswith("failed sandbox "):
                message = f"The sandbox could not be closed: {line.removeprefix('failed sandbox ')}."
                return Verdict("sandbox_error", message, _BUG, True)
            if line.startswith("failed file "):
                message = f"The script could not be started: {line.removeprefix('failed file ')}."
                return Verdict("file_error", message, "Look at the name of the entry file and of the interpreter.")
        return None

    def _by_code(self, code: int) -> Verdict:
        if code == 0:
            return Verdict("ok", "The script ended well.")
        if code <= 128 or code - 128 not in {number.value for number in signal.Signals}:
            return Verdict("exit", f"The script ended with exit code {code}.", "The last lines of the log say why.")
        number = signal.Signals(code - 128)
        if number == signal.SIGSYS:
            message = "The script made a system call that is not allowed in the sandbox, and was ended."
            return Verdict("denied_syscall", message, "32-bit programs do not run here; use 64-bit ones.")
        if number == signal.SIGXFSZ:
            return self._disk(f"A file grew beyond {amount(self._limits.file_bytes)}, and the script was ended.")
        hint = _SIGNAL_HINTS.get(number, "The last lines of the log may say why.")
        return Verdict("signal", f"The script was ended by signal {number.value} ({number.name}).", hint)

    def _broken_limit(self) -> Verdict | None:
        limits = self._limits
        if time.monotonic() - self._began > limits.wall_seconds:
            message = f"The script ran for {limits.wall_seconds:,.0f} seconds, which is the most that is allowed."
            return Verdict("time_limit", message, "Save checkpoints and resume, or train in shorter runs.")
        if self._printed > limits.output_bytes:
            message = f"The script printed more than {amount(limits.output_bytes)}."
            return Verdict("output_limit", message, "Print less; write large results to a file.")
        pids = self._members()
        size, entries, devices = watch.scratch(self.first, _SCRATCH if self.first != self.pid else ())
        return self._memory_broken(pids, size, devices) or self._disk_broken(pids, entries)

    def _memory_broken(self, pids: set[int], scratch_bytes: int, scratch_devices: set[int]) -> Verdict | None:
        if self._group is not None and "memory" in self._group.limits:
            return self._too_much_memory() if self._group.out_of_memory() else None
        most = self._limits.memory_bytes
        in_files = scratch_bytes + watch.nameless(pids, {*scratch_devices, self._folder.stat().st_dev})
        if watch.memory(pids, in_files) > most and watch.shared_out(pids, in_files) > most:
            return self._too_much_memory()
        return None

    def _disk_broken(self, pids: set[int], scratch_entries: int) -> Verdict | None:
        began = time.monotonic()
        if began < self._next_scan:
            return None
        limits = self._limits
        use = watch.disk(self._folder, limits.work_files, pids)
        self._next_scan = time.monotonic() + _SCAN_SHARE * (time.monotonic() - began)
        if use.size > limits.work_bytes:
            return self._disk(f"The script's files took more than {amount(limits.work_bytes)}.")
        if use.entries + scratch_entries > limits.work_files:
            return self._disk(f"The script made more than {limits.work_files:,} files and folders.")
        if use.too_deep:
            return self._disk(f"The script made folders more than {watch.DEEPEST} deep.")
        return None

    def _too_much_memory(self) -> Verdict:
        most = amount(self._limits.memory_bytes)
        message = f"The script needed more than {most} of memory, with what lies in /tmp and /dev/shm."
        return Verdict("memory_limit", message, "Take a smaller batch, a smaller model, or fewer data loader workers.")

    def _disk(self, message: str) -> Verdict:
        return Verdict("disk_limit", message, "Keep fewer checkpoints, and delete what is not needed while it runs.")

    def _members(self) -> set[int]:
        if self._group is not None:
            return self._group.members()
        rows = processes.table()
        if self.first == self.pid:
            return {row.pid for row in processes.family(rows, self.pid)}
        return {row.pid for row in processes.family(rows, self.first)} - {self.first}

    def _script(self) -> int | None:
        """The script's first process: the oldest child of the first process inside."""
        if self.first == self.pid:
            return self.pid
        children = [row for row in processes.table() if row.parent == self.first and not row.is_zombie]
        return min(children, key=lambda row: (int(row.started), row.pid)).pid if children else None
