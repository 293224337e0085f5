"""Where the arithmetic happens: the device, its number format, and what makes it repeatable."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers


@dataclass(frozen=True)
class Device:
    """A device ready for training. `autocast` is the format of the matrix products, None for plain float32."""

    kind: str
    name: str
    threads: int
    autocast: torch.dtype | None

    @property
    def repeatable(self) -> bool:
        """Whether the same job gives the same bits here: float32 on a CPU with deterministic algorithms."""
        return self.kind == "cpu" and self.autocast is None

    @property
    def dtype_name(self) -> str:
        return "float32" if self.autocast is None else f"{str(self.autocast).removeprefix('torch.')} autocast"

    def precision(self) -> AbstractContextManager[Any]:
        """The context in which the model's forward pass runs."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.kind, dtype=self.autocast)

    def environment(self) -> dict[str, Any]:
        """What two runs must share for their curves to be comparable bit by bit."""
        return {**asdict(self), "autocast": self.dtype_name, "torch": torch.__version__}


def prepare() -> Device:
    """Choose the device of this process and set it up: a CUDA GPU if there is one, else the CPU.

    The CPU computes in float32 with deterministic algorithms and one thread per physical core; the number of threads
    decides in which order sums are taken, so it is fixed and recorded. A GPU uses bfloat16 where it has it.
    """
    if torch.cuda.is_available():
        bf16 = torch.cuda.get_device_capability()[0] >= 8
        return Device("cuda", torch.cuda.get_device_name(), torch.get_num_threads(), torch.bfloat16 if bf16 else None)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(physical_cores())
    return Device("cpu", _processor(), torch.get_num_threads(), None)


def physical_cores() -> int:
    """Cores this process may use: the affinity mask without hyper-threads, within the control group's quota."""
    if not hasattr(os, "sched_getaffinity"):
        return torch.get_num_threads()
    cores = set()
    for cpu in os.sched_getaffinity(0):
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            cores.add((str(cpu), ""))
    return max(1, min(len(cores), _quota()))


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def memory_figures(kind: str) -> str:
    """One clause on the memory of the device, for the person whose job did not fit."""
    gigabyte = 1e9
    if kind == "cuda":
        _, total = torch.cuda.mem_get_info()
        peak = torch.cuda.max_memory_allocated()
        return f"the GPU has {total / gigabyte:.1f} GB, the job had taken {peak / gigabyte:.1f} GB of it"
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return "how much memory the machine has could not be read"
    return f"the machine has {total / gigabyte:.1f} GB, {free / gigabyte:.1f} GB of it free"


def _processor() -> str:
    """The model of the CPU where the system tells it (Linux), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _quota() -> int:
    """Whole CPUs granted by the control group (Linux cgroup v2 `cpu.max`: quota and period in microseconds)."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return os.cpu_count() or 1
