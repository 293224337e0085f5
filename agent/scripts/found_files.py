"""Files a script has left in its folder: outputs to keep, checkpoints to go on from.

Only what was written since the job began counts: the folder may be years old. Links are never followed, not even one that
takes a folder's place while it is looked into. A folder in which no pattern can fit is not looked into, so that a data set
beside the script costs nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice, takewhile
from pathlib import Path
from typing import BinaryIO

from .. import sandbox

# Where Hugging Face's and Lightning's trainers put them, and no deeper: a model that a script only fetches is no checkpoint.
DEFAULT_CHECKPOINTS = (
    "checkpoints/*", "checkpoint-*", "*/checkpoint-*", "*.ckpt", "lightning_logs/version_*/checkpoints/*.ckpt",
)  # fmt: skip
NO_CHECKPOINTS = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".log", ".yaml", ".yml")  # lone ones beside checkpoints
MOST_ENTRIES = 100_000
DEEPEST = 8
EVERYTHING = "**"
_SKIPPED = {  # unless a pattern begins with the name
    ".git",
    "venv",
    ".venv",
    "node_modules",
    "site-packages",
    "__pycache__",
    ".mypy_cache",
    ".ipynb_checkpoints",
}

# A pattern, or what is left of it behind the first names of a path: `()` once it has fitted, and all below fits with it.
Pattern = tuple[str, ...]
_FITTED: Pattern = ()
_FILES_BELOW: Pattern = ("**",)


@dataclass(frozen=True)
class Folder:
    """A folder of a script, reached without following a link from `top` on, which the script cannot exchange.

    `attend` is called again and again while it is looked into: a long look holds up nothing that is due meanwhile, and
    ends where it raises.
    """

    top: Path
    inside: str = ""  # the way from `top`, with "/" between folders
    attend: Callable[[], None] = lambda: None

    @property
    def path(self) -> Path:
        return self.top / self.inside

    def below(self, name: str) -> Folder:
        """The folder `name` in it."""
        return replace(self, inside=f"{self.inside}/{name}".strip("/"))

    def open(self, name: str) -> BinaryIO:
        """A regular file below it, to be read. Raises OSError for a link, a pipe, or what else is none."""
        return os.fdopen(sandbox.open_output(self.top, f"{self.inside}/{name}".strip("/")), "rb")

    def files(
        self, patterns: Sequence[str] = (EVERYTHING,), deepest: int = DEEPEST, notes: list[str] | None = None
    ) -> Iterator[tuple[str, os.stat_result]]:
        """Every regular file below it that a pattern names, once, as its path from here and its facts, those near the
        top first; none where there is no such folder. When there is too much to look at all of it, `notes` gets a
        sentence that says so."""
        told = set[str]()
        for start, begun in _starts(patterns).items():
            walk = _Walk(self, deepest)
            for name, facts in walk.files(start, {left for _, left in begun}):
                self.attend()
                if name not in told:
                    told.add(name)
                    yield name, facts
            if not walk.is_whole and notes is not None:
                notes.append(
                    f"Some files were not looked at for {', '.join(pattern for pattern, _ in begun)}: there are too many, "
                    f"at most {MOST_ENTRIES:,} files and folders are looked at."
                )


class _Walk:
    """One look below a folder. No single folder gets more than half of the names that may still be looked at, so that a
    crowded one hides none beside it."""

    def __init__(self, folder: Folder, deepest: int) -> None:
        self._folder, self._deepest = folder, deepest
        self._left = MOST_ENTRIES
        self.is_whole = True

    def files(self, start: str, patterns: set[Pattern]) -> Iterator[tuple[str, os.stat_result]]:
        """The files from `start` on that fit, level by level."""
        waiting = deque([(start, patterns, self._deepest)])
        while waiting:
            if self._left < 1:
                self.is_whole = False
                return
            self._folder.attend()
            inside, patterns, deepest = waiting.popleft()
            for entry, left in self._entries(inside, patterns):
                name = f"{inside}/{entry.name}".lstrip("/")
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        if deepest and entry.name not in _SKIPPED:
                            waiting.append((name, left, deepest - 1))
                    elif left & {_FITTED, _FILES_BELOW}:
                        facts = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(facts.st_mode):
                            yield name, facts

    def _entries(self, inside: str, patterns: set[Pattern]) -> Iterator[tuple[os.DirEntry[str], set[Pattern]]]:
        """What lies in a folder and can still fit, in order, each with what is left of the patterns behind it."""
        most = self._left // 2
        with contextlib.suppress(OSError):
            here = sandbox.open_folder(self._folder.top, self._folder.below(inside).inside)
            try:
                with os.scandir(here) as entries:
                    seen = list(islice(entries, most + 1))
                self._left -= len(seen)
                self.is_whole = self.is_whole and len(seen) <= most
                fitting = [(entry, left) for entry in seen[:most] if (left := _behind(patterns, entry.name))]
                yield from sorted(fitting, key=lambda each: each[0].name)
            finally:
                os.close(here)


def matching(folder: Folder, patterns: Sequence[str], since: float, notes: list[str] | None = None) -> list[str]:
    """The files below `folder` that a pattern names and that were written at or after `since` (Unix seconds).

    `*` and `?` stay within one folder's name, `**` reaches any depth; the name of a folder stands for all below it.
    """
    return [name for name, facts in folder.files(patterns, notes=notes) if facts.st_mtime >= since]


def newest_checkpoint(
    folder: Folder, patterns: Sequence[str], since: float, notes: list[str] | None = None, until: float = math.inf
) -> tuple[str, float] | None:
    """The file or folder, of those a pattern names, that was written last, and when; a folder is as new as its newest
    file. A pattern that ends in `**` names the files below and no folder. What was written after `until` counts only where
    there is nothing else; a lone table or text is none where the patterns are the default ones."""
    wanted = [_parts(pattern) for pattern in patterns]
    left_out = NO_CHECKPOINTS if tuple(patterns) == DEFAULT_CHECKPOINTS else ()
    written = dict[str, float]()
    for name, facts in folder.files(patterns, notes=notes):
        if facts.st_mtime < since:
            continue
        for pattern in wanted:
            named = "/".join(_beginning(name.split("/"), pattern) or ())
            if named and not (named == name and name.endswith(left_out)):
                written[named] = max(written.get(named, 0.0), facts.st_mtime)
    own = {name: at for name, at in written.items() if at <= until} or written
    return max(own.items(), key=lambda each: (each[1], each[0]), default=None)


def _starts(patterns: Iterable[str]) -> dict[str, list[tuple[str, Pattern]]]:
    """The folders in which to begin, each with the patterns that begin with its plain name and what is left of them."""
    starts: dict[str, list[tuple[str, Pattern]]] = {}
    for pattern in patterns:
        parts = _parts(pattern)
        plain = list(takewhile(lambda part: part and not set("*?[") & set(part), parts[:-1]))
        starts.setdefault("/".join(plain), []).append((pattern, parts[len(plain) :]))
    return starts


def _parts(pattern: str) -> Pattern:
    """The parts of a pattern; `**` and `*` at its end say the same as `**`, and so does any number of `**` in a row."""
    parts = list[str]()
    for part in pattern.removeprefix("./").strip("/").split("/"):
        if parts[-1:] != ["**"] or part != "**":
            parts.append(part)
    return tuple(parts[:-1] if parts[-2:] == ["**", "*"] else parts)


def _beginning(names: Sequence[str], pattern: Pattern) -> Sequence[str] | None:
    """The shortest beginning of a path that a pattern names, or all of it where it names the files below."""
    left = {pattern}
    for length, name in enumerate(names, 1):
        left = _behind(left, name)
        if _FITTED in left:
            return names[:length]
    return names if _FILES_BELOW in left else None


def _behind(patterns: Iterable[Pattern], name: str) -> set[Pattern]:
    """What is left of the patterns behind one more name of a path; those that do not fit are gone."""
    left = set[Pattern]()
    for pattern in patterns:
        if pattern in (_FITTED, _FILES_BELOW):
            left.add(pattern)
        elif pattern[0] == "**":
            left |= {pattern, *_behind([pattern[1:]], name)}
        elif fnmatchcase(name, pattern[0]):
            left.add(pattern[1:])
    return left
