"""Doctor, this machine: Python, the packages training needs, the GPU and whether torch can use it, memory, disk."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from .. import hardware
from ..words import listed

Finding = tuple[bool | None, str, str]
LEAST_DISK = 5e9


def findings(home: Path, allow_scripts: bool = False) -> list[Finding]:
    """What this machine has for training."""
    return [_python(), *_packages(allow_scripts), *_gpu(), _memory(), _disk(home)]


def _python() -> Finding:
    return True, "python", f"{platform.python_version()} ({sys.executable}), {hardware.operating_system()}"


def _packages(allow_scripts: bool) -> Iterator[Finding]:
    """The packages that are there, one by one, and those that are not in one line: scripts run without them."""
    missing = hardware.missing()
    lacking = {re.split(r"[> ]", entry)[0] for entry in missing}
    for package in hardware.NEEDED:
        if package not in lacking:
            yield True, package, str(hardware.installed(package))
    if missing and allow_scripts:
        yield None, "packages", f"scripts run; language training needs {listed(missing)}: {hardware.install_command()}"
    elif missing:
        yield False, "packages", f"training needs {listed(missing)}: {hardware.install_command()}"


def _gpu() -> list[Finding]:
    gpus = hardware.gpus()
    if not gpus:
        return [(True, "gpu", "none found; training runs on the processor")]
    names = [f"{gpu['name']} ({(gpu['memory_bytes'] or 0) / 2**30:.0f} GB)" for gpu in gpus]
    fault = cuda_fault(torch_cuda(), driver_cuda())
    shown = f"driver for CUDA {_shown(driver_cuda())}, torch built for {_shown(torch_cuda())}"
    return [(True, "gpu", ", ".join(names)), (fault is None, "cuda", fault or shown)]


def cuda_fault(built: tuple[int, ...] | None, driver: tuple[int, ...] | None) -> str | None:
    """Why torch built for CUDA `built` cannot use a driver that serves up to `driver`; () stands for a build without CUDA.

    Any driver of the same major version will do (CUDA "minor version compatibility"); None on either side is unknown.
    """
    if built == ():
        return (
            f"this torch was built without CUDA and leaves the GPU idle: {hardware.install_command()} --force-reinstall"
        )
    if built is None or driver is None or built[0] <= driver[0]:
        return None
    return (
        f"torch was built for CUDA {_shown(built)} and the driver serves CUDA {_shown(driver)} at most: update the NVIDIA "
        "driver, or install a torch built for an older CUDA"
    )


def torch_cuda() -> tuple[int, ...] | None:
    """The CUDA version torch was built for, from the metadata of packages alone; () for a build without, None if unknown."""
    version = hardware.installed("torch")
    local = re.search(r"\+(cpu|cu(\d+)(\d))", version or "")
    if local:
        return () if local[1] == "cpu" else (int(local[2]), int(local[3]))
    names = {(found.metadata["Name"] or "").lower(): found.version for found in metadata.distributions()}
    runtime = next((names[name] for name in names if name.startswith("nvidia-cuda-runtime")), None)
    return None if runtime is None else tuple(int(part) for part in re.findall(r"\d+", runtime)[:2])


def driver_cuda() -> tuple[int, ...] | None:
    """The newest CUDA version that the NVIDIA driver serves, as nvidia-smi prints it in its heading."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        heading = subprocess.run([program], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", heading)
    return (int(found[1]), int(found[2])) if found else None


def _shown(version: tuple[int, ...] | None) -> str:
    return "an unknown version" if version is None else ".".join(map(str, version))


def _memory() -> Finding:
    return True, "memory", f"{hardware.memory_bytes() / 1e9:.1f} GB"


def _disk(home: Path) -> Finding:
    free = hardware.disk_free_bytes(home)
    words = f"{free / 1e9:.1f} GB free at {home}"
    if free >= LEAST_DISK:
        return True, "disk", words
    return False, "disk", f"{words}: free some space, or use --home on another disk"
