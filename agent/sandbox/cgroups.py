"""Control groups for a box, where this process may make them: memory and processes counted and limited by the kernel.

Version 2 has one folder with every limit, version 1 one folder for each controller (kernel: admin-guide/cgroup-v2 and
cgroup-v1/memory). A group is named after the process that made it, so one that a killed process left behind is found.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .limits import Limits

_NAME = re.compile(r"trainyard-(\d+)-[0-9a-f]+")
HELPERS = 4  # processes of the box itself beside the script's
_REMOVE_SECONDS = 5.0
_LET_GO_SECONDS = 1.0
_PROC = Path("/proc")


@dataclass(frozen=True)
class _Place:
    """A folder below which groups may be made. `controllers` are those of version 1 it stands for."""

    folder: Path
    version: int
    controllers: frozenset[str]


class Group:
    """The control groups of one box. Make one with `make`; `close` removes them."""

    def __init__(self, folders: dict[str, Path], version: int) -> None:
        self._folders = folders
        self.version = version
        self.limits = frozenset(folders)  # of "memory" and "pids", those that the kernel enforces

    def add(self, pid: int) -> None:
        """Move a process into every group; its later children follow. Raises OSError."""
        for folder in set(self._folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def members(self) -> set[int]:
        found: set[int] = set()
        for folder in set(self._folders.values()):
            with contextlib.suppress(OSError):
                found |= {int(line) for line in (folder / "cgroup.procs").read_text().split()}
        return found

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something in here for lack of memory."""
        return self._counted("memory", "memory.events" if self.version == 2 else "memory.oom_control", "oom_kill") > 0

    def refused_processes(self) -> int:
        """How often a new process or thread was refused."""
        return self._counted("pids", "pids.events", "max")

    def kill(self) -> None:
        """Kill everything in here; what is forked meanwhile is met by the next look of `close`."""
        for folder in set(self._folders.values()):
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill what is left and remove the groups; one that will not go is left to `forget_old`."""
        end = time.monotonic() + _REMOVE_SECONDS
        waiting = set(self._folders.values())
        while waiting and time.monotonic() < end:
            for folder in list(waiting):
                if _remove(folder):
                    waiting.discard(folder)
            if waiting:
                self.kill()
                time.sleep(0.01)

    def _counted(self, controller: str, file: str, name: str) -> int:
        folder = self._folders.get(controller)
        if folder is None:
            return 0
        with contextlib.suppress(OSError, ValueError):
            for line in (folder / file).read_text().splitlines():
                if line.split()[:1] == [name]:
                    return int(line.split()[1])
        return 0


def make(limits: Limits) -> Group | None:
    """Groups with these limits, or None where this process may not make any that limit memory."""
    for place in _places():
        forget_old(place.folder)
    return _make_second(limits) or _make_first(limits)


def _make_second(limits: Limits) -> Group | None:
    for place in _places():
        folder = place.folder / _new_name()
        if place.version != 2 or not _may_limit(place.folder):
            continue
        try:
            folder.mkdir()
            (folder / "memory.max").write_text(str(limits.memory_bytes))
            (folder / "pids.max").write_text(str(limits.processes + HELPERS))
        except OSError:
            _remove(folder)
            continue
        for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            with contextlib.suppress(OSError):  # kernels built without swap have no such file
                (folder / file).write_text(value)
        return Group({"memory": folder, "pids": folder}, 2)
    return None


def _make_first(limits: Limits) -> Group | None:
    files = {
        "memory": [
            ("memory.limit_in_bytes", limits.memory_bytes),
            ("memory.memsw.limit_in_bytes", limits.memory_bytes),
        ],
        "pids": [("pids.max", limits.processes + HELPERS)],
    }
    folders: dict[str, Path] = {}
    for controller, lines in files.items():
        for place in _places():
            if place.version != 1 or controller not in place.controllers or controller in folders:
                continue
            folder = place.folder / _new_name()
            try:
                folder.mkdir()
                (folder / lines[0][0]).write_text(str(lines[0][1]))
            except OSError:
                _remove(folder)
                continue
            for file, value in lines[1:]:
                with contextlib.suppress(OSError):  # only where the kernel counts swap
                    (folder / file).write_text(str(value))
            folders[controller] = folder
    if "memory" in folders:
        return Group(folders, 1)
    for folder in folders.values():
        _remove(folder)
    return None


def forget_old(folder: Path) -> None:
    """Remove the groups of processes that were killed before they could do it.

    A process that was killed leaves its group last, a moment after everything else that can be seen of it.
    """
    old, end = _old(folder), time.monotonic() + _LET_GO_SECONDS
    while (old := [path for path in old if not _remove(path)]) and time.monotonic() < end:
        time.sleep(0.01)


def _old(folder: Path) -> list[Path]:
    """The groups below a folder whose makers are gone."""
    with contextlib.suppress(OSError):
        named = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("trainyard-*")]
        return [path for path, known in named if known and not (_PROC / known[1]).exists()]
    return []


def _may_limit(folder: Path) -> bool:
    """Whether groups below this folder get memory and pids; switches them on where that is allowed."""
    switch = folder / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        missing = {"memory", "pids"} - set(switch.read_text().split())
        if missing:
            switch.write_text(" ".join(f"+{name}" for name in sorted(missing)))
        return True
    return False


def _places() -> list[_Place]:
    """Where this process is, in each hierarchy, and one above: a group that holds processes cannot share out memory in
    version 2, and a delegated service has its processes one below what it was given."""
    found: list[_Place] = []
    try:
        own = [line.split(":", 2) for line in (_PROC / "self/cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (_PROC / "self/mountinfo").read_text().splitlines()]
    except OSError:
        return []
    for fields in mounts:
        kind, options = fields[fields.index("-") + 1], set(fields[-1].split(","))
        for number, controllers, path in own:
            held = frozenset(controllers.split(","))
            if (kind == "cgroup2" and number == "0") or (kind == "cgroup" and controllers and held <= options):
                below = path.removeprefix(fields[3]) if fields[3] != "/" else path
                folder = Path(fields[4]) / below.strip("/")
                version = 2 if kind == "cgroup2" else 1
                found += [_Place(f, version, held) for f in (folder, folder.parent) if f.is_relative_to(fields[4])]
    return [place for place in found if os.access(place.folder, os.W_OK)]


def _new_name() -> str:
    return f"trainyard-{os.getpid()}-{secrets.token_hex(4)}"


def _remove(folder: Path) -> bool:
    """Whether the group is gone."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()
