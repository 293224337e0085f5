"""What a `requirements.txt` asks for and this Python lacks. Nothing is installed: on the server a script uses what is there."""

from __future__ import annotations

import re
from importlib import metadata
from typing import BinaryIO

MOST_BYTES = 65_536
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def unmet(file: BinaryIO) -> list[str]:
    """The lines of a requirements file that this Python does not fulfil, at most ten.

    Versions are compared where `packaging` is installed, which it is wherever transformers is; lines that are no
    requirement (options, files, addresses) count as unmet, since nothing is fetched for them.
    """
    text = file.read(MOST_BYTES).decode("utf-8", "replace")
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    return [line[:80] for line in lines if line and not line.startswith("#") and not _is_met(line)][:10]


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
