"""What the terminal shows: how far a job is, how long it still takes, and one line for each change in a file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.screen import Line, PlainScreen, Progress
from agent.spool import Spool, SpoolReader
from agent.words import duration


def test_progress_is_followed_from_the_spool(tmp_path: Path) -> None:
    spool, progress = Spool(tmp_path), Progress()
    reader = SpoolReader(tmp_path)
    spool.append("event", {"kind": "stage", "stage": "prepare", "message": "Reading the data."})
    assert progress.follow(reader)
    assert progress.sentence() == "Prepare: Reading the data."
    spool.append("event", {"kind": "stage", "stage": "train", "total_steps": 200, "message": "Training."})
    spool.append("metrics", {"steps": [1, 2], "values": {"loss": [3.0, None]}})
    spool.append("metrics", {"steps": [50], "values": {"loss": [2.5]}})
    assert progress.follow(reader)
    assert not progress.follow(reader)
    assert (progress.step, progress.percent, progress.loss) == (50, 25, 2.5)
    assert progress.sentence().startswith("Train: step 50 of 200, loss 2.5000")


def test_the_time_left_follows_from_the_steps_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    progress.take_event({"kind": "stage", "stage": "train", "total_steps": 101})
    progress.take_metrics({"steps": [1], "values": {}})
    assert progress.seconds_left is None
    now[0] += 30
    progress.take_metrics({"steps": [31], "values": {}})
    assert progress.seconds_left == 70


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_file_gets_one_line_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    screen, progress = PlainScreen(), Progress(stage="train", total_steps=100)
    for _ in range(3):
        screen.connection("waiting", "Nobody answers.")
    for step in range(100):
        progress.step = step
        screen.jobs([Line(7, "maths", progress)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("Nobody answers." in line for line in lines) == 1
    assert sum("Job 7 (maths)" in line for line in lines) == 10
