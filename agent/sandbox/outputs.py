"""What a script left in its work folder, read by somebody with more rights than the script had.

Nothing here follows a link, leaves the folder, waits on a pipe or opens a device, whatever the script put there and
whenever it changes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not make the reader wait


def open_folder(folder: Path, name: str) -> int:
    """A descriptor of the folder `name` (with "/" between folders, "" or "." for itself) below `folder`; the caller
    closes it. Raises OSError when a part of the name is a link or no folder."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in _parts(name):
        try:
            here, before = os.open(part, FOLDER, dir_fd=here), here
        except OSError:
            os.close(here)
            raise
        os.close(before)
    return here


def open_output(folder: Path, name: str) -> int:
    """A descriptor to read the file `name` (with "/" between folders) below `folder`; the caller closes it.

    Raises OSError when a part of the name is a link, or it is not a regular file with exactly one name.
    """
    folders, _, last = name.rpartition("/")
    if not _parts(last):
        raise OSError(errno.EINVAL, "This is not a file's name", name)
    here = open_folder(folder, folders)
    try:
        found = os.open(last, _FILE, dir_fd=here)
    finally:
        os.close(here)
    state = os.fstat(found)
    if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        os.close(found)
        raise OSError(errno.EINVAL, "This is not a regular file with one name", name)
    os.set_blocking(found, True)
    return found


def _parts(name: str) -> list[str]:
    if name in ("", "."):
        return []
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise OSError(errno.EINVAL, "This is not a path below the folder", name)
    return parts


def remove(path: Path) -> None:
    """Delete what a script left: a folder however deep and however closed, a file, or a link and not what it leads to.

    No process of the script may be left.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(path)
    if path.exists():
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf", "--one-file-system"]):
            subprocess.run([*command, "--", str(path)], capture_output=True, check=False, env={"PATH": os.defpath})
