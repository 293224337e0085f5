"""Memory, load and GPU use of a running job, read every few seconds."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from typing import Any

from . import processes

_QUERY = "--query-gpu=name,memory.used,memory.total,utilization.gpu"


class Meter:
    """Reads what the processes of a job hold in memory and use of the processor, and the GPUs of the machine."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due = 0.0
        self._used = 0.0
        self._at = time.monotonic()
        self._gpus = _GpuFeed(seconds)

    def read_when_due(self, leader: int) -> dict[str, Any] | None:
        """{"memory_bytes", "cpu_percent", "processes", "gpus"} every `seconds`, None in between."""
        now = time.monotonic()
        if now < self._due:
            return None
        rows = processes.family(processes.table(), leader)
        used = sum(row.cpu_seconds for row in rows)
        percent = 100 * max(0.0, used - self._used) / (now - self._at) if self._due else 0.0
        self._used, self._at, self._due = used, now, now + self.seconds
        return {
            "memory_bytes": sum(row.resident_bytes for row in rows),
            "cpu_percent": round(percent, 1),
            "processes": len(rows),
            "gpus": self._gpus.latest(),
        }

    def close(self) -> None:
        self._gpus.close()


class _GpuFeed:
    """One `nvidia-smi` that reports again and again; starting it each time would cost more than all the rest."""

    def __init__(self, seconds: float) -> None:
        self._gpus: dict[int, dict[str, Any]] = {}
        self._process: subprocess.Popen[str] | None = None
        program = shutil.which("nvidia-smi")
        if program is None:
            return
        command = [
            program,
            _QUERY.replace("=", "=index,", 1),
            "--format=csv,noheader,nounits",
            "-l",
            str(max(1, round(seconds))),
        ]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            threading.Thread(target=self._follow, name="gpu-figures", daemon=True).start()

    def latest(self) -> list[dict[str, Any]]:
        return [self._gpus[index] for index in sorted(self._gpus)]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _follow(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            fields = [field.strip() for field in line.split(",")]
            if len(fields) == 5 and fields[0].isdigit():
                self._gpus[int(fields[0])] = {
                    "name": fields[1],
                    "memory_bytes": _mebibytes(fields[2]),
                    "memory_total_bytes": _mebibytes(fields[3]),
                    "percent": int(fields[4]) if fields[4].isdigit() else None,
                }


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdigit() else None
