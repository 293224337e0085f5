"""`make bench-billing`: spends, renewals and the billing pages on PostgreSQL, measured on this machine.

The server is the one the tests find (TEST_DATABASE_URL, loopback, or one started for this run); each part gets a database of
its own, which is dropped afterwards. Both sides of a ratio are taken in turns in one run, so a machine that is slow or
busy is so for both. The figures go to the terminal, and as JSON to VAR_DIR/bench/.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import psycopg  # noqa: E402
from flask import Flask  # noqa: E402
from flask.testing import FlaskClient  # noqa: E402
from flask_migrate import upgrade  # noqa: E402
from rich.console import Console  # noqa: E402
from sqlalchemy import event, func, select  # noqa: E402

from app import create_app  # noqa: E402
from models.base import db, now  # noqa: E402
from models.credits import LedgerOperation  # noqa: E402
from models.notices import OutgoingMail  # noqa: E402
from models.subscriptions import CreditPeriod, Subscription  # noqa: E402
from services import catalogues, credits, price_list, subscriptions  # noqa: E402
from services.config import Settings  # noqa: E402
from services.reconcile import reconcile  # noqa: E402
from tests.benchmarks import main as bench  # noqa: E402
from tests.benchmarks.crowd import EMAIL, PASSWORD, Crowd, fill  # noqa: E402
from tests.benchmarks.figures import Figure, median, quantile  # noqa: E402
from tests.benchmarks.pages import _counted, redis  # noqa: E402
from tests.benchmarks.profiles import shares  # noqa: E402
from tests.postgres import PrivateServer, loopback_server  # noqa: E402

PARTS = ("spends", "renewals", "pages")
PAGES = {"/billing": "/billing", "/admin/subscriptions/": "/admin/subscriptions/"}
OF_PGBENCH, RENEWAL_SECONDS, PAGE_MILLISECONDS, PAGE_GROWTH, MEMORY_GROWTH = 0.3, 120.0, 80.0, 1.5, 10.0
MEMBERS_OF_THE_RENEWALS = 100_000  # what the limit of seconds is for; with fewer it is taken in proportion
USAGE = credits.Usage("chat_message", "language", "yard-tiny")


class AtLeast(Figure):
    """A figure whose target is the least it may be."""

    @property
    def is_met(self) -> bool | None:
        return None if self.at_most is None else self.value >= self.at_most

    @property
    def target(self) -> str:
        return super().target.replace("≤", "≥")


@dataclass(frozen=True)
class Place:
    """Where a part is measured: the server's address, and what an application needs beside its database."""

    server: str
    redis_url: str
    folder: Path

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A new database, dropped afterwards."""
        name = f"trainyard_bench_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        try:
            yield self.server.rsplit("/", 1)[0] + f"/{name}"
        finally:
            with psycopg.connect(self.server, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def app(self, url: str) -> Flask:
        """A yard's application on a database; its mail is for a server, so it is stored and sent by nobody here."""
        return create_app(
            Settings.from_env(
                {
                    "VAR_DIR": str(self.folder / "var"), "DATABASE_URL": url, "REDIS_URL": self.redis_url,
                    "SECRET_KEY": "only for benchmarks", "HF_ENDPOINT": "http://127.0.0.1:9", "MAIL_SERVER": "127.0.0.1",
                    "LOG_LEVEL": "error",
                }
            )
        )  # fmt: skip

    @contextlib.contextmanager
    def yard(self, crowd: Crowd) -> Iterator[tuple[str, Flask]]:
        """A yard full of members: the address of its database, and the application."""
        with self.database() as url:
            app = self.app(url)
            with app.app_context():
                upgrade(directory=str(ROOT / "migrations"))
                price_list.install(catalogues.DEFAULT)
                db.session.remove()
            fill(url, crowd)
            yield url, app
            with app.app_context():
                db.engine.dispose()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; answers 0, or 1 when a target was missed."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    machine = bench._machine()
    console.print(f"{machine['processor']}, {machine['processors']} processors, Python {machine['python']}.")
    if machine["load"] / machine["processors"] > bench.BUSY_LOAD:
        console.print(f"Other programs are busy here (load {machine['load']:.1f}): only ratios count.", style="yellow")
    figures: list[Figure] = []
    with _place() as place:
        work = {"spends": spends, "renewals": renewals, "pages": pages}
        for name in options.only or PARTS:
            figures += bench._timed(name, lambda name=name: work[name](place, options), console)  # type: ignore[misc]
    console.print(bench._table(figures))
    console.print(f"As JSON: {bench._write(machine, figures)}", soft_wrap=True)
    return 0 if all(figure.is_met is not False for figure in figures) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench-billing", description="Measure spends, renewals and billing pages."
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this alone; may be given again")
    parser.add_argument("--members", type=int, default=100_000, help="members to renew and to list (default: 100,000)")
    parser.add_argument("--usage", type=int, default=1_000_000, help="charges behind the pages (default: 1,000,000)")
    parser.add_argument("--wallets", type=int, default=1000, help="wallets that are spent from (default: 1,000)")
    parser.add_argument("--seconds", type=float, default=5, help="seconds of one block of spends (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each kind, taken in turns (default: 5)")
    parser.add_argument("--requests", type=int, default=100, help="requests for each page (default: 100)")
    return parser


@contextlib.contextmanager
def _place() -> Iterator[Place]:
    server = os.environ.get("TEST_DATABASE_URL") or loopback_server()
    private = None if server else PrivateServer.start()
    server = server or (private.url if private else None)
    if server is None:
        sys.exit("This needs PostgreSQL: TEST_DATABASE_URL, a server on 127.0.0.1:5432, or an installed `postgres`.")
    try:
        with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as temporary, redis(Path(temporary)) as redis_url:
            yield Place(server, redis_url, Path(temporary))
    finally:
        if private:
            private.stop()


# --- spends, beside pgbench --------------------------------------------------------------------------------------------


def spends(place: Place, options: argparse.Namespace) -> list[Figure]:
    """Spends a second on one wallet and on many, and what `pgbench -N` does with as many clients on the same server."""
    crowd = Crowd(members=options.wallets + 1, usage=0)
    with place.yard(crowd) as (url, _), place.database() as other, _spenders(place, url, 8) as pipes:
        subprocess.run(["pgbench", "-i", "-q", "-s", "10", other], check=True, capture_output=True)
        everybody = range(2, options.wallets + 2)
        tried = {count: _spend(pipes[:count], everybody, options.seconds / 2) for count in (2, 4, 8)}
        count = max(tried, key=lambda count: tried[count])
        turns = [
            (
                _pgbench(other, count, options.seconds),
                _spend(pipes[:count], everybody, options.seconds),
                _spend(pipes[:count], [2], options.seconds),
            )
            for _ in range(options.rounds)
        ]
        where = _profile(pipes[0], everybody, 500)
    return list(_spend_figures(turns, tried, count, where, options.wallets))


def _spend_figures(
    turns: list[tuple[float, float, float]], tried: dict[int, float], count: int, where: dict[str, Any], wallets: int
) -> Iterator[Figure]:
    pgbench, many, one = (list(side) for side in zip(*turns, strict=True))
    how = f"{count} processes, {len(turns)} blocks in turns"
    yield Figure("pgbench -N", median(pgbench), "/s", details=how, raw={"per_second": pgbench})
    for name, side in ((f"spends, {wallets:,} wallets", many), ("spends, one wallet", one)):
        yield Figure(name, median(side), "/s", details=how, raw={"per_second": side, "tried": tried})
    for name, side, least in (
        (f"{wallets:,} wallets / pgbench", many, OF_PGBENCH),
        ("one wallet / pgbench", one, None),
    ):
        ratios = [mine / other for mine, other in zip(side, pgbench, strict=True)]
        details = f"median of {len(ratios)}, {min(ratios):.2f} to {max(ratios):.2f}"
        yield AtLeast(name, median(ratios), "x", least, details, {"ratios": ratios})
    groups = ", ".join(f"{name} {share:.0f} %" for name, share in where["shares"].items())
    yield Figure("where a spend's time goes", where["milliseconds"], "ms", details=groups, raw=where)


@contextlib.contextmanager
def _spenders(place: Place, url: str, count: int) -> Iterator[list[Connection]]:
    """Processes with an application each, that wait for what to do."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=_spender, args=(place, url, theirs), daemon=True) for _, theirs in ends]
    for process in processes:
        process.start()
    pipes = [mine for mine, _ in ends]
    try:
        for pipe in pipes:
            pipe.recv()  # it is warm
        yield pipes
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.send(None)
            process.join(10)


def _spender(place: Place, url: str, pipe: Connection) -> None:
    app = place.app(url)
    dice = random.Random(os.getpid())
    with app.app_context():
        _spend_until(time.monotonic() + 0.2, [1], dice)
        pipe.send("warm")
        while (asked := pipe.recv()) is not None:
            verb, wallets, amount = asked
            if verb == "spend":
                began = time.monotonic()
                spent = _spend_until(began + amount, wallets, dice)
                pipe.send(spent / (time.monotonic() - began))
            else:
                pipe.send(shares(partial(_spend_one, wallets, dice), amount))


def _spend_until(end: float, wallets: Sequence[int], dice: random.Random) -> int:
    for count in itertools.count():
        if time.monotonic() >= end:
            return count
        _spend_one(wallets, dice)
    return 0


def _spend_one(wallets: Sequence[int], dice: random.Random) -> None:
    key = f"bench:{dice.getrandbits(64):x}"
    assert not credits.spend(dice.choice(wallets), 1, key=key, reason="A message", usage=USAGE).refused


def _spend(pipes: Sequence[Connection], wallets: Sequence[int], seconds: float) -> float:
    """Spends a second of all processes together."""
    for pipe in pipes:
        pipe.send(("spend", wallets, seconds))
    return sum(pipe.recv() for pipe in pipes)


def _profile(pipe: Connection, wallets: Sequence[int], count: int) -> dict[str, Any]:
    pipe.send(("profile", wallets, count))
    answer: dict[str, Any] = pipe.recv()
    return answer


def _pgbench(url: str, clients: int, seconds: float) -> float:
    command = ["pgbench", "-n", "-N", "-c", str(clients), "-j", "2", "-T", str(max(1, round(seconds))), url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


# --- renewals ----------------------------------------------------------------------------------------------------------


def renewals(place: Place, options: argparse.Namespace) -> list[Figure]:
    """Seconds until everybody's period is open when all were due at once, and what it did to the memory of the process."""
    with place.yard(Crowd(members=options.members, usage=0, are_due=True)) as (url, app):
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_renewer, args=(place, url, theirs), daemon=True)
        process.start()
        done: dict[str, Any] = mine.recv()
        process.join(10)
        with app.app_context():
            checked = _renewed(options.members)
            broken = reconcile()
            db.session.remove()
    assert done["opened"] == options.members and not broken, (done["opened"], broken[:5])
    tenth = len(done["held"]) // 10 or 1
    early, late = max(done["held"][:tenth]), max(done["held"])
    per_member = 1e6 * done["seconds"] / options.members
    limit = RENEWAL_SECONDS * options.members / MEMBERS_OF_THE_RENEWALS
    growth = 100 * (late / early - 1)
    return [
        Figure(f"{options.members:,} renewals due at once", done["seconds"], "s", limit, f"{per_member:.0f} µs each; {checked}", done),
        Figure("memory after a tenth and at the end", growth, "%", MEMORY_GROWTH, f"peaks {early:.0f} and {late:.0f} MB"),
    ]  # fmt: skip


def _renewer(place: Place, url: str, pipe: Connection) -> None:
    app = place.app(url)
    held: list[float] = []
    with app.app_context():
        event.listen(db.session, "after_commit", lambda _: held.append(_resident()))
        began = time.monotonic()
        opened = subscriptions.renew_overdue()
        pipe.send({"opened": opened, "seconds": time.monotonic() - began, "held": held})


def _resident() -> float:
    """Megabytes that this process holds now; what `getrusage` calls its peak is its parent's when that was larger."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _renewed(members: int) -> str:
    """Count and sum what there has to be now; one sentence about it."""
    periods, allotted = db.session.execute(
        select(func.count(), func.sum(CreditPeriod.allotment)).where(CreditPeriod.opened_by == "sweep")
    ).one()
    grants, granted = db.session.execute(
        select(func.count(), func.sum(LedgerOperation.amount)).where(
            LedgerOperation.kind == "grant", LedgerOperation.event_at > _before_the_last_period()
        )
    ).one()
    told = db.session.scalar(select(func.count()).select_from(OutgoingMail))
    waiting = db.session.scalar(
        select(func.count()).where(
            Subscription.ended_at.is_(None),
            (Subscription.next_reset_at <= now()) | Subscription.lease_until.is_not(None),
        )
    )
    assert (periods, grants, told, waiting) == (members, members, members, 0), (periods, grants, told, waiting)
    assert allotted == granted, (allotted, granted)
    return f"{periods:,} periods, grants and mails, {granted:,} credits, reconciled"


def _before_the_last_period() -> datetime:
    return now() - timedelta(days=2)


# --- pages -------------------------------------------------------------------------------------------------------------


def pages(place: Place, options: argparse.Namespace) -> list[Figure]:
    """Server time of each page with little and with much in the database, the requests taken in turns."""
    few = Crowd(members=min(1000, options.members), usage=min(1000, options.usage))
    many = Crowd(members=options.members, usage=options.usage)
    with place.yard(few) as (_, small), place.yard(many) as (_, large):
        clients = [(app, _logged_in(app)) for app in (small, large)]
        return [
            figure
            for name, path in PAGES.items()
            for figure in _page(name, path, clients, (few, many), options.requests)
        ]


def _logged_in(app: Flask) -> FlaskClient:
    client = app.test_client()
    answer = client.post("/login", json={"email": EMAIL, "password": PASSWORD})
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return client


def _page(
    name: str, path: str, clients: Sequence[tuple[Flask, FlaskClient]], crowds: tuple[Crowd, Crowd], requests: int
) -> Iterator[Figure]:
    status = max(client.get(path).status_code for _, client in clients)
    if status != 200:
        yield Figure(f"{name}: left out", status, "", 200, "this page was not answered; the figure is the status")
        return
    times: list[list[float]] = [[], []]
    queries: list[float] = []
    for app, client in clients:
        with _counted(app) as statements:
            _timed_request(client, path)
        queries.append(len(statements))
    for _ in range(requests):
        for side, (_, client) in zip(times, clients, strict=True):
            side.append(_timed_request(client, path))
    for side, count, crowd in zip(times, queries, crowds, strict=True):
        size = f"{crowd.usage:,} charges, {crowd.members:,} members"
        details = f"median {median(side):.0f} ms; {count:.0f} queries; {requests} requests"
        yield Figure(
            f"{name}, {size}, p95", quantile(side, 0.95), "ms", PAGE_MILLISECONDS, details, {"milliseconds": side}
        )
    growth = quantile(times[1], 0.95) / quantile(times[0], 0.95)
    yield Figure(
        f"{name}, much / little, p95", growth, "x", PAGE_GROWTH, f"medians {median(times[1]) / median(times[0]):.2f}"
    )


def _timed_request(client: FlaskClient, path: str) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    answer = client.get(path)
    answer.get_data()
    assert answer.status_code == 200, f"{path}: {answer.status_code}"
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
