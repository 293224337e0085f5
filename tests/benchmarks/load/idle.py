"""Machines that only say that they are there, and what becomes of them when the web is killed or asked to end."""

from __future__ import annotations

import signal
import time

from tests.benchmarks.figures import Figure, quantile
from tests.benchmarks.load.machines import Machines
from tests.benchmarks.load.site import Load, Process, Reader, join, kibibytes, wait_connected
from tests.running import lives, until

FIRST = 20  # connected before memory is looked at, so that code loaded for the first of them is not counted
SETTLE_SECONDS = 3.0
MOST_KIBIBYTES, MOST_PERCENT, MOST_PAGE_SECONDS = 45.0, 10.0, 0.2
MOST_BACK_SECONDS, MOST_EXIT_SECONDS = 20.0, 5.0
CLOSED_FOR_RESTART = 1012  # RFC 6455, section 7.4.1, and the registry of its close codes


def idle(load: Load, crowd: Machines, count: int, seconds: float) -> list[Figure]:
    """Memory for each idle machine, processor, dropped connections and pages over so many seconds."""
    worker = load.yard.web_worker()
    with Reader(load.member, pause=0.05):
        join(crowd, FIRST)
        time.sleep(SETTLE_SECONDS)
    before = kibibytes(worker)
    began = time.monotonic()
    join(crowd, count - FIRST)
    joined = time.monotonic() - began
    time.sleep(SETTLE_SECONDS)
    at_first = (kibibytes(worker) - before) / (count - FIRST)
    crowd.ask("forget")
    used = Process(worker)
    time.sleep(seconds / 2)  # nobody looks at pages: what the machines alone cost
    alone = used.percent
    with Reader(load.member) as reader:
        time.sleep(seconds / 2)
    each = (kibibytes(worker) - before) / (count - FIRST)
    state = crowd.ask("state")
    about = f"{count} machines for {seconds:.0f} s in one web process"
    dropped = state["drops"] + count - state["connected"]
    pages = f"{len(reader.seconds)} pages; median {1000 * quantile(reader.seconds, 0.5):.0f} ms; slowest {reader.slowest[1]}"
    return [
        Figure("idle machine, memory (PSS)", each, "KiB", MOST_KIBIBYTES,
               f"{about}; {at_first:.1f} KiB just after they came, in {joined:.0f} s; {before / 1024:.0f} MiB without them"),
        Figure("idle machines, connections dropped", dropped, "in all", 0, about),
        Figure("idle machines, processor of the web", alone, "% of a core", MOST_PERCENT, "the first half, when nobody opens pages"),
        Figure("page while machines idle, p99", 1000 * quantile(reader.seconds, 0.99), "ms", 1000 * MOST_PAGE_SECONDS, pages,
               {"seconds": reader.seconds}),
    ]  # fmt: skip


def storm(load: Load, crowd: Machines, count: int) -> list[Figure]:
    """The web is killed and comes back; then it is asked to end and comes back."""
    return [*_killed(load, crowd, count), *_ended(load, crowd, count)]


def _killed(load: Load, crowd: Machines, count: int) -> list[Figure]:
    began = time.time()
    load.yard.kill_web()
    until(load.yard.answers, 60, "the web is back", 0.05)
    answered = time.time() - began
    back = wait_connected(crowd, count) - began
    details = f"{count} machines; the web answered after {answered:.1f} s"
    return [Figure("web killed: all machines back", back, "s", MOST_BACK_SECONDS, details)]


def _ended(load: Load, crowd: Machines, count: int) -> list[Figure]:
    crowd.ask("forget")
    master = load.yard.web_master()
    began = time.time()
    master.send_signal(signal.SIGTERM)
    until(lambda: not lives(master), 60, "the web is gone", 0.02)
    exited = time.time() - began
    back = wait_connected(crowd, count) - began
    state = crowd.ask("state")
    told = sum(code == CLOSED_FOR_RESTART for code in state["codes"])
    byes = [pause for pause in state["byes"] if pause is not None]
    spread = f"delays from {min(byes, default=0):.1f} to {max(byes, default=0):.1f} s, {len(set(byes))} different"
    return [
        Figure("web asked to end: machines not told 1012", count - min(told, len(set(byes))), "in all", 0, f"{told} told; {spread}"),
        Figure("web asked to end: gone after", exited, "s", MOST_EXIT_SECONDS, f"{count} open sockets"),
        Figure("web asked to end: all machines back", back, "s", MOST_BACK_SECONDS, "from the signal on"),
    ]  # fmt: skip
