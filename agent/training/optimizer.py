"""AdamW, its schedule, and its state as plain tensors."""

from __future__ import annotations

import math

import torch

WARM_UP = 0.03
FLOOR = 0.1
CLIP = 1.0
WEIGHT_DECAY = 0.01


def build(model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and norm gains (one dimension) are not decayed."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.999), eps=1e-8)


def learning_rate(step: int, total: int, peak: float) -> float:
    """The rate of `step` (from 1): linear over the first 3 % of the steps, then a cosine to a tenth of the peak."""
    warm = max(1, math.ceil(total * WARM_UP))
    if step <= warm:
        return peak * step / warm
    progress = (step - warm) / max(1, total - warm)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))


def update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One step of the optimizer at this learning rate; the gradients are let go afterwards."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def clip(model: torch.nn.Module) -> float:
    """Scale the gradients down to a norm of at most 1; returns the norm before."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return float(torch.nn.utils.clip_grad_norm_(trainable, CLIP))


def state_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name: "<parameter>|exp_avg" and so on, on the CPU."""
    return {
        f"{name}|{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `state_tensors` returned. KeyError if it belongs to other parameters."""
    parameters = dict(model.named_parameters())
    for entry, value in tensors.items():
        name, key = entry.rsplit("|", 1)
        parameter = parameters[name]
        # Adam keeps its step counter on the CPU, whatever the parameter's device.
        place = value.clone() if key == "step" else value.to(parameter.device, copy=True)
        optimizer.state[parameter][key] = place
