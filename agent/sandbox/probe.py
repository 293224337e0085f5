"""What the sandbox really holds on this machine: a box is built, and code inside it tries every wall.

Nothing is assumed from versions or files: a lane is reported when its walls held a moment ago.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import settings
from . import mounts, seccomp
from .box import Box, Walls, spare_uid, walls_of
from .limits import LANES, NO_LANE, Limits, Unavailable

_SCRATCH, _FILE, _PROCESSES = 1 << 20, 2 << 20, 24
_SMALL = Limits(
    memory_bytes=256 << 20, processes=_PROCESSES, wall_seconds=20, work_bytes=64 << 20, file_bytes=_FILE,
    tmp_bytes=_SCRATCH, shm_bytes=_SCRATCH,
)  # fmt: skip
_BALLOON = "held = []\nwhile True: held.append(bytearray(b'x') * (16 << 20))\n"
_BALLOON_LIMITS = Limits(memory_bytes=64 << 20, processes=8, wall_seconds=20, tmp_bytes=_SCRATCH, shm_bytes=_SCRATCH)
_WATCHED = "Memory is read once a second and the box killed above its limit; a fast balloon may go beyond it first."
_MUST = ("files", "network", "processes", "kernel", "namespaces", "environment")
_MUST_ALONE = ("network", "kernel", "namespaces", "environment")  # what lane 0 can keep


@dataclass(frozen=True)
class Wall:
    """One wall: what keeps it, whether it held when it was tried, and a sentence about it."""

    name: str
    holds: bool
    how: str
    detail: str


@dataclass(frozen=True)
class Report:
    """The best lane of this machine (None: none), wall by wall, and what to do for a better one."""

    lane: int | None
    lane_name: str
    walls: tuple[Wall, ...]
    todo: tuple[str, ...]
    facts: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Report:
        walls = tuple(Wall(**wall) for wall in given["walls"])
        return cls(given["lane"], given["lane_name"], walls, tuple(given["todo"]), dict(given["facts"]))


def probe() -> Report:
    """Try every wall. Takes some tenths of a second, starts no thread and leaves nothing."""
    facts = _machine()
    if sys.platform != "linux" or not seccomp.is_known():
        why = "The sandbox needs Linux on x86_64 or aarch64; scripts of members run on their own machines only."
        return _none(why, facts)
    refused: str | None = None
    try:
        return _tried(Walls(True, "may", "may", spare_uid()), facts)
    except Unavailable as error:
        refused = str(error)
    todo = [refused, *_advice(refused)]
    try:
        report = _tried(walls_of(0), facts)
    except Unavailable as error:
        return _none("", facts, [*todo, str(error)])
    return Report(report.lane, report.lane_name, report.walls, (*todo, *report.todo), report.facts)


def _tried(walls: Walls, facts: dict[str, str]) -> Report:
    with _outside() as outside:
        found, known = _attempts(walls, outside)
        facts = {**facts, **known, "user": _user(walls)}
        stopped = _stops_balloon(walls, outside["outside"]) if "memory" in known.get("cgroup", "") else None
    rows = _walls(walls, found, known, stopped)
    lane = _lane(walls, {row.name: row.holds for row in rows}, known, stopped)
    todo = [
        f"The wall `{row.name}` does not hold: {row.detail}" for row in rows if not row.holds and row.how != "watched"
    ]
    if walls.bubblewrap and "memory" not in known.get("cgroup", ""):
        todo.append(
            "Memory is only watched: for lane 2 give the worker a delegated control group (systemd: `Delegate=yes` and "
            "`DelegateSubgroup=worker`; in a container: mount /sys/fs/cgroup writable)."
        )
    if known.get("landlock", "0") == "0":
        todo.append("For lane 2 use a kernel with Landlock (5.13 or newer, `landlock` in the boot option `lsm=`).")
    if shutil.which("runsc"):
        todo.append("gVisor (`runsc`) is installed but not used: no lane of this version needs it.")
    return Report(lane, LANES[lane] if lane is not None else NO_LANE, rows, tuple(todo), facts)


def _lane(walls: Walls, holds: Mapping[str, bool], known: Mapping[str, str], stopped: bool | None) -> int | None:
    if not walls.bubblewrap:
        return 0 if all(holds[name] for name in _MUST_ALONE) and known.get("landlock", "0") != "0" else None
    if not all(holds[name] for name in _MUST):
        return None
    counted = "memory" in known.get("cgroup", "") and stopped and holds["number of processes"]
    return 2 if counted and known.get("landlock", "0") != "0" else 1


def _walls(
    walls: Walls, found: Mapping[str, list[str]], known: Mapping[str, str], stopped: bool | None
) -> tuple[Wall, ...]:
    by_box = walls.bubblewrap
    landlock, group = known.get("landlock", "0"), known.get("cgroup", "")
    how = {
        "files": "mount namespace, read-only" if by_box else f"Landlock ABI {landlock}",
        "network": "network namespace without a network" if by_box else "seccomp: local sockets alone",
        "processes": "process namespace" if by_box else "Landlock",
        "kernel": f"seccomp, {len(seccomp.FORBIDDEN) + len(seccomp.MISSING)} system calls",
        "namespaces": "seccomp" + (", user namespaces disabled" if by_box and walls.uid is None else ""),
        "environment": "cleared", "devices": "its own /dev" if by_box else "Landlock",
        "scratch": "file systems in memory of a set size" if by_box else "none", "file size": "RLIMIT_FSIZE",
        "number of processes": f"control group {group}" if "pids" in group else "RLIMIT_NPROC",
    }  # fmt: skip
    rows = [Wall(name, not found[name], how[name], _detail(found[name])) for name in how]
    if stopped is None:
        rows.append(Wall("memory", False, "watched", _WATCHED))
    else:
        told = (
            "A program that took more than its limit was ended." if stopped else "A program took more than its limit."
        )
        rows.append(Wall("memory", stopped, f"control group {group}", told))
    rows.append(Wall("landlock", landlock != "0", f"ABI {landlock}", "A second fence around files, inside the box."))
    rows.append(
        Wall("disk", True, "watched", "The work folder is measured once a second; one file has a limit of its own.")
    )
    return tuple(rows)


def _detail(succeeded: list[str]) -> str:
    return f"Code inside could: {', '.join(succeeded)}." if succeeded else "Tried from inside, and refused."


def _attempts(walls: Walls, outside: dict[str, Any]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What succeeded, by wall, and which walls stand."""
    work = Path(outside["outside"]) / "work"
    box = Box(work, _SMALL, 0 if not walls.bubblewrap else 1, walls=walls, environment={settings.JOB_MARK: "probe"})
    order = {
        **outside, "scratch": mounts.SCRATCH if walls.bubblewrap else [], "scratch_bytes": _SCRATCH, "file_bytes": _FILE,
        "processes": _PROCESSES, "variables": [*box.variables(), settings.JOB_MARK],
    }  # fmt: skip
    source = pkgutil.get_data(__package__, "attempts.py")
    assert source is not None
    with tempfile.TemporaryFile() as printed:
        argv = [sys.executable, "-I", "-S", "-c", source.decode(), json.dumps(order)]
        with box.start(argv, printed.fileno()) as running:
            try:
                verdict = running.verdict(running.wait(_SMALL.wall_seconds))
            except subprocess.TimeoutExpired:
                raise Unavailable("The box did not answer within 20 seconds.") from None
            facts = running.facts()
        printed.seek(0)
        text = printed.read().decode("utf-8", "replace")
    if verdict.status != "ok":
        raise Unavailable(f"A box was built but its program could not run. {verdict.message} {text.strip()[-300:]}")
    return json.loads(text), facts


def _stops_balloon(walls: Walls, folder: str) -> bool:
    with open(os.devnull, "wb") as nowhere:
        box = Box(Path(folder) / "balloon", _BALLOON_LIMITS, 1, walls=walls)
        running = box.start([sys.executable, "-I", "-S", "-c", _BALLOON], nowhere.fileno())
        with running, contextlib.suppress(subprocess.TimeoutExpired):
            return running.verdict(running.wait(_BALLOON_LIMITS.wall_seconds)).status == "memory_limit"
    return False


@contextlib.contextmanager
def _outside() -> Iterator[dict[str, Any]]:
    """Things of the machine that a box must not reach."""
    name = f"trainyard-probe-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="trainyard-probe-") as folder, contextlib.ExitStack() as stack:
        secret = Path(folder) / "secret"
        secret.write_text("nothing")
        secret.chmod(0o644)
        Path(folder).chmod(0o755)
        service = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind("\0" + name)
        local.listen(1)
        yield {
            "secret": str(secret), "outside": folder, "port": service.getsockname()[1], "socket": name, "pid": os.getpid(),
            "mark": "PATH=",
        }  # fmt: skip


def _none(why: str, facts: dict[str, str], todo: list[str] | None = None) -> Report:
    return Report(None, NO_LANE, (), tuple(todo or [why]), facts)


def _machine() -> dict[str, str]:
    facts = {"kernel": os.uname().release, "machine": os.uname().machine}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        facts["bubblewrap"] = subprocess.run(
            ["bwrap", "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.split()[-1]
    return facts


def _user(walls: Walls) -> str:
    if walls.uid is not None:
        return f"its own user, {walls.uid}"
    return "the worker's user, in a user namespace" if walls.bubblewrap else "the worker's user"


def _advice(refused: str) -> list[str]:
    if "Install it" in refused:
        return []
    apparmor = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    with contextlib.suppress(OSError):
        if apparmor.read_text().strip() == "1":
            return [
                "AppArmor forbids user namespaces here (Ubuntu 23.10 and newer): load a profile for bwrap that allows `userns` "
                "(docs/sandbox.md has one), or start the worker as root."
            ]
    with contextlib.suppress(OSError):
        if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
            return ["User namespaces are switched off: `sysctl user.max_user_namespaces=10000`."]
    return ["In a container, start it with the rights that bubblewrap needs; docs/sandbox.md names them."]
