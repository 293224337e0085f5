"""The figures of a machine while a job runs: what Linux, macOS and the GPU's driver tell, and what they leave out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runner import gpu_feed, processes, readings
from agent.runner.figures import Meter

LINUX = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 9000000   10    0    0    0     0          0         0 9000000   10    0    0    0     0       0          0
  eth0: 1500000 2000    0    0    0     0          0         0  300000  900    0    0    0     0       0          0
docker0:700000  400    0    0    0     0          0         0  600000  500    0    0    0     0       0          0
"""
MACOS = """Name       Mtu   Network       Address            Ipkts Ierrs     Ibytes    Opkts Oerrs     Obytes  Coll
lo0        16384 <Link#1>                          40000     0   90000000    40000     0   90000000     0
lo0        16384 127           localhost           40000     -   90000000    40000     -   90000000     -
gif0*      1280  <Link#2>                              0     0          0        0     0          0     0
en0        1500  <Link#11>   a4:83:e7:00:11:22    812345     0  912345678   412345     0   81234567     0
en0        1500  192.168.1     192.168.1.20       812345     -  912345678   412345     -   81234567     -
utun3      1380  <Link#17>                          1200     0      55000     1300     0      66000     0
"""


def test_the_network_of_linux_is_counted_once() -> None:
    assert readings.network_of_linux(LINUX, virtual={"docker0", "lo"}) == (1_500_000, 300_000)
    assert readings.network_of_linux(LINUX) == (2_200_000, 900_000)


def test_inside_a_container_the_only_interface_counts_although_it_is_virtual() -> None:
    assert readings.network_of_linux(LINUX, virtual={"docker0", "eth0", "lo"}) == (2_200_000, 900_000)


def test_the_network_of_macos_is_that_of_its_cards() -> None:
    assert readings.network_of_macos(MACOS) == (912_345_678, 81_234_567)
    without_cards = "\n".join(line for line in MACOS.splitlines() if not line.startswith("en"))
    assert readings.network_of_macos(without_cards) == (55_000, 66_000)


@given(st.text())
def test_no_text_of_a_system_is_an_error(text: str) -> None:
    for traffic in (readings.network_of_linux(text), readings.network_of_macos(text)):
        assert traffic is None or min(traffic) >= 0
    gpu_feed.gpu(text)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0, NVIDIA A100-SXM4-80GB, 40537, 81920, 98, 64, 391.20", (40537 * 2**20, 81920 * 2**20, 98, 64, 391.2)),
        ("3, NVIDIA H200 MIG, 17, 143771, [N/A], 33, 77.01", (17 * 2**20, 143771 * 2**20, None, 33, 77.01)),
        ("0, Quadro, [N/A], [N/A], [Not Supported], [N/A], [Unknown Error]", (None,) * 5),
    ],
)
def test_a_line_of_the_driver(line: str, told: tuple[float | None, ...]) -> None:
    parsed = gpu_feed.gpu(line)
    assert parsed is not None
    names = ("memory_bytes", "memory_total_bytes", "percent", "temperature", "watts")
    assert tuple(parsed[1][name] for name in names) == told


@pytest.mark.parametrize("line", ["", "No devices were found", "0, GPU, 1, 2", "x, GPU, 1, 2, 3, 4, 5"])
def test_a_line_of_another_shape_is_no_gpu(line: str) -> None:
    assert gpu_feed.gpu(line) is None


def test_the_hottest_sensor_of_the_processor_is_told(tmp_path: Path) -> None:
    for monitor, name, values in (("hwmon0", "nvme", (70_000,)), ("hwmon1", "coretemp", (51_000, 54_500, -128_000))):
        folder = tmp_path / "class/hwmon" / monitor
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        for i, value in enumerate(values, start=1):
            (folder / f"temp{i}_input").write_text(f"{value}\n")
    assert readings.cpu_temperature(tmp_path) == 54.5


def test_a_board_without_sensors_of_the_processor_tells_its_zone(tmp_path: Path) -> None:
    for zone, name, value in (("thermal_zone0", "iwlwifi_1", "40000"), ("thermal_zone1", "x86_pkg_temp", "61000")):
        folder = tmp_path / "class/thermal" / zone
        folder.mkdir(parents=True)
        (folder / "type").write_text(name)
        (folder / "temp").write_text(value)
    assert readings.cpu_temperature(tmp_path) == 61.0
    assert readings.cpu_temperature(tmp_path / "nothing") is None


def test_disk_traffic_of_a_process_that_is_gone_or_not_ours_is_unknown(tmp_path: Path) -> None:
    assert readings.disk_traffic(1, tmp_path) == (None, None)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/io").write_text(
        "rchar: 9\nwchar: 8\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 1\n"
    )
    assert readings.disk_traffic(7, tmp_path) == (4096, 8192)


@pytest.mark.skipif(sys.platform != "linux", reason="Disk traffic is told by Linux alone.")
def test_what_a_job_writes_shows_in_its_figures(tmp_path: Path) -> None:
    meter = Meter(0.0, tmp_path)
    try:
        first = meter.read_when_due(os.getpid())
        with open(tmp_path / "checkpoint", "wb") as file:
            file.write(os.urandom(8_000_000))
            os.fsync(file.fileno())
        second = meter.read_when_due(os.getpid())
    finally:
        meter.close()
    assert first is not None and second is not None
    assert first["disk_written_per_second"] is None and first["cpu_percent"] is None  # nothing to compare with yet
    assert second["disk_written_per_second"] > 0 and second["seconds"] >= first["seconds"]
    assert second["disk_free_bytes"] > 0


def test_a_process_that_ends_makes_no_negative_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(pid: int, seconds: float) -> processes.Process:
        return processes.Process(pid, 1, pid, str(pid), 1000, seconds, False)

    tables = iter([[row(50, 10.0), row(51, 400.0)], [row(50, 10.5)]])
    monkeypatch.setattr(processes, "table", lambda: next(tables))
    monkeypatch.setattr(processes, "family", lambda rows, leader: rows)
    meter = Meter(0.0)
    try:
        meter.read_when_due(50)
        time.sleep(0.01)
        figures = meter.read_when_due(50)
    finally:
        meter.close()
    assert figures is not None and figures["cpu_percent"] > 0 and figures["processes"] == 1


def test_a_driver_that_stopped_telling_says_nothing_about_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, NVIDIA L4, 10, 100, 5, 40, 20.0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    feed = gpu_feed.GpuFeed(1.0)
    try:
        end = time.monotonic() + 10
        while not feed.latest():
            assert time.monotonic() < end
            time.sleep(0.02)
        late = time.monotonic() + 3600
        monkeypatch.setattr(time, "monotonic", lambda: late)
        assert feed.latest() == []
    finally:
        monkeypatch.undo()
        feed.close()


def test_reading_costs_nothing_when_it_is_not_due() -> None:
    meter = Meter(3600.0)
    try:
        assert meter.read_when_due(os.getpid()) is not None
        assert meter.read_when_due(os.getpid()) is None
    finally:
        meter.close()


def test_children_of_a_job_are_counted_with_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    meter = Meter(0.0)
    try:
        figures = meter.read_when_due(os.getpid())
        assert figures is not None and figures["processes"] >= 2
    finally:
        meter.close()
        child.communicate(b"\n")
