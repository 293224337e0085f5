"""Redis and the database under fire: killed, emptied, frozen, locked."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from tests.faults import checks
from tests.faults.conftest import Figure
from tests.faults.scene import FULL, Scene, Watch, chosen, scaled, settled
from tests.postgres import PrivateServer
from tests.running import Answer, Member, lives, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

PATIENCE = 2.0
PAGES = ("/dashboard", "/ai-training", "/pricing", "/api/training-jobs", "/api/subscription")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A yard with a worker and a machine."""
    with settled(tmp_path_factory.mktemp("stores"), machines=1, workers=1) as found:
        found.alice.wait_for_status(found.order("server", max_steps=5), "completed")
        yield found
        checks.at_rest(found)


def test_row_8_a_queue_that_is_killed_and_emptied_is_rebuilt_and_every_job_runs_once(
    scene: Scene, figure: Figure
) -> None:
    first = scene.order("server", "at-work", max_steps=1_000_000, lines=1)
    watched = scene.order(scene.desk, "watched", max_steps=1_000_000, lines=1, pause=0.1)
    for job in (first, watched):
        scene.alice.wait_for_step(job, 3)
    jobs = [scene.order("server", f"queued-{number}", max_steps=3) for number in range(chosen(8, 200))]
    redis.Redis(unix_socket_path=str(checks.redis_socket(scene))).flushall()
    old = scene.yard.redis()
    scene.yard.parent().suspend()  # nobody begins another
    try:
        old.kill()
        watch = Watch()
        pages = max(seconds for _, seconds in _asked(scene.alice, PAGES))
        seen = scene.rows("SELECT last_event FROM training_jobs WHERE id = :job", job=watched)[0][0]
        next(iter(scene.alice.events(watched, after=seen, seconds=PATIENCE + 15)))
        live = watch.seconds
        pressed = Watch()
        scene.alice.order(first, "stop")
        scene.alice.wait_for_status(first, "paused", seconds=30)
        stopped = pressed.seconds
    finally:
        scene.yard.parent().resume()
    watch = Watch()
    until(lambda: scene.yard.redis().pid != old.pid, 30, "Redis is back")
    until(lambda: scene.alice.job(jobs[0])["status"] != "queued", 60, "the queue is rebuilt")
    rebuilt = watch.seconds
    for job in jobs:
        scene.alice.wait_for_status(job, "completed", seconds=60 + 3 * len(jobs))
        checks.one_end(scene, job, "completed")
        checks.every_line_once(scene, job, 3)
        assert len(checks.never_twice_at_once(scene, "server", job)) == 1
    for job in (first, watched):
        scene.alice.order(job, "cancel")
    figure(f"row 8: Redis killed and emptied with {len(jobs)} jobs queued: without it pages within {pages:.2f} s (limit "
           f"2 s), live view goes on after {live:.1f} s, a stop done after {stopped:.1f} s; queue rebuilt {rebuilt:.1f} s after it "
           "was started again (limit 60 s), each ran once")  # fmt: skip
    assert pages <= PATIENCE


def test_row_9_a_redis_that_hangs_keeps_no_page_waiting(scene: Scene, figure: Figure) -> None:
    job = scene.order(scene.desk, max_steps=1_000_000, lines=10, pause=0.1)
    scene.alice.wait_for_step(job, 3)
    web = scene.yard.web_worker()
    threads, hanging = web.num_threads(), scene.yard.redis()
    usual = max(seconds for _ in range(3) for _, seconds in _asked(scene.alice, PAGES))
    hanging.suspend()
    watch, took = Watch(), dict[str, float]()
    try:
        while watch.seconds < max(scaled(60), 15):
            for path, seconds in _asked(scene.alice, PAGES):
                took[path] = max(took.get(path, 0.0), seconds)
        started = Watch()
        answer = scene.alice.ask("POST", "/login", {"email": "alice@example.com", "password": "correct horse battery"})
        took["POST /login"] = started.seconds
        assert answer.status < 400, answer.body[:300]
        started = Watch()
        waiting = scene.order("server", "while-it-hangs", max_steps=3)
        took["POST /api/training-jobs"] = started.seconds
        step = scene.alice.job(job)["step"]
        until(lambda: scene.alice.job(job)["step"] > step, 10, "the machine's lines still arrive")
        grown = web.num_threads() - threads
    finally:
        hanging.resume()
    worst = max(took, key=took.__getitem__)
    figure(f"row 9: Redis frozen for {watch.seconds:.0f} s: the slowest answer was {worst} with {took[worst]:.2f} s (limit 2 s; {usual:.2f} s without), "
           f"{grown:+d} threads; {', '.join(f'{path} {seconds:.2f} s' for path, seconds in took.items())}")  # fmt: skip
    scene.alice.order(job, "stop")
    scene.alice.wait_for_status(job, "paused", seconds=30)
    checks.every_line_once(scene, job, scene.counted(scene.desk, job) * 10)
    scene.alice.order(job, "cancel")
    scene.alice.wait_for_status(waiting, "completed", seconds=90)
    assert took[worst] <= PATIENCE + usual and grown <= 5


def _asked(member: Member, paths: tuple[str, ...]) -> list[tuple[str, float]]:
    """All of them at the same time, and how long each took."""

    def ask(path: str) -> tuple[str, float]:
        watch = Watch()
        answer = member.ask("GET", path, headers={"Accept": "application/json" if "/api/" in path else "text/html"})
        assert answer.status < 500 or answer.status == 503, answer.body[:300]
        return path, watch.seconds

    with concurrent.futures.ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(ask, paths))


def test_row_10_a_locked_database_acknowledges_nothing_and_answers_without_a_trace(
    scene: Scene, figure: Figure
) -> None:
    job = scene.order(scene.desk, max_steps=1_000_000, lines=500, pause=0.1)
    scene.alice.wait_for_step(job, 3)
    database = sqlite3.connect(scene.yard.var_dir / "trainyard.db", timeout=10, isolation_level=None)
    with contextlib.closing(database):
        database.execute("BEGIN IMMEDIATE")
        watch, reads = Watch(), list[float]()
        stored = _stored(scene, job)
        pool = concurrent.futures.ThreadPoolExecutor(1)
        writing = pool.submit(scene.alice.ask, "POST", "/api/keys", {"name": "locked", "scope": "agent"},
                              {"Accept": "application/json"})  # fmt: skip
        while watch.seconds < (30 if FULL else 20):
            started = Watch()
            page = scene.alice.ask("GET", "/dashboard", headers={"Accept": "text/html"})
            reads.append(started.seconds)
            assert page.status in (200, 503)
            time.sleep(0.2)
        assert _stored(scene, job) == stored, "something was stored through a lock"
        refused = writing.result(30)
        database.execute("ROLLBACK")
    _is_clear(refused)
    printed = scene.counted(scene.desk, job) * 500
    healed = Watch()
    until(lambda: scene.alice.job(job)["step"] * 500 >= printed, 60, "caught up")
    caught_up = healed.seconds
    _ended_whole(scene, job)
    figure(f"row 10, SQLite locked for {watch.seconds:.0f} s: a write was answered {refused.status}, reading took "
           f"{max(reads):.1f} s at the worst, nothing acknowledged, {printed:,} lines caught up {caught_up:.1f} s later (60 s)")  # fmt: skip
    assert max(reads) <= 5


def _stored(scene: Scene, job: int) -> int:
    return int(scene.rows("SELECT count(*) FROM training_events WHERE job_id = :job", job=job)[0][0])


def _is_clear(answer: Answer) -> None:
    assert answer.status == 503, answer.body[:500]
    assert b"Traceback" not in answer.body and b"sqlalchemy" not in answer.body.lower()


def _ended_whole(scene: Scene, job: int) -> None:
    scene.alice.order(job, "stop")
    scene.alice.wait_for_status(job, "paused", seconds=60)
    checks.every_line_once(scene, job, scene.counted(scene.desk, job) * 500)
    checks.log_is_verified(scene, job)
    scene.alice.order(job, "cancel")


@pytest.mark.postgres
def test_row_10_a_killed_postgres_loses_nothing_that_was_acknowledged(tmp_path: Path, figure: Figure) -> None:
    server = PrivateServer.start()
    if server is None:
        pytest.skip("no installed postgres binary to start and kill")
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE yard")
        url = server.url.rsplit("/", 1)[0] + "/yard"
        with settled(tmp_path, DATABASE_URL=url) as scene:
            job = scene.order(scene.desk, max_steps=1_000_000, lines=500, pause=0.1)
            scene.alice.wait_for_step(job, 3)
            _kill_all(psutil.Process(server.process.pid))
            server.process.wait(10)
            away = Watch()
            for accept in ("text/html", "application/json"):
                _is_clear(scene.alice.ask("GET", "/api/training-jobs" if "json" in accept else "/dashboard",
                                          headers={"Accept": accept}))  # fmt: skip
            time.sleep(max(0.0, scaled(30) - away.seconds))
            _start_again(server)
            printed, healed = scene.counted(scene.desk, job) * 500, Watch()
            until(lambda: scene.alice.ask("GET", "/api/training-jobs").status == 200
                  and scene.alice.job(job)["step"] * 500 >= printed, 60, "caught up")  # fmt: skip
            caught_up = healed.seconds
            _ended_whole(scene, job)
            checks.at_rest(scene)
        figure(f"row 10, PostgreSQL killed for {scaled(30):g} s: 503 pages without a trace, {printed:,} lines caught up "
               f"{caught_up:.1f} s after it was back (limit 60 s), none lost")  # fmt: skip
    finally:
        server.stop()


def _kill_all(process: psutil.Process) -> None:
    family = [*process.children(recursive=True), process]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    until(lambda: not any(lives(one) for one in family[:-1]), 10, "its backends are gone")


def _start_again(server: PrivateServer) -> None:
    owner = Path(server.folder).stat().st_uid
    Path(server.folder, "data", "postmaster.pid").unlink(missing_ok=True)
    server.process = subprocess.Popen(server.process.args, user=owner if os.getuid() == 0 else None,
                                      stderr=subprocess.DEVNULL)  # fmt: skip

    def there() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(server.url, connect_timeout=1).close()
            return True
        return False

    until(there, 30, "PostgreSQL is back")
