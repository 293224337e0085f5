"""One job while it trains: its parts, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from agent.recipes import Assignment
from agent.training.base_models import Base
from agent.training.batches import Order
from agent.training.checkpoint import LOG
from agent.training.device import Device
from agent.training.examples import Examples


@dataclass
class TrainingState:
    """Everything a recipe holds between two steps.

    `targets` are the supervised tokens per example, int64 [examples]; `held_out` the indices of the examples to
    measure on. `step` is the last finished step, `saved` the step of the last checkpoint, `budget` the padded
    tokens per micro-batch, `tokens` and `seconds` what all steps so far have read and taken.
    """

    assignment: Assignment
    device: Device
    base: Base
    model: PreTrainedModel | PeftModel
    optimizer: torch.optim.AdamW
    examples: Examples
    targets: np.ndarray
    order: Order
    held_out: np.ndarray
    total_steps: int
    budget: int
    facts: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    saved: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def parameters(self) -> dict[str, Any]:
        return self.assignment.parameters

    @property
    def log(self) -> Path:
        """trainer_log.jsonl: one line per step."""
        return self.assignment.folder / LOG
