"""Starting bubblewrap and the launcher: descriptors that go in, what comes back, and nothing in the environment."""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import select
import shutil
import subprocess
from collections.abc import Sequence
from io import FileIO

from .. import settings
from .limits import Unavailable
from .running import Running

START_SECONDS = 20.0


def bubblewrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise Unavailable("There is no bwrap on this machine. Install it: apt install bubblewrap")
    return found


def launcher() -> str:
    source = pkgutil.get_data(__package__, "launcher.py")  # works from the packed program as well
    assert source is not None
    return source.decode()


def pipe(stack: contextlib.ExitStack, reading_stays: bool = False) -> tuple[FileIO, FileIO]:
    reading, writing = os.pipe()
    if reading_stays:
        os.set_blocking(reading, False)
        return FileIO(reading, "rb"), stack.enter_context(FileIO(writing, "wb"))
    return stack.enter_context(FileIO(reading, "rb")), stack.enter_context(FileIO(writing, "wb"))


def holding(stack: contextlib.ExitStack, content: bytes) -> FileIO:
    """A file in memory to read `content` from."""
    file = stack.enter_context(FileIO(os.memfd_create("trainyard"), "r+b"))
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    file.seek(0)
    return file


def spawn(
    command: list[str], stdout: int, passed: Sequence[FileIO], mark: str
) -> tuple[subprocess.Popen[bytes], FileIO]:
    """Start it with nothing but the mark in its environment, for the first process inside can be read there."""
    told, told_end = os.pipe()
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=told_end, cwd="/", start_new_session=True,
            pass_fds=[one.fileno() for one in passed], env={"PATH": os.defpath, settings.JOB_MARK: mark},
        )  # fmt: skip
    except OSError as error:
        os.close(told)
        raise Unavailable(f"{command[0]} cannot be started: {error.strerror}.") from error
    finally:
        os.close(told_end)
    os.set_blocking(told, False)
    return process, FileIO(told, "rb")


def first_process(status: FileIO, running: Running) -> int:
    """The first process inside, by the number it has out here; bwrap tells it as soon as the walls stand."""
    text = b""
    while b"\n" not in text:
        ready, _, _ = select.select([status], [], [], START_SECONDS)
        more = status.read(4096) if ready else b""
        if not more:
            running.process.kill()
            running.process.wait()
            raise Unavailable(f"bwrap could not build the box: {running.complaint() or 'it said nothing'}")
        text += more
    return int(json.loads(text.split(b"\n", 1)[0])["child-pid"])
