"""Randomness without history: every random choice is a function of the job's seed and of what is chosen.

Nothing here advances a shared generator, so what ran before, where a job was resumed and how often it was measured
cannot change which weights it starts from, in which order it reads, or what happens inside a step.
"""

from __future__ import annotations

import base64
import hashlib
import random
from typing import Any

import numpy as np
import torch


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one purpose: the job's seed and a path such as ("init", parameter name)."""
    digest = hashlib.sha256("/".join(str(part) for part in (seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which `epoch` reads `count` examples: int64 [count].

    Philox is counter-based, and its raw output (unlike `Generator.permutation`) is the same in every version of
    numpy.
    """
    keys = np.random.Philox(key=derive(seed, "order", epoch)).random_raw(count)
    return np.argsort(keys, kind="stable")


def uniform(shape: torch.Size, seed: int, *path: str | int) -> torch.Tensor:
    """Evenly spread numbers in [-1, 1), float32 of this shape: the same bits on every machine and in every version.

    24 bits of Philox's raw output each, scaled by powers of two, which is exact. torch's own normal numbers differ in
    their last bits between processors.
    """
    raw = np.random.Philox(key=derive(seed, *path)).random_raw(shape.numel())
    return torch.from_numpy(((raw >> 40) * 2.0**-23 - 1.0).astype(np.float32)).reshape(shape)


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A generator on the CPU for one purpose, at its beginning."""
    return torch.Generator().manual_seed(derive(seed, *path))


def enter_step(seed: int, step: int) -> None:
    """Put torch's global generators where `step` begins: a retried or resumed step draws the same numbers again."""
    torch.manual_seed(derive(seed, "step", step))


def capture() -> dict[str, Any]:
    """The state of Python's, numpy's and torch's global generators, fit for JSON."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": _text(torch.get_rng_state()),
        "cuda": [_text(state) for state in devices],
    }


def restore(states: dict[str, Any]) -> None:
    """Put back what `capture` returned; states of devices that are not here are left aside."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_tensor(states["torch"]))
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_tensor(state) for state in states["cuda"]])


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
