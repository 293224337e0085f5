"""The words of the sandbox: its lanes, what a box may use, and how a run in it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

LANES = {
    2: "bwrap+seccomp+landlock+cgroup",
    1: "bwrap+seccomp+rlimit",
    0: "landlock+seccomp+rlimit",
}
NO_LANE = "none"
STATUSES = (
    "ok", "exit", "signal", "time_limit", "memory_limit", "output_limit", "disk_limit", "denied_syscall", "file_error",
    "sandbox_error",
)  # fmt: skip
_GIB = 1 << 30


class Unavailable(Exception):
    """The sandbox cannot be had, or broke; `str()` says why and what to do. Never the fault of whoever wrote the code."""


@dataclass(frozen=True)
class Limits:
    """What a box may use; the defaults are for training on a CPU. Bytes and seconds."""

    memory_bytes: int = 8 * _GIB
    processes: int = 128  # threads count
    wall_seconds: float = 6 * 3600
    work_bytes: int = 20 * _GIB  # the work folder
    work_files: int = 100_000
    file_bytes: int = 20 * _GIB  # one file
    open_files: int = 1024  # of one process
    tmp_bytes: int = _GIB
    shm_bytes: int = _GIB
    output_bytes: int = _GIB  # printed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Limits:
        """The limits that are given, the defaults for the others; unknown names are left out."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in names})


@dataclass(frozen=True)
class Verdict:
    """How a run ended: one of STATUSES, a sentence, and what to do about it. `is_ours`: not the member's fault."""

    status: str
    message: str
    advice: str = ""
    is_ours: bool = False


def amount(count: float) -> str:
    """Bytes as a person writes them."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{count:,.0f} bytes"
