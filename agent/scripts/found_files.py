"""Files a script has left in its folder: outputs to keep, checkpoints to go on from.

Only what was written since the job began counts: the folder may be years old. Links are never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

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


def files_below(folder: Path, deepest: int = DEEPEST) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file below a folder as its path from there and its facts, in order, up to a bound."""
    if folder.is_symlink():
        return
    left = MOST_ENTRIES
    waiting = [(folder, "", 0)]
    while waiting:
        here, prefix, depth = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            left -= 1
            if left < 0:
                return
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(facts.st_mode) and entry.name not in _SKIPPED and depth < deepest:
                waiting.append((Path(entry.path), f"{prefix}{entry.name}/", depth + 1))
            elif stat.S_ISREG(facts.st_mode):
                yield prefix + entry.name, facts


def matching(folder: Path, patterns: Sequence[str], since: float) -> list[str]:
    """The files below `folder` that a pattern names and that were written at or after `since` (Unix seconds).

    `*` and `?` stay within one folder's name, `**` reaches any depth; the name of a folder stands for all below it.
    """
    wanted = [pattern.removeprefix("./").strip("/").split("/") for pattern in patterns]
    return [
        name
        for name, facts in files_below(folder)
        if facts.st_mtime >= since and any(_fits(name.split("/"), parts) for parts in wanted)
    ]


def newest_checkpoint(folder: Path, patterns: Sequence[str], since: float) -> str | None:
    """The file or folder, of those a pattern names, that was written last; a folder is as new as its newest file."""
    newest: tuple[float, str] | None = None
    for pattern in patterns:
        parts = pattern.removeprefix("./").strip("/").split("/")
        for name, facts in files_below(folder):
            names = name.split("/")
            head = names[: len(parts)]
            if facts.st_mtime >= since and len(names) >= len(parts) and _fits_exactly(head, parts):
                newest = max(newest or (0.0, ""), (facts.st_mtime, "/".join(head)))
    return newest[1] if newest else None


def _fits(names: list[str], parts: list[str]) -> bool:
    """Whether a path matches a pattern, or lies below a folder that does."""
    return any(_fits_exactly(names[:length], parts) for length in range(1, len(names) + 1))


def _fits_exactly(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits_exactly(names[start:], parts[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fits_exactly(names[1:], parts[1:])
