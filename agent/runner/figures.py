"""What a running job asks of its machine, read every few seconds: memory, processor, GPUs, temperature, disk, network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..hardware import free_bytes
from . import processes, readings
from .gpu_feed import GpuFeed

# Of one process: seconds of the processor, bytes read from and written to disks. None where it may not be looked at.
_Used = tuple[float, int | None, int | None]


class Meter:
    """Reads what the processes of a job use, and the state of the machine they run on.

    `folder` lies on the disk whose free space is told; without it, the working directory does.
    """

    def __init__(self, seconds: float, folder: Path | None = None) -> None:
        self.seconds = seconds
        self._folder = folder or Path.cwd()
        self._due = 0.0
        self._began = self._at = time.monotonic()
        self._used: dict[tuple[int, str], _Used] = {}
        self._network = readings.network()
        self._gpus = GpuFeed(seconds)

    def read_when_due(self, leader: int) -> dict[str, Any] | None:
        """The figures every `seconds`, None in between.

        `seconds` counts from the start of the job on a clock that nobody sets; amounts are bytes, temperatures degrees
        Celsius, speeds bytes a second since the reading before. What this machine does not tell is None. A job without a
        process, not yet or no more, has no figures.
        """
        now = time.monotonic()
        if now < self._due:
            return None
        rows = [row for row in processes.family(processes.table(), leader) if row.resident_bytes]  # none: it is ending
        if not rows:
            return None
        is_first = self._due == 0.0
        passed = None if is_first else max(now - self._at, 0.001)
        self._at, self._due = now, now + self.seconds
        return {
            "seconds": round(now - self._began, 1),
            "memory_bytes": sum(row.resident_bytes for row in rows),
            "processes": len(rows),
            **self._processes_used(rows, passed),
            "gpus": self._gpus.latest(),
            "cpu_temperature": readings.cpu_temperature(),
            "disk_free_bytes": free_bytes(self._folder),
            **self._network_used(passed),
        }

    def close(self) -> None:
        self._gpus.close()

    def _processes_used(self, rows: list[processes.Process], passed: float | None) -> dict[str, Any]:
        """Counted process by process: one that has ended takes its share out of the sum, which is no negative use."""
        used = {(row.pid, row.started): (row.cpu_seconds, *readings.disk_traffic(row.pid)) for row in rows}
        before, self._used = self._used, used
        if passed is None:
            return {"cpu_percent": None, "disk_read_per_second": None, "disk_written_per_second": None}
        cpu = sum(max(0.0, now[0] - before.get(key, (0.0, None, None))[0]) for key, now in used.items())
        return {
            "cpu_percent": round(100 * cpu / passed, 1),
            "disk_read_per_second": _speed(used, before, 1, passed),
            "disk_written_per_second": _speed(used, before, 2, passed),
        }

    def _network_used(self, passed: float | None) -> dict[str, int | None]:
        before, self._network = self._network, readings.network()
        names = ("network_received_per_second", "network_sent_per_second")
        if passed is None or before is None or self._network is None:
            return dict.fromkeys(names)
        return {
            name: max(0, round((now - then) / passed))
            for name, now, then in zip(names, self._network, before, strict=True)
        }


def _speed(used: dict[Any, _Used], before: dict[Any, _Used], column: int, passed: float) -> int | None:
    """Bytes a second in one column; None when no process of the job may be looked at."""
    known = {key: value for key, row in used.items() if (value := row[column]) is not None}
    if not known:
        return None
    grown = 0
    for key, value in known.items():
        then = before[key][column] if key in before else 0
        grown += max(0, int(value) - int(then or 0))
    return round(grown / passed)
