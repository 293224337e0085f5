"""Which examples a step reads, and how they are packed into micro-batches.

The examples of a step are fixed by the seed alone. How they are cut into micro-batches is free, because the loss of
the step is divided by all its targets at once: the gradient is the same up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from agent.training.examples import Examples
from agent.training.seeds import permutation

IGNORED = -100
_BUDGETS = {"cpu": 2048, "cuda": 16_384}
_MOST_LOGITS = 2**28


@dataclass(frozen=True)
class Order:
    """In which order a job reads its examples: each epoch reads every one exactly once, its last batch may be short."""

    examples: np.ndarray
    seed: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.examples) / self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Indices of the examples of `step`, counted from 1: int64 [at most batch_size]. No history is needed."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        order: np.ndarray = _permutation(len(self.examples), self.seed, epoch)
        chosen: np.ndarray = self.examples[order[position * self.batch_size : (position + 1) * self.batch_size]]
        return chosen


@dataclass(frozen=True)
class MicroBatch:
    """`inputs` and `targets`, int64 [rows, tokens] on the host, padded on the right; a target that does not count is
    IGNORED. `tokens` counts those that are not padding.

    The target of a position is the token after it in the same row. No attention mask is needed: attention is causal,
    so no token sees the padding after it. Padding is told by length and never by a token's id.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    tokens: int


def token_budget(device: str, vocabulary: int) -> int:
    """Padded tokens per micro-batch to begin with: enough to keep the device busy, few enough logits to hold."""
    return max(256, min(_BUDGETS.get(device, _BUDGETS["cpu"]), _MOST_LOGITS // vocabulary))


def micro_batches(examples: Examples, indices: Sequence[int] | np.ndarray, budget: int) -> Iterator[MicroBatch]:
    """Cut examples into micro-batches of at most `budget` padded tokens (one example may exceed it), longest first.

    Sorting by length keeps the padding small, and beginning with the longest shows at once whether it fits.
    """
    pieces = [examples.piece(int(index)) for index in indices]
    pieces.sort(key=lambda piece: -len(piece.tokens))
    while pieces:
        rows = max(1, budget // (len(pieces[0].tokens) - 1))
        taken, pieces = pieces[:rows], pieces[rows:]
        longest = len(taken[0].tokens) - 1
        inputs = torch.zeros(len(taken), longest, dtype=torch.int64)
        targets = torch.full((len(taken), longest), IGNORED, dtype=torch.int64)
        for row, piece in enumerate(taken):
            count = len(piece.tokens) - 1
            tokens = torch.from_numpy(piece.tokens.astype(np.int64))
            inputs[row, :count] = tokens[:-1]
            targets[row, :count] = torch.where(torch.from_numpy(piece.supervised[1:].copy()), tokens[1:], IGNORED)
        yield MicroBatch(inputs, targets, tokens=sum(len(piece.tokens) for piece in taken))


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return permutation(count, seed, epoch)
