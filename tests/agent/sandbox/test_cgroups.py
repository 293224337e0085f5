"""Control groups that a process which was killed has left behind, with the kernel's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sandbox import cgroups
from agent.sandbox.limits import Limits


@pytest.fixture
def left() -> Iterator[Path]:
    """A group whose maker is gone."""
    group = cgroups.make(Limits())
    if group is None:
        pytest.skip("This process may make no control groups.")
    maker = subprocess.Popen(["true"])
    maker.wait()
    folder = group._folders["memory"].with_name(f"trainyard-{maker.pid}-0a")
    group.close()
    folder.mkdir()
    yield folder
    if folder.exists():
        folder.rmdir()


def test_it_is_removed_when_its_last_process_takes_a_moment_to_leave(left: Path) -> None:
    last = subprocess.Popen(["sleep", "0.2"])
    (left / "cgroup.procs").write_text(str(last.pid))
    cgroups.forget_old(left.parent)
    assert not left.exists()
    last.wait()


def test_it_stays_while_something_goes_on_in_it(left: Path) -> None:
    """Whoever that is: in another container the number of its maker means somebody else."""
    busy = subprocess.Popen(["sleep", "60"])
    (left / "cgroup.procs").write_text(str(busy.pid))
    cgroups.forget_old(left.parent)
    assert left.exists()
    busy.kill()
    busy.wait()
