"""What a `requirements.txt` asks for: what of it this Python lacks, and all that decides what would be installed.

On the server nothing is installed, a script uses what is there. Elsewhere `interpreter` makes an environment.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

MOST_INCLUDED_BYTES = 262_144
DEEPEST = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMENT = re.compile(r"(^|\s)#.*")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_INCLUDE = re.compile(r"(?:-[rc]|--(?:requirement|constraint)(?=[\s=]))\s*=?\s*(.+)")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:")
_BESIDE = re.compile(r"-[rcef]|--(requirement|constraint|editable|find-links)\b|\.|[\w.-]*/|\S+\.whl$|.*\bfile:")
_SOURCES = re.compile(  # where packages come from and how they are chosen: nothing is fetched for them
    r"-[if]|--(index-url|extra-index-url|no-index|find-links|trusted-host|pre|prefer-binary|only-binary|no-binary"
    r"|require-hashes)(?=[\s=]|$)"
)
_OF_ONE = re.compile(r"\s--(hash|config-settings?|global-option)[\s=].*")


class BadRequirements(Exception):
    """The file cannot be used; `str()` says why."""


def meaning(file: Path) -> bytes:
    """A hash of all that decides what a requirements file installs: its text, that of the files it includes, and where
    it lies if it names what lies there. The content of packages in folders does not count. Raises BadRequirements."""
    texts = dict[Path, bytes]()
    _read(file, texts, 0)
    names_what_is_beside = any(_BESIDE.match(line) for text in texts.values() for line in _lines(text))
    whole = hashlib.sha256(os.fsencode(file.parent.resolve()) if names_what_is_beside else b"")
    for text in texts.values():
        whole.update(hashlib.sha256(text).digest())
    return whole.digest()


def _read(file: Path, texts: dict[Path, bytes], depth: int) -> None:
    """Take in a file and what it includes, each once."""
    if file.resolve() in texts:
        return
    if depth > DEEPEST:
        raise BadRequirements(f"{file.name} is included more than {DEEPEST} deep.")
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_INCLUDED_BYTES + 1)
    except OSError as error:
        raise BadRequirements(f"{file.name} cannot be read: {error.strerror}.") from None
    texts[file.resolve()] = text
    if sum(map(len, texts.values())) > MOST_INCLUDED_BYTES:
        raise BadRequirements(f"With {file.name} the requirements are larger than {MOST_INCLUDED_BYTES // 1024} KiB.")
    for name in _included(text):
        if not (file.parent / name).is_file():
            raise BadRequirements(f"{file.name} includes {name}, and there is no such file.")
        _read(file.parent / name, texts, depth + 1)


def _included(text: bytes) -> list[str]:
    """The files that a requirements file names to be read as well; those at an address are the installer's to fetch."""
    named = [match[1].strip("'\"") for line in _lines(text) if (match := _INCLUDE.match(line))]
    return [name for name in named if not _ADDRESS.match(name)]


def _lines(text: bytes) -> list[str]:
    """The lines as the installer takes them: continued ones joined, comments left out, variables filled in."""
    return [_VARIABLE.sub(lambda name: os.environ.get(name[1], name[0]), line).strip() for line in _as_written(text)]


def _as_written(text: bytes) -> list[str]:
    """The lines without comments, continued ones joined."""
    is_wide = text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell's > writes
    lines = re.sub(r"\\\r?\n", "", text.decode("utf-16" if is_wide else "utf-8-sig", "replace")).splitlines()
    return [_COMMENT.sub("", line).strip() for line in lines]


def unmet(file: BinaryIO) -> list[str]:
    """The lines of a requirements file that this Python does not fulfil, at most ten.

    Versions are compared where `packaging` is installed, which it is wherever transformers is. Options that say where
    packages come from are passed over; other lines that are no requirement (files, addresses) count as unmet, since
    nothing is fetched for them. Variables are not filled in: they would be the server's.
    """
    lines = [_OF_ONE.sub("", line).rstrip() for line in _as_written(file.read(MOST_INCLUDED_BYTES))]
    return [line[:80] for line in lines if line and not _SOURCES.match(line) and not _is_met(line)][:10]


def _is_met(line: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        name = _NAME.match(line)
        return name is not None and _version(name.group()) is not None
    try:
        asked = Requirement(line)
        if asked.marker is not None and not asked.marker.evaluate():
            return True
    except (ValueError, KeyError, RecursionError):  # no requirement, or a marker that means nothing
        return False
    version = _version(asked.name)
    return version is not None and not asked.url and asked.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
