"""`make bench-agents`: what many machines cost a yard, and how fast lines and points get from them to a browser.

A thousand machines in one process are the agent's own connections without a training behind them; the yard is the one that
`make run` starts, on its SQLite. Nothing leaves the loopback interface, but for the installation of MLflow, the other side
of the comparison, into VAR_DIR/bench. Figures go to the terminal and to VAR_DIR/bench as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from tests.benchmarks import main as bench  # noqa: E402
from tests.benchmarks.figures import Figure  # noqa: E402
from tests.benchmarks.load.idle import idle, storm  # noqa: E402
from tests.benchmarks.load.ingest import ingest  # noqa: E402
from tests.benchmarks.load.long_job import long_job  # noqa: E402
from tests.benchmarks.load.machines import machines  # noqa: E402
from tests.benchmarks.load.site import Load, join, loaded  # noqa: E402
from tests.benchmarks.load.stream import stream  # noqa: E402
from tests.benchmarks.load.watching import chromium, lines_seen, signed_in  # noqa: E402
from tests.running import PASSWORD  # noqa: E402

PARTS = ("ingest", "idle", "storm", "stream", "lines", "long")
SHORT_SECONDS, LONG_SECONDS = 300.0, 3600.0
Measure = Callable[[], list[Figure]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; answers 0, or 1 when a target was missed."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    machine = bench._machine()
    console.print(f"{machine['processor']}, {machine['processors']} processors, Python {machine['python']}.")
    if machine["load"] / machine["processors"] > bench.BUSY_LOAD:
        console.print(f"Other programs are busy here (load {machine['load']:.1f}): only ratios count.", style="yellow")
    figures: list[Figure] = []
    for name, measure in _work(options):
        figures += bench._timed(name, lambda name=name, measure=measure: _measured(name, measure), console)  # type: ignore[misc]
    machine["load_at_end"] = os.getloadavg()[0]
    console.print(bench._table(figures))
    console.print(f"As JSON: {bench._write(machine, figures)}", soft_wrap=True)
    return 0 if all(figure.is_met is not False for figure in figures) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-agents", description="Measure machines in any number.")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this alone; may be given again")
    parser.add_argument("--long", action="store_true", help="let the machines idle for an hour")
    parser.add_argument("--agents", type=int, default=1000, help="idle machines (default: 1000)")
    parser.add_argument("--seconds", type=float, help="how long they idle (default: 300, with --long 3600)")
    parser.add_argument("--streams", type=int, default=50, help="machines that print (default: 50)")
    parser.add_argument("--stream-seconds", type=float, default=60, help="for how long (default: 60)")
    parser.add_argument("--lines", type=int, default=200, help="lines watched in the browser (default: 200)")
    parser.add_argument("--calls", type=int, default=50, help="calls of 1,000 in a round of the ingest (default: 50)")
    parser.add_argument(
        "--opened", type=int, default=10, help="how often the long training's page is opened (default: 10)"
    )
    return parser


def _work(options: argparse.Namespace) -> Iterator[tuple[str, Measure]]:
    """Each part with a yard of its own, but that the storm comes over the machines that have idled."""
    parts = set(options.only or PARTS)
    seconds = options.seconds or (LONG_SECONDS if options.long else SHORT_SECONDS)
    if "ingest" in parts:
        scratch = Path(os.environ.get("VAR_DIR") or ROOT / "var").expanduser().resolve() / "bench"
        yield "ingest", lambda: ingest(scratch, options.calls)
    if parts & {"idle", "storm"}:
        yield "idle machines and storms", lambda: _idle(options.agents, seconds, parts)
    if "stream" in parts:
        yield "streams", lambda: _with_yard(lambda load: stream(load, options.streams, 100, options.stream_seconds))
    if "lines" in parts:
        yield "lines in a browser", lambda: _with_yard(lambda load: _in_browser(load, options, lines=True))
    if "long" in parts:
        yield "a long training", lambda: _with_yard(lambda load: _in_browser(load, options, lines=False))


def _measured(name: str, measure: Measure) -> list[Figure]:
    """What cannot be measured has missed its target; the rest is measured all the same."""
    try:
        return measure()
    except AssertionError as error:
        return [Figure(f"{name}: could not be measured", 0, "", None, str(error)[:500], {}, 1)]


def _with_yard(measure: Callable[[Load], list[Figure]]) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder, loaded(Path(folder)) as load:
        return measure(load)


def _idle(count: int, seconds: float, parts: set[str]) -> list[Figure]:
    def measure(load: Load) -> list[Figure]:
        with machines(load.yard.socket_url, load.key) as crowd:
            if "idle" not in parts:
                join(crowd, count)
            figures = idle(load, crowd, count, seconds) if "idle" in parts else []
            return figures + (storm(load, crowd, count) if "storm" in parts else [])

    return _with_yard(measure)


def _in_browser(load: Load, options: argparse.Namespace, lines: bool) -> list[Figure]:
    with chromium() as browser:
        page = signed_in(browser, load.yard.url, "bench@example.com", PASSWORD)
        return lines_seen(load, page, options.lines) if lines else long_job(load, page, options.opened, 5)


if __name__ == "__main__":
    sys.exit(main())
