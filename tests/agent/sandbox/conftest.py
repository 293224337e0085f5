"""Hostile scripts and the boxes they are put into; after each of them the machine must be as it was before."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent import settings
from agent.runner import processes
from agent.sandbox import Box, Limits, Running, Verdict, probe
from agent.sandbox.box import Walls, spare_uid

EXPLOITS = Path(__file__).parent / "exploits"
MIB = 1 << 20
SMALL = Limits(
    memory_bytes=192 * MIB, processes=32, wall_seconds=20, work_bytes=32 * MIB, work_files=1_000, file_bytes=16 * MIB,
    open_files=256, tmp_bytes=8 * MIB, shm_bytes=8 * MIB, output_bytes=4 * MIB,
)  # fmt: skip
LOOK = 0.05
WATCHED = "watched"  # lane 1 on a machine without control groups
COUNTED = "counted"  # lane 2


@dataclass
class Trial:
    """How a script ended and what it printed; `running` is closed already."""

    verdict: Verdict
    output: str
    work: Path
    running: Running

    @property
    def status(self) -> str:
        return self.verdict.status


class Bench:
    """Boxes of one kind, one after the other, all with the same mark."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.mark = secrets.token_hex(16)
        self.script = folder / "script"

    def box(self, limits: Mapping[str, Any] | None = None, work: str = "work", **given: Any) -> Box:
        walls = Walls(True, "may", "", spare_uid()) if self.kind == WATCHED else None
        given = {"environment": {settings.JOB_MARK: self.mark}, "walls": walls, **given}
        given["pass_paths"] = {"/exploits": EXPLOITS, **given.get("pass_paths", {})}
        return Box(self.folder / work, replace(SMALL, **(limits or {})), 1 if self.kind == WATCHED else 2, **given)

    def start(
        self, name: str, *arguments: str, limits: Mapping[str, Any] | None = None, **given: Any
    ) -> tuple[Running, int]:
        """A running exploit, and the descriptor to read its output from."""
        reading, writing = os.pipe()
        try:
            box = self.box(limits, **given)
            return box.start([sys.executable, f"/exploits/{name}.py", *arguments], writing), reading
        finally:
            os.close(writing)

    def run(
        self, name: str, *arguments: str, limits: Mapping[str, Any] | None = None,
        meanwhile: Callable[[Running], None] | None = None, **given: Any,
    ) -> Trial:  # fmt: skip
        """Run an exploit to its end, looking often."""
        running, reading = self.start(name, *arguments, limits=limits, **given)
        output = b""
        with running, contextlib.closing(os.fdopen(reading, "rb", buffering=0)) as pipe:
            end = time.monotonic() + 60
            while (code := running.poll()) is None:
                assert time.monotonic() < end, "the box did not end"
                output += _read(running, pipe.fileno(), LOOK)[: MIB - len(output)]
                running.look()
                if meanwhile is not None:
                    meanwhile(running)
            while more := _read(running, pipe.fileno(), 0):
                output += more[: MIB - len(output)]
            verdict = running.verdict(code)
        return Trial(verdict, output.decode("utf-8", "replace"), self.folder / given.get("work", "work"), running)


def _read(running: Running, descriptor: int, seconds: float) -> bytes:
    ready, _, _ = select.select([descriptor], [], [], seconds)
    more = os.read(descriptor, 65_536) if ready else b""
    running.heard(len(more))
    return more


def alive(mark: str) -> list[int]:
    """Processes of a job by their mark, and what descends from them."""
    return [process.pid for process in processes.left_over(0, mark)]


def groups() -> set[str]:
    """The control groups of boxes that this process made."""
    return {str(path) for path in Path("/sys/fs/cgroup").rglob(f"trainyard-{os.getpid()}-*")}


@pytest.fixture(scope="session")
def lane() -> int:
    """The best lane here; without bubblewrap there is nothing to try."""
    if shutil.which("bwrap") is None:
        pytest.skip("The sandbox's tests need bubblewrap: sudo apt-get install bubblewrap")
    report = probe()
    if report.lane is None or report.lane < 1:
        pytest.skip(f"No box with namespaces can be built here: {' '.join(report.todo)}")
    return report.lane


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go instead of /tmp, in which other test processes make and remove theirs at the same time."""
    with tempfile.TemporaryDirectory(prefix="ty-bench-") as folder:
        Path(folder).chmod(0o1777)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture(params=[COUNTED, WATCHED])
def bench(request: pytest.FixtureRequest, lane: int, tmp_path: Path, scratch: Path) -> Iterator[Bench]:
    """A bench for each kind of box that this machine can build. Afterwards: a clean machine, and a next box that works."""
    if request.param == COUNTED and lane < 2:
        pytest.skip("Lane 2 needs a control group that this process may use.")
    kind: str = request.param
    nodes = os.stat("/dev/null").st_mode
    one = Bench(kind, tmp_path)
    yield one
    assert alive(one.mark) == []
    assert groups() == set()
    assert [name for name in os.listdir(scratch) if name.startswith("trainyard-")] == []
    assert os.stat("/dev/null").st_mode == nodes
    shutil.rmtree(tmp_path / "next", ignore_errors=True)
    following = one.box(work="next")
    with (
        open(tmp_path / "next-output", "w+b") as printed,
        following.start(["/bin/echo", "well"], printed.fileno()) as running,
    ):
        assert running.verdict(running.wait(20)).status == "ok"
        printed.seek(0)
        assert printed.read() == b"well\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> str:
    """A secret in the environment of this process, as a worker has them."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_live_for_nobody_to_see")
    return "sk_live_for_nobody_to_see"


def run_as_nobody(
    code: str, folder: Path, path: str = "/usr/local/bin:/usr/bin:/bin"
) -> subprocess.CompletedProcess[str]:
    """Run Python as an ordinary user, with the agent's package beside it and nothing of the machine's that is root's."""
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("This needs root, to become an ordinary user, and the system's Python.")
    shutil.copytree(Path(__file__).parents[3] / "agent", folder / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    for one in (folder, *folder.parents):
        if one.is_relative_to("/tmp") and one != Path("/tmp"):
            one.chmod(0o755)
    subprocess.run(["chown", "-R", "65534:65534", str(folder)], check=True)
    return subprocess.run(
        [python, "-c", code], cwd=folder, env={"PATH": path, "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}, user=65534,
        group=65534, extra_groups=[], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
