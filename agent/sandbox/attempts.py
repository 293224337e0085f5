"""Tried from inside a box when it is probed: what a wall should stop. Prints one JSON object: what succeeded, by wall.

It is handed to an interpreter as text and imports nothing of this package.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNS, _VSOCK = 0x10000000, 0x00020000, 40
# add_key, io_uring_setup, ptrace, bpf, perf_event_open, userfaultfd, keyctl, unshare, mount: x86_64, aarch64
_CALLS = {
    "add_key": (248, 217, (b"user\0", b"probe\0", b"x", 1, -2)), "io_uring_setup": (425, 425, (1, None)),
    "ptrace": (101, 117, (16, 0x7FFFFFFF, 0, 0)), "bpf": (321, 280, (0, None, 0)), "userfaultfd": (323, 282, (1,)),
    "perf_event_open": (298, 241, (None, 0, -1, -1, 0)), "keyctl": (250, 219, (0, -2, 0)),
    "process_vm_readv": (310, 270, (1, None, 0, None, 0, 0)),
}  # fmt: skip


def main(given: str) -> int:
    order: dict[str, Any] = json.loads(given)
    found = {
        "files": _files(order), "network": _network(order), "processes": _processes(order), "kernel": _kernel(),
        "namespaces": _namespaces(), "environment": _environment(order), "scratch": _scratch(order),
        "file size": _file_size(order), "devices": [path for path in _nodes() if _reads(path)],
        "number of processes": _many(order),
    }  # fmt: skip
    print(json.dumps(found))
    return 0


def _nodes() -> list[str]:
    patterns = ("nvidia*", "kvm", "mem", "[sv]d[a-z]", "nvme*")
    return sorted(str(path) for pattern in patterns for path in Path("/dev").glob(pattern))


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def _reads(path: str) -> bool:
    return _works(lambda: open(path, "rb").close())


def _writes(folder: str) -> bool:
    return _works(lambda: _write(Path(folder) / "trainyard-probe"))


def _write(path: Path) -> None:
    path.write_text("x")
    path.unlink()


def _files(order: dict[str, Any]) -> list[str]:
    outside, secret = Path(order["outside"]), Path(order["secret"])
    found = [f"read {path}" for path in ("/etc/shadow", str(secret)) if _reads(path)]
    folders = ("/", "/usr", "/etc", "/dev", "/proc/sys/kernel", "/sys", "/home", str(outside))
    found += [f"write into {folder}" for folder in folders if _writes(folder)]
    if outside.exists() and _works(lambda: secret.chmod(0o600)):
        found.append("change modes of files outside")
    if _works(lambda: Path("/dev/null").chmod(0o666)):  # as it is already
        found.append("change the mode of /dev/null")
    return found


def _network(order: dict[str, Any]) -> list[str]:
    found = []
    if _works(lambda: socket.create_connection(("127.0.0.1", order["port"]), 1).close()):
        found.append("reach a service of the machine")
    if _works(lambda: _abstract(order["socket"])):
        found.append("reach an abstract socket of the machine")
    if _works(lambda: socket.create_connection(("169.254.169.254", 80), 0.2).close()):
        found.append("reach the metadata address")
    if _works(lambda: socket.socket(_VSOCK, socket.SOCK_STREAM).close()):
        found.append("make a socket to the hypervisor")
    return found


def _abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("\0" + name)


def _processes(order: dict[str, Any]) -> list[str]:
    found = []
    pid = order["pid"]
    try:
        if order["mark"].encode() in open(f"/proc/{pid}/environ", "rb").read():
            found.append("read the environment of another process")
    except OSError:
        pass
    names = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    if len(names) > 10:
        found.append(f"see {len(names)} processes")
    if len(names) > 10 and _works(lambda: os.kill(pid, 0)):
        found.append("send signals to other processes")
    return found


def _kernel() -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    column = 0 if platform.machine() == "x86_64" else 1
    found = []
    for name, (first, second, arguments) in _CALLS.items():
        number = (first, second)[column]
        ctypes.set_errno(0)
        answer = libc.syscall(
            ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
        )
        if answer >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            found.append(name)
    return found


def _namespaces() -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) == 0:
        found.append("make a user namespace")
    if libc.mount(b"none", b".", b"tmpfs", 0, None) == 0:
        libc.umount2(b".", 2)  # MNT_DETACH
        found.append("mount")
    return found


def _environment(order: dict[str, Any]) -> list[str]:
    found = sorted(set(os.environ) - set(order["variables"]) - {"LC_CTYPE"})
    try:
        if order["mark"].encode() in open("/proc/1/environ", "rb").read():
            found.append("the environment of the first process")
    except OSError:
        pass
    return found


def _scratch(order: dict[str, Any]) -> list[str]:
    if not order["scratch"]:
        return ["fill the machine's /dev/shm"]
    return [path for path in order["scratch"] if _takes(path, order["scratch_bytes"] + (1 << 20))]


def _takes(folder: str, size: int) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(size >> 16):
                file.write(bytes(1 << 16))
            file.flush()
    except OSError:
        return False
    return True


def _file_size(order: dict[str, Any]) -> list[str]:
    return ["write a larger file"] if _takes(".", order["file_bytes"] + (1 << 20)) else []


def _many(order: dict[str, Any]) -> list[str]:
    """More processes at once than the limit; each waits until this one closes the pipe."""
    waiting, gate = os.pipe()
    children = []
    try:
        for _ in range(order["processes"] + 20):
            pid = os.fork()
            if pid == 0:
                os.close(gate)
                os.read(waiting, 1)
                os._exit(0)
            children.append(pid)
    except OSError:
        pass
    os.close(gate)
    for pid in children:
        os.waitpid(pid, 0)
    return [f"start {len(children)} processes"] if len(children) > order["processes"] + 8 else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
