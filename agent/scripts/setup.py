"""Everything that is found out about a script before it starts: where it lies, which file, with what, from which checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import sandbox
from ..errors import AgentFailed, JobFailed
from ..files import write_atomically
from ..recipes import Assignment
from ..sandbox import Limits
from . import manifest as manifests
from .archive import BadArchive, lone_folder
from .curves import Counting
from .found_files import DEFAULT_CHECKPOINTS, Folder, newest_checkpoint
from .manifest import BadManifest, Manifest
from .terms import Terms

DEFAULT_OUTPUTS = ("output/**", "outputs/**")
WORK = "work"
TOOLS = ".trainyard"
UNPACKED = "unpacked"
NOTE = "script.json"
SEEN = "script.seen"  # its date is the moment at which the script was seen at work last
SEEN_SECONDS, SEEN_LATE = 1.0, 2.0  # how often that is noted, and how much later it may have written still
LOOKING_SECONDS = 300.0  # nobody pays for them, and a folder over a slow network may take minutes
_MEND = "Mend that in the script's folder, then press Try again."
_NAME_ANOTHER = "Name another file with Change and order again, or put it there and press Try again."


@dataclass(frozen=True)
class Setup:
    """A script ready to be started. `since` is when the job first began (Unix seconds), `requirements` the file that lists
    what it needs unless an interpreter is named, `checkpoint` the file or folder below `folder` that it goes on from,
    `counting` how it counted in an earlier attempt."""

    terms: Terms
    folder: Folder
    manifest: Manifest
    entry: str
    arguments: list[str] | None
    values: dict[str, Any]
    requirements: str | None
    since: float
    outputs: tuple[str, ...]
    checkpoints: tuple[str, ...]
    checkpoint: str | None
    resume: tuple[str, ...]
    counting: Counting

    def line(self, checkpoint: str | None) -> list[str]:
        """The script and what follows it; `checkpoint` is its path as the script sees it."""
        line = manifests.command_line(self.manifest, self.entry, self.arguments, self.values)
        return line + [text.replace(manifests.CHECKPOINT, checkpoint) for text in self.resume if checkpoint is not None]

    @property
    def limits(self) -> Limits | None:
        """What it may use in its box; None on a machine of its owner's."""
        return Limits.from_json(self.terms.sandbox.get("limits") or {}) if self.terms.sandbox else None

    @property
    def samples(self) -> Folder:
        return self.folder.below(self.manifest.samples)


def prepare(assignment: Assignment) -> Setup:
    """Look at the script of a job. Raises JobFailed with what is wrong, or AgentFailed when the sandbox is at fault."""
    terms = Terms.from_dict(assignment.terms)
    folder = _unpacked(assignment, terms) if terms.sandbox else Folder(_trusted(assignment.data))
    parameters = assignment.parameters
    since, counting, is_first = _begun(assignment.folder)
    looked_at = replace(folder, attend=_until(time.monotonic() + LOOKING_SECONDS))
    try:
        manifest = _manifest(folder)
        entry = _entry(manifest, looked_at, parameters.get("entry"))
        values, faults = manifest.values(parameters.get("values") or {})
        is_named = bool(parameters.get("python"))  # its packages are there already
        needed = None if is_named else manifests.requirements_of(manifest, lambda name: _is_there(folder, name))
    except BadManifest as refusal:
        raise JobFailed("member_code", str(refusal), _MEND) from None
    if faults:
        raise JobFailed("member_code", next(iter(faults.values())), "Order the training again with other settings.")
    checkpoints = tuple(parameters.get("checkpoints") or manifest.checkpoints or DEFAULT_CHECKPOINTS)
    until = math.inf if terms.sandbox else _seen_last(assignment.folder)  # a box has a folder of its own
    checkpoint = None if is_first else newest_checkpoint(looked_at, checkpoints, since, until=until)
    return Setup(
        terms=terms,
        folder=folder,
        manifest=manifest,
        entry=entry,
        arguments=parameters.get("arguments"),
        values=values,
        requirements=needed,
        since=since,
        outputs=tuple(parameters.get("outputs") or manifest.outputs or DEFAULT_OUTPUTS),
        checkpoints=checkpoints,
        checkpoint=checkpoint and checkpoint[0],
        resume=tuple(parameters.get("resume") or manifest.resume),
        counting=counting,
    )


def _entry(manifest: Manifest, folder: Folder, chosen: str | None) -> str:
    """The script that is started. Raises JobFailed, with the way to the form unless yard.toml names what is not there."""
    try:
        return manifests.entry_of(manifest, {name for name, _ in folder.files(("**/*.py",))}, chosen)
    except BadManifest as refusal:
        advice = _MEND if manifest.entry and not chosen else _NAME_ANOTHER
        raise JobFailed("member_code", str(refusal), advice) from None


def _until(end: float) -> Callable[[], None]:
    def attend() -> None:
        if time.monotonic() > end:
            message = f"Looking at the script's folder took more than {LOOKING_SECONDS:,.0f} seconds."
            raise JobFailed(
                "member_code", message, "Keep fewer files in it, name fewer patterns, then press Try again."
            )

    return attend


def note_counting(folder: Path, since: float, counting: Counting) -> None:
    """Note how the script counts for the next attempt, in the job's folder: a script in a box cannot reach it."""
    write_atomically(folder / NOTE, json.dumps({"since": since, "counting": counting._asdict()}))


@contextlib.contextmanager
def seen_at_work(folder: Path) -> Iterator[None]:
    """Note in the job's folder, until the block ends, that its script is at work. What is written to the script's folder
    later is another job's, and no checkpoint of this one; a note that is taken again and again outlives a kill."""
    ended = threading.Event()

    def note() -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason to end a training
            (folder / SEEN).touch()

    def note_on() -> None:
        while not ended.wait(SEEN_SECONDS):
            note()

    note()
    noting = threading.Thread(target=note_on, daemon=True)
    noting.start()
    try:
        yield
    finally:
        ended.set()
        noting.join()
        note()


def _seen_last(folder: Path) -> float:
    """The moment up to which files in the script's folder are this job's; without end where nothing was noted."""
    try:
        return (folder / SEEN).stat().st_mtime + SEEN_LATE
    except OSError:
        return math.inf


def _begun(folder: Path) -> tuple[float, Counting, bool]:
    """When the job first began, how its script counts, and whether the job begins now. A file older than that belongs to
    somebody else."""
    note = folder / NOTE
    try:
        said = json.loads(note.read_text("utf-8"))
        return float(said["since"]), Counting.from_json(said.get("counting")), False
    except (OSError, ValueError, KeyError, TypeError):
        # A file system may cut a moment down to its whole second.
        since = float(int(time.time()))
        write_atomically(note, json.dumps({"since": since}))
        return since, Counting(), True


def _manifest(folder: Folder) -> Manifest:
    if not _is_there(folder, manifests.NAME):
        return Manifest()
    with folder.open(manifests.NAME) as file:
        return manifests.parse(file.read(manifests.MOST_BYTES + 1))


def _is_there(folder: Folder, name: str) -> bool:
    """Whether the folder holds this file. Raises BadManifest for one that is there and is not read, such as a link."""
    try:
        folder.open(name).close()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BadManifest(
            f"{name} in the script's folder cannot be read ({error.strerror}): it must be a file of its own, links are not "
            "followed. Copy it there."
        ) from None
    return True


def _trusted(folder: Path) -> Path:
    """A script's folder on a member's machine: theirs, and nobody else may write to it. Raises JobFailed."""
    facts = folder.stat()
    if os.name != "nt" and facts.st_uid not in (os.geteuid(), 0):
        raise JobFailed("data", f"{folder} belongs to another user of this machine.", "Use a folder of your own.")
    if os.name != "nt" and facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
        raise JobFailed("data", f"Anybody on this machine may write to {folder}.", f"Run: chmod o-w {folder}")
    return folder


def _unpacked(assignment: Assignment, terms: Terms) -> Folder:
    """The folder of a script that came as an archive; what an earlier attempt left in it stays."""
    work, done = assignment.folder / WORK, assignment.folder / UNPACKED
    if not done.exists():
        assignment.report("stage", stage="prepare", message="Unpacking the script.")
        sandbox.remove(work)  # half of it, from an attempt that was killed
        try:
            entries = sandbox.unpack(assignment.data, work, int(terms.sandbox["lane"]))
        except BadArchive as refusal:
            raise JobFailed("data", refusal.message, "Pack the folder again and upload it.") from None
        except sandbox.Unavailable as failure:
            raise AgentFailed(str(failure)) from None
        write_atomically(done, json.dumps({"folder": lone_folder(entry.name for entry in entries)}))
    work.chmod(0o755)  # where the worker is not root, the script owns it and may have closed it
    return Folder(work, json.loads(done.read_text("utf-8"))["folder"])


def describe(setup: Setup, line: list[str], python: str, lane: str | None, variables: list[str]) -> dict[str, Any]:
    """The facts of a start, for the job's page."""
    return {
        "command": ["python", *line],
        "interpreter": python,
        "lane": lane,
        "environment": variables,
        "checkpoint_given": setup.checkpoint,
        "checkpoint_file": setup.checkpoint,  # the newest, until the script writes another
        "can_resume": bool(setup.resume),
        "outputs_wanted": list(setup.outputs),
        "outputs": None,  # what an earlier attempt told is over
        "exit_code": None,
    }
