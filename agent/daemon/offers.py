"""Whether this machine can do an offered job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import hardware, recipes
from ..connection.jobs import Reply, refusal
from ..protocol import JobSpec
from ..roots import PathRefused, resolve_inside
from ..words import listed
from ..workspace import Workspace
from .machine import Machine
from .options import Options

ROOM_FOR_A_JOB = 1 << 30
Reason = tuple[str, str, str]
"""Whose doing it is, a sentence, and what to do."""


def refused(spec: JobSpec, machine: Machine, options: Options, workspace: Workspace) -> Reply | None:
    """The refusal of a job that this machine cannot do; None when it can."""
    reason = (
        _reason_of_machine(spec, machine)
        or _reason_of_scripts(spec, options)
        or _reason_of_paths(spec, options.roots)
        or _reason_of_disk(spec, workspace.jobs / str(spec.job))
    )
    return None if reason is None else refusal(spec.job, spec.attempt, *reason)


def _reason_of_machine(spec: JobSpec, machine: Machine) -> Reason | None:
    if spec.recipe not in recipes.CATALOG:
        message = f"The agent on this machine does not know the recipe {spec.recipe[:40]!r}."
        return "member_machine", message, "Download the agent again and start it in place of this one."
    if machine.missing and spec.recipe != "script":  # a script brings, or names, what it needs
        return "member_machine", f"This machine lacks {listed(machine.missing)}.", machine.advice or ""
    return None


def _reason_of_scripts(spec: JobSpec, options: Options) -> Reason | None:
    """A script runs only where its owner has said so, and only from a folder of theirs: never what a server sends."""
    if spec.recipe != "script":
        return None
    if not options.allow_scripts:
        message = "The agent on this machine was started without --allow-scripts, so it runs no scripts."
        return "member_machine", message, "Start it again with --allow-scripts, then press Try again."
    if spec.data.get("kind") != "local":
        message = "A script that comes from the server does not run on this machine, only one in a folder of its own."
        return "data", message, "Copy the script's folder below a --root of the agent and name it by its path."
    return None


def _reason_of_paths(spec: JobSpec, roots: Sequence[Path]) -> Reason | None:
    is_script = spec.recipe == "script"
    try:
        if spec.data.get("kind") == "local":
            resolve_inside(str(spec.data.get("path")), roots, "folder" if is_script else "file")
    except PathRefused as reason:
        what = "the script's folder" if is_script else "a file"
        return "data", str(reason), f"Name {what} inside one of the agent's folders."
    try:
        if spec.base_model.startswith("folder:"):
            resolve_inside(spec.base_model.removeprefix("folder:"), roots, "folder")
    except PathRefused as reason:
        return "base_model", str(reason), "Name a folder inside one of the agent's folders."
    return None


def _reason_of_disk(spec: JobSpec, job_folder: Path) -> Reason | None:
    """Room for what has yet to arrive: what an earlier attempt has brought is there already."""
    free = hardware.disk_free_bytes(job_folder)
    sizes = [spec.data.get("bytes"), *(file.get("bytes") for file in spec.base_files)]
    needed = sum(size for size in sizes if isinstance(size, int)) - _arrived(job_folder)
    needed = ROOM_FOR_A_JOB + max(0, needed)
    if free >= needed:
        return None
    message = f"The disk of {job_folder.parent} has {free / 1e9:.1f} GB free; this job needs {needed / 1e9:.1f} GB."
    return "member_machine", message, "Free some space, or start the agent with --home on another disk."


def _arrived(job_folder: Path) -> int:
    paths = [path for name in ("data", "base") for path in (job_folder / name).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in paths)
