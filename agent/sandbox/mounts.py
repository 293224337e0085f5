"""What a box sees of the machine, as arguments for bubblewrap (bwrap(1), 0.8 or newer)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from .limits import Limits

WORK, HOME, HOST_NAME = "/work", "/home/script", "box"
SCRATCH = ("/tmp", "/dev/shm", HOME)  # noqa: S108 - names inside the box, each a file system of its own
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/ssl", "/etc/pki",
             "/etc/localtime", "/etc/mime.types")  # fmt: skip
_MACHINE = ("/sys/devices/system/cpu", "/sys/devices/system/node")  # torch counts cores there
_FOLDERS = (
    "/etc",
    "/home",
    "/sys",
    "/sys/class",
    "/sys/class/net",
    "/sys/devices",
    "/sys/devices/system",
)  # gloo reads net
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_DRIVER_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
FILES = {
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/hosts": f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost\n",
}


def system(limits: Limits) -> list[str]:
    """Programs and libraries to read, an own /proc and /dev, and scratch space of a known size in memory."""
    given = ["--ro-bind", "/usr", "/usr"]
    for path in _FOLDERS:
        given += ["--perms", "0755", "--dir", path]
    for path in _SYSTEM:
        if Path(path).is_symlink():
            given += ["--symlink", str(Path(path).readlink()), path]
        else:
            given += ["--ro-bind-try", path, path]
    for path in (*_SETTINGS, *_MACHINE):
        given += ["--ro-bind-try", path, path]
    given += ["--proc", "/proc", "--dev", "/dev"]
    sizes = (limits.tmp_bytes, limits.shm_bytes, limits.tmp_bytes)
    for path, size in zip(SCRATCH, sizes, strict=True):
        given += ["--perms", "1777", "--size", str(size), "--tmpfs", path]
    return given


def shown(readable: Sequence[Path], pass_paths: Mapping[str, Path]) -> Iterator[str]:
    """Files and folders to read: at their own path, and at the paths that were chosen for them."""
    pairs = [(path.resolve(), path.absolute()) for path in readable]
    pairs += [(path.resolve(), Path(inside)) for inside, path in pass_paths.items()]
    for source, target in pairs:
        yield from _parents(target)
        yield from ("--ro-bind", str(source), str(target))


def _parents(path: Path) -> Iterator[str]:
    """The folders above it, for everybody: bubblewrap would copy their modes, and root's home is root's alone."""
    for folder in reversed(path.parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(folder))


def work(shown: Iterable[Path]) -> str:
    """Where the work folder lies inside: `/work`, or `/work-1` and so on where something that is shown lies there."""
    taken = {path.parts[1] for path in shown if len(path.parts) > 1}
    return next(name for number in count() if (name := f"{WORK}-{number}" if number else WORK)[1:] not in taken)


def interpreter() -> list[Path]:
    """The folders that this Python needs beside /usr."""
    program = Path(sys.executable)
    candidates = [Path(sys.prefix), Path(sys.base_prefix), program.resolve().parent.parent]
    found: list[Path] = []
    for path in candidates:
        resolved = path.resolve()
        if not resolved.is_relative_to("/usr") and resolved != Path("/") and path not in found:
            found.append(path)
            if resolved != path:
                found.append(resolved)
    return found


def graphics(gpus: Sequence[int]) -> Iterator[str]:
    """The nodes of these GPUs and of their driver, which also looks at /sys. Comes after `system`."""
    yield from ("--ro-bind", "/sys", "/sys")
    for name in driver_nodes(gpus):
        yield from ("--dev-bind-try", f"/dev/{name}", f"/dev/{name}")


def closed(own_nodes: bool) -> Iterator[str]:
    """The last mounts: nothing else can be written. `own_nodes`: the box's user owns the device nodes on the machine and
    could change their modes, so each is made read-only, which forbids that and not the writing to the device."""
    if own_nodes:
        for name in _NODES:
            yield from ("--remount-ro", f"/dev/{name}")
    yield from ("--remount-ro", "/dev", "--remount-ro", "/")


def people(uid: int) -> dict[str, str]:
    """The only users a box knows: itself, and root, to whom what it reads belongs."""
    return {
        "/etc/passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\nscript:x:{uid}:{uid}:script:{HOME}:/bin/sh\n",
        "/etc/group": f"root:x:0:\nscript:x:{uid}:\n",
    }


def driver_nodes(gpus: Sequence[int] | None) -> list[str]:
    """Names below /dev that a program needs for these GPUs; none without any."""
    return [] if gpus is None else [*_DRIVER_NODES, *(f"nvidia{number}" for number in gpus)]
