"""`make bench`: what the yard promises, measured on this machine: start, overhead, lag, pages.

Every ratio comes from one run of this program, its two sides taken in turns, so a machine that is slow or busy is so for
both. The figures go to the terminal, and as JSON to VAR_DIR/bench/. Nothing leaves the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from rich.text import Text  # noqa: E402

from tests.benchmarks import jobs, pages  # noqa: E402
from tests.benchmarks.figures import Figure  # noqa: E402
from tests.benchmarks.jobs import Bench  # noqa: E402
from tests.benchmarks.overhead import overhead  # noqa: E402
from tests.running import AgentProcess, Member, RunningYard  # noqa: E402

PARTS = ("start", "overhead", "lag", "pages")
BUSY_LOAD = 0.5  # load average over processors before anything was started


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; answers 0, or 1 when a target was missed."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    parts = options.only or list(PARTS)
    machine = _machine()
    console.print(f"{machine['processor']}, {machine['processors']} processors, Python {machine['python']}.")
    if machine["load"] / machine["processors"] > BUSY_LOAD:
        console.print(
            f"Other programs are busy here (load {machine['load']:.1f}): absolute figures will be too high and ratios will spread.",
            style="yellow",
        )
    figures = list(_measured(parts, options, console))
    console.print(_table(figures))
    path = _write(machine, figures)
    console.print(f"As JSON: {path}", soft_wrap=True)
    return 0 if all(figure.is_met is not False for figure in figures) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure start, overhead, lag and pages.")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this alone; may be given again")
    parser.add_argument("--starts", type=int, default=5, help="how many starts (default: 5)")
    parser.add_argument("--pairs", type=int, default=20, help="how many pairs of blocks for the overhead (default: 20)")
    parser.add_argument("--block", type=int, default=10, help="steps of a block for the overhead (default: 10)")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run for the lag (default: 40)")
    parser.add_argument("--requests", type=int, default=40, help="requests for each page (default: 40)")
    parser.add_argument(
        "--large", action="store_true", help="measure the pages over 20,000 jobs and 1,000,000 events too"
    )
    return parser


def _measured(parts: Sequence[str], options: argparse.Namespace, console: Console) -> Iterator[Figure]:
    if set(parts) & {"start", "overhead", "lag"}:
        with _bench() as bench:
            bench.warm_up()
            work: dict[str, Callable[[], list[Figure]]] = {
                "start": lambda: jobs.start(bench, options.starts),
                "overhead": lambda: overhead(bench, options.pairs, options.block),
                "lag": lambda: jobs.lag(bench, options.steps),
            }
            for name, measure in work.items():
                if name in parts:
                    yield from _timed(name, measure, console)
    if "pages" in parts:
        yield from _timed("pages", lambda: pages.measure(options.requests), console)
        if options.large:
            yield from _timed("pages, large", lambda: pages.measure(options.requests, pages.LARGE), console)


def _timed(name: str, measure: Callable[[], list[Figure]], console: Console) -> list[Figure]:
    began = time.monotonic()
    console.print(f"Measuring {name} ...", end="")
    figures = measure()
    console.print(f" {time.monotonic() - began:.0f} s")
    return figures


@contextmanager
def _bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as temporary:
        folder = Path(temporary)
        with RunningYard(folder / "yard") as yard:
            member = Member.signed_up(yard.url, "bench", "enterprise")
            with AgentProcess(yard, member.new_key()["key"], folder / "agent", "bench") as agent:
                machine = agent.wait_online(member, 60)["id"]
                yield Bench(folder, yard, member, agent, machine)


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(), "processors": psutil.cpu_count(), "load": os.getloadavg()[0],
        "python": platform.python_version(), "system": platform.platform(),
    }  # fmt: skip


def _table(figures: Sequence[Figure]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("")
    table.add_column("details", style="dim")
    for figure in figures:
        word, style = {True: ("met", "green"), False: ("missed", "red"), None: ("", "")}[figure.is_met]
        table.add_row(figure.name, figure.shown, figure.target, Text(word, style), figure.details)
    return table


def _write(machine: dict[str, Any], figures: Sequence[Figure]) -> Path:
    folder = Path(os.environ.get("VAR_DIR") or ROOT / "var").expanduser().resolve() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    at = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    path = folder / f"{at}.json"
    path.write_text(
        json.dumps({"at": at, "machine": machine, "figures": [figure.as_dict() for figure in figures]}, indent=1)
    )
    return path


if __name__ == "__main__":
    sys.exit(main())
