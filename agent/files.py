"""Files as every part of the agent needs them: replaced whole, forced to disk, and summed up.

Nothing here knows what a file is for, so the engine and the processes around it share it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

PIECE = 4 << 20


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` so that a reader, or the machine after a power cut, sees the old text or the new one, whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk. Windows cannot do this for folders and renames safely without."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path, say: Callable[[str], None] = lambda _message: None) -> str:
    """SHA-256 of a file in hexadecimal. `say` is called now and then with nothing to tell, so that it can interrupt."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
            say("")
    return digest.hexdigest()
