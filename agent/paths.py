"""Path texts of Linux, macOS and Windows: whether one may be used at all, and whether one lies inside another.

Pure functions of text: nothing here looks at a disk, so each system's rules are tested on every system. `roots` follows
links on the machine itself after these have agreed. The rules of Windows are those of "Naming Files, Paths, and Namespaces"
(Microsoft), which lists the reserved names and characters.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Literal

Flavour = Literal["linux", "macos", "windows"]
MAX_PATH = 4096

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
_NEVER_IN_WINDOWS = '<>"|?*'


def here() -> Flavour:
    """The flavour of the machine this runs on."""
    return {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")  # type: ignore[return-value]


def fault(text: str, flavour: Flavour) -> str | None:
    """Why this text is not taken as a path, as a sentence; None when it may be looked up.

    Taken is a full path, or one below the home folder that begins with `~/`.
    """
    if len(text) > MAX_PATH:
        return f"A path may have at most {MAX_PATH} characters, this one has {len(text)}."
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "The path holds control characters. Type it again, or rename the file."
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "The path holds characters that are no text. Rename the file."
    if flavour == "windows":
        return _windows_fault(text)
    if not text.startswith(("/", "~/")):
        return f"{text or 'The path'} is not a full path. Begin it with / or ~/."
    return None


def _windows_fault(text: str) -> str | None:
    if text.startswith(("\\\\", "//", "\\/", "/\\")):
        return f"{text} is on the network or names a device. Name a file on a drive of this machine, as C:\\data\\rows.jsonl."
    below_home = text.startswith(("~/", "~\\"))
    path = PureWindowsPath(text[2:] if below_home else text)
    if not below_home and not re.fullmatch(r"[A-Za-z]:", path.drive):
        return f"{text or 'The path'} is not a full path. Begin it with a drive, as C:\\, or with ~\\."
    if (path.drive or path.root) if below_home else not path.root:
        return f"{text} depends on the folder a drive is in. Write the whole path, as C:\\data\\rows.jsonl."
    for part in path.relative_to(path.anchor).parts:
        if sentence := _windows_part_fault(part):
            return sentence
    return None


def _windows_part_fault(part: str) -> str | None:
    if part == "..":
        return None
    if ":" in part:
        return f"{part} names a stream inside a file. Leave the colon out."
    if part[-1] in ". ":
        return f"{part!r} ends in a dot or a space, which Windows leaves out. Rename it."
    if any(character in _NEVER_IN_WINDOWS for character in part):
        return f"{part} holds a character that no name has on Windows."
    # A device keeps its name with any ending, and with spaces before the ending: `NUL.txt`, `con .jsonl`.
    if _RESERVED.fullmatch(part.split(".", 1)[0].rstrip(" ")):
        return f"{part} is the name of a device on Windows. Rename the file."
    return None


def is_inside(path: str, folder: str, flavour: Flavour) -> bool:
    """Whether `path` is `folder` or lies in it, by their text alone. Whatever still holds `..` lies nowhere.

    Windows and macOS do not tell capitals from small letters, and macOS not composed from decomposed letters. Letters are
    compared one by one, so that names which only look related (`ß` and `ss`) stay different.
    """
    inner, outer = _parts(path, flavour), _parts(folder, flavour)
    if not inner or not outer or ".." in inner or ".." in outer:
        return False
    return inner[: len(outer)] == outer


def _parts(text: str, flavour: Flavour) -> tuple[str, ...]:
    """The parts of a full path as they are compared; none when it is not a full path."""
    path: PurePath = PureWindowsPath(text) if flavour == "windows" else PurePosixPath(text)
    if not path.is_absolute():
        return ()
    return tuple(_as_compared(part, flavour) for part in path.parts)


def _as_compared(part: str, flavour: Flavour) -> str:
    if flavour == "linux":
        return part
    if flavour == "macos":
        part = unicodedata.normalize("NFC", part)
    return "".join(upper if len(upper := letter.upper()) == 1 else letter for letter in part)
