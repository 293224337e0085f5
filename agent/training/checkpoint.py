"""Checkpoints: everything a job needs to go on as if it had never stopped, in a folder that is whole or not there.

    checkpoints/checkpoint-120/
        model.safetensors or adapter_model.safetensors    the trainable weights, by parameter name
        optimizer.safetensors                             AdamW's moments and counters
        state.json                                        step, schedule, random generators, counters, environment
        trainer_log.jsonl                                 one line per step so far
        manifest.json                                     bytes and SHA-256 of each of the others

No pickle is read or written. The manifest is written last, and a checkpoint counts only if it agrees with it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from agent.files import file_sha256
from agent.training.files import published

KEPT = 2
MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
LOG = "trainer_log.jsonl"
_PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk whose files agree with its manifest."""

    folder: Path
    step: int
    sha256: str

    def position(self) -> dict[str, Any]:
        """The contents of state.json."""
        return json.loads((self.folder / STATE).read_text())  # type: ignore[no-any-return]

    def weights(self) -> dict[str, torch.Tensor]:
        """The trainable weights by parameter name, on the CPU."""
        return load_file(next(self.folder.glob("*model.safetensors")))

    def optimizer(self) -> dict[str, torch.Tensor]:
        """The optimizer's state, on the CPU."""
        return load_file(self.folder / OPTIMIZER)


def write(
    folder: Path,
    step: int,
    weights: tuple[str, dict[str, torch.Tensor]],
    optimizer: dict[str, torch.Tensor],
    position: dict[str, Any],
    log: Path,
) -> Checkpoint:
    """Write checkpoint-{step} under `folder` and let all go but this one and the one before it.

    Newer ones could not be used, or training would not be here. `weights` is the name of their file and the tensors.
    AgentFailed if the disk is full.
    """
    target = folder / f"{_PREFIX}{step}"
    with published(target) as aside:
        name, tensors = weights
        save_file(tensors, aside / name, metadata={"format": "pt"})
        save_file(optimizer, aside / OPTIMIZER, metadata={"format": "pt"})
        (aside / STATE).write_text(json.dumps(position))
        shutil.copyfile(log, aside / LOG)
        entries = {path.name: _entry(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps({"step": step, "files": entries}, indent=1))
    kept = [one for one in _folders(folder) if _step(one) <= step][:KEPT]
    for old in set(_folders(folder)) - set(kept):
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(target, step, file_sha256(target / MANIFEST))


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint under `folder` that is complete; a damaged one is named and passed over."""
    for candidate in _folders(folder):
        damage = _damage(candidate)
        if not damage:
            return Checkpoint(candidate, _step(candidate), file_sha256(candidate / MANIFEST))
        print(f"{candidate.name} is damaged ({damage}) and is not used.", flush=True)
    return None


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing is."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        for name, entry in files.items():
            if _entry(folder / name) != entry:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as failure:
        return f"{type(failure).__name__} while reading it"
    return None


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))
