"""When memory runs out: telling it from other errors, smaller micro-batches, and what to say if nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from agent.errors import JobFailed
from agent.training.batches import MicroBatch
from agent.training.device import Device, memory_figures

RETRIES = 2


def ran_out(failure: BaseException) -> bool:
    """Whether an exception means that memory was short, on a GPU or on the host."""
    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    # The allocator of the CPU raises a plain RuntimeError.
    return isinstance(failure, RuntimeError) and "not enough memory" in str(failure).lower()


def halved(batches: Sequence[MicroBatch]) -> int | None:
    """The token budget that cuts the largest of these micro-batches in two; None if each is one example already."""
    divisible = [batch.inputs.numel() for batch in batches if len(batch.inputs) > 1]
    return max(divisible) // 2 if divisible else None


def row_does_not_fit(step: int, batches: Sequence[MicroBatch], parameters: dict[str, Any], device: Device) -> JobFailed:
    """The error for a step that smaller micro-batches did not help, with the figures and the cheapest change."""
    rows, tokens = max((batch.inputs.shape for batch in batches), key=lambda shape: shape.numel())
    return JobFailed(
        "out_of_memory",
        f"Out of memory at step {step:,} with {rows:,} example{'s' if rows > 1 else ''} of {tokens:,} tokens at once; "
        f"{memory_figures(device.kind)}. Smaller pieces did not help.",
        _cheapest_change(parameters, tokens),
    )


def does_not_fit(parameters: dict[str, Any]) -> JobFailed:
    """The error for a model that with its gradients and the optimizer's state is too large for this machine."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return JobFailed(
        "out_of_memory",
        f"The model does not fit with what its training needs beside it; {memory_figures(kind)}.",
        _cheapest_change(parameters, tokens=0),
    )


def _cheapest_change(parameters: dict[str, Any], tokens: int) -> str:
    if parameters["method"] == "full":
        return "Choose LoRA: it needs no gradients and no optimizer state for the base model."
    if tokens > 256:
        return f"Set the longest example to {tokens // 2:,} tokens: it halves what a row takes."
    return "Choose a smaller base model, or a machine with more memory."


def release(model: torch.nn.Module) -> None:
    """Drop half-built gradients and give cached blocks back to the device."""
    model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
