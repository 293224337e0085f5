"""What this machine is, and whether it has what training needs. Never imports torch: the metadata of packages is
enough."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

# Distribution -> (least version, first version that is too new). torch below 2.10 can be made to run code by a file of
# weights (CVE-2025-32434, CVE-2026-24747).
NEEDED: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "torch": ((2, 10), (3,)),
    "transformers": ((5,), (6,)),
    "peft": ((0, 15), None),
    "safetensors": ((0, 4), None),
    "tokenizers": ((0, 20), None),
}
INSTALL = ("torch==2.13.*", "transformers>=5,<6", "peft", "safetensors", "tokenizers")


def machine(folder: Path) -> dict[str, Any]:
    """os, python, torch, gpus, memory_bytes and disk_free_bytes (of the disk that holds `folder`)."""
    return {
        "os": operating_system(),
        "python": platform.python_version(),
        "torch": installed("torch"),
        "gpus": gpus(),
        "memory_bytes": memory_bytes(),
        "cpus": os.cpu_count() or 1,
        "disk_free_bytes": disk_free_bytes(folder),
    }


def operating_system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} ({platform.machine()})"
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        name = platform.system()
    return f"{name} ({platform.machine()})"


def installed(package: str) -> str | None:
    """The installed version of a package, looked up afresh."""
    importlib.invalidate_caches()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def missing() -> list[str]:
    """What training needs and this Python lacks: names of packages, and versions where those are the trouble."""
    found = []
    for package, (least, too_new) in NEEDED.items():
        version = installed(package)
        if version is None:
            found.append(package)
        elif not _fits(version, least, too_new):
            bounds = ">=" + ".".join(map(str, least)) + (f",<{too_new[0]}" if too_new else "")
            found.append(f"{package}{bounds} ({version} is installed)")
    return found


def _fits(version: str, least: tuple[int, ...], too_new: tuple[int, ...] | None) -> bool:
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = tuple(int(part) for part in release.group().split(".")) if release else ()
    return numbers >= least and (too_new is None or numbers < too_new)


def install_command() -> str:
    """The one command that gives this Python what training needs."""
    packages = " ".join(f'"{package}"' for package in INSTALL)
    return f"{sys.executable} -m pip install {packages}"


def gpus() -> list[dict[str, Any]]:
    """The NVIDIA devices as [{name, memory_bytes}]; empty where there is none or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [gpu for line in answer.splitlines() if (gpu := _gpu(line)) is not None]


def _gpu(line: str) -> dict[str, Any] | None:
    name, _, mebibytes = line.rpartition(",")
    mebibytes = mebibytes.strip()
    if not name:
        return None
    return {"name": name.strip(), "memory_bytes": int(mebibytes) * 2**20 if mebibytes.isdigit() else None}


def memory_bytes() -> int:
    """Physical memory, or the limit of the container where that is lower."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def disk_free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def free_bytes(folder: Path) -> int | None:
    """The same of a disk that may have gone away in the meantime: then None."""
    try:
        return disk_free_bytes(folder)
    except OSError:
        return None
