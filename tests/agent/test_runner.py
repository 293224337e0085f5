"""One attempt from prepare to done in real processes: what is recorded, how it ends, that nothing is left alive."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import runner
from agent.errors import JobFailed
from agent.masking import SecretMasker
from agent.protocol import JobSpec
from agent.runner import Final, ForkedChild, SpawnedChild, Withdrawn, processes
from agent.runner.figures import Meter
from agent.runner.output import LogText, MetricColumns, ReportLines, fitting
from agent.settings import Timings
from agent.spool import MAX_ITEM_BYTES, Spool, SpoolReader
from tests.agent import pretend_recipe

TIMINGS = Timings(
    gather=0.02, orders=0.02, sync=0.1, figures=0.2, saving=3.0, cancel=0.3, pipes=1.0,
)  # fmt: skip


class Files:
    """A depot of files that are here, which can be told to be slow or to refuse."""

    def __init__(self, data: Path, base: str = "yard-tiny") -> None:
        self.data, self.base = data, base
        self.delivered: list[str] = []
        self.before: dict[str, Callable[[runner.Say], None]] = {}

    def fetch_data(self, spec: JobSpec, folder: Path, say: runner.Say) -> Path:
        self._first("data", say)
        return self.data

    def fetch_base(self, spec: JobSpec, folder: Path, say: runner.Say) -> str:
        self._first("base", say)
        return self.base

    def deliver(self, spec: JobSpec, output: Path, say: runner.Say) -> None:
        self._first("deliver", say)
        self.delivered = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())

    def _first(self, verb: str, say: runner.Say) -> None:
        self.before.get(verb, lambda _: None)(say)


class Attempt:
    """One attempt with everything around it; `order` may be set while it runs."""

    def __init__(self, folder: Path, number: int = 1) -> None:
        self.folder = folder / "job"
        self.folder.mkdir(exist_ok=True)
        data = folder / "rows.jsonl"
        data.write_text("my secret diary\n" * 4)
        self.depot = Files(data)
        self.spool_folder = self.folder / "attempts" / str(number) / "spool"
        self.environment = pretend_recipe.environment(folder)
        self.order: str | None = None
        self.private = False
        self.blame = "member_machine"
        self.child: Any = None

    def run(self, forked: bool = False, grace: float = 1.0, **parameters: Any) -> Final:
        data = {"kind": "local", "path": "/a"} if self.private else {"kind": "dataset"}
        spec = JobSpec(
            job=7, attempt=1, name="count", recipe="pretend", parameters=parameters, data=data, mapping=None,
            base_model="yard-tiny", base_name="yard-tiny", token="tj_7_1_secrettoken", grace_seconds=grace,
        )  # fmt: skip
        self.child = ForkedChild() if forked else SpawnedChild(self.folder, self.environment)
        spool = Spool(self.spool_folder)
        try:
            return runner.run(
                spec, self.folder, spool, self.depot, self.child, lambda: self.order,
                blame=self.blame, timings=TIMINGS,
            )  # fmt: skip
        finally:
            spool.close()

    def run_aside(self, **parameters: Any) -> threading.Thread:
        thread = threading.Thread(target=lambda: setattr(self, "final", self.run(**parameters)))
        thread.start()
        return thread

    def items(self, stream: str) -> list[dict[str, Any]]:
        return SpoolReader(self.spool_folder).read(stream, 0, 1 << 26, 10**6)[1]

    def log(self) -> str:
        return "".join(item["text"] for item in self.items("log"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.items("event") if item["kind"] == kind]

    def steps(self) -> list[int]:
        return [step for item in self.items("metrics") for step in item["steps"]]

    def left_alive(self) -> list[processes.Process]:
        return processes.left_over(self.child.pid, self.child.mark)

    def wait_for(self, what: Callable[[], Any], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"waited in vain; the log says: {self.log()}"
            time.sleep(0.02)


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    pretend_recipe.install()
    one = Attempt(tmp_path)
    yield one
    if one.child is not None and one.child.pid:
        assert one.left_alive() == []


@pytest.fixture(params=["spawned", "forked"])
def forked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "forked")


def test_an_end_for_which_there_is_no_room_is_told_later_and_as_it_was(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, tried = Spool.finish, threading.Event()
    room = threading.Event()

    def finish_with_room(spool: Spool, final: Final) -> Any:
        tried.set()
        if not room.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return finish(spool, final)

    monkeypatch.setattr(Spool, "finish", finish_with_room)
    running = attempt.run_aside(steps=2)
    assert tried.wait(20)
    time.sleep(0.1)
    assert running.is_alive() and SpoolReader(attempt.spool_folder).final is None
    room.set()
    running.join(10)
    told = SpoolReader(attempt.spool_folder).final
    assert told is not None and told["outcome"] == "completed"


def test_nobody_waits_for_room_once_the_attempt_is_unwanted(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish_without_room(_spool: Spool, _final: Final) -> Any:
        attempt.order = "cancel"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "finish", finish_without_room)
    with pytest.raises(OSError, match="No space left"):
        attempt.run(steps=2)


def test_a_job_goes_through_its_stages_and_everything_it_said_is_recorded(attempt: Attempt, forked: bool) -> None:
    final = attempt.run(forked=forked, steps=5, seconds=0.1)
    assert final == Final("completed")
    assert [event["stage"] for event in attempt.events("stage")] == ["prepare", "train", "upload", "done"]
    assert attempt.events("stage")[1]["total_steps"] == 5
    assert attempt.steps() == [1, 2, 3, 4, 5]
    assert [loss for item in attempt.items("metrics") for loss in item["values"]["loss"]] == [
        1,
        1 / 2,
        1 / 3,
        1 / 4,
        1 / 5,
    ]
    assert {value for item in attempt.items("metrics") for value in item["values"]["odd"]} == {None}
    assert [line for line in attempt.log().splitlines() if line.startswith("line")] == [
        f"line {n}" for n in range(1, 6)
    ]
    assert attempt.events("facts")[0]["example"] == "a row of the data"
    assert attempt.events("system")[0]["memory_bytes"] > 1_000_000
    assert attempt.depot.delivered == ["merged/config.json", "model.safetensors"]
    told = SpoolReader(attempt.spool_folder).final
    assert told is not None
    assert told["log_sha256"] == hashlib.sha256(attempt.log().encode()).hexdigest()


def test_a_stop_saves_a_checkpoint_and_the_next_attempt_goes_on_there(tmp_path: Path, attempt: Attempt) -> None:
    thread = attempt.run_aside(steps=1000, seconds=0.02)
    attempt.wait_for(lambda: len(attempt.steps()) >= 3)
    attempt.order = "stop"
    thread.join(10)
    assert attempt.final == Final("stopped")  # type: ignore[attr-defined]
    stopped_at = attempt.steps()[-1]
    again = Attempt(tmp_path, number=2)
    assert again.run(steps=stopped_at + 3) == Final("completed")
    assert again.steps() == [stopped_at + 1, stopped_at + 2, stopped_at + 3]


def test_a_stop_before_the_child_runs_is_obeyed_in_prepare(attempt: Attempt) -> None:
    def wait(say: runner.Say) -> None:
        attempt.order = "stop"
        for _ in range(500):
            say("")
            time.sleep(0.02)

    attempt.depot.before["data"] = wait
    assert attempt.run(steps=5) == Final("stopped")
    assert attempt.steps() == []


def test_an_order_is_obeyed_even_while_a_depot_hangs_and_says_nothing(attempt: Attempt) -> None:
    hang = threading.Event()
    hung_to_the_end: list[bool] = []

    def wait(say: runner.Say) -> None:
        attempt.order = "cancel"
        hung_to_the_end.append(not hang.wait(60))

    attempt.depot.before["data"] = wait
    assert attempt.run(steps=5) == Final("cancelled")
    assert hung_to_the_end == []
    hang.set()


def test_a_stop_during_the_upload_keeps_what_was_trained(tmp_path: Path, attempt: Attempt) -> None:
    def wait(say: runner.Say) -> None:
        attempt.order = "stop"
        for _ in range(500):
            say("Sent 1 of 2 MB.")
            time.sleep(0.02)

    attempt.depot.before["deliver"] = wait
    assert attempt.run(steps=3) == Final("stopped")
    again = Attempt(tmp_path, number=2)
    assert again.run(steps=3) == Final("completed")
    assert again.steps() == []
    assert again.depot.delivered == ["merged/config.json", "model.safetensors"]


def test_a_child_that_ignores_the_stop_is_ended_by_force_and_that_is_said(attempt: Attempt) -> None:
    thread = attempt.run_aside(steps=1000, seconds=0.05, misbehave="ignore_stop", grace=0.3)
    attempt.wait_for(lambda: attempt.steps())
    attempt.order = "stop"
    thread.join(10)
    assert attempt.final.outcome == "stopped"  # type: ignore[attr-defined]
    assert "ended by force" in attempt.final.message  # type: ignore[attr-defined]


def test_a_checkpoint_under_way_may_take_longer_than_the_grace(attempt: Attempt) -> None:
    thread = attempt.run_aside(steps=1000, seconds=0.02, saving=1.0, grace=0.2)
    attempt.wait_for(lambda: attempt.steps())
    attempt.order = "stop"
    thread.join(10)
    assert attempt.final == Final("stopped")  # type: ignore[attr-defined]
    assert (attempt.folder / "checkpoints" / f"checkpoint-{attempt.steps()[-1]}" / "state.json").exists()


def test_cancel_ends_soon_and_kill_at_once(tmp_path: Path, attempt: Attempt) -> None:
    for number, order in enumerate(("cancel", "kill"), 1):
        one = Attempt(tmp_path, number)
        thread = one.run_aside(steps=1000, seconds=0.05, misbehave="ignore_stop", grace=30.0)
        one.wait_for(lambda one=one: one.steps())
        one.order = order
        thread.join(5)
        assert one.final.outcome == "cancelled"  # type: ignore[attr-defined]
        assert one.left_alive() == []


def test_a_second_press_on_stop_ends_at_once_and_still_counts_as_a_stop(attempt: Attempt) -> None:
    thread = attempt.run_aside(steps=1000, seconds=0.05, misbehave="ignore_stop", grace=60.0)
    attempt.wait_for(lambda: attempt.steps())
    attempt.order = "stop"
    time.sleep(0.2)
    attempt.order = "kill"
    thread.join(20)
    assert attempt.final.outcome == "stopped"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("misbehave", "cause", "message"),
    [
        ("segfault", "member_machine", "signal 11, SIGSEGV"),
        ("killed", "member_machine", "killed from outside (signal 9, SIGKILL)"),
        ("exit", "member_machine", "exit code 3"),
        ("raise", "member_machine", "ValueError: cannot read"),
        ("memory", "out_of_memory", "not enough memory"),
        ("job_failed", "data", "Line 3 is broken."),
        ("full_disk", "member_machine", "The disk is full"),
    ],
)
def test_each_way_to_die_is_named(attempt: Attempt, misbehave: str, cause: str, message: str) -> None:
    final = attempt.run(steps=5, misbehave=misbehave, at=2)
    assert (final.outcome, final.cause) == ("failed", cause)
    assert message in (final.message or "")
    assert final.advice
    assert attempt.steps() == [1]


def test_on_the_server_an_unforeseen_failure_is_the_platforms(attempt: Attempt) -> None:
    attempt.blame = "platform"
    assert attempt.run(forked=True, steps=5, misbehave="raise").cause == "platform"
    assert "Traceback" in attempt.log()


def test_a_kill_by_the_kernel_for_want_of_memory_is_told_apart(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(processes, "out_of_memory_kills", lambda: next(counts))
    monkeypatch.setattr(processes, "memory_is_short", lambda: True)
    assert attempt.run(steps=5, misbehave="killed").cause == "out_of_memory"


def test_a_kill_for_want_of_memory_elsewhere_on_the_machine_is_not_ours(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(processes, "out_of_memory_kills", lambda: next(counts))
    assert attempt.run(steps=5, misbehave="killed").cause == "member_machine"


def test_processes_the_training_leaves_behind_are_ended_though_they_hold_its_output(attempt: Attempt) -> None:
    final = attempt.run(steps=2, misbehave="leave_processes")
    assert final.outcome == "completed"
    assert attempt.left_alive() == []
    assert "(Processes that the training had left behind were ended: 2.)" in attempt.log()


def test_the_log_is_clean_text_in_records_that_fit_a_frame(attempt: Attempt) -> None:
    attempt.environment["PRETEND_TOKEN"] = "a-very-secret-value"
    os.environ["PRETEND_TOKEN"] = "a-very-secret-value"
    try:
        attempt.run(steps=1, misbehave="print_much")
    finally:
        del os.environ["PRETEND_TOKEN"]
    log = attempt.log()
    assert "bytes \ufffd\ufffd that are no text\n" in log
    assert "red and done\n" in log
    assert "100%\n" in log and log.count("%") <= 12
    assert log.count("x") >= 200_000
    assert "a-very-secret-value" not in log and "***\n" in log
    assert all(len(json.dumps(item, ensure_ascii=False).encode()) <= 32_768 for item in attempt.items("log"))


def test_odd_reports_are_made_to_fit(attempt: Attempt) -> None:
    assert attempt.run(steps=1, misbehave="odd_reports").outcome == "completed"
    assert attempt.items("metrics")[0]["values"]["loss"] == [None]
    assert attempt.events("big")
    assert all(len(json.dumps(item).encode()) <= 32_768 for item in attempt.items("event"))


def test_content_of_local_data_is_in_no_record(attempt: Attempt) -> None:
    attempt.private = True
    final = attempt.run(steps=3, misbehave="odd_reports")
    assert final.outcome == "completed"
    recorded = json.dumps([attempt.items(stream) for stream in ("log", "metrics", "event")])
    assert "a row of the data" not in recorded
    assert attempt.events("facts")[0]["rows"] == 4


def test_the_words_of_an_error_about_local_data_stay_on_the_machine(attempt: Attempt) -> None:
    attempt.private = True
    final = attempt.run(steps=3, misbehave="raise")
    recorded = json.dumps([attempt.items(stream) for stream in ("log", "metrics", "event")]) + str(final)
    assert "secret diary" not in recorded
    assert "ValueError" in recorded
    assert "secret diary" in (attempt.folder / "error.txt").read_text()


def test_what_a_depot_refuses_becomes_the_end_of_the_job(attempt: Attempt, tmp_path: Path) -> None:
    def refuse(say: runner.Say) -> None:
        raise JobFailed("data", "The file is gone.", "Upload it again.")

    def withdraw(say: runner.Say) -> None:
        raise Withdrawn("It was cancelled.")

    attempt.depot.before["data"] = refuse
    assert attempt.run(steps=1) == Final("failed", "data", "The file is gone.", "Upload it again.")
    other = Attempt(tmp_path, number=2)
    other.depot.before["deliver"] = withdraw
    assert other.run(steps=1).outcome == "cancelled"


def test_progress_of_a_depot_is_told_but_not_too_often(attempt: Attempt) -> None:
    def talk(say: runner.Say) -> None:
        for number in range(1000):
            say(f"Received {number}.")

    attempt.depot.before["data"] = talk
    attempt.run(steps=1)
    told = [event for event in attempt.events("stage") if event["message"].startswith("Received")]
    assert 1 <= len(told) <= 3


def test_an_idle_forked_child_ends_when_it_is_let_go(tmp_path: Path) -> None:
    child = ForkedChild()
    child.close()
    end = time.monotonic() + 5
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert child.poll() == 0


def test_a_forked_child_has_a_session_of_its_own_and_no_output_of_ours(tmp_path: Path) -> None:
    child = ForkedChild(lambda given, _: print("session", os.getsid(0) == os.getpid(), given["n"]) or 5)
    child.start({"n": 42})
    while child.poll() is None:
        time.sleep(0.01)
    assert child.poll() == 5
    assert os.read(child.stdout, 100) == b"session True 42\n"
    child.close()


def test_a_process_is_known_by_more_than_its_number() -> None:
    own = processes.fingerprint(os.getpid())
    assert own is not None
    assert processes.is_alive(os.getpid(), own)
    assert not processes.is_alive(os.getpid(), own + "1")
    assert not processes.is_alive(2**22 + 1, own)


def test_the_family_of_no_process_is_empty_though_everything_descends_from_the_first() -> None:
    rows = processes.table()
    assert processes.family(rows, 0) == processes.family(rows, 1) == []
    assert processes.left_over(0, "") == []


def test_a_job_without_a_process_has_no_figures() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table
    meter = Meter(0.0)
    try:
        assert meter.read_when_due(ended.pid) is None
        assert (meter.read_when_due(os.getpid()) or {})["processes"] >= 1
        ended.wait()
        assert meter.read_when_due(ended.pid) is None
    finally:
        meter.close()


def test_a_process_that_has_given_its_memory_back_and_is_about_to_be_gone_has_no_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ending = processes.Process(2**22 + 1, 1, 2**22 + 1, "7", 0, 0.5, is_zombie=False)
    monkeypatch.setattr(processes, "table", lambda: [ending])
    meter = Meter(0.0)
    try:
        assert meter.read_when_due(ending.pid) is None
    finally:
        meter.close()


def test_a_sweep_spares_this_process(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.pause()
    time.sleep(0.05)
    assert processes.sweep(pid, "") == {pid}
    os.waitpid(pid, 0)


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_any_bytes_become_text_of_whole_lines_whatever_the_pieces(pieces: list[bytes]) -> None:
    def through(parts: list[bytes]) -> str:
        log = LogText(SecretMasker([]))
        for part in parts:
            log.feed(part)
        log.feed(b"", end=True)
        return "".join(log.take(end=True))

    whole = through([b"".join(pieces)])
    assert through(pieces) == whole
    assert "\r" not in whole and "\x1b[" not in whole


@given(st.lists(st.tuples(st.integers(1, 10**6), st.dictionaries(st.sampled_from("abc"), st.floats())), max_size=50))
def test_metrics_keep_their_order_and_are_numbers_or_nothing(points: list[tuple[int, dict[str, float]]]) -> None:
    columns = MetricColumns()
    for step, values in points:
        columns.add(step, values)
    items = columns.take()
    assert [step for item in items for step in item["steps"]] == [step for step, values in points if values]
    for item in items:
        assert all(len(column) == len(item["steps"]) for column in item["values"].values())
        json.dumps(item, allow_nan=False)


def test_no_more_than_five_hundred_metric_names_and_each_record_fits() -> None:
    columns = MetricColumns()
    columns.add(1, {f"{number:03}{'ü' * 60}": 1.0 for number in range(550)})
    items = columns.take()
    assert len({name for item in items for name in item["values"]}) == 500
    assert columns.refused == 50
    assert all(len(json.dumps(item, ensure_ascii=False).encode()) <= MAX_ITEM_BYTES for item in items)


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_reports_survive_any_garbage_around_them(pieces: list[bytes]) -> None:
    lines = ReportLines()
    found = [report for piece in pieces for report in lines.feed(piece)]
    assert all(isinstance(report["kind"], str) for report in found)
    assert list(lines.feed(b'\n{"kind": "checkpoint", "step": 1}\n'))[-1] == {"kind": "checkpoint", "step": 1}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_every_event_fits_and_is_clean_json(value: Any) -> None:
    item = fitting({"kind": "facts", "value": value})
    assert item["kind"] == "facts"
    assert len(json.dumps(item, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace")) <= 32_768


@settings(deadline=None)
@given(st.integers(0, 80), st.lists(st.integers(1, 70_000), max_size=6))
def test_no_secret_is_cut_in_two_where_a_long_line_is_broken(shift: int, cuts: list[int]) -> None:
    secret, said = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ""
    log = LogText(SecretMasker([secret]))
    data = b"x" * (65_536 - shift) + secret.encode() + b"y" * 140_000 + b"\nnext\n"
    for start, end in pairwise([0, *sorted(set(cuts)), len(data)]):
        log.feed(data[start:end])
        said += "".join(log.take())
    said += "".join(log.take(end=True))
    assert said.replace("…\n", "") == data.decode().replace(secret, "***")
    assert max(map(len, said.split("\n"))) <= 65_537 and said.endswith("\nnext\n")


def test_a_line_that_begins_anew_and_never_ends_is_not_kept() -> None:
    log, said = LogText(SecretMasker([])), 0
    for piece in (b"\r", *[b"x" * 65_536] * 40, b"\rbar 1", b"\r" * 200_000, b"bar 2\r\n"):
        log.feed(piece)
        said += sum(map(len, log.take()))
        assert len(log._line) <= 65_537
    assert said > 38 * 65_536
