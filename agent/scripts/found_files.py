"""Files a script has left in its folder: outputs to keep, checkpoints to go on from.

Only what was written since the job began counts: the folder may be years old. Links are never followed, not even one that
takes a folder's place while it is looked into.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from .. import sandbox

MOST_ENTRIES = 50_000
DEEPEST = 8
_SKIPPED = {
    ".git",
    "venv",
    ".venv",
    "node_modules",
    "site-packages",
    "__pycache__",
    ".mypy_cache",
    ".ipynb_checkpoints",
}


@dataclass(frozen=True)
class Folder:
    """A folder of a script, reached without following a link from `top` on, which the script cannot exchange."""

    top: Path
    inside: str = ""  # the way from `top`, with "/" between folders

    @property
    def path(self) -> Path:
        return self.top / self.inside

    def below(self, name: str) -> Folder:
        """The folder `name` in it."""
        return Folder(self.top, f"{self.inside}/{name}".strip("/"))

    def open(self, name: str) -> BinaryIO:
        """A regular file below it, to be read. Raises OSError for a link, a pipe, or what else is none."""
        return os.fdopen(sandbox.open_output(self.top, f"{self.inside}/{name}".strip("/")), "rb")

    def files(self, deepest: int = DEEPEST) -> Iterator[tuple[str, os.stat_result]]:
        """Every regular file below it as its path from here and its facts, in order, up to a bound; none where there is
        no such folder."""
        with contextlib.suppress(OSError):
            yield from _Walk().files(sandbox.open_folder(self.top, self.inside), "", deepest)


class _Walk:
    def __init__(self) -> None:
        self._left = MOST_ENTRIES

    def files(self, here: int, prefix: str, deepest: int) -> Iterator[tuple[str, os.stat_result]]:
        """The files of an open folder, which is closed, and then those of the folders in it."""
        folders = list[str]()
        try:
            for name in sorted(os.listdir(here)):
                self._left -= 1
                if self._left < 0:
                    return
                try:
                    facts = os.stat(name, dir_fd=here, follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISREG(facts.st_mode):
                    yield prefix + name, facts
                elif stat.S_ISDIR(facts.st_mode) and name not in _SKIPPED and deepest:
                    folders.append(name)
            for name in folders:
                with contextlib.suppress(OSError):
                    below = os.open(name, sandbox.FOLDER, dir_fd=here)
                    yield from self.files(below, f"{prefix}{name}/", deepest - 1)
        finally:
            os.close(here)


def matching(folder: Folder, patterns: Sequence[str], since: float) -> list[str]:
    """The files below `folder` that a pattern names and that were written at or after `since` (Unix seconds).

    `*` and `?` stay within one folder's name, `**` reaches any depth; the name of a folder stands for all below it.
    """
    wanted = [_parts(pattern) for pattern in patterns]
    return [
        name
        for name, facts in folder.files()
        if facts.st_mtime >= since and any(_fits(name.split("/"), parts) for parts in wanted)
    ]


def newest_checkpoint(folder: Folder, patterns: Sequence[str], since: float) -> tuple[str, float] | None:
    """The file or folder, of those a pattern names, that was written last, and when; a folder is as new as its newest
    file."""
    wanted = [_parts(pattern) for pattern in patterns]
    newest: tuple[float, str] | None = None
    for name, facts in folder.files():
        names = name.split("/")
        for parts in wanted:
            head = names[: len(parts)]
            if facts.st_mtime >= since and len(names) >= len(parts) and _fits_exactly(head, parts):
                newest = max(newest or (0.0, ""), (facts.st_mtime, "/".join(head)))
    return (newest[1], newest[0]) if newest else None


def _parts(pattern: str) -> list[str]:
    return pattern.removeprefix("./").strip("/").split("/")


def _fits(names: list[str], parts: list[str]) -> bool:
    """Whether a path matches a pattern, or lies below a folder that does."""
    return any(_fits_exactly(names[:length], parts) for length in range(1, len(names) + 1))


def _fits_exactly(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits_exactly(names[start:], parts[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fits_exactly(names[1:], parts[1:])
