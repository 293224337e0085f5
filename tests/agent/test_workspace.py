"""The agent's folder: one agent at a time, one identity, and no job that gets what another one left."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import workspace as workspace_module
from agent.files import write_atomically
from agent.protocol import JobSpec
from agent.scripts.terms import Terms
from agent.settings import Timings
from agent.spool import Final, Spool, SpoolReader, writer
from agent.supervisor import end_for
from agent.workspace import Task, Workspace, WorkspaceTaken

URL = "ws://localhost:5000"


def spec(**fields: Any) -> JobSpec:
    given: dict[str, Any] = {
        "job": 3, "attempt": 1, "name": "maths", "recipe": "language", "parameters": {"seed": 1},
        "data": {"kind": "dataset", "path": "/api/agents/jobs/3/attempts/1/data", "sha256": "ab", "bytes": 2, "name": "r"},
        "mapping": None, "base_model": "yard-tiny", "base_name": "yard-tiny", "token": "t", **fields,
    }  # fmt: skip
    return JobSpec(**given)


def with_checkpoint(workspace: Workspace, one: JobSpec) -> Path:
    workspace.make_room_for(one)
    workspace.attempt(one.job, one.attempt).write_task(Task(one, URL, Terms(), Timings()))
    kept = workspace.jobs / str(one.job) / "checkpoints" / "checkpoint-5"
    kept.mkdir(parents=True)
    return kept


def test_an_identity_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    first = Workspace(tmp_path, URL).identity()
    assert Workspace(tmp_path, URL).identity() == first
    assert len(first.secret) >= 32
    assert (tmp_path / ".trainyard" / "agent.json").stat().st_mode & 0o777 == 0o600


def test_only_one_agent_works_in_a_folder(tmp_path: Path) -> None:
    first, second = Workspace(tmp_path, URL), Workspace(tmp_path, "ws://localhost:6000")
    first.lock()
    with pytest.raises(WorkspaceTaken, match="--home"):
        second.lock()
    first.release()
    second.lock()
    second.release()


def test_jobs_of_different_servers_are_kept_apart(tmp_path: Path) -> None:
    places = {
        Workspace(tmp_path, url).jobs for url in (URL, "ws://localhost:5001", "wss://localhost", "ws://[::1]:5000")
    }
    assert len(places) == 4


def test_the_next_attempt_of_a_job_finds_its_checkpoints(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, URL)
    kept = with_checkpoint(workspace, spec())
    workspace.attempt(3, 1).close("stopped")
    data = {**spec().data, "path": "/api/agents/jobs/3/attempts/2/data"}
    workspace.make_room_for(spec(attempt=2, token="other", data=data))
    assert kept.exists()


@pytest.mark.parametrize(
    "other",
    [{"parameters": {"seed": 2}}, {"base_model": "organisation/model"}, {"data": {"kind": "local", "path": "/a"}}],
)
def test_another_job_of_the_same_number_finds_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    workspace = Workspace(tmp_path, URL)
    kept = with_checkpoint(workspace, spec())
    workspace.attempt(3, 1).close("completed")
    workspace.make_room_for(spec(attempt=2, **other))
    assert not kept.exists()
    assert [one.number for one in workspace.attempts()] == []


def test_an_attempt_that_was_over_and_is_offered_again_begins_afresh(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, URL)
    kept = with_checkpoint(workspace, spec())
    workspace.attempt(3, 1).close("completed")
    workspace.make_room_for(spec())
    assert not kept.exists()


def test_data_stays_for_a_job_that_can_go_on_and_goes_for_one_that_cannot(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, URL)
    with_checkpoint(workspace, spec())
    data = workspace.jobs / "3" / "data"
    for outcome, stays in (("stopped", True), ("failed", True), ("completed", False)):
        data.mkdir(exist_ok=True)
        workspace.attempt(3, 1).close(outcome)
        assert data.exists() is stays


def test_an_order_is_never_weakened(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))
    assert folder.order() is None
    for order, stands in (("stop", "stop"), ("kill", "kill"), ("stop", "kill"), ("cancel", "kill")):
        folder.give_order(order)
        assert folder.order() == stands


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], bool]], None]:
    """Let nothing be written while what is given says that the disk is full."""

    def fill(is_full: Callable[[], bool]) -> None:
        def write(path: Path, text: str) -> None:
            if is_full():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_atomically(path, text)

        monkeypatch.setattr(workspace_module, "write_atomically", write)

    return fill


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    """A process that could be a supervisor: it leads a group of its own."""
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], start_new_session=True) as one:
        yield one
        one.kill()


@pytest.mark.parametrize(
    ("order", "number"), [("stop", signal.SIGTERM), ("cancel", signal.SIGKILL), ("kill", signal.SIGKILL)]
)
def test_on_a_full_disk_an_order_reaches_the_supervisor_all_the_same(
    tmp_path: Path,
    full: Callable[[Callable[[], bool]], None],
    supervisor: subprocess.Popen[bytes],
    order: str,
    number: int,
) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))
    folder.note_process("supervisor", supervisor.pid)
    full(lambda: True)
    folder.give_order(order)
    assert supervisor.wait(10) == -number


@pytest.mark.parametrize("verb", ["close", "abandon"])
def test_on_a_full_disk_the_spool_makes_room_for_the_end(
    tmp_path: Path, full: Callable[[Callable[[], bool]], None], verb: str
) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))
    Spool(folder.spool).close()
    full(folder.spool.exists)
    folder.close("failed") if verb == "close" else folder.abandon()
    assert not folder.is_open and not folder.spool.exists()


def test_a_supervisor_that_begins_while_its_attempt_is_abandoned_is_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervisor: subprocess.Popen[bytes]
) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))

    def begin(path: Path, text: str) -> None:
        folder.note_process("supervisor", supervisor.pid) if path.name == "abandoned" else None
        write_atomically(path, text)

    monkeypatch.setattr(workspace_module, "write_atomically", begin)
    folder.abandon()
    assert supervisor.wait(10) == -signal.SIGKILL


def test_a_supervisor_of_an_abandoned_attempt_does_nothing(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))
    (folder.path / "abandoned").touch()
    done = subprocess.run([sys.executable, "-m", "agent", "supervise", str(folder.path)], timeout=60, check=False)
    assert done.returncode == 0 and not folder.spool.exists()


def test_a_process_of_the_same_number_is_not_taken_for_the_supervisor(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))
    folder.note_process("supervisor", os.getpid())
    assert folder.is_supervised()
    (folder.path / "supervisor.json").write_text(json.dumps({"pid": os.getpid(), "known_as": "other/17"}))
    assert not folder.is_supervised()
    folder.end_processes()  # and this process is not killed for it


def test_the_end_of_an_abandoned_supervisor_is_written_once(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))
    spool = Spool(folder.spool)
    spool.append("log", {"text": "so far\n"})
    spool.close()
    assert end_for(folder, "It was killed.")
    assert end_for(folder, "Again.")
    reader = SpoolReader(folder.spool)
    assert reader.final is not None
    assert (reader.final["message"], reader.final["last"]["log"]) == ("It was killed.", 2)
    said = [item["text"] for item in reader.read("log", 0, 1 << 20)[1]]
    assert said[0] == "so far\n" and "may be missing here" in said[1]


def test_an_end_for_which_there_is_no_room_is_written_by_a_later_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))
    Spool(folder.spool).close()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(writer, "write_atomically", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                end_for(folder, "It was killed.")
    assert end_for(folder, "It was killed.")
    reader = SpoolReader(folder.spool)
    assert reader.final is not None and reader.final["outcome"] == "failed"
    assert reader.final["last"]["log"] == 1 and len(reader.read("log", 0, 1 << 20)[1]) == 1


def test_an_end_that_was_written_already_stands(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, URL).attempt(3, 1)
    folder.write_task(Task(spec(), URL, Terms(), Timings()))
    Spool(folder.spool).finish(Final("completed"))
    end_for(folder, "It was killed.")
    final = SpoolReader(folder.spool).final
    assert final is not None and final["outcome"] == "completed"
