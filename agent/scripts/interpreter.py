"""Which Python runs a script on a member's machine: the one they name, one made for its requirements, or the agent's.

An environment made from a `requirements.txt` is kept under the hash of its text and of the Python it was made with, so
the next job with the same requirements starts at once. It appears whole or not at all: it is built aside and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import JobFailed

INSTALL_SECONDS = 3600
MOST_REQUIREMENTS_BYTES = 262_144
_PYTHON = re.compile(r"python(3(\.\d{1,2})?)?(\.exe)?|pypy3?")
_ADVICE = "Mend requirements.txt, or name the interpreter of an environment that has what the script needs, then press Try again."


def named(text: str, roots: Sequence[str]) -> Path:
    """The interpreter a member named for a job. Raises JobFailed unless it lies in an allowed folder and is a Python.

    The name is not followed to its end: a virtual environment's `bin/python` is a link to the system's.
    """
    path = Path(text).expanduser()
    try:
        folder = path.parent.resolve(strict=True)
    except (OSError, RuntimeError):
        folder = None
    allowed = folder is not None and any(folder.is_relative_to(root) for root in roots)
    own = path.is_absolute() and path == Path(sys.executable)
    if not path.is_absolute() or not (allowed or own) or not _PYTHON.fullmatch(path.name):
        raise JobFailed(
            "data",
            f"{text} is no Python inside the folders this agent may use.",
            "Name the whole path of an interpreter such as /home/you/project/venv/bin/python, and start the agent with "
            "--root and its folder.",
        )
    if not os.access(path, os.X_OK):
        raise JobFailed("data", f"There is no program {text} on this machine.", "Look up the interpreter's path again.")
    return path


def for_requirements(requirements: Path, environments: Path, say: Callable[[str], None]) -> Path:
    """The Python of an environment that holds what `requirements` lists; made now unless it is kept already.

    `say` is called now and then and may raise to interrupt. Raises JobFailed when it cannot be made.
    """
    text = requirements.read_bytes()
    if len(text) > MOST_REQUIREMENTS_BYTES:
        raise JobFailed("member_code", f"{requirements.name} is larger than 256 KiB.", _ADVICE)
    python = f"{sys.version} {sys.executable}".encode()
    target = environments / hashlib.sha256(python + b"\0" + text).hexdigest()[:24]
    made = target / ("Scripts" if os.name == "nt" else "bin") / "python"
    environments.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_maker(environments / f"{target.name}.lock", say):
        if not made.exists():
            _make(requirements, target, say)
    return made


def _make(requirements: Path, target: Path, say: Callable[[str], None]) -> None:
    """Build the environment where it will stay, marked as unfinished until it is whole: a virtual environment cannot be
    moved, its programs hold its path."""
    shutil.rmtree(target, ignore_errors=True)
    print(f"Making an environment for {requirements.name}; the next job with the same file will find it.", flush=True)
    try:
        _run([sys.executable, "-m", "venv", str(target)], say, "An environment could not be made")
        python = target / ("Scripts" if os.name == "nt" else "bin") / "python"
        install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--requirement"]
        _run([*install, str(requirements)], say, f"What {requirements.name} lists could not be installed")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _run(command: list[str], say: Callable[[str], None], failure: str) -> None:
    """Run one step of the making; what it prints goes to the log."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(INSTALL_SECONDS * 5):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
                break
            say("Installing what the script needs.")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    if process.returncode != 0:
        raise JobFailed("member_code", f"{failure} (exit code {process.returncode}).", f"The log says why. {_ADVICE}")


@contextlib.contextmanager
def _only_maker(lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Let one job at a time make an environment; the others wait and find it made."""
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                say("Another job is making the same environment.")
                time.sleep(0.2)
        yield
