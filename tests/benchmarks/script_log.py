"""What a call of the helper's `log` costs a training script, beside a `print` in the same run.

    python -m tests.benchmarks.script_log [--calls 20000]

Each writes into a pipe that a process of its own empties. The two are called in turns, so a machine that is slow for a while
is so for both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "agent" / "scripts" / "helper"))
sys.path.insert(0, str(ROOT))

from tests.benchmarks.figures import Figure, median, quantile  # noqa: E402

TARGET_MILLISECONDS = 0.05  # of the median; p99 1 ms
_READER = "import os, sys\nend = os.open(sys.argv[1], os.O_RDWR)\nprint('ready', flush=True)\nwhile os.read(end, 1 << 16): pass"


def script_log(calls: int) -> list[Figure]:
    """Milliseconds of a `log(loss=..., step=...)` and of a flushed `print` of the same numbers, median and p99."""
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder:
        pipes = [Path(folder) / name for name in ("events", "output")]
        for pipe in pipes:
            os.mkfifo(pipe)
        readers = [_reader(pipe) for pipe in pipes]
        try:
            os.environ["TRAINYARD_EVENTS"] = str(pipes[0])
            from trainyard import log

            with pipes[1].open("w") as output:
                logs, prints = _in_turns(
                    calls,
                    lambda step: log(loss=2.5 / (step + 1), lr=1e-3, step=step),
                    lambda step: print(f"step {step}: loss {2.5 / (step + 1):.4f}, lr 1e-3", file=output, flush=True),
                )
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()
    return [*_figures("log", logs, TARGET_MILLISECONDS, 1.0), *_figures("print", prints, None, None)]


def _reader(pipe: Path) -> subprocess.Popen[bytes]:
    reader = subprocess.Popen([sys.executable, "-c", _READER, str(pipe)], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    reader.stdout.readline()
    return reader


def _in_turns(calls: int, *kinds: Callable[[int], None]) -> list[list[float]]:
    """Milliseconds of each call of each kind."""
    taken: list[list[float]] = [[] for _ in kinds]
    for step in range(calls):
        for call, times in zip(kinds, taken, strict=True):
            start = time.perf_counter()
            call(step)
            times.append(1000 * (time.perf_counter() - start))
    return taken


def _figures(name: str, times: list[float], most: float | None, most_p99: float | None) -> list[Figure]:
    details = f"{len(times):,} calls in turns"
    return [
        Figure(f"{name}, median", median(times), "ms", most, details),
        Figure(f"{name}, p99", quantile(times, 0.99), "ms", most_p99, details),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; answers 0, or 1 when a target was missed."""
    parser = argparse.ArgumentParser(description="Measure a call of the helper's log beside print.")
    parser.add_argument("--calls", type=int, default=20_000, help="calls of each (default: 20,000)")
    figures = script_log(parser.parse_args(arguments).calls)
    for figure in figures:
        print(f"{figure.name:15} {figure.value:8.4f} {figure.unit}  {figure.target}  ({figure.details})")
    return 0 if all(figure.is_met is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
