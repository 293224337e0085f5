"""The helper that a script may import: `from trainyard import log`, through a real pipe, and the reader of its lines."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.scripts.curves import MAX_STEP, HelperLines, Point
from agent.scripts.curves.helper_lines import LONGEST_LINE

HELPER = Path(__file__).parent.parent.parent.parent / "agent" / "scripts" / "helper"


class Pipe:
    """The end of the pipe that the job's driver holds."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        data = b""
        while True:
            try:
                piece = os.read(self.end, 1 << 20)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece

    def points(self) -> list[Point]:
        return HelperLines().feed(self.read())


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "events")
    monkeypatch.setenv("TRAINYARD_EVENTS", str(pipe.path))
    yield pipe
    os.close(pipe.end)


@pytest.fixture
def helper() -> Iterator[ModuleType]:
    """The module as if just imported."""
    spec = importlib.util.spec_from_file_location("trainyard_of_a_script", HELPER / "trainyard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    if module._pipe >= 0:
        os.close(module._pipe)


def said(step: int, **values: float | None) -> Point:
    return Point("helper", step, dict(values), None)


def test_points_go_through_the_pipe(helper: ModuleType, pipe: Pipe) -> None:
    helper.log(loss=0.5, step=10)
    helper.log({"Val Loss": 1, "train/acc": 0.25}, step=11)
    helper.log({"loss": 0.25}, 12, lr=1e-3)
    assert pipe.points() == [said(10, loss=0.5), Point("helper", 11, {"val_loss": 1.0, "train/acc": 0.25}, None),
                             said(12, loss=0.25, lr=0.001)]  # fmt: skip


def test_without_a_step_the_calls_are_counted_on_from_the_last_one(helper: ModuleType, pipe: Pipe) -> None:
    for step in (None, None, 7, None, "no step", -3):
        helper.log(loss=0.5, step=step)
    assert [point.step for point in pipe.points()] == [0, 1, 7, 8, 9, 10]


class OneElement:
    """What a tensor of one element offers."""

    def __float__(self) -> float:
        return 0.5


class Several:
    def __float__(self) -> float:
        raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")


def test_what_is_no_number_is_left_out_and_nothing_is_raised(helper: ModuleType, pipe: Pipe) -> None:
    helper.log(
        a=OneElement(), b=Several(), c="0.5", d=None, e=[1.0], f=float("nan"), g=float("inf"), h=True, i=10**400, step=1
    )
    helper.log("no dictionary", step=2)
    helper.log([("loss", 1.0)], step=3)
    helper.log(step=4)
    assert pipe.points() == [said(1, a=0.5, f=None, g=None, h=1.0)]


def test_outside_of_a_job_nothing_happens(helper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINYARD_EVENTS", raising=False)
    helper.log(loss=0.5)
    assert helper._pipe == -1


def test_a_pipe_that_is_not_there_or_that_nobody_reads_stops_nothing(
    helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINYARD_EVENTS", str(tmp_path / "missing"))
    helper.log(loss=0.5)
    pipe = Pipe(tmp_path / "events")
    os.close(pipe.end)
    monkeypatch.setenv("TRAINYARD_EVENTS", str(pipe.path))
    helper.log(loss=0.5)


def test_when_the_pipe_is_full_lines_are_lost_and_counted_and_no_call_waits(helper: ModuleType, pipe: Pipe) -> None:
    calls = 20_000  # a pipe takes 64 KiB, less than 2,000 of them
    for step in range(calls):
        helper.log(loss=0.5, step=step)
    reader = HelperLines()
    first = reader.feed(pipe.read())
    assert reader.lost == 0
    helper.log(loss=0.5, step=calls)
    (last,) = reader.feed(pipe.read())
    assert last.step == calls
    assert reader.lost == calls - len(first)
    assert [point.step for point in first] == list(range(len(first)))
    helper.log(loss=0.5, step=calls + 1)
    reader.feed(pipe.read())
    assert reader.lost == calls - len(first)


def test_a_line_holds_as_many_values_as_fit_into_an_atomic_write(helper: ModuleType, pipe: Pipe) -> None:
    helper.log({f"{'long name ' * 9}{n}": n / 7 for n in range(200)}, step=1)
    helper.log({f"{n} {'ü' * 90}": n / 7 for n in range(200)}, step=2)
    lines = pipe.read().splitlines()
    assert len(lines) == 2
    assert all(len(line) < 4_000 for line in lines)
    assert len(json.loads(lines[1])["values"]) > 5


def test_threads_do_not_tear_each_others_lines(helper: ModuleType, pipe: Pipe) -> None:
    threads = [threading.Thread(target=lambda: [helper.log(loss=0.5) for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(point.step for point in pipe.points()) == list(range(800))


SCRIPT = """
import os, sys
from trainyard import log
log(parent=1.0, step=1)
child = os.fork()
if child == 0:
    log(child=2.0, step=2)
    os._exit(0)
os.waitpid(child, 0)
log(parent=3.0, step=3)
"""


def test_a_real_script_and_what_it_forks_reach_the_pipe(pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(HELPER)}
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert pipe.points() == [said(1, parent=1.0), said(2, child=2.0), said(3, parent=3.0)]


def test_the_helper_is_one_file_of_the_standard_library() -> None:
    script = "import sys; import trainyard; print(sorted({'torch', 'numpy', 'agent'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": str(HELPER)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[]\n", done.stderr


LINES = [
    b'{"step": 1, "values": {"loss": 0.5}}', b'{"step": -1, "values": {"loss": 0.5}}', b'{"step": 1, "values": {"": 1, "a": "b"}}',
    b'{"step": 1.5, "values": {}}', b'{"step": 1, "values": [1]}', b"[]", b"{", b"[" * 3000, b"\xff", b"x" * 5000,
    b'{"step": 2, "values": {"loss": null, "acc": NaN, "big": 1e999, "huge": ' + b"9" * 400 + b'}, "lost": 3}',
    b'{"step": 3, "values": {"loss": true}, "lost": -1}',
]  # fmt: skip


@given(
    lines=st.lists(st.one_of(st.sampled_from(LINES), st.binary(max_size=30)), max_size=12),
    cuts=st.lists(st.integers(0, 9000)),
)
def test_the_reader_takes_any_bytes_in_any_cuts(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    places = sorted({0, len(data), *(min(place, len(data)) for place in cuts)})
    whole, cut = HelperLines(), HelperLines()
    expected = whole.feed(data)
    assert [point for a, b in zip(places, places[1:], strict=False) for point in cut.feed(data[a:b])] == expected
    assert (cut.lost, cut.unreadable) == (whole.lost, whole.unreadable)
    assert all(0 <= point.step < MAX_STEP and point.values for point in expected)
    long = sum(len(part) > LONGEST_LINE for part in data.split(b"\n"))
    assert whole.unreadable >= long
