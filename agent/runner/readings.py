"""Single figures of the machine, as its system tells them: temperature, disk and network traffic.

Linux tells in /proc and /sys (proc(5), kernel documentation of hwmon and thermal); macOS through `netstat`. Whatever is
not there, or not ours to read, is None and never an error.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

_PROC = Path("/proc")
_SYS = Path("/sys")
# The drivers of processors' own sensors, and the names under which boards without them tell their temperature.
_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "scmi_sensors")
_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc-thermal", "soc_thermal", "cpu", "acpitz")


def cpu_temperature(system: Path = _SYS) -> float | None:
    """The hottest of the processor's sensors in degrees Celsius."""
    found = [
        value
        for monitor in _listed(system / "class/hwmon", "hwmon*")
        if _text(monitor / "name") in _SENSORS
        for sensor in _listed(monitor, "temp*_input")
        if (value := _degrees(sensor)) is not None
    ]
    if not found:
        zones = [
            (_text(zone / "type"), _degrees(zone / "temp"))
            for zone in _listed(system / "class/thermal", "thermal_zone*")
        ]
        found = [value for name, value in zones if name in _ZONES and value is not None]
    return max(found, default=None)


def disk_traffic(pid: int, proc: Path = _PROC) -> tuple[int | None, int | None]:
    """Bytes that one process has made disks read and write since it began; None where that is not told."""
    told = dict(line.split(": ", 1) for line in _text(proc / str(pid) / "io").splitlines() if ": " in line)
    return _whole(told.get("read_bytes")), _whole(told.get("write_bytes"))


def network(proc: Path = _PROC, system: Path = _SYS) -> tuple[int, int] | None:
    """Bytes received and sent by the machine since it was started, without what it says to itself."""
    if sys.platform == "darwin":
        return _from_netstat()
    virtual = {path.name for path in _listed(system / "devices/virtual/net", "*")}
    return network_of_linux(_text(proc / "net/dev"), virtual)


def network_of_linux(text: str, virtual: Collection[str] = ()) -> tuple[int, int] | None:
    """Sums over /proc/net/dev. Bridges and tunnels hand on what a real interface has counted: with one, only those count."""
    counted: dict[str, tuple[int, int]] = {}
    for line in text.splitlines():
        name, separator, rest = line.partition(":")
        fields = rest.split()
        if separator and len(fields) >= 9 and fields[0].isdigit() and fields[8].isdigit() and name.strip() != "lo":
            counted[name.strip()] = int(fields[0]), int(fields[8])
    real = [traffic for name, traffic in counted.items() if name not in virtual]
    return _sum(real or list(counted.values()))


def network_of_macos(text: str) -> tuple[int, int] | None:
    """Sums over `netstat -ib`: the <Link#> line of each interface, counted from its end, for the address may be missing.

    Where there are interfaces named en*, the network cards, the tunnels and bridges above them do not count again.
    """
    counted: dict[str, tuple[int, int]] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 10 or not fields[2].startswith("<Link#") or fields[0].startswith("lo"):
            continue
        received, sent = fields[-5], fields[-2]
        if received.isdigit() and sent.isdigit():
            counted[fields[0].rstrip("*")] = int(received), int(sent)
    cards = [traffic for name, traffic in counted.items() if name.startswith("en")]
    return _sum(cards or list(counted.values()))


def _from_netstat() -> tuple[int, int] | None:
    try:
        answer = subprocess.run(
            ["netstat", "-ib"], capture_output=True, text=True, errors="replace", timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return network_of_macos(answer.stdout)


def _sum(traffic: list[tuple[int, int]]) -> tuple[int, int] | None:
    return (sum(received for received, _ in traffic), sum(sent for _, sent in traffic)) if traffic else None


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _whole(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _degrees(path: Path) -> float | None:
    """A sensor's file holds thousandths of a degree; one that is switched off tells nonsense."""
    try:
        value = int(_text(path)) / 1000
    except ValueError:
        return None
    return round(value, 1) if 0 < value < 150 else None
