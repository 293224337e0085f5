"""Which folders of this machine the agent may use, and whether a path lies inside them.

The list comes from the command line of the agent and nowhere else: a server can neither read nor change it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from . import paths

# Never a root themselves; what lies below them may be one.
_TOO_WIDE = ("/", "/home", "/root", "/Users", "/opt", "/srv", "/var", "/mnt", "/media", "/private")
# Neither they nor anything below them.
_SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr",
    "/System", "/Library", "/private/etc",
)  # fmt: skip


class BadRoot(Exception):
    """This folder cannot be an allowed root; `str()` is a sentence for the person at the terminal."""


class PathRefused(Exception):
    """The agent will not use this path; `str()` is a sentence for the owner of the job."""


def allowed_roots(given: Iterable[str], home: Path, own_folder: Path) -> list[Path]:
    """Resolve the folders named by `--root`. Raises BadRoot for what is missing or far too wide."""
    return [_root(text, home, own_folder) for text in given]


def _root(text: str, home: Path, own_folder: Path) -> Path:
    try:
        root = Path(text).expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise BadRoot(f"--root {text}: there is no such folder. Make it first: mkdir -p {text}") from None
    if not root.is_dir():
        raise BadRoot(f"--root {text} is a file. Name the folder it lies in.")
    own, home = own_folder.resolve(), home.resolve()
    if str(root) in _TOO_WIDE or root == home or root in home.parents:
        raise BadRoot(f"--root {root} is too wide: name a folder inside it, such as {home / 'models'}.")
    if root == own or root in own.parents or own in root.parents:
        raise BadRoot(f"--root {root} holds the agent's own files ({own}). Name another folder.")
    if any(root.is_relative_to(system) for system in _SYSTEM):
        raise BadRoot(f"--root {root} belongs to the system. Name a folder of your own, such as {home / 'models'}.")
    return root


def resolve_inside(text: str, roots: Sequence[Path], kind: Literal["file", "folder"]) -> Path:
    """The file or folder that `text` names, with every link followed, if it lies inside one of the roots.

    Whether something exists outside the roots is never told. Raises PathRefused with a sentence.
    """
    if sentence := paths.fault(text, paths.here()):
        raise PathRefused(sentence)
    try:
        path = Path(text).expanduser() if text.startswith("~") else Path(text)
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError):
        raise PathRefused(
            f"{text} cannot be followed: it is a link that leads in a circle, is too long or is not readable."
        ) from None
    if not any(_lies_in(resolved, root) for root in roots):
        raise PathRefused(_outside(text, roots))
    _refuse_what_is_not(resolved, text, kind)
    return resolved


def _refuse_what_is_not(resolved: Path, text: str, kind: Literal["file", "folder"]) -> None:
    """Raise PathRefused unless there is a file or folder here that the agent may read."""
    try:
        facts = resolved.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise PathRefused(f"There is no {kind} {text} on this machine.") from None
    except OSError as error:  # a name longer than the file system allows, a folder the agent may not enter
        raise PathRefused(f"{text} cannot be looked at: {os.strerror(error.errno or errno.EIO)}.") from None
    if kind == "file" and not stat.S_ISREG(facts.st_mode):
        raise PathRefused(f"{text} is not a file. Name the data file itself.")
    if kind == "folder" and not stat.S_ISDIR(facts.st_mode):
        raise PathRefused(f"{text} is not a folder. Name the folder itself, not a file in it.")
    if not os.access(resolved, os.R_OK):
        raise PathRefused(f"The agent may not read {text}: check who owns it and its permissions.")


def _lies_in(resolved: Path, root: Path) -> bool:
    """Whether a path with every link followed lies in a root, also where the system does not tell capitals apart.

    There the text decides nothing alone: a volume may tell them apart after all, so the folder itself must be the same one.
    """
    if resolved.is_relative_to(root):
        return True
    if paths.here() == "linux" or not paths.is_inside(str(resolved), str(root), paths.here()):
        return False
    with contextlib.suppress(OSError):
        return Path(*resolved.parts[: len(root.parts)]).samefile(root)
    return False


def _outside(text: str, roots: Sequence[Path]) -> str:
    sentence = f"{text} is outside the folders this agent may use (--root …)."
    if not roots:
        return f"{sentence} It was started without any: start it again with --root and the folder of your data."
    return f"{sentence} Move it into one of them, or start the agent again with --root and its folder."
