"""Full disks, on a member's machine and on the server: small file systems in memory, filled to the last byte.

Only root may mount them; without it these rows are left out, and the summary says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import checks
from tests.faults.conftest import Figure
from tests.faults.scene import Scene, Watch, settled
from tests.running import Answer, until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted for these rows, which takes root"),
]

MIB = 1 << 20


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(disk: Path, leave: int = 0) -> Path:
    """Occupy all but `leave` bytes; answers the file to delete."""
    ballast = disk / "ballast"
    with open(ballast, "ab") as file, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(disk).free - leave) > 0:
            file.write(b"\0" * min(free, MIB))
            file.flush()
    return ballast


def test_row_18_a_full_disk_on_the_machine_costs_declared_lines_and_not_the_training(
    tmp_path: Path, figure: Figure
) -> None:
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "desk-1" / "home", 1500))
        scene = stack.enter_context(settled(tmp_path))
        steps, lines = 500, 5000  # more than the reserve of the spool holds, and longer than the disk is full
        job = scene.order(scene.desk, max_steps=steps, lines=lines, pause=0.1)
        scene.alice.wait_for_step(job, 20)
        ballast = fill(disk)
        at = scene.alice.job(job)["step"]
        until(lambda: scene.alice.job(job)["step"] > at + 30, 60, "the training goes on with a full disk")
        scene.desk.wire.cut("refuse")  # what the server has may be dropped without a word: now it gets nothing
        time.sleep(20)
        scene.desk.wire.heal()
        scene.desk.agent.wait_online(scene.alice)
        ballast.unlink()
        scene.alice.wait_for_status(job, "completed", seconds=120)
        missing = checks.lines_but_gaps(scene, job, steps * lines)
        gaps = checks.gaps(scene, job)
        assert missing and gaps, "the disk was not full enough to show anything"
        assert scene.alice.job(job)["attempt"] == 1
        checks.made_what_was_counted(scene, job, steps)
        figure(
            f"row 18: the training never stopped; {missing} of {steps * lines:,} lines given up, {len(gaps)} gaps declared"
        )
        _a_checkpoint_that_finds_no_room_says_so(scene, disk, figure)
        checks.at_rest(scene)


def _a_checkpoint_that_finds_no_room_says_so(scene: Scene, disk: Path, figure: Figure) -> None:
    job = scene.order(scene.desk, "no-room", max_steps=100_000, trouble="full", at=30, pause=0.05)
    scene.alice.wait_for_step(job, 20)
    ballast = fill(disk)
    watch = Watch()
    failed = scene.alice.wait_for_status(job, "failed", seconds=30)
    ballast.unlink()
    assert re.match(r"The disk is full \([\d,]+ bytes are free\)", failed["error"]["message"]), failed["error"]
    figure(
        f"row 18: a checkpoint without room is told {watch.seconds:.1f} s later (limit 15 s): {failed['error']['message']}"
    )
    assert watch.seconds <= 15
    after = scene.order(scene.desk, "after", max_steps=5)
    scene.alice.wait_for_status(after, "completed")


def test_row_19_a_full_disk_on_the_server_refuses_uploads_and_keeps_everything_else(
    tmp_path: Path, figure: Figure
) -> None:
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "yard" / "var", 700))
        scene = stack.enter_context(settled(tmp_path))
        job = scene.order(scene.desk, max_steps=100_000, lines=200, pause=0.1)
        scene.alice.wait_for_step(job, 10)
        rows = b"".join(b'{"prompt": "%d?", "completion": "%d."}\n' % (n, n) for n in range(1000))
        begun = scene.alice.ask("POST", "/api/uploads", _announced("begun.jsonl", rows))
        assert begun.status == 201, begun.body
        ballast = fill(disk, leave=300 * MIB)
        refused = scene.alice.ask("POST", "/api/uploads", _announced("rows.jsonl", rows))
        assert refused.status == 507, refused.body
        who = {"email": "alice@example.com", "password": "correct horse battery"}
        assert scene.alice.ask("POST", "/login", who).status == 200
        fill(disk)
        started = Watch()
        piece = scene.alice.ask("PATCH", f"/api/uploads/{begun.json['id']}", rows,
                                {"Upload-Offset": "0", "Content-Type": "application/octet-stream"})  # fmt: skip
        _is_refused_clearly(piece)
        sign_in = scene.alice.ask("POST", "/login", who)
        page = scene.alice.ask("GET", "/dashboard", headers={"Accept": "text/html"})
        stored = scene.alice.job(job)["step"]
        time.sleep(5)
        assert scene.alice.job(job)["step"] == stored, "something was acknowledged without room for it"
        counted = scene.counted(scene.desk, job)
        ballast.unlink()
        healed = Watch()
        until(lambda: scene.alice.job(job)["step"] >= counted, 60, "the lines of the full disk are stored")
        caught_up = healed.seconds
        scene.alice.order(job, "stop")
        scene.alice.wait_for_status(job, "paused", seconds=60)
        checks.every_line_once(scene, job, scene.counted(scene.desk, job) * 200)
        scene.alice.order(job, "cancel")
        offset = scene.alice.ask("HEAD", f"/api/uploads/{begun.json['id']}").headers["Upload-Offset"]
        rest = scene.alice.ask("PATCH", f"/api/uploads/{begun.json['id']}", rows[int(offset) :],
                               {"Upload-Offset": offset, "Content-Type": "application/octet-stream"})  # fmt: skip
        done = scene.alice.ask("POST", f"/api/uploads/{begun.json['id']}/complete", {})
        assert (rest.status, done.status) == (204, 200), (rest.body, done.body)
        checks.at_rest(scene)
        figure(f"row 19: uploads answered {refused.status}, a piece of one under way {piece.status}; sign-in {sign_in.status} and "
               f"pages {page.status} on a disk with 0 bytes; after {started.seconds:.0f} s {counted - stored} steps waited, "
               f"all stored {caught_up:.1f} s after there was room (limit 60 s)")  # fmt: skip
        # What uploads must leave free is there for this; on a disk that others fill to the last byte a new session may
        # find no room, and then the one there is goes on.
        assert sign_in.status in (200, 503) and b"Traceback" not in sign_in.body and page.status == 200


def _announced(name: str, content: bytes) -> dict[str, object]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _is_refused_clearly(answer: Answer) -> None:
    assert answer.status in (503, 507) and b"Traceback" not in answer.body, answer.body[:500]
