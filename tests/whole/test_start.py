"""`python app.py`: the first start, the next one, the end, two of them, and what stops it from starting."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, Member, RunningYard, until
from tests.whole.conftest import PARAMETERS, Scene, write_rows

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]


def test_the_first_start_makes_a_superadmin_whose_password_is_told_once(tmp_path: Path) -> None:
    with RunningYard(tmp_path, WORKERS="0") as yard:
        file = yard.var_dir / "first-admin.txt"
        email, password = file.read_text().splitlines()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        Member(yard.url).log_in(email, password)
        with sqlite3.connect(yard.var_dir / "trainyard.db") as database:
            assert database.execute("SELECT role FROM users WHERE email = ?", (email,)).fetchall() == [("superadmin",)]
        yard.stop()
        again = yard.start()
        print(f"The second start took {again:.1f} s.")
        assert yard.output.count(password) == 1
        Member(yard.url).log_in(email, password)
        assert file.read_text().splitlines() == [email, password]


def test_ctrl_c_leaves_no_process_and_the_next_start_goes_on_with_the_training(tmp_path: Path) -> None:
    with RunningYard(tmp_path / "yard") as yard:
        alice = Member.signed_up(yard.url, "alice", "basic")
        dataset = alice.new_dataset(write_rows(tmp_path / "sums.jsonl"))["id"]
        job = alice.new_job("long", "server", {**PARAMETERS, "max_steps": 100_000}, dataset)
        alice.wait_for_step(job, 5)
        assert yard.child() is not None
        assert yard.stop(signal.SIGINT) == 0  # looks for processes that are left
        yard.start()
        first, second = until(lambda: _two_attempts(alice, job), 90, "the job is taken up again")
        assert first["outcome"] == "stopped" and second["number"] == 2
        saved = alice.job(job)["debugData"]["facts"]["checkpoint_step"]
        assert saved >= 5
        alice.wait_for_step(job, saved + 1)
        alice.order(job, "cancel")
        assert yard.stop(signal.SIGTERM) == 0


def _two_attempts(member: Member, job: int) -> list[dict[str, object]] | None:
    attempts = member.job(job)["debugData"]["attempts"]
    return attempts if len(attempts) == 2 else None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_a_yard_that_is_killed_outright_takes_its_parts_with_it(tmp_path: Path) -> None:
    with RunningYard(tmp_path) as yard:
        yard.parent().kill()
        until(lambda: not yard.family(), 30, "all of its processes are gone")


def test_two_yards_live_side_by_side(scene: Scene, tmp_path: Path) -> None:
    with RunningYard(tmp_path) as other:
        alice = Member.signed_up(other.url, "alice")  # the first yard has an alice as well
        assert alice.get("/api/datasets") == [] and len(scene.alice.get("/api/datasets")) == 1
        assert alice.credits()["remaining"] == 20
        assert {log.name for log in (other.var_dir / "log").iterdir()} >= {
            "web.log",
            "clock.log",
            "worker-1.log",
            "redis.log",
        }
        other.stop()
    assert scene.yard.answers()


@pytest.mark.parametrize("wrong, named", [
    ({"PORT": "fifty"}, "PORT"),
    ({"PORT": "70000"}, "PORT"),
    ({"WORKERS": "-1"}, "WORKERS"),
    ({"DATABASE_URL": "mysql://somewhere"}, "DATABASE_URL"),
    ({"SECRET_KEY_FILE": "/nowhere/key"}, "SECRET_KEY_FILE"),
    ({"SERVER_ACCELERATOR": "abacus"}, "SERVER_ACCELERATOR"),
])  # fmt: skip
def test_a_wrong_setting_ends_the_start_with_a_sentence_that_names_it(
    tmp_path: Path, wrong: dict[str, str], named: str
) -> None:
    code, said = _refused({**RunningYard(tmp_path).environment, **wrong})
    assert code == 2 and said.count("\n") == 1 and named in said and said.rstrip().endswith(".")


def test_a_port_that_is_taken_ends_the_start_with_a_sentence_and_harms_nobody(scene: Scene, tmp_path: Path) -> None:
    code, said = _refused(RunningYard(tmp_path, port=scene.yard.port).environment)
    assert code == 2 and said.count("\n") == 1 and str(scene.yard.port) in said and "PORT=" in said
    assert scene.yard.answers()


def _refused(environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run([sys.executable, os.fspath(ROOT / "app.py")], cwd=ROOT, env=environment, capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr
