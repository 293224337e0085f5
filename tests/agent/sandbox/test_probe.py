"""The probe says what holds on this machine, and would notice if it did not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent import sandbox
from agent.sandbox import LANES, Box, Limits, Report, Unavailable, cgroups, mounts, probe, seccomp
from tests.agent.sandbox.conftest import groups, run_as_nobody

PROBE = "import json; from agent.sandbox import probe; print(json.dumps(probe().to_json()))"


def test_a_lane_is_reported_with_the_walls_that_held(lane: int) -> None:
    report = probe()
    holds = {wall.name: wall.holds for wall in report.walls}
    assert report.lane == lane and report.lane_name == LANES[lane]
    assert all(
        holds[name] for name in ("files", "network", "processes", "kernel", "namespaces", "environment", "scratch")
    )
    assert (lane == 2) == (holds["memory"] and holds["landlock"])
    assert all(wall.detail.endswith(".") and wall.how for wall in report.walls)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert groups() == set()


def test_the_attempts_succeed_where_there_are_no_walls(tmp_path: Path) -> None:
    """Run outside of any box they must come through: attempts that cannot succeed would show nothing."""
    (tmp_path / "secret").write_text("nothing")
    with socket.create_server(("127.0.0.1", 0)) as service, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0trainyard-test-{os.getpid()}")
        local.listen(1)
        order = {
            "secret": str(tmp_path / "secret"), "outside": str(tmp_path), "port": service.getsockname()[1],
            "socket": f"trainyard-test-{os.getpid()}", "pid": os.getpid(), "mark": "PATH=", "variables": [],
            "scratch": [str(tmp_path)], "scratch_bytes": 1 << 20, "file_bytes": 1 << 20, "processes": 4,
        }  # fmt: skip
        attempts = Path(sandbox.__file__).with_name("attempts.py")
        done = subprocess.run([sys.executable, str(attempts), json.dumps(order)], cwd=tmp_path, capture_output=True,
                              text=True, timeout=60, check=True, env={**os.environ, "STRIPE_SECRET_KEY": "x"})  # fmt: skip
    found = json.loads(done.stdout)
    for wall in (
        "files",
        "network",
        "processes",
        "kernel",
        "environment",
        "scratch",
        "file size",
        "number of processes",
    ):
        assert found[wall], wall
    assert f"read {tmp_path / 'secret'}" in found["files"] and "reach a service of the machine" in found["network"]


def test_an_ordinary_user_gets_boxes_with_namespaces(lane: int, tmp_path: Path) -> None:
    done = run_as_nobody(PROBE, tmp_path / "home")
    report = Report.from_json(json.loads(done.stdout))
    if report.lane == 0:
        pytest.skip(f"Only root can build namespaces here: {report.todo[0]}")
    assert report.lane in (1, 2), done.stderr
    assert {wall.name for wall in report.walls if not wall.holds} <= {"memory", "landlock"}
    assert "user namespace" in report.facts["user"]


def test_without_bubblewrap_landlock_alone_is_lane_0_and_says_what_it_cannot_keep(lane: int, tmp_path: Path) -> None:
    done = run_as_nobody(PROBE, tmp_path / "home", path="/nonexistent")
    report = Report.from_json(json.loads(done.stdout))
    if report.lane is None:
        pytest.skip(f"This kernel has no Landlock: {report.todo}")
    assert report.lane == 0
    holds = {wall.name: wall.holds for wall in report.walls}
    assert holds["network"] and holds["kernel"] and holds["environment"] and holds["devices"]
    assert not holds["files"] and not holds["scratch"]
    assert any("apt install bubblewrap" in sentence for sentence in report.todo)


def test_lane_0_keeps_a_script_in_its_folder(tmp_path: Path) -> None:
    code = (
        "import os, subprocess; from pathlib import Path; from agent.sandbox import Box, Limits\n"
        "Path('secret').write_text('secret'); work = Path('work')\n"
        "script = '''import os, socket, multiprocessing\\n"
        "try: print(open('../secret').read())\\nexcept OSError: print('kept')\\n"
        "try: socket.socket()\\nexcept OSError: print('no network')\\n"
        "open('model', 'w').write('model'); os.rename('model', 'model.bin')\\n"
        "print(multiprocessing.Pool(2).map(abs, [-1, -2]), flush=True)\\n'''\n"
        "box = Box(work, Limits(memory_bytes=1 << 30), 0)\n"
        "with box.start(['/usr/bin/python3', '-c', script], 1) as running:\n"
        "    print(running.verdict(running.wait(60)).status, os.listdir(work), box.inside(work / 'model.bin') == str(work.resolve() / 'model.bin'))\n"
    )
    done = run_as_nobody(code, tmp_path / "home", path="/nonexistent")
    if "no Landlock" in done.stdout + done.stderr:
        pytest.skip("This kernel has no Landlock.")
    assert done.stdout == "kept\nno network\n[1, 2]\nok ['model.bin'] True\n", done.stderr


def test_root_without_bubblewrap_runs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("This is about root.")
    monkeypatch.setenv("PATH", "/nonexistent")
    report = probe()
    assert report.lane is None and report.lane_name == "none"
    assert "apt install bubblewrap" in report.todo[0] and "ordinary user" in report.todo[-1]
    with pytest.raises(Unavailable, match="There is no bwrap"):
        Box(tmp_path / "work", Limits(), 1).start(["/bin/true"], 1)
    assert groups() == set()


def test_lane_2_is_refused_where_no_control_group_can_be_made(
    lane: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups, "_places", list)
    with pytest.raises(Unavailable, match="Delegate=yes"):
        Box(tmp_path / "work", Limits(), 2).start(["/bin/true"], 1)
    report = probe()
    assert report.lane == 1 and any("only watched" in sentence for sentence in report.todo)


def test_a_box_says_how_the_script_sees_a_file(lane: int, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    box = Box(tmp_path / "work", Limits(), 1, pass_paths={"/data/rows.jsonl": data})
    assert box.inside(tmp_path / "work" / "model" / "weights") == f"{box.work}/model/weights"
    assert box.inside(data) == "/data/rows.jsonl"
    with pytest.raises(ValueError, match="not part of the box"):
        box.inside(tmp_path / "secret")
    with (
        open(tmp_path / "out", "w+b") as printed,
        box.start(["/bin/cat", "/data/rows.jsonl"], printed.fileno()) as running,
    ):
        assert running.verdict(running.wait(20)).status == "ok"
        printed.seek(0)
        assert printed.read() == b"{}\n"


def test_what_lies_below_the_name_of_the_work_folder_is_seen_beside_it(lane: int, tmp_path: Path) -> None:
    """A Python below /work was hidden by the work folder, and no box could be built."""
    shown = tmp_path / "python"
    shown.mkdir()
    (shown / "program").write_text("a program\n")
    box = Box(tmp_path / "work", Limits(), 1, pass_paths={"/work/main/python": shown})
    command = ["/bin/sh", "-c", "cat /work/main/python/program; echo trained > model; pwd"]
    with open(tmp_path / "out", "w+b") as printed, box.start(command, printed.fileno()) as running:
        assert running.verdict(running.wait(20)).status == "ok"
        printed.seek(0)
        assert printed.read().decode() == f"a program\n{box.work}\n"
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["model"]


def test_gpus_are_shown_only_when_asked_for_and_only_those() -> None:
    shown = list(mounts.graphics([1]))
    assert "/dev/nvidia1" in shown and "/dev/nvidia0" not in shown and "/sys" in shown
    assert not any("nvidia" in argument for argument in mounts.system(Limits()))


def test_the_second_version_of_control_groups_gets_every_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel of the test offers version 1 alone, a folder stands for version 2: which files get which values."""
    (tmp_path / "cgroup.subtree_control").write_text("memory pids")
    monkeypatch.setattr(cgroups, "_places", lambda: [cgroups._Place(tmp_path, 2, frozenset({""}))])
    group = cgroups.make(Limits(memory_bytes=1 << 30, processes=64))
    assert group is not None and group.version == 2 and group.limits == {"memory", "pids"}
    folder = next(tmp_path.glob("trainyard-*"))
    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert files == {
        "memory.max": str(1 << 30),
        "pids.max": str(64 + cgroups.HELPERS),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
    }
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
    assert group.out_of_memory()


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_the_filter_is_a_list_of_whole_instructions_that_jump_forward_and_inside(machine: str) -> None:
    for with_network in (True, False):
        program = seccomp.program(with_network, machine)
        assert len(program) % 8 == 0 and len(program) // 8 < 4_096
        lines = [program[at : at + 8] for at in range(0, len(program), 8)]
        for number, line in enumerate(lines):
            code, yes, no = int.from_bytes(line[:2], "little"), line[2], line[3]
            assert code in (0x06, 0x15, 0x20, 0x35, 0x45)
            assert code not in (0x15, 0x35, 0x45) or number + 1 + max(yes, no) < len(lines)
        assert lines[-1] == bytes.fromhex("060000000000ff7f")


def test_no_filter_is_built_for_a_processor_whose_calls_are_not_known() -> None:
    assert not seccomp.is_known("riscv64")
    with pytest.raises(KeyError):
        seccomp.program(machine="riscv64")
