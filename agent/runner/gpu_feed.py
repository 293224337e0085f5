"""The NVIDIA devices of the machine, told by one `nvidia-smi` that reports again and again."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from typing import Any

FIELDS = ("index", "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu", "power.draw")
_STALE_AFTER = 6  # times the pace of the readings: what is older says nothing about now


class GpuFeed:
    """Starting `nvidia-smi` for each reading would cost more than all the other figures together."""

    def __init__(self, seconds: float) -> None:
        self._gpus: dict[int, dict[str, Any]] = {}
        self._heard = 0.0
        self._patience = max(5.0, seconds * _STALE_AFTER)
        self._process: subprocess.Popen[str] | None = None
        program = shutil.which("nvidia-smi")
        if program is None:
            return
        query = "--query-gpu=" + ",".join(FIELDS)
        command = [program, query, "--format=csv,noheader,nounits", "-l", str(max(1, round(seconds)))]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
            threading.Thread(target=self._follow, name="gpu-figures", daemon=True).start()

    def latest(self) -> list[dict[str, Any]]:
        """The newest figures of each device, in their order; empty when none came for a while."""
        if time.monotonic() - self._heard > self._patience:
            return []
        return [self._gpus[index] for index in sorted(self._gpus)]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _follow(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            told = gpu(line)
            if told is not None:
                index, figures = told
                self._gpus = {**self._gpus, index: figures}
                self._heard = time.monotonic()


def gpu(line: str) -> tuple[int, dict[str, Any]] | None:
    """One line of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits` as its index and figures.

    Memory comes in MiB and is told in bytes; `[N/A]` and the like are None; a line of another shape is None as a whole.
    """
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(FIELDS) or not (fields[0].isascii() and fields[0].isdigit()):
        return None
    used, total, percent, temperature, watts = (_number(field) for field in fields[2:])
    return int(fields[0]), {
        "name": fields[1],
        "memory_bytes": None if used is None else round(used * 2**20),
        "memory_total_bytes": None if total is None else round(total * 2**20),
        "percent": percent,
        "temperature": temperature,
        "watts": watts,
    }


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None
