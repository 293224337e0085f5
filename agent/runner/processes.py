"""The process table: who is alive, who descends from whom, and making sure that nothing of a job is left.

Linux is read from /proc; elsewhere `ps` gives a coarser picture (no environment, process group instead of session).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Process:
    """One row of the process table. `started` is only comparable with another reading of the same machine."""

    pid: int
    parent: int
    session: int
    started: str
    resident_bytes: int
    cpu_seconds: float
    is_zombie: bool


def table() -> list[Process]:
    """Every process of the machine that can be seen."""
    if not _PROC.joinpath("self/stat").exists():
        return list(_from_ps())
    rows = (of(int(path.name)) for path in _PROC.iterdir() if path.name.isdigit())
    return [row for row in rows if row is not None]


def of(pid: int) -> Process | None:
    """One process, or None when there is none of that number."""
    if not _PROC.joinpath("self/stat").exists():
        return next((row for row in _from_ps() if row.pid == pid), None)
    try:
        stat = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The command's name, field 2, may hold spaces and brackets: count from behind it (proc_pid_stat(5)).
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        started=fields[19],
        resident_bytes=int(fields[21]) * _PAGE,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        is_zombie=fields[0] in "ZX",
    )


def _from_ps() -> Iterator[Process]:
    columns = "pid=,ppid=,pgid=,rss=,time=,state=,lstart="
    answer = subprocess.run(["ps", "-axo", columns], capture_output=True, text=True, timeout=10, check=False)
    for line in answer.stdout.splitlines():
        pid, parent, group, resident, used, state, started = line.split(None, 6)
        yield Process(
            int(pid),
            int(parent),
            int(group),
            started.strip(),
            int(resident) * 1024,
            _seconds(used),
            state[0] == "Z",
        )


def _seconds(clock: str) -> float:
    """`[[dd-]hh:]mm:ss[.ff]` in seconds."""
    days, _, rest = clock.rpartition("-")
    total = 0.0
    for part in rest.split(":"):
        total = total * 60 + float(part)
    return total + (int(days) * 86_400 if days else 0)


def fingerprint(pid: int) -> str | None:
    """What tells this process from a later one of the same number, after a restart too; None if it is dead."""
    process = of(pid)
    if process is None or process.is_zombie:
        return None
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{boot}/{process.started}"


def is_alive(pid: int, known_as: str) -> bool:
    """Whether process `pid` still is the one whose `fingerprint` was taken."""
    return fingerprint(pid) == known_as


def family(rows: list[Process], leader: int) -> list[Process]:
    """The living processes that descend from `leader` or are of its session, `leader` included."""
    if leader <= 1:  # 0 and 1 are the kernel and the first process: everything would descend from them
        return []
    found = {row.pid for row in rows if row.pid == leader or row.session == leader}
    size = -1
    while size != len(found):
        size = len(found)
        found |= {row.pid for row in rows if row.parent in found}
    return [row for row in rows if row.pid in found and not row.is_zombie]


def left_over(leader: int, mark: str) -> list[Process]:
    """What is still alive of a job: the family of its leader (0: not known any more) and whoever carries its mark."""
    rows = table()
    ours = {row.pid for row in family(rows, leader)}
    needle = mark.encode()
    for row in rows:
        if row.pid not in ours and not row.is_zombie and needle and needle in _environment(row.pid):
            ours |= {member.pid for member in family(rows, row.pid)}
    return [row for row in rows if row.pid in ours and row.pid != os.getpid() and not row.is_zombie]


def _environment(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def sweep(leader: int, mark: str, seconds: float = 5.0, pause: float = 0.2) -> set[int]:
    """Kill whatever is left of a job until two looks in a row find nothing; returns the numbers of what was killed.

    One look is not enough: a process forked while the table is read is not in it.
    """
    killed: set[int] = set()
    empty = 0
    end = time.monotonic() + seconds
    while empty < 2 and time.monotonic() < end:
        found = left_over(leader, mark)
        empty = 0 if found else empty + 1
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
            killed.add(process.pid)
        if empty < 2:
            time.sleep(pause if found or empty == 0 else pause / 4)
    return killed


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group; one that is gone already is no trouble."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends (Linux only, prctl(2))."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def be_first_to_go() -> None:
    """When memory runs out the kernel should end the training, not the program that reports it."""
    with contextlib.suppress(OSError):
        (_PROC / "self/oom_score_adj").write_text("500")


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for lack of memory so far, as far as it tells."""
    counted = 0
    for path, name in ((_PROC / "vmstat", "oom_kill"), (_control_group() / "memory.events", "oom_kill")):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                if line.split()[:1] == [name]:
                    counted += int(line.split()[1])
    return counted


def memory_is_short() -> bool:
    """Whether less than a tenth of the memory is left, of the machine or of the container this runs in.

    The kernel's count of kills is one for the whole machine, limited groups of others included; a kill is ours only if
    memory was short.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = dict(line.split(":") for line in (_PROC / "meminfo").read_text().splitlines())
        if 10 * int(told["MemAvailable"].split()[0]) < int(told["MemTotal"].split()[0]):
            return True
    with contextlib.suppress(OSError, ValueError):
        used, most = ((_control_group() / f"memory.{name}").read_text().strip() for name in ("current", "max"))
        return most.isdigit() and 10 * int(used) > 9 * int(most)
    return False


def _control_group() -> Path:
    with contextlib.suppress(OSError):
        for line in (_PROC / "self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return Path("/sys/fs/cgroup") / line[3:].strip("/")
    return Path("/sys/fs/cgroup")
