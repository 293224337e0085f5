"""Saving a job so that it can go on, and going on: with a receipt that says how exactly."""

from __future__ import annotations

import json
import math
import shutil
from typing import Any

import torch
from peft import PeftModel

from agent.errors import JobFailed
from agent.training import checkpoint, loss, optimizer, seeds
from agent.training.batches import micro_batches
from agent.training.state import TrainingState

_PROBED = 4


def save(state: TrainingState) -> None:
    """Write a checkpoint and report it, unless the last one is of this very step. AgentFailed if the disk is full."""
    if state.step == state.saved:
        return
    file = "adapter_model.safetensors" if isinstance(state.model, PeftModel) else "model.safetensors"
    weights = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in state.model.named_parameters()
        if parameter.requires_grad
    }
    written = checkpoint.write(
        state.assignment.folder / "checkpoints",
        state.step,
        (file, weights),
        optimizer.state_tensors(state.model, state.optimizer),
        _position(state),
        state.log,
    )
    state.saved = state.step
    state.assignment.report("checkpoint", step=state.step, path=written.folder.name, sha256=written.sha256)


def pick_up(state: TrainingState) -> None:
    """Go on from the newest complete checkpoint and report a receipt; without one, begin a fresh log.

    JobFailed (platform) if the checkpoint holds other weights than this job trains.
    """
    found = checkpoint.latest(state.assignment.folder / "checkpoints")
    if found is None:
        state.log.parent.mkdir(parents=True, exist_ok=True)
        state.log.write_text("", encoding="utf-8")
        return
    position = found.position()
    try:
        _load_weights(state, found.weights())
        optimizer.load_state(state.model, state.optimizer, found.optimizer())
    except (KeyError, RuntimeError) as failure:
        raise JobFailed(
            "platform",
            f"The checkpoint of step {found.step:,} was written by a job with other settings or another base model.",
            "Start a new job.",
        ) from failure
    seeds.restore(position["random"])
    state.step = state.saved = found.step
    state.tokens, state.seconds, state.budget = position["tokens"], position["seconds"], position["budget"]
    shutil.copyfile(found.folder / checkpoint.LOG, state.log)
    _receipt(state, found, position)


def _load_weights(state: TrainingState, weights: dict[str, torch.Tensor]) -> None:
    parameters = {name: p for name, p in state.model.named_parameters() if p.requires_grad}
    if parameters.keys() != weights.keys():
        raise KeyError("the names of the trained weights differ")
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)


def _position(state: TrainingState) -> dict[str, Any]:
    """state.json: where the job stands, and what a resumed one is compared with."""
    return {
        "step": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "budget": state.budget,
        "random": seeds.capture(),
        "probe_loss": _probe(state),
        "same": _identity(state),
    }


def _identity(state: TrainingState) -> dict[str, Any]:
    """Everything that must be the same before and after a pause for the job to go on as if there had been none."""
    following = min(state.step + 1, state.total_steps)
    return {
        "settings": state.parameters,
        "base model": state.assignment.base_name,
        "data, template or truncation": state.examples.fingerprint(),
        "number of steps": state.total_steps,
        "learning rate": optimizer.learning_rate(following, state.total_steps, state.parameters["learning_rate"]),
        "next batch": state.order.batch(following).tolist(),
        "machine": state.device.environment(),
    }


def _probe(state: TrainingState) -> float:
    """The loss on a fixed handful of examples: the same before and after a pause, or something was not restored."""
    batches = micro_batches(state.examples, state.order.examples[:_PROBED], budget=1)
    return loss.evaluate(state.model, batches, state.device)


def _receipt(state: TrainingState, found: checkpoint.Checkpoint, position: dict[str, Any]) -> None:
    """Compare what was saved with what is here now: equal in everything is exact, anything else a warm start."""
    before, after = position["probe_loss"], _probe(state)
    now = json.loads(json.dumps(_identity(state)))
    differences = [name for name, value in now.items() if position["same"].get(name) != value]
    if not math.isclose(before, after, rel_tol=0.0 if state.device.repeatable else 1e-3):
        differences.append("probe loss")
    verdict = "warm start" if differences else "exact"
    state.assignment.report(
        "checkpoint",
        step=found.step,
        path=found.folder.name,
        sha256=found.sha256,
        resumed=True,
        probe_before=before,
        probe_after=after,
        verdict=verdict,
        differences=differences,
    )
    reason = f" (not the same as before: {', '.join(differences)})" if differences else ""
    print(
        f"Resumed after step {found.step:,}: {verdict}{reason}. Probe loss {before:.6f} before, {after:.6f} now.",
        flush=True,
    )
