"""What a box uses, read from outside: the work folder on disk, and memory where no control group counts it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

DEEPEST = 100  # folders in folders
_BLOCK = 512  # st_blocks(2) counts these
_PROC = Path("/proc")


@dataclass
class Use:
    """Bytes and entries of a folder; `too_deep` when it was not read to its end."""

    size: int = 0
    entries: int = 0
    too_deep: bool = False
    known: set[tuple[int, int]] = field(default_factory=set)

    def add(self, state: os.stat_result) -> None:
        if (state.st_dev, state.st_ino) in self.known:
            return  # another name, or another descriptor, of the same file
        if state.st_nlink != 1:
            self.known.add((state.st_dev, state.st_ino))
        self.size += state.st_blocks * _BLOCK


def disk(folder: Path, most_entries: int, pids: Iterable[int] = ()) -> Use:
    """What `folder` holds, links not followed, and what those processes keep open of it after deleting it.

    It stops counting a little above `most_entries`.
    """
    use = Use()
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return use
    try:
        device = os.fstat(top).st_dev
        _add_folder(top, use, most_entries, 0)
    finally:
        os.close(top)
    for state in _deleted(pids):
        if state.st_dev == device:
            use.add(state)
    return use


def _add_folder(descriptor: int, use: Use, most: int, depth: int) -> None:
    if depth > DEEPEST:
        use.too_deep = True
        return
    with contextlib.suppress(OSError), os.scandir(descriptor) as entries:
        for entry in entries:
            use.entries += 1
            if use.entries > most or use.too_deep:
                return
            with contextlib.suppress(OSError):  # gone since
                state = entry.stat(follow_symlinks=False)
                use.add(state)
                if stat.S_ISDIR(state.st_mode):
                    below = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                    try:
                        _add_folder(below, use, most, depth + 1)
                    finally:
                        os.close(below)


def _deleted(pids: Iterable[int]) -> Iterator[os.stat_result]:
    """Files that those processes keep open and no folder lists."""
    for pid in pids:
        for kind in ("fd", "map_files"):  # the second is for root alone
            with contextlib.suppress(OSError):
                for entry in os.scandir(_PROC / str(pid) / kind):
                    with contextlib.suppress(OSError):
                        state = entry.stat()
                        if state.st_nlink == 0 and stat.S_ISREG(state.st_mode):
                            yield state


def nameless(pids: Iterable[int], counted: Collection[int]) -> int:
    """Bytes of the files that those processes keep open, that no folder lists, and that lie on no device in `counted`:
    memfd_create(2) makes such, in memory."""
    use = Use()
    for state in _deleted(pids):
        if state.st_dev not in counted:
            use.add(state)
    return use.size


def memory(pids: Iterable[int], file_bytes: int) -> int:
    """Bytes of memory that these processes hold for themselves or share, and those of files in memory.

    Pages that a fork still shares count once for each process, so the answer is at most too high.
    """
    return file_bytes + sum(_memory_of(pid) for pid in pids)


def shared_out(pids: Iterable[int], file_bytes: int) -> int:
    """The same with shared pages divided among those who share them (Pss, proc(5)); slower to read, at most too low."""
    found = {"Pss_Anon:": 0, "Pss_Shmem:": 0}
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(" ")
                if name in found:
                    found[name] += int(rest.split()[0]) * 1024
    return found["Pss_Anon:"] + max(found["Pss_Shmem:"], file_bytes)


def _memory_of(pid: int) -> int:
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def scratch(first: int, names: Iterable[str]) -> tuple[int, int, set[int]]:
    """Bytes, files with folders, and devices of the scratch file systems of the box whose first process is `first`."""
    size, entries, devices = 0, 0, set[int]()
    for name in names:
        with contextlib.suppress(OSError):
            folder = _PROC / str(first) / "root" / name
            counted = os.statvfs(folder)
            size += (counted.f_blocks - counted.f_bfree) * counted.f_frsize
            entries += counted.f_files - counted.f_ffree
            devices.add(folder.stat().st_dev)
    return size, entries, devices
