"""Runs a program that nobody trusts, on Linux, with walls that the kernel keeps.

    Box(folder, limits, lane).start([...], stdout) -> Running: poll, look once a second, terminate, kill, verdict, close
    probe() -> Report: the best lane of this machine, tried and not assumed, and what to do for a better one
    unpack(zip, folder, lane): an uploaded archive, unpacked inside a box
    open_folder(folder, name), open_output(folder, name): what a script left behind, read without falling for it

Python-level tricks are no boundary; the process is. `mounts` says what a box sees, `seccomp` which system calls it may
not make, `cgroups` what it may use, `launcher` takes the last rights away from inside, `watch` counts what the kernel does
not limit. The lanes are in `limits`.
"""

from __future__ import annotations

from .box import Box
from .limits import LANES, NO_LANE, STATUSES, Limits, Unavailable, Verdict
from .outputs import FOLDER, open_folder, open_output, remove
from .probe import Report, Wall, probe
from .running import Running
from .unpacking import unpack

__all__ = [
    "FOLDER", "LANES", "NO_LANE", "STATUSES", "Box", "Limits", "Report", "Running", "Unavailable", "Verdict", "Wall",
    "open_folder", "open_output", "probe", "remove", "unpack",
]  # fmt: skip
