"""Where files lie: a folder on disk. Keys are random ids, never a member's file name."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path

import gevent
from gevent import monkey


class Disk:
    def __init__(self, root: Path) -> None:
        self.root = root

    def new_key(self, room: str) -> str:
        """A fresh key in a room such as `datasets`."""
        return f"{room}/{uuid.uuid4().hex}"

    def path(self, key: str) -> Path:
        """Where the file of a key lies."""
        return self.root / key

    def keep(self, source: Path, key: str) -> None:
        """Keep the content of a finished file under a key, whole or not at all; the source may be removed after."""
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        try:
            os.link(source, partial)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)

    def delete(self, key: str) -> None:
        """Remove a file; nothing happens when it is gone already."""
        self.path(key).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Room left on the disk."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free


def sha256_of(path: Path) -> str:
    """The hash of a file's content. In a gevent process a real thread does it, so that everybody else goes on."""
    if monkey.is_module_patched("threading"):
        return str(gevent.get_hub().threadpool.apply(_sha256, (path,)))
    return _sha256(path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
