"""What a machine says of itself: its GPUs as the driver lists them, and what training lacks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent import hardware
from agent.runner.figures import Meter


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that answers like the real one; with `-l` it repeats, as it does."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*memory.used*) while :; do echo '0, NVIDIA H200, 1024, 143771, 37, 41, 118.52'; "
        "echo '1, NVIDIA L4, [N/A], 23034, [N/A], [N/A], [Not Supported]'; sleep 0.2; done ;;\n"
        "*) echo 'NVIDIA H200, 143771'; echo 'NVIDIA GB10, [N/A]' ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return program


def test_gpus_are_listed_with_their_memory_where_it_is_known(driver: Path) -> None:
    assert hardware.gpus() == [
        {"name": "NVIDIA H200", "memory_bytes": 143_771 * 2**20},
        {"name": "NVIDIA GB10", "memory_bytes": None},
    ]


@pytest.mark.parametrize("text", ["exit 9", "echo 'Failed to initialize NVML: Driver/library version mismatch'"])
def test_a_broken_driver_is_no_gpu(driver: Path, text: str) -> None:
    driver.write_text(f"#!/bin/sh\n{text}\n")
    assert hardware.gpus() == []


def test_use_of_the_gpus_is_followed_while_a_job_runs(driver: Path) -> None:
    meter = Meter(0.1)
    try:
        end = time.monotonic() + 10
        gpus = []
        while len(gpus) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
            gpus = (meter.read_when_due(os.getpid()) or {"gpus": []})["gpus"]
    finally:
        meter.close()
    assert gpus[0] == {
        "name": "NVIDIA H200", "memory_bytes": 1024 * 2**20, "memory_total_bytes": 143_771 * 2**20, "percent": 37,
        "temperature": 41, "watts": 118.52,
    }  # fmt: skip
    assert [gpus[1][name] for name in ("memory_bytes", "percent", "temperature", "watts")] == [None] * 4


def test_figures_count_the_memory_of_the_whole_family() -> None:
    meter = Meter(0.0)
    figures = meter.read_when_due(os.getpid())
    meter.close()
    assert figures is not None
    assert figures["memory_bytes"] > 1_000_000 and figures["processes"] >= 1


@pytest.mark.parametrize(
    ("versions", "missing"),
    [
        ({"torch": "2.13.0+cu130", "transformers": "5.23.0"}, []),
        ({"torch": None, "transformers": "5.0"}, ["torch"]),
        ({"torch": "2.9.1", "transformers": "5.0"}, ["torch>=2.10,<3 (2.9.1 is installed)"]),
        ({"torch": "2.13.0", "transformers": "4.57.1"}, ["transformers>=5,<6 (4.57.1 is installed)"]),
        ({"torch": "2.13.0", "transformers": "6.0rc1"}, ["transformers>=5,<6 (6.0rc1 is installed)"]),
    ],
)
def test_what_training_lacks_is_named_with_its_version(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None], missing: list[str]
) -> None:
    monkeypatch.setattr(hardware, "installed", lambda name: versions.get(name, "99.0"))
    assert hardware.missing() == missing


def test_the_machine_says_what_pages_show(tmp_path: Path) -> None:
    told = hardware.machine(tmp_path / "not" / "there" / "yet")
    assert told["memory_bytes"] > 2**28 and told["disk_free_bytes"] > 0
    assert told["python"].startswith("3.")
    assert told["os"]
