"""What the terminal shows: how far a job is, how long it still takes, and one line for each change in a file."""

from __future__ import annotations

import io
import sys
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.job_lines import Part, cells, job_rows
from agent.screen import Line, LiveScreen, PlainScreen, Progress, Screen, job_url, open_screen
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


def training(step: int = 40, total: int = 100) -> Progress:
    return Progress(stage="train", step=step, total_steps=total, loss=2.5)


LINES = [
    Line(7, "maths", training(), "https://yard.example.com/training-jobs/7"),
    Line(12345, "a name that is much longer than any terminal has room for", Progress(message="Reading the data.")),
    Line(9, "数学の訓練データ", Progress(stage="train", step=12_000, loss=0.03)),
]


def text_of(row: Sequence[Part]) -> str:
    return "".join(part.text for part in row)


@pytest.mark.parametrize("is_ascii", [False, True])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_a_line_keeps_to_the_width_and_always_says_which_job_and_how_far(width: int, is_ascii: bool) -> None:
    rows = job_rows(LINES, width, is_ascii)
    texts = [text_of(row) for row in rows]
    assert all(cells(text) <= width for text in texts)
    assert all(str(line.job) in text for line, text in zip(LINES, texts, strict=True))
    assert "40 %" in texts[0] and "Prepare" in texts[1]
    assert (
        len(
            {
                cells(text[: text.index(word)]) + len(word)
                for text, word in zip(texts, ("40 %", "Prepare", "Train"), strict=True)
            }
        )
        == 1
    )
    assert not is_ascii or all(text.isascii() for text in texts)


def test_a_wide_line_says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(stage="train", total_steps=1000)
    for step in range(1, 21):
        now[0] += 0.5
        progress.take_metrics({"steps": [step], "values": {"loss": [2.25]}})
    (row,) = job_rows([Line(7, "maths", progress)], 140)
    for words in ("maths", "2 %", "8 min 10 s left", "step 20 of 1,000, loss 2.2500", "2.0 steps/s"):
        assert words in text_of(row)


def test_a_spool_read_from_its_start_again_tells_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(stage="train", total_steps=6000)
    for step in range(1, 5001):
        progress.take_metrics({"steps": [step], "values": {}})
    assert progress.steps_per_second is None
    for step in range(5001, 5011):
        now[0] += 1
        progress.take_metrics({"steps": [step], "values": {}})
    assert progress.steps_per_second == 1.0


def test_a_script_without_a_curve_named_loss_shows_its_training_loss() -> None:
    progress = Progress(stage="train")
    progress.take_metrics({"steps": [3], "values": {"val_loss": [9.0], "train_loss": [1.5], "lr": [0.1]}})
    assert progress.sentence() == "Train: step 3, loss 1.5000"


@given(st.text(), st.integers(1, 200))
def test_no_name_steers_the_terminal(name: str, width: int) -> None:
    (row,) = job_rows([Line(1, name, Progress(message=name))], width)
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Cs") for letter in text_of(row))
    assert cells(text_of(row)) <= max(width, 18)  # number, one letter and `Prepare` are the least


def test_a_name_of_any_length_is_cut_at_once() -> None:
    name = "数学" * 20_000
    (row,) = job_rows([Line(1, name, Progress())], 80)
    assert cells(text_of(row)) <= 80 and "数学数学" in text_of(row) and "…" in text_of(row)


def test_the_address_of_a_job_follows_from_the_socket() -> None:
    assert job_url("wss://yard.example.com/agent", 7) == "https://yard.example.com/training-jobs/7"
    assert job_url("ws://localhost:5000", 12) == "http://localhost:5000/training-jobs/12"


def test_plain_lines_name_the_page_once(capsys: pytest.CaptureFixture[str]) -> None:
    screen, progress = PlainScreen(), training(0)
    for step in range(100):
        progress.step = step
        screen.jobs([Line(7, "maths", progress, "http://yard/training-jobs/7")])
    lines = capsys.readouterr().out.splitlines()
    assert sum("http://yard/training-jobs/7" in line for line in lines) == 1 and len(lines) == 10


def test_a_terminal_that_knows_only_ascii_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    for open_view in (PlainScreen, LiveScreen):
        written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", written)
        screen: Screen = open_view()
        screen.connection("connected", "Connected as 数学.")
        screen.jobs(LINES)
        screen.note("… and a note\x1b[31m in red")
        screen.close()
        written.flush()
        text = written.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
        assert "Connected as ??." in text and "\x1b[31m" not in text


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 120) -> str:
    """What the live view writes to a terminal."""
    written = io.StringIO()
    written.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = open_screen()
    assert isinstance(screen, LiveScreen)
    screen.connection("connected", "Connected to https://yard.example.com as workstation.")
    screen.jobs(LINES)
    screen.close()
    return written.getvalue()


def test_on_a_terminal_the_name_links_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_a_terminal(monkeypatch)
    assert (
        "\x1b]8;" in text and text.count("https://yard.example.com/training-jobs/7") >= 2
    )  # as a link, and in letters
    assert "as workstation." in text and "40 %" in text


def test_colours_stay_away_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32m" in on_a_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in on_a_terminal(monkeypatch)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_screen(), PlainScreen)


def test_a_terminal_that_went_away_does_not_end_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        is_gone = False

        def write(self, text: str) -> int:
            if self.is_gone:
                raise OSError(5, "Input/output error")
            return super().write(text)

    written = Gone()
    monkeypatch.setattr(sys, "stdout", written)
    screen = LiveScreen()
    written.is_gone = True
    screen.connection("waiting", "Nobody answers.")
    screen.jobs(LINES)
    screen.note("Still here.")
    screen.close()
