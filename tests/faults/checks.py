"""What must hold after every fault, whatever it was.

Every counted line is stored once and in order, or inside a gap that is declared; one state in the end; no process of a
training alive, and never two at once; the ledger adds up; what was made is what was counted; nothing waits in Redis.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.faults import counting
from tests.faults.scene import Machine, Scene, read_ticks
from tests.running import ROOT, until

LINE = re.compile(r"^line (\d+)$", re.MULTILINE)
LINE_OR_GAP = re.compile(r"^(?:line (\d+)|\0)$", re.MULTILINE)


def stored(scene: Scene, job: int, stream: str, attempt: int = 1) -> list[dict[str, Any]]:
    """The payloads of one stream of an attempt in the order of their numbers, which have no hole and no double."""
    rows = scene.rows(
        "SELECT seq, payload FROM training_events WHERE job_id = :job AND attempt = :attempt AND stream = :stream "
        "ORDER BY number", job=job, attempt=attempt, stream=stream,
    )  # fmt: skip
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), f"job {job}: {stream} has holes or doubles"
    return [json.loads(row[1]) if isinstance(row[1], str) else row[1] for row in rows]


def lines(scene: Scene, job: int, attempt: int = 1) -> list[int]:
    """The numbers of the lines of an attempt as they are stored."""
    return [int(number) for number in LINE.findall("".join(one["text"] for one in stored(scene, job, "log", attempt)))]


def gaps(scene: Scene, job: int, attempt: int = 1) -> list[dict[str, Any]]:
    """The declared gaps of an attempt."""
    return [one for one in stored(scene, job, "event", attempt) if one["kind"] == "gap"]


def every_line_once(scene: Scene, job: int, last: int | None = None, first: int = 1, attempt: int = 1) -> int:
    """Lines `first` to `last` are stored once each and in order; without `last`, up to whichever came last. How many."""
    found = lines(scene, job, attempt)
    last = last if last is not None else (found[-1] if found else first - 1)
    wanted = list(range(first, last + 1))
    if found != wanted:
        lost, double = sorted(set(wanted) - set(found)), len(found) - len(set(found))
        raise AssertionError(
            f"job {job}: {len(lost)} of {len(wanted)} lines lost ({lost[:3]}...), {double} doubled, "
            f"in order: {found == sorted(found)}"
        )
    return len(found)


def lines_but_gaps(scene: Scene, job: int, last: int, attempt: int = 1) -> int:
    """As `every_line_once` with declared gaps: exactly the records they name are empty, and lines are missing only where such
    records are. How many miss."""
    texts = [one.get("text", "") for one in stored(scene, job, "log", attempt)]
    declared = {number for gap in gaps(scene, job, attempt) for number in range(gap["first"], gap["last"] + 1)}
    empty = {number for number, text in enumerate(texts, 1) if not text}
    assert empty == declared, (
        f"job {job}: empty and not declared {sorted(empty - declared)[:5]}, declared and there {sorted(declared - empty)[:5]}"
    )
    before, missing, in_gap = 0, 0, False
    for found in LINE_OR_GAP.finditer("".join(text or "\0\n" for text in texts) + f"line {last + 1}\n"):
        if found[1] is None:
            in_gap = True
            continue
        number = int(found[1])
        assert number > before, f"job {job}: line {number} comes after line {before}"
        assert in_gap or number == before + 1, (
            f"job {job}: lines {before + 1} to {number - 1} are missing, and no gap is there"
        )
        missing += number - before - 1
        before, in_gap = number, False
    return missing


def one_end(scene: Scene, job: int, state: str, attempts: int = 1) -> None:
    """The job ended once, in this state, after so many attempts, each of which ended."""
    rows = scene.rows("SELECT state, attempt FROM training_jobs WHERE id = :job", job=job)
    assert [tuple(row) for row in rows] == [(state, attempts)], f"job {job}: {rows}"
    ended = scene.rows(
        "SELECT number, outcome FROM attempts WHERE job_id = :job AND ended_at IS NOT NULL ORDER BY number", job=job
    )
    assert [row[0] for row in ended] == list(range(1, attempts + 1)), f"job {job}: {ended}"
    told = scene.rows(
        "SELECT payload FROM training_events WHERE job_id = :job AND stream = 'status' ORDER BY number", job=job
    )
    states = [(json.loads(row[0]) if isinstance(row[0], str) else row[0])["state"] for row in told]
    final = ("completed", "failed", "cancelled")
    assert sum(1 for a, b in zip(["", *states], states, strict=False) if b in final and a != b) <= 1, states


def log_is_verified(scene: Scene, job: int, attempt: int = 1) -> None:
    """The sum that the machine made over its log is that of the stored one."""
    found = scene.rows("SELECT log_verified FROM attempts WHERE job_id = :job AND number = :n", job=job, n=attempt)
    assert found and found[0][0], f"job {job}: the stored log is not what the machine says it printed"


def nothing_runs(scene: Scene, seconds: float = 15) -> None:
    """No supervisor, no runner and no training is alive, nor anything they started."""
    for machine in scene.machines:
        until(lambda machine=machine: not machine.agent.jobs_at_work(), seconds,  # type: ignore[misc]
              f"{machine.agent.name} has no process of a job; it has {_told(machine.agent.jobs_at_work())}")  # fmt: skip
    if scene.yard.settings.get("WORKERS") != "0":
        until(lambda: scene.yard.horse() is None, seconds, "the server has no runner")


def _told(processes: list[psutil.Process]) -> list[str]:
    return [f"{process.pid} {' '.join(process.cmdline())[-120:]}" for process in processes]


def never_twice_at_once(scene: Scene, place: str | Machine, job: int) -> list[tuple[float, float]]:
    """The spans in which the trainings of a job counted, one for each process; no two of them overlap."""
    ticks = [read_ticks(path) for path in scene.folder_of(place, job).glob("ticks-*")]
    spans = sorted((one[0], one[-1]) for one in ticks if one)
    for (_, end), (begin, _) in zip(spans, spans[1:], strict=False):
        assert begin > end, f"job {job} trained twice at once for {end - begin:.2f} s"
    return spans


def made_what_was_counted(scene: Scene, job: int, steps: int, size: int = 1000) -> None:
    """The weights on the server have the hash of those that the training made."""
    listed = {one["name"]: one["sha256"] for one in scene.alice.artifacts(job)}
    assert listed["model.safetensors"] == hashlib.sha256(counting.made(steps, size)).hexdigest()


def ledger_adds_up(scene: Scene) -> None:
    """Every invariant of the ledger, by the yard's own command."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "credits-reconcile"], cwd=ROOT, env=scene.yard.environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def nothing_waits_in_redis(scene: Scene) -> None:
    """No entry of the queue is left, nor anything RQ keeps about one: it puts them away when the runner has ended, and the
    clock what a worker that was killed has left."""
    connection = redis.Redis(unix_socket_path=str(redis_socket(scene)))

    def left() -> list[bytes]:
        return [key for key in connection.keys("rq:*") if key.startswith((b"rq:job:", b"rq:queue:training"))]

    until(lambda: not left(), 30, f"Redis keeps nothing of a job; it has {left()}")


def redis_socket(scene: Scene) -> Path:
    from services.config import Settings

    return Path(Settings.from_env(scene.yard.environment).redis_url.removeprefix("unix://"))


def at_rest(scene: Scene) -> None:
    """All that must hold once every job of a scene is at an end."""
    open_ = scene.rows(
        "SELECT id, state FROM training_jobs WHERE state NOT IN ('completed', 'failed', 'cancelled', 'paused')"
    )
    assert not open_, open_
    nothing_runs(scene)
    nothing_waits_in_redis(scene)
    ledger_adds_up(scene)
