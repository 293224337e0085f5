"""A member's own script from its order to its end, in real processes: on a machine of theirs and, boxed, on the server."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from agent import recipes, runner
from agent.errors import JobFailed
from agent.protocol import JobSpec
from agent.recipes.script import left_by_the_script
from agent.runner import Final, SpawnedChild, processes
from agent.scripts import requirements, setup
from agent.scripts.manifest import BadManifest, parse
from agent.scripts.terms import Terms
from agent.settings import Timings
from agent.spool import Spool, SpoolReader
from tests.agent.sandbox.conftest import run_as_nobody
from tests.agent.scripts.event_writer import event, file_of, scalar

ROOT = Path(__file__).resolve().parents[3]
TIMINGS = Timings(gather=0.02, orders=0.02, sync=0.1, figures=5.0, cancel=0.5, pipes=1.0)
COUNT = """
    import argparse, os, time
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--resume")
    options = parser.parse_args()
    os.makedirs("out", exist_ok=True)
    start = int(open(options.resume).read()) + 1 if options.resume else 1
    for step in range(start, options.to + 1):
        print(f"iter {step}: loss {1 / step:.4f}, time 5ms")
        open("out/aside", "w").write(str(step))
        os.replace("out/aside", f"out/ckpt-{step}")
        time.sleep(options.pause)
    open("out/model.safetensors", "w").write("weights")
"""
MANIFEST = """
    outputs = ["out/*.safetensors"]
    checkpoints = ["out/ckpt-*"]
    resume = ["--resume", "{checkpoint}"]

    [parameters.to]
    type = "int"
    minimum = 1
    maximum = 1000000
"""


class Depot:
    """The script's folder is here; what is delivered is noted."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.delivered: list[str] = []

    def fetch_data(self, spec: JobSpec, folder: Path, say: runner.Say) -> Path:
        return self.data

    def fetch_base(self, spec: JobSpec, folder: Path, say: runner.Say) -> str:
        return spec.base_model

    def deliver(self, spec: JobSpec, output: Path, say: runner.Say) -> None:
        self.delivered = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())


class Job:
    """A job with its script; each `run` is the next attempt."""

    def __init__(self, folder: Path, boxed: bool) -> None:
        self.folder, self.boxed = folder / "job", boxed
        self.script = folder / "project"
        self.script.mkdir()
        self.folder.mkdir()
        self.attempt = 0
        self.order: str | None = None
        self.environment = dict(os.environ)
        self.allowed: tuple[str, ...] = ()
        self.limits: dict[str, Any] = {}
        self.accelerator = "cpu"
        self.beside: dict[str, str] = {}  # in the archive, beside the project's folder
        self.depot: Any = None
        self.child: Any = None

    def write(self, name: str, text: str) -> None:
        path = self.script / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))

    def run(self, grace: float = 3.0, **parameters: Any) -> Final:
        self.attempt += 1
        self.order = None
        resolved, errors = recipes.check("script", parameters)
        assert not errors
        spec = JobSpec(
            job=7, attempt=self.attempt, name="mine", recipe="script", parameters=resolved,
            data={"kind": "dataset" if self.boxed else "local", "path": "/a"}, mapping=None, base_model="none",
            base_name="none", token="tj_7_1_secrettoken", grace_seconds=grace,
        )  # fmt: skip
        self.depot = Depot(self._packed() if self.boxed else self.script)
        self.child = SpawnedChild(self.folder, self.environment)
        spool = Spool(self._spool)
        try:
            return runner.run(
                spec, self.folder, spool, self.depot, self.child, lambda: self.order, timings=TIMINGS,
                terms=self._terms().as_dict(),
                secrets=[self.environment[name] for name in self.allowed if name in self.environment],
            )  # fmt: skip
        finally:
            spool.close()

    def run_aside(self, **parameters: Any) -> threading.Thread:
        thread = threading.Thread(target=lambda: setattr(self, "final", self.run(**parameters)))
        thread.start()
        return thread

    def ended(self, thread: threading.Thread) -> Final:
        thread.join(30)
        final: Final = self.final  # type: ignore[attr-defined]
        return final

    def items(self, stream: str) -> list[dict[str, Any]]:
        return SpoolReader(self._spool).read(stream, 0, 1 << 26, 10**6)[1]

    def log(self) -> str:
        return "".join(item["text"] for item in self.items("log"))

    def facts(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for item in self.items("event"):
            if item["kind"] == "facts":
                told |= item
        return told

    def curve(self, name: str = "loss") -> list[tuple[int, float]]:
        found = []
        for item in self.items("metrics"):
            found += zip(item["steps"], item["values"].get(name, []), strict=False)
        return found

    def wait_for(self, what: Callable[[], Any], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"waited in vain; the log says: {self.log()}"
            time.sleep(0.02)

    @property
    def _spool(self) -> Path:
        return self.folder / "attempts" / str(self.attempt) / "spool"

    def _terms(self) -> Terms:
        if self.boxed:
            return Terms(sandbox={"lane": 1, "limits": self.limits, "accelerator": self.accelerator})
        roots, kept = (str(self.script.parent.resolve()),), str(self.folder.parent / "environments")
        return Terms(roots, self.allowed, kept)

    def _packed(self) -> Path:
        packed = self.folder.parent / "project.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(self.script.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(self.script.parent))
            for name, text in self.beside.items():
                archive.writestr(name, text)
        return packed


@pytest.fixture(params=["own machine", "boxed"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    if request.param == "boxed" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    yield from _job(tmp_path, request.param == "boxed")


@pytest.fixture
def own_job(tmp_path: Path) -> Iterator[Job]:
    yield from _job(tmp_path, False)


@pytest.fixture
def boxed_job(tmp_path: Path) -> Iterator[Job]:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    yield from _job(tmp_path, True)


def _job(folder: Path, boxed: bool) -> Iterator[Job]:
    one = Job(folder, boxed)
    yield one
    if one.child is not None and one.child.pid:
        assert processes.left_over(one.child.pid, one.child.mark) == []


def test_an_unmodified_script_becomes_log_curve_and_outputs(job: Job) -> None:
    job.write("train.py", COUNT)
    job.write("yard.toml", MANIFEST)
    assert job.run(values={"to": 4}) == Final("completed")
    assert job.log() == "".join(f"iter {step}: loss {1 / step:.4f}, time 5ms\n" for step in (1, 2, 3, 4))
    assert job.curve() == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25)]
    assert job.depot.delivered == ["out/model.safetensors", "run.json"]
    assert job.facts()["command"] == ["python", "train.py", "--to", "4"]
    assert job.facts()["curves"][0]["rule"] == "iterations"
    assert [item["file"] for item in job.items("event") if item["kind"] == "checkpoint"][-1] == "out/ckpt-4"
    assert (job.facts()["lane"] is not None) == job.boxed


def test_a_flood_of_numbers_that_are_none_is_a_curve_in_order_with_holes(job: Job) -> None:
    job.write("train.py", """
        values = ("0.5", "nan", "inf", "-inf", "1e400")
        for step in range(1, 20_001):
            print(f"iter {step}: loss {values[step % 5]}, time 5ms")
    """)  # fmt: skip
    assert job.run() == Final("completed")
    assert job.curve() == [(step, None if step % 5 else 0.5) for step in range(1, 20_001)]


def test_a_stop_asks_the_script_to_end_and_resume_gives_it_its_newest_checkpoint(job: Job) -> None:
    job.write("train.py", COUNT)
    job.write("yard.toml", MANIFEST)
    running = job.run_aside(arguments=["--pause", "0.05"], values={"to": 1000})
    job.wait_for(lambda: len(job.curve()) > 5)
    job.order = "stop"
    assert job.ended(running).outcome == "stopped"
    reached = job.curve()[-1][0]
    assert job.run(values={"to": reached + 3}).outcome == "completed"
    saved = job.curve()[0][0] - 1
    assert saved in (reached, reached - 1)  # it may be stopped between a line and the checkpoint behind it
    assert [step for step, _ in job.curve()] == list(range(saved + 1, reached + 4))
    assert job.facts()["command"][-2] == "--resume"
    assert job.facts()["checkpoint_given"] == f"out/ckpt-{saved}"


def test_epochs_counted_from_zero_are_counted_so_by_the_attempt_that_goes_on(job: Job) -> None:
    job.write("train.py", """
        import os, sys, time
        start = int(open(sys.argv[2]).read()) if len(sys.argv) > 1 else 0
        os.makedirs("out", exist_ok=True)
        for epoch in range(start, 4):
            for batch in (0, 10):
                print(f"Epoch: [{epoch}][{batch:2}/20]\\tLoss 0.06 (0.06)", flush=True)
            if epoch == 2 and not start:
                time.sleep(60)
            open("out/ckpt", "w").write(str(epoch + 1))
    """)  # fmt: skip
    settings = {"resume": ["--resume", "{checkpoint}"], "checkpoints": ["out/ckpt"]}
    running = job.run_aside(**settings)
    job.wait_for(lambda: len(job.curve()) == 6)
    job.order = "stop"
    assert job.ended(running).outcome == "stopped"
    assert [step for step, _ in job.curve()] == [0, 10, 20, 30, 40, 50]
    assert job.run(**settings).outcome == "completed"
    assert [step for step, _ in job.curve()] == [40, 50, 60, 70]


def test_lines_without_a_step_go_on_being_counted_by_the_attempt_that_goes_on(own_job: Job) -> None:
    own_job.write("train.py", "for n in range(5): print(f'loss: 0.{n + 1}')")
    for steps in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9]):
        assert own_job.run().outcome == "completed"
        assert [step for step, _ in own_job.curve()] == steps


def test_the_steps_that_the_command_line_asks_for_are_the_total_until_the_script_says_another(own_job: Job) -> None:
    own_job.write("train.py", """
        for step in range(1, 5):
            print(f"iter {step}: loss 0.5, time 5ms")
    """)  # fmt: skip
    own_job.run(arguments=["--max_iters=4"])
    totals = [item["total_steps"] for item in own_job.items("event") if item.get("total_steps")]
    assert totals == [4]


def test_a_script_that_finds_its_checkpoint_itself_is_only_told_to_go_on(own_job: Job) -> None:
    own_job.write("train.py", """
        import sys, pathlib
        pathlib.Path("out").mkdir(exist_ok=True)
        pathlib.Path("out/last.ckpt").write_text("state")
        print(sys.argv[1:])
        raise SystemExit(3 if len(sys.argv) == 1 else 0)
    """)  # fmt: skip
    assert own_job.run(resume=["--init_from=resume"], checkpoints=["out/*.ckpt"]).outcome == "failed"
    assert own_job.run(resume=["--init_from=resume"], checkpoints=["out/*.ckpt"]).outcome == "completed"
    assert own_job.log().startswith("['--init_from=resume']\n")


SAVE = """
    import os, sys, time
    print("from", os.path.basename(os.environ.get("TRAINYARD_CHECKPOINT", "nothing")), flush=True)
    os.makedirs("out", exist_ok=True)
    for number in sys.argv[1:]:
        open(f"out/ckpt-{number}", "w").close()
        time.sleep(0.1)
    sys.exit(3)
"""


@pytest.fixture
def other_job(own_job: Job, tmp_path: Path) -> Iterator[Job]:
    """Another job of the same folder of a machine."""
    (tmp_path / "other").mkdir()
    for one in _job(tmp_path / "other", False):
        one.script = own_job.script
        yield one


def test_a_job_goes_on_from_its_own_checkpoint_though_another_was_at_work_in_its_folder(
    own_job: Job, other_job: Job
) -> None:
    own_job.write("train.py", SAVE)
    patterns = {"checkpoints": ["out/ckpt-*"]}
    assert own_job.run(arguments=["100"], **patterns).outcome == "failed"
    time.sleep(setup.SEEN_LATE + 0.5)
    assert other_job.run(arguments=["200"], **patterns).outcome == "failed"
    own_job.run(arguments=[], **patterns)
    assert own_job.facts()["checkpoint_given"] == "out/ckpt-100"
    other_job.run(arguments=[], **patterns)
    assert other_job.facts()["checkpoint_given"] == "out/ckpt-200"


def test_a_job_that_was_killed_goes_on_from_its_own_checkpoint_too(own_job: Job, other_job: Job) -> None:
    own_job.write("train.py", SAVE)
    patterns = {"checkpoints": ["out/ckpt-*"]}
    running = own_job.run_aside(arguments=[str(number) for number in range(100, 300)], **patterns)
    own_job.wait_for(lambda: (own_job.script / "out" / "ckpt-140").exists())
    os.kill(own_job.child.pid, signal.SIGKILL)
    assert own_job.ended(running).outcome == "failed"
    last = max(path.name for path in (own_job.script / "out").iterdir())
    time.sleep(setup.SEEN_LATE + 0.5)
    other_job.run(arguments=["900"], **patterns)
    own_job.run(arguments=[], **patterns)
    assert own_job.facts()["checkpoint_given"] == f"out/{last}"


def test_a_lightning_script_goes_on_from_its_checkpoint_and_from_no_other_file_without_a_pattern(job: Job) -> None:
    job.write("train.py", """
        import os, sys
        print(sys.argv[1:], os.path.basename(os.environ.get("TRAINYARD_CHECKPOINT", "")))
        folder = "lightning_logs/version_" + str(len(sys.argv) - 1)
        files = {
            "pretrained/model.ckpt": 1, folder + "/checkpoints/epoch=0-step=10.ckpt": 2, folder + "/hparams.yaml": 3,
            "cache/hub/checkpoints/encoder.ckpt": 4, "lightning_logs/notes.ckpt": 5,
        }
        for name, age in files.items():
            os.makedirs(os.path.dirname(name), exist_ok=True)
            open(name, "w").close()
            os.utime(name, (2e9 + age, 2e9 + age))
        sys.exit(len(sys.argv) == 1)
    """)  # fmt: skip
    assert job.run(resume=["--ckpt_path={checkpoint}"]).outcome == "failed"
    assert job.run(resume=["--ckpt_path={checkpoint}"]).outcome == "completed"
    assert job.facts()["checkpoint_given"] == "lightning_logs/version_0/checkpoints/epoch=0-step=10.ckpt"
    assert "/checkpoints/epoch=0-step=10.ckpt'] epoch=0-step=10.ckpt\n" in job.log()


def test_a_script_that_leaves_no_files_delivers_nothing(job: Job) -> None:
    job.write("train.py", "print('loss: 1.0')")
    assert job.run().outcome == "completed"
    assert job.depot.delivered == []
    assert "upload" not in [event.get("stage") for event in job.items("event")]


def test_what_a_script_filled_its_box_with_is_removed(tmp_path: Path) -> None:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    one = Job(tmp_path, True)
    one.limits = {"work_bytes": 8 << 20}
    one.write(
        "train.py", "import time\nopen('big', 'wb').write(bytes(32 << 20))\nprint('full', flush=True)\ntime.sleep(30)\n"
    )
    final = one.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert not (one.folder / "work").exists()
    assert one.run().outcome == "failed"  # another try begins from the archive


def test_a_script_may_use_its_last_seconds_to_save(job: Job) -> None:
    job.write("main.py", """
        import os, signal, sys, time
        def save(number, frame):
            os.makedirs("checkpoints", exist_ok=True)
            open("checkpoints/last", "w").write("saved")
            print("saved", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        print("loss: 1.0", flush=True)
        time.sleep(60)
    """)  # fmt: skip
    running = job.run_aside()
    job.wait_for(lambda: "loss" in job.log())
    job.order = "stop"
    assert job.ended(running).outcome == "stopped"
    assert job.log().endswith("saved\n")


def test_a_script_that_will_not_end_is_ended_with_everything_it_started(job: Job) -> None:
    job.write("train.py", """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(5):
            if os.fork() == 0:
                if os.fork() == 0:
                    os.setsid()
                time.sleep(60)
        print("loss: 1.0", flush=True)
        time.sleep(60)
    """)  # fmt: skip
    running = job.run_aside(grace=1.5)
    job.wait_for(lambda: "loss" in job.log())
    job.order = "stop"
    assert job.ended(running).outcome == "stopped"
    assert "ended by force" in job.log()


def test_a_cancelled_script_is_gone_at_once(job: Job) -> None:
    job.write("train.py", "import time\nprint('loss: 1.0', flush=True)\ntime.sleep(60)\n")
    running = job.run_aside()
    job.wait_for(lambda: "loss" in job.log())
    job.order = "cancel"
    assert job.ended(running).outcome == "cancelled"


@pytest.mark.parametrize(
    ("text", "cause", "told"),
    [
        ("raise SystemExit(3)", "member_code", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "member_code", "signal"),
        ("1 / 0", "member_code", "exit code 1"),
    ],
)
def test_a_script_that_fails_says_how(job: Job, text: str, cause: str, told: str) -> None:
    job.write("train.py", text)
    final = job.run()
    assert (final.outcome, final.cause) == ("failed", cause)
    assert told in str(final.message)
    assert job.facts()["exit_code"] in (1, 3, -11)


def test_a_script_is_found_chosen_or_asked_for(job: Job) -> None:
    job.write("a.py", "print('a')")
    job.write("b.py", "print('b')")
    final = job.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert "a.py, b.py" in str(final.message)
    assert job.run(entry="b.py").outcome == "completed"
    assert job.log().startswith("b\n")


def test_a_script_in_its_place_is_looked_at_and_one_that_was_uploaded_is_fetched(job: Job) -> None:
    job.write("train.py", "print('a')")
    assert job.run().outcome == "completed"
    said = [item["message"] for item in job.items("event") if item.get("stage") == "prepare"]
    assert said[0] == ("Fetching the script." if job.boxed else "Looking at the script.")


def test_a_file_that_is_not_there_may_be_named_in_the_form_or_in_the_folder(own_job: Job) -> None:
    own_job.write("train.py", "print('a')")
    final = own_job.run(entry="nope.py")
    assert final.message == "There is no file nope.py in the script's folder. Choose train.py."
    assert final.advice == "Name another file with Change and order again, or put it there and press Try again."
    own_job.write("yard.toml", 'entry = "nope.py"')
    assert own_job.run().advice == "Mend that in the script's folder, then press Try again."


def test_samples_and_the_helper_reach_the_page(job: Job) -> None:
    job.write("train.py", """
        import os
        from trainyard import log
        os.makedirs("samples")
        open("samples/step-3.txt", "w").write("once upon a time")
        open("samples/picture.bin", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(40_000))
        for step in range(3):
            log(reward=step / 2, step=step)
    """)  # fmt: skip
    assert job.run().outcome == "completed"
    assert job.curve("reward") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    shown = job.items("samples")
    assert {(item["name"], item["type"], item["pieces"]) for item in shown} == {
        ("picture.bin", "png", 3), ("step-3.txt", "text", 1),
    }  # fmt: skip
    assert next(item for item in shown if item["type"] == "text")["step"] == 3


def test_what_the_helper_gives_is_read_nowhere_else(job: Job) -> None:
    job.write("train.py", """
        import time
        from trainyard import log
        log(loss=3.0, step=0)
        time.sleep(0.5)
        for step in range(1, 4):
            print(f"{step * 10}%|█   | {step}/10 [00:01<00:09, 1.00it/s, loss=0.{step}, acc=0.5]", flush=True)
            log(loss=1 / step, step=step)
    """)  # fmt: skip
    assert job.run().outcome == "completed"
    assert job.curve("loss") == [(0, 3.0), (1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [step for step, _ in job.curve("acc")] == [1, 2, 3]
    assert {rule["rule"]: rule["names"] for rule in job.facts()["curves"]} == {"helper": ["loss"], "bars": ["acc"]}


@pytest.mark.parametrize(("name", "told"), [("loss/{}", 500), ("loss/{}" + 52 * "x", 250)])
def test_the_names_of_all_curves_are_told_as_far_as_a_record_holds_them(own_job: Job, name: str, told: int) -> None:
    """One that was not told could not be hidden with its rule."""
    own_job.write("train.py", f"""
        from trainyard import log
        for start in range(0, 500, 25):
            log({{{name!r}.format(n): 0.5 for n in range(start, start + 25)}}, step=1)
    """)  # fmt: skip
    assert own_job.run().outcome == "completed"
    (rule,) = own_job.facts()["curves"]
    assert rule["names"] == sorted(name.format(n) for n in range(500))[:told]
    assert {name for item in own_job.items("metrics") for name in item["values"]} >= set(rule["names"])


def test_what_the_helper_gives_is_not_read_from_event_files_either(own_job: Job) -> None:
    events = file_of(*(event(step, scalar("loss", 0.5), scalar("lr", 0.25)) for step in (1, 2)))
    own_job.write("train.py", f"""
        import time
        from trainyard import log
        log(loss=1.0, step=1)
        time.sleep(0.5)
        open("events.out.tfevents.1.host", "wb").write({events!r})
    """)  # fmt: skip
    assert own_job.run().outcome == "completed"
    assert own_job.curve("loss") == [(1, 1.0)]
    assert own_job.curve("lr") == [(1, 0.25), (2, 0.25)]
    assert {rule["rule"]: rule["names"] for rule in own_job.facts()["curves"]} == {
        "helper": ["loss"], "tensorboard": ["lr"]
    }  # fmt: skip


def test_a_logger_that_begins_a_folder_for_each_attempt_goes_on_with_the_same_curves(own_job: Job) -> None:
    own_job.write("train.py", f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.agent.scripts.event_writer import event, file_of, scalar
        done = len(os.listdir("lightning_logs")) if os.path.exists("lightning_logs") else 0
        folder = f"lightning_logs/version_{{done}}"
        os.makedirs(folder)
        with open(f"{{folder}}/events.out.tfevents.{{done}}.host", "wb") as file:
            file.write(file_of(*(event(step, scalar("train_loss", 0.5)) for step in (2 * done + 1, 2 * done + 2))))
    """)  # fmt: skip
    for steps in ([1, 2], [3, 4], [5, 6]):
        assert own_job.run().outcome == "completed"
        assert [step for step, _ in own_job.curve("train_loss")] == steps
        assert own_job.facts()["curves"][0]["names"] == ["train_loss"]


def test_only_files_the_job_has_written_are_kept(own_job: Job) -> None:
    own_job.write("outputs/old.txt", "from last year")
    os.utime(own_job.script / "outputs/old.txt", (1e9, 1e9))
    own_job.write("train.py", "open('outputs/new.txt', 'w').write('x'); open('elsewhere.txt', 'w').write('x')")
    assert own_job.run().outcome == "completed"
    assert own_job.depot.delivered == ["outputs/new.txt", "run.json"]


def test_a_data_set_beside_the_script_hides_nothing_and_is_said_to_be_large(own_job: Job) -> None:
    own_job.write("train.py", """
        import os
        os.makedirs("output")
        os.makedirs("run/checkpoint-5")
        for name in ("output/model.pt", "run/checkpoint-5/model.pt"):
            open(name, "w").write("x")
    """)  # fmt: skip
    data = own_job.script / "data"
    data.mkdir()
    for number in range(50_001):
        os.mknod(data / f"{number}.png")
    assert own_job.run().outcome == "completed"
    shutil.rmtree(data)
    assert own_job.depot.delivered == ["output/model.pt", "run.json"]
    assert [item["file"] for item in own_job.items("event") if item["kind"] == "checkpoint"] == ["run/checkpoint-5"]
    assert own_job.log().count("(Some files were not looked at for checkpoint-*, */checkpoint-*, *.ckpt: ") == 1


def test_of_a_script_that_keeps_nothing_its_model_files_are_named(job: Job) -> None:
    job.write("train.py", "open('mnist_cnn.pt', 'w').write('x'); open('notes.txt', 'w').write('x')")
    assert job.run().outcome == "completed"
    assert job.depot.delivered == []
    assert "(It wrote mnist_cnn.pt: name that under Files to keep" in job.log()
    assert job.facts()["outputs_left"] == ["mnist_cnn.pt"]


def test_a_module_that_is_missing_is_named_with_what_to_do(job: Job) -> None:
    job.write("train.py", "import nobody_has_this.inside")
    final = job.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert final.message == "The script needs the module nobody_has_this, which its Python does not have."
    assert ("ask the operator" if job.boxed else "name under Interpreter") in (final.advice or "")


def test_a_module_that_a_script_does_without_is_not_what_it_failed_for(own_job: Job) -> None:
    own_job.write("train.py", """
        import traceback
        try:
            import nobody_has_this
        except ImportError:
            traceback.print_exc()
        raise ValueError("the learning rate is negative")
    """)  # fmt: skip
    assert own_job.run().message == "The script ended with exit code 1."


@pytest.mark.parametrize(
    "text",
    [
        "import socket; socket.create_connection(('example.com', 80))",
        "import urllib.request; urllib.request.urlopen('https://example.com/mnist.gz')",
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)",
        # As the libraries say it that are not installed here.
        "class ConnectionError(OSError): __module__ = 'requests.exceptions'\n"
        "raise ConnectionError('HTTPSConnectionPool(host=\\'example.com\\', port=443): Max retries exceeded with url: / '"
        "'(Caused by NameResolutionError(\"Failed to resolve \\'example.com\\' ([Errno -3] Temporary failure in name '"
        "'resolution)\"))')",
        "class ConnectError(Exception): __module__ = 'httpx'\nraise ConnectError('[Errno -2] Name or service not known')",
        "class LocalEntryNotFoundError(Exception): __module__ = 'huggingface_hub.errors'\n"
        "raise LocalEntryNotFoundError('An error happened while trying to locate the file on the Hub and we cannot find '"
        "'the requested files in the local cache. Please check your connection and try again.')",
        "raise OSError(\"We couldn't connect to 'https://huggingface.co' to load the files\")",
        "raise RuntimeError('Error downloading t10k.gz:\\nTried https://example.com/, got:\\n'"
        "'<urlopen error [Errno -3] Temporary failure in name resolution>')",
    ],
    ids=["socket", "urllib", "address", "requests", "httpx", "hub", "transformers", "torchvision"],
)  # fmt: skip
def test_a_script_that_reaches_for_the_network_in_the_box_is_told_that_there_is_none(boxed_job: Job, text: str) -> None:
    boxed_job.write("train.py", text)
    final = boxed_job.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert final.message == "The script tried to reach the network, and scripts on the server have none."
    assert final.advice == "Put what it fetches into the zip, or train on your own machine."


@pytest.mark.parametrize("named", ["GPU-3f2a91c0-1b2c-4d5e-8f90-a1b2c3d4e5f6", "MIG-1a2b", ""])
def test_a_box_that_would_lack_its_device_is_not_started(boxed_job: Job, named: str) -> None:
    boxed_job.environment["CUDA_VISIBLE_DEVICES"] = named
    boxed_job.accelerator = "cuda"
    boxed_job.write("train.py", "print('it has begun')")
    final = boxed_job.run()
    assert (final.outcome, final.cause) == ("failed", "member_machine")  # the machine that runs it
    assert "by number" in (final.message or "") and "it has begun" not in boxed_job.log()


def test_a_network_that_a_script_does_without_is_not_what_it_failed_for(boxed_job: Job) -> None:
    boxed_job.write("train.py", """
        import traceback, urllib.request
        try:
            urllib.request.urlopen("https://example.com")
        except OSError:
            traceback.print_exc()
        raise ValueError("the learning rate is negative")
    """)  # fmt: skip
    assert boxed_job.run().message == "The script ended with exit code 1."


def test_on_a_machine_of_ones_own_a_network_that_is_away_is_not_said_to_be_missing(own_job: Job) -> None:
    own_job.write("train.py", "import socket; raise socket.gaierror(-2, 'Name or service not known')")
    assert own_job.run().message == "The script ended with exit code 1."


def test_a_link_among_the_outputs_is_not_followed(job: Job) -> None:
    job.write("train.py", """
        import os
        os.makedirs("output")
        os.symlink("/etc/passwd", "output/stolen.txt")
        open("output/mine.txt", "w").write("x")
    """)  # fmt: skip
    assert job.run().outcome == "completed"
    assert job.depot.delivered == ["output/mine.txt", "run.json"]


def test_a_disk_that_fills_while_files_are_kept_fails_the_job(own_job: Job, tmp_path: Path) -> None:
    own_job.write("train.py", "import os; os.makedirs('output'); open('output/model.pt', 'w').write('weights')")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "sitecustomize.py").write_text(dedent("""
        import errno, io, pathlib
        class Full(io.BytesIO):
            def write(self, data):
                raise OSError(errno.ENOSPC, "No space left on device")
        open_ = pathlib.Path.open
        def full(path, mode="r", *given, **named):
            return Full() if mode == "wb" and path.name == "model.pt" else open_(path, mode, *given, **named)
        pathlib.Path.open = full
    """))  # fmt: skip
    own_job.environment["PYTHONPATH"] = str(tmp_path / "full")
    final = own_job.run()
    assert (final.outcome, final.cause) == ("failed", "member_machine")
    assert str(final.message).startswith("The disk is full (")
    assert own_job.depot.delivered == []


def test_a_script_gets_the_variables_its_owner_allows_and_no_others_and_they_are_masked(
    own_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HF_TOKEN": "hf_allowed",
        "WANDB_ENTITY": "our-laboratory",
        "OTHER_TOKEN": "other_secret",
    }.items():
        monkeypatch.setenv(name, value)
        own_job.environment[name] = value
    own_job.allowed = ("HF_TOKEN", "WANDB_ENTITY")
    own_job.write("train.py", """
        import os
        print(os.environ["HF_TOKEN"] == "hf_" + "allowed", "OTHER_TOKEN" in os.environ)
        print(os.environ["HF_TOKEN"], os.environ["WANDB_ENTITY"])
    """)  # fmt: skip
    assert own_job.run().outcome == "completed"
    assert own_job.log().startswith("True False\n*** ***\n")


def test_a_secret_that_is_printed_as_the_name_of_a_metric_leaves_the_machine_nowhere(
    own_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_AllowedAndSecret"
    monkeypatch.setenv("HF_TOKEN", secret)
    own_job.environment["HF_TOKEN"] = secret
    own_job.allowed = ("HF_TOKEN",)
    own_job.write("train.py", """
        import os
        from trainyard import log
        print(f"step 1: loss 0.5, {os.environ['HF_TOKEN']}: 0.5")
        log({os.environ["HF_TOKEN"]: 1.0, "x" * 45 + os.environ["HF_TOKEN"]: 2.0}, step=1)
    """)  # fmt: skip
    assert own_job.run().outcome == "completed"
    told = json.dumps([own_job.items(stream) for stream in ("event", "metrics", "log", "samples")]).lower()
    assert secret.lower()[:10] not in told
    assert own_job.curve("***") and own_job.curve("x" * 45 + "***") == [(1, 2.0)]
    assert {name for rule in own_job.facts()["curves"] for name in rule["names"]} == {
        "loss", "***", "x" * 45 + "***"
    }  # fmt: skip


def test_the_value_of_a_variable_is_masked_in_what_the_script_says_and_not_in_the_words_of_the_yard(
    own_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WANDB_PROJECT": "Training", "WANDB_ENTITY": "iterations", "WANDB_NAME": "checkpoint"}.items():
        monkeypatch.setenv(name, value)
        own_job.environment[name] = value
    own_job.allowed = ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME")
    own_job.write("train.py", """
        import os
        print("Training iterations: checkpoint")
        print("step 1/2: loss 0.5, iterations 3")
        os.makedirs("checkpoints/1")
        open("checkpoints/1/model", "w").close()
    """)  # fmt: skip
    assert own_job.run().outcome == "completed"
    assert own_job.log().startswith("*** ***: ***\n")
    messages = [item["message"] for item in own_job.items("event") if item["kind"] == "stage"]
    assert "Training." in messages and not any("***" in message for message in messages)
    (rule,) = own_job.facts()["curves"]
    assert (rule["rule"], rule["example"]) == ("iterations", "step 1/2: loss 0.5, *** 3")
    assert any(item["kind"] == "checkpoint" for item in own_job.items("event"))


def test_a_script_in_a_folder_of_its_own_finds_the_projects_modules_by_the_path_of_its_owner(own_job: Job) -> None:
    """Such a project is started as `PYTHONPATH=. python scripts/train.py`."""
    own_job.environment["PYTHONPATH"] = "."
    own_job.write("mine/losses.py", "value = 0.5")
    own_job.write("trainyard.py", "raise ImportError('not the helper')")
    own_job.write("scripts/train.py", """
        import sys
        from trainyard import log
        from mine.losses import value
        log(loss=value, step=1)
        print(any(path == sys.argv[1] for path in sys.path))
    """)  # fmt: skip
    settings = {"entry": "scripts/train.py", "arguments": [str(ROOT)]}
    assert own_job.run(**settings).outcome == "failed"  # it was not passed
    own_job.allowed = ("PYTHONPATH",)
    assert own_job.run(**settings).outcome == "completed"
    assert own_job.curve() == [(1, 0.5)]
    assert own_job.log().startswith("False\n")  # the agent's own folder is in no path of the script


def test_a_variable_that_is_not_allowed_is_asked_for_in_vain(own_job: Job) -> None:
    own_job.environment |= {"OTHER_TOKEN": "other_secret_value"}
    own_job.write("train.py", "print('never')")
    final = own_job.run(environment=["OTHER_TOKEN"])
    assert (final.outcome, final.cause) == ("failed", "data")
    assert "--pass-env OTHER_TOKEN" in str(final.message)


def test_requirements_make_an_environment_of_their_own_which_is_kept(own_job: Job) -> None:
    own_job.write("requirements.txt", "# nothing but the standard library\n")
    own_job.write("train.py", "import sys\nprint(sys.prefix)")
    assert own_job.run().outcome == "completed"
    made = list((own_job.folder.parent / "environments").glob("*/bin/python"))
    assert len(made) == 1
    assert str(made[0].parent.parent) in own_job.log()
    began = made[0].lstat().st_mtime_ns
    assert own_job.run().outcome == "completed"
    assert made[0].lstat().st_mtime_ns == began
    assert "Making an environment" not in own_job.log()


def test_requirements_that_cannot_be_had_fail_the_job_and_leave_no_environment(own_job: Job) -> None:
    own_job.write("requirements.txt", "./no-such-folder\n")
    own_job.write("train.py", "print('never')")
    final = own_job.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert list((own_job.folder.parent / "environments").glob("*/bin")) == []


def test_requirements_that_include_what_is_not_there_say_so(own_job: Job) -> None:
    own_job.write("requirements.txt", "-r base.txt\n")
    own_job.write("train.py", "print('never')")
    final = own_job.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert final.message == "requirements.txt includes base.txt, and there is no such file."


def test_requirements_that_yard_toml_names_and_that_are_not_there_fail_the_job(job: Job) -> None:
    job.write("train.py", "print('ran')")
    job.write("yard.toml", "requirements = 'needs/reqs.txt'")
    final = job.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert "yard.toml" in str(final.message) and "needs/reqs.txt" in str(final.message)
    assert "ran" not in job.log()


@pytest.mark.parametrize("line", ["-r base.txt", "-c base.txt", "-e ."])
def test_on_the_server_requirements_that_lead_elsewhere_are_refused_with_what_to_write(
    boxed_job: Job, line: str
) -> None:
    boxed_job.write("train.py", "print('ran')")
    boxed_job.write("requirements.txt", f"pytest\n{line}\n")
    final = boxed_job.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert final.message == f"requirements.txt says {line}, which is not followed on the server."
    assert "packages themselves" in str(final.advice)


@pytest.mark.parametrize("name", ["yard.toml", "requirements.txt"])
def test_a_link_in_place_of_a_file_that_counts_is_refused_and_not_ignored(own_job: Job, name: str) -> None:
    own_job.write("train.py", "print('ran')")
    own_job.write("shared/file", "")
    (own_job.script / name).symlink_to("shared/file")
    final = own_job.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert str(final.message).startswith(f"{name} in the script's folder cannot be read") and "link" in str(
        final.message
    )
    assert "ran" not in own_job.log()


def test_on_the_server_a_missing_package_is_named(tmp_path: Path) -> None:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    one = Job(tmp_path, True)
    one.write("requirements.txt", "torch\nno-such-package>=2\n")
    one.write("train.py", "print('never')")
    final = one.run()
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert "no-such-package>=2" in str(final.message)
    assert "torch," not in str(final.message)


@pytest.mark.parametrize("marker", ["(" * 20_000, '"a" ~= "b"', 'os_name ~= "1"'])
def test_a_requirement_that_cannot_be_judged_is_not_met(marker: str) -> None:
    assert requirements.unmet(BytesIO(f"pip; {marker}".encode())) == [f"pip; {marker}"[:80]]


def test_an_interpreter_must_lie_in_an_allowed_folder(own_job: Job) -> None:
    own_job.write("train.py", "print('ran')")
    refused = own_job.run(python="/bin/sh")
    assert (refused.outcome, refused.cause) == ("failed", "data")
    link = own_job.script / "bin" / "python3"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    assert own_job.run(python=str(link)).outcome == "completed"


def test_a_folder_that_anybody_may_write_to_is_refused(own_job: Job) -> None:
    own_job.write("train.py", "print('never')")
    own_job.script.chmod(0o777)
    final = own_job.run()
    assert (final.outcome, final.cause) == ("failed", "data")
    assert "chmod o-w" in str(final.advice)


def test_a_script_whose_driver_is_killed_dies_with_it(job: Job) -> None:
    job.write("train.py", "import time\nprint('loss: 1.0', flush=True)\ntime.sleep(60)\n")
    running = job.run_aside()
    job.wait_for(lambda: "loss" in job.log())
    os.kill(job.child.pid, 9)
    final = job.ended(running)
    assert (final.outcome, final.cause) == ("failed", "member_machine")


def test_what_a_helper_of_the_script_prints_after_its_end_is_not_waited_for_long(job: Job) -> None:
    job.write("train.py", """
        import os, time
        if os.fork() == 0:
            os.setsid()
            time.sleep(60)
            os._exit(0)
        print("loss: 1.0", flush=True)
    """)  # fmt: skip
    assert job.run().outcome == "completed"


def test_links_that_one_attempt_leaves_show_the_next_nothing_of_the_server(tmp_path: Path) -> None:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    secret = tmp_path / "server"
    secret.mkdir()
    for name in ("secret.txt", "requirements.txt"):
        (secret / name).write_text("secret-of-the-server")
        os.utime(secret / name, (2e9, 2e9))  # as if it were new
    one = Job(tmp_path, True)
    one.write("train.py", f"""
        import os, shutil, sys
        shutil.rmtree("../.trainyard")
        for name in (".trainyard", "project/samples", "project/output"):
            os.symlink({str(secret)!r}, "../" + name)
        os.symlink({str(secret)!r} + "/requirements.txt", "requirements.txt")
        sys.exit(3)
    """)  # fmt: skip
    assert one.run().outcome == "failed"
    told = f"{one.log()} {one.items('samples')}"
    told += f"{one.run()} {one.log()} {one.items('samples')} {one.items('event')}"
    assert "secret-of-the-server" not in told and one.depot.delivered == []
    assert sorted(path.name for path in secret.iterdir()) == ["requirements.txt", "secret.txt"]


def test_a_long_command_line_reaches_the_script_as_it_is(job: Job) -> None:
    job.write("train.py", "import sys; print(len(sys.argv), len(''.join(sys.argv[1:])))")
    assert job.run(arguments=["\u00e9" * 1000] * 200) == Final("completed")
    assert job.log().startswith("201 200000\n")


@pytest.mark.parametrize("left", ["open(tools, 'w').close()", "os.mkfifo(tools)", "os.symlink('nowhere', tools)"])
def test_what_an_attempt_leaves_in_place_of_the_helper_does_not_end_the_next_one(boxed_job: Job, left: str) -> None:
    boxed_job.write("train.py", f"""
        import os, shutil
        if os.path.exists("been here"):
            raise SystemExit(0)
        open("been here", "w").close()
        tools = "../.trainyard"
        shutil.rmtree(tools)
        {left}
        raise SystemExit(3)
    """)  # fmt: skip
    assert boxed_job.run().cause == "member_code"
    assert boxed_job.run() == Final("completed")


def test_an_archive_may_hold_a_file_with_the_helpers_name(boxed_job: Job) -> None:
    boxed_job.beside[".trainyard"] = "mine"
    boxed_job.write("train.py", "import trainyard\ntrainyard.log(loss=0.5, step=1)")
    assert boxed_job.run() == Final("completed")
    assert boxed_job.curve() == [(1, 0.5)]


def test_what_a_script_writes_beside_its_folder_does_not_hide_it_from_the_next_attempt(boxed_job: Job) -> None:
    boxed_job.write("train.py", """
        import os
        again = os.path.exists("../note")
        open("../note", "w").close()
        raise SystemExit(0 if again else 3)
    """)  # fmt: skip
    assert boxed_job.run().cause == "member_code"
    assert boxed_job.run() == Final("completed")


def test_what_came_in_the_archive_is_nothing_that_the_job_has_written(boxed_job: Job) -> None:
    boxed_job.write("train.py", """
        import os, sys
        open("output/changed", "a").write("by the script")
        open("output/new", "w").close()
        is_again = os.path.exists("begun")
        open("begun", "w").close()
        sys.exit(0 if is_again else 3)
    """)  # fmt: skip
    for name in ("checkpoints/old.pt", "output/old", "output/changed", "samples/old.txt"):
        boxed_job.write(name, "shipped")
    assert boxed_job.run().outcome == "failed"
    assert boxed_job.run() == Final("completed")
    assert boxed_job.facts()["checkpoint_given"] is None
    assert boxed_job.depot.delivered == ["output/changed", "output/new", "run.json"]
    assert boxed_job.items("samples") == []


def test_a_zip_of_macos_runs_in_the_projects_own_folder(boxed_job: Job) -> None:
    boxed_job.write("run_it.py", "import os; print('in', os.getcwd(), sorted(os.listdir()))")
    boxed_job.write("yard.toml", "entry = 'run_it.py'")
    boxed_job.beside = {"__MACOSX/project/._run_it.py": "", "__MACOSX/._project": "", ".DS_Store": "", "project/._a.py": ""}  # fmt: skip
    assert boxed_job.run() == Final("completed")
    assert "/project ['run_it.py', 'yard.toml']" in boxed_job.log()


def test_a_folder_beside_the_projects_that_holds_nothing_does_not_hide_it(boxed_job: Job) -> None:
    boxed_job.write("train.py", "import os; print('in', os.getcwd())")
    boxed_job.beside = {"empty/": ""}
    assert boxed_job.run() == Final("completed")
    assert "/project\n" in boxed_job.log()


def test_a_worker_without_root_goes_on_with_a_folder_that_a_script_has_closed(tmp_path: Path) -> None:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    home = tmp_path / "home"
    home.mkdir()
    with zipfile.ZipFile(home / "project.zip", "w") as archive:
        archive.writestr("project/train.py", dedent("""
            import os
            tools = os.environ["PYTHONPATH"]
            os.mkdir(tools + "/closed", 0)
            for folder in (tools, ".."):
                os.chmod(folder, 0)
            print("ran", flush=True)
        """))  # fmt: skip
    done = run_as_nobody("""if True:
        from pathlib import Path
        from agent import recipes
        from agent.recipes.script import train
        here = Path.cwd()
        assignment = recipes.Assignment(
            recipes.check("script", {})[0], here / "project.zip", None, "none", "none", here / "job", "mine",
            lambda kind, **fields: None, lambda: False, terms={"sandbox": {"lane": 1}})
        assignment.folder.mkdir()
        for _ in range(2):
            print(train(assignment), flush=True)
    """, home)  # fmt: skip
    if "namespace" in done.stderr:
        pytest.skip("Only root can build namespaces here.")
    assert [line for line in done.stdout.splitlines() if line[0] != "("] == ["ran", "completed"] * 2, done.stderr


def test_names_that_the_record_or_the_database_cannot_take_are_not_kept(job: Job) -> None:
    long = f"output/{'a' * 99}/{'b' * 99}"
    job.write("train.py", f"""
        import os
        for name in ("run.json/x", {long!r}, "output/good"):
            os.makedirs(os.path.dirname(name), exist_ok=True)
            open(name, "w").close()
    """)  # fmt: skip
    assert job.run(outputs=["run.json/*", "output/**"]) == Final("completed")
    assert job.depot.delivered == ["output/good", "run.json"]
    assert "'run.json/x' was not kept" in job.log() and "206 letters" in job.log()


def test_files_with_holes_do_not_fill_the_servers_disk(boxed_job: Job) -> None:
    """They take no room in the box, and would take all that they claim outside of it."""
    boxed_job.limits = {"work_bytes": 8 << 20}
    boxed_job.write("train.py", """
        import os, sys
        os.makedirs("output", exist_ok=True)
        for number in range(3):
            open(f"output/{number}", "wb").truncate(int(sys.argv[1]) << 20)
    """)  # fmt: skip
    final = boxed_job.run(arguments=["6"])
    assert (final.outcome, final.cause) == ("failed", "member_code")
    assert "18 MiB" in str(final.message) and "8 MiB" in str(final.message)
    assert boxed_job.depot.delivered == [] and not list((boxed_job.folder / "output").glob("**/*"))
    assert boxed_job.run(arguments=["2"]) == Final("completed")
    assert boxed_job.depot.delivered == ["output/0", "output/1", "output/2", "run.json"]


def test_only_what_this_attempt_keeps_is_delivered(job: Job) -> None:
    (job.folder / "output" / "deep").mkdir(parents=True)
    (job.folder / "output" / "deep" / "old.bin").write_text("from an attempt before")
    job.write("train.py", "import os; os.makedirs('output'); open('output/new', 'w').close()")
    assert job.run() == Final("completed")
    assert job.depot.delivered == ["output/new", "run.json"]


def test_a_folder_that_cannot_be_used_is_the_scripts_doing_and_a_full_disk_is_not(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="cannot be used") as refusal, left_by_the_script():
        (tmp_path / "gone" / "file").write_text("x")
    assert refusal.value.cause == "member_code"
    with pytest.raises(OSError), left_by_the_script():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_limits_are_watched_while_many_files_are_looked_at(boxed_job: Job) -> None:
    boxed_job.limits = {"wall_seconds": 4}
    boxed_job.write("train.py", """
        import os, time
        began = time.time()
        open("alive", "w").write("0")
        os.makedirs("a/b/c/d/e/f/g")
        for number in range(20_000):
            open(f"a/b/c/d/e/f/g/{number}", "w").close()
        while True:
            open("alive", "w").write(str(time.time() - began))
            time.sleep(0.1)
    """)  # fmt: skip
    final = boxed_job.run(checkpoints=[f"**/*/**/*-{number}" for number in range(20)])
    assert (final.cause, boxed_job.facts()["exit_status"]) == ("member_code", "time_limit")
    assert float((boxed_job.folder / "work" / "project" / "alive").read_text() or 0) < 9


def test_looking_at_a_folder_has_an_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "LOOKING_SECONDS", -1.0)
    job.write("train.py", "print('never')")
    assignment = recipes.Assignment(
        recipes.check("script", {})[0], job.script, None, "none", "none", job.folder, "mine", lambda kind, **fields: None,
        lambda: False,
    )  # fmt: skip
    with pytest.raises(JobFailed, match="Looking at the script's folder took") as refusal:
        setup.prepare(assignment)
    assert refusal.value.cause == "member_code" and refusal.value.advice


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        (["out/*"] * 21, "at most 20"),
        (["out/**/ckpt/**/**"], "more than two"),
        (["../out"], "does not lie below"),
    ],
)
def test_patterns_that_would_take_forever_are_refused(patterns: list[str], told: str) -> None:
    for name in ("outputs", "checkpoints"):
        assert told in recipes.check("script", {name: patterns})[1][name]
        with pytest.raises(BadManifest, match=rf"yard\.toml: {name}: .*{told}"):
            parse(f"{name} = {json.dumps(patterns)}".encode())
    assert not recipes.check("script", {"outputs": ["**/ckpt/**"] * 20})[1]
