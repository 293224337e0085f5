"""Which Python runs a script on a member's machine: the one they name, one made for its requirements, or the agent's.

An environment made from a `requirements.txt` is kept under the hash of what that file means and of the Python it was
made with, so the next job with the same requirements starts at once. It counts only once it is marked as whole: what
somebody was killed over is removed and made again.
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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import JobFailed
from ..files import write_atomically
from . import environment, requirements

INSTALL_SECONDS = 3600
WHOLE = "whole"  # the mark in an environment that everything was installed into
# -P: a file of the script's folder must not be taken for a module of the installer.
_INSTALL = ("-P", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--requirement")
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


def for_requirements(file: Path, environments: Path, allowed: Collection[str], say: Callable[[str], None]) -> Path:
    """The Python of an environment that holds what a requirements file lists; made now unless it is kept already.

    What is installed runs code of its own: of the agent's variables that name a secret it is given the `allowed` ones.
    `say` is called now and then and may raise to interrupt. Raises JobFailed when it cannot be made.
    """
    try:
        meaning = requirements.meaning(file)
    except requirements.BadRequirements as refusal:
        raise JobFailed("member_code", str(refusal), _ADVICE) from None
    python = f"{sys.version} {sys.executable}".encode()
    target = environments / hashlib.sha256(python + b"\0" + meaning).hexdigest()[:24]
    environments.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_maker(environments / f"{target.name}.lock", say) as lock:
        if not ((target / WHOLE).exists() and _python_in(target).exists()):
            _make(file, target, allowed, lock, say)
    return _python_in(target)


def _python_in(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


def _make(file: Path, target: Path, allowed: Collection[str], lock: int, say: Callable[[str], None]) -> None:
    """Build the environment where it will stay and mark it once it is whole: a virtual environment cannot be moved, its
    programs hold its path."""
    shutil.rmtree(target, ignore_errors=True)
    given = environment.for_an_installer(os.environ, allowed)
    print(f"Making an environment for {file.name}; the next job with the same file will find it.", flush=True)
    try:
        venv = [sys.executable, "-P", "-m", "venv", str(target)]
        _run(venv, file.parent, given, lock, say, "An environment could not be made")
        install = [str(_python_in(target)), *_INSTALL, file.name]
        _run(install, file.parent, given, lock, say, f"What {file.name} lists could not be installed")
        os.sync()  # after a power cut the mark must not be there without what it stands for
        write_atomically(target / WHOLE, "")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _run(
    command: list[str], folder: Path, given: Mapping[str, str], lock: int, say: Callable[[str], None], failure: str
) -> None:
    """Run one step of the making in `folder`; what it prints goes to the log. It holds the lock too: an installer that
    outlives this process is waited for, and not worked against."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, cwd=folder, env=given, start_new_session=True, pass_fds=(lock,)
    )
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
def _only_maker(lock: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Let one job at a time make an environment; the others wait and find it made. Gives the descriptor that is locked."""
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                say("Another job is making the same environment.")
                time.sleep(0.2)
        yield file.fileno()
