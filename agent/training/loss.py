"""The objective: the mean negative log-likelihood of the supervised tokens of a whole optimizer step."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from peft import PeftModel
from torch.nn import functional

from agent.training.batches import IGNORED, MicroBatch
from agent.training.device import Device


def summed(model: torch.nn.Module, batch: MicroBatch, device: Device) -> torch.Tensor:
    """Sum of the losses of a micro-batch's targets, float32 scalar on the device.

    Logits are computed only in columns that hold a target, where the model can be told so (`logits_to_keep`).
    """
    # All that depends on the mask is worked out on the host: a GPU would have to be waited for each time.
    counted = batch.targets != IGNORED
    columns = counted.any(dim=0).nonzero().squeeze(1)
    places = tuple(indices.to(device.kind) for indices in counted[:, columns].nonzero(as_tuple=True))
    targets = batch.targets[counted].to(device.kind)
    columns, inputs = columns.to(device.kind), batch.inputs.to(device.kind)
    with device.precision():
        if _selects_logits(model):
            logits = model(input_ids=inputs, use_cache=False, logits_to_keep=columns).logits
        else:
            logits = model(input_ids=inputs, use_cache=False).logits[:, columns]
    return functional.cross_entropy(logits[places].float(), targets, reduction="sum")


def accumulate(model: torch.nn.Module, batches: Iterable[MicroBatch], targets: int, device: Device) -> float:
    """Add the gradient of a step to the parameters' `grad` and return the step's loss.

    Each micro-batch's sum is divided by `targets`, the supervised tokens of the whole step, before its backward pass:
    a mean of means would weigh the tokens of short micro-batches more.
    """
    total = torch.zeros((), device=device.kind)
    for batch in batches:
        loss = summed(model, batch, device) / targets
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return float(total)


@torch.no_grad()
def evaluate(model: torch.nn.Module, batches: Iterable[MicroBatch], device: Device) -> float:
    """Mean loss over all targets of the batches: every token counts the same, however the batches are cut."""
    total, targets = 0.0, 0
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for batch in batches:
            total += float(summed(model, batch, device))
            targets += int((batch.targets != IGNORED).sum())
    return total / targets


def _selects_logits(model: torch.nn.Module) -> bool:
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(plain.forward).parameters
