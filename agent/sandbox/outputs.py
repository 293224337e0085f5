"""What a script left in its work folder, read by somebody with more rights than the script had.

Nothing here follows a link, leaves the folder, waits on a pipe or opens a device, whatever the script put there and
whenever it changes it.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .watch import DEEPEST

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not make the reader wait


def open_output(folder: Path, name: str) -> int:
    """A descriptor to read the file `name` (with "/" between folders) below `folder`; the caller closes it.

    Raises OSError when a part of the name is a link, or it is not a regular file with exactly one name.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise OSError(errno.EINVAL, "This is not a path below the folder", name)
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            here, before = os.open(part, _FOLDER, dir_fd=here), here
            os.close(before)
        found = os.open(parts[-1], _FILE, dir_fd=here)
    finally:
        os.close(here)
    state = os.fstat(found)
    if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        os.close(found)
        raise OSError(errno.EINVAL, "This is not a regular file with one name", name)
    os.set_blocking(found, True)
    return found


def outputs(folder: Path, patterns: Sequence[str]) -> list[str]:
    """The files below `folder` that match a pattern: regular, with one name, and a name that can be written as text.

    A pattern is matched against the whole path (`*` also stands for "/"), `model/` means everything in that folder.
    """
    wanted = [pattern + "*" if pattern.endswith("/") else pattern for pattern in patterns]
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = sorted(_files(top, "", 0))
    finally:
        os.close(top)
    return [name for name in found if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)]


def _files(descriptor: int, prefix: str, depth: int) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(descriptor) as entries:
        for entry in entries:
            if not _is_text(entry.name):
                continue
            with contextlib.suppress(OSError):
                state = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(state.st_mode) and state.st_nlink == 1:
                    yield prefix + entry.name
                elif stat.S_ISDIR(state.st_mode) and depth < DEEPEST:
                    below = os.open(entry.name, _FOLDER, dir_fd=descriptor)
                    try:
                        yield from _files(below, f"{prefix}{entry.name}/", depth + 1)
                    finally:
                        os.close(below)


def _is_text(name: str) -> bool:
    """Whether it is UTF-8 (what is not comes with surrogates) and has no control characters."""
    return name.isprintable() and not any("\ud800" <= character <= "\udfff" for character in name)


def remove(folder: Path) -> None:
    """Delete a work folder, however deep a script made it."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder)
    if folder.exists():
        command = ["rm", "-rf", "--one-file-system", "--", str(folder)]
        subprocess.run(command, capture_output=True, check=False, env={"PATH": os.defpath})
