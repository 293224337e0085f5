"""Whether this machine can do an offered job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import hardware, recipes
from ..connection.jobs import Reply, refusal
from ..protocol import JobSpec
from ..roots import PathRefused, resolve_inside
from ..words import listed
from .machine import Machine

ROOM_FOR_A_JOB = 1 << 30
Reason = tuple[str, str, str]
"""Whose doing it is, a sentence, and what to do."""


def refused(spec: JobSpec, machine: Machine, roots: Sequence[Path], disk: Path) -> Reply | None:
    """The refusal of a job that this machine cannot do; None when it can. `disk` is a folder on the disk jobs use."""
    reason = _reason_of_machine(spec, machine) or _reason_of_paths(spec, roots) or _reason_of_disk(spec, disk)
    return None if reason is None else refusal(spec.job, spec.attempt, *reason)


def _reason_of_machine(spec: JobSpec, machine: Machine) -> Reason | None:
    if machine.missing:
        return "member_machine", f"This machine lacks {listed(machine.missing)}.", machine.advice or ""
    if spec.recipe not in recipes.CATALOG:
        message = f"The agent on this machine does not know the recipe {spec.recipe[:40]!r}."
        return "member_machine", message, "Download the agent again and start it in place of this one."
    return None


def _reason_of_paths(spec: JobSpec, roots: Sequence[Path]) -> Reason | None:
    try:
        if spec.data.get("kind") == "local":
            resolve_inside(str(spec.data.get("path")), roots, "file")
    except PathRefused as reason:
        return "data", str(reason), "Name a file inside one of the agent's folders."
    try:
        if spec.base_model.startswith("folder:"):
            resolve_inside(spec.base_model.removeprefix("folder:"), roots, "folder")
    except PathRefused as reason:
        return "base_model", str(reason), "Name a folder inside one of the agent's folders."
    return None


def _reason_of_disk(spec: JobSpec, disk: Path) -> Reason | None:
    free = hardware.disk_free_bytes(disk)
    sizes = [spec.data.get("bytes"), *(file.get("bytes") for file in spec.base_files)]
    needed = ROOM_FOR_A_JOB + sum(size for size in sizes if isinstance(size, int))
    if free >= needed:
        return None
    message = f"The disk of {disk} has {free / 1e9:.1f} GB free; this job needs {needed / 1e9:.1f} GB."
    return "member_machine", message, "Free some space, or start the agent with --home on another disk."
