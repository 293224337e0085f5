"""What a curve is made of: points, the rules that find them, and how numbers and names are written down."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

MAX_STEP = 2**31  # steps are below; what the server stores
MAX_NAME = 60

RULES = {
    "helper": "Calls of the helper: from trainyard import log",
    "tensorboard": "TensorBoard event files in the work folder",
    "trainer": "Dictionaries such as: {'loss': 2.31, 'learning_rate': 5e-05, 'epoch': 0.5}",
    "epochs": "Lines such as: Epoch 3/10 loss=0.42 acc=0.91",
    "iterations": "Lines such as: iter 10: loss 2.31, time 5ms",
    "bars": "Progress bars such as: 10%|█    | 50/500 [00:10<01:30, 5.00it/s, loss=0.5]",
    "tables": "Tables such as: epoch  train_loss  valid_loss  accuracy",
    "pairs": "Lines such as: loss: 0.5 | lr: 1e-3",
}

_THOUSANDS = re.compile(r"[-+]?+[1-9][0-9]{0,2}(?:,[0-9]{3})++(?![0-9,])")
_NOT_IN_NAMES = re.compile(r"[^\w@/.%'+-]+")


class Point(NamedTuple):
    """What one line says: `values` at `step` of `total` (None when nobody says), found by `rule`.

    A value is finite, or None where something that is not a number was given. `values` may be empty: then the point
    tells how far the training is, and nothing else.
    """

    rule: str
    step: int
    values: dict[str, float | None]
    total: int | None


def number_in(text: str) -> float | None:
    """The number a text spells (`1,234.5`, `0,5`, `5e-05`, `nan`), None for what is not finite."""
    if "," in text:
        text = text.replace(",", "" if _THOUSANDS.match(text) else ".")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def step_in(text: str) -> int | None:
    """The step or count that the digits of a text spell; None for anything else and for what is 2**31 or more."""
    if "," in text and not _THOUSANDS.match(text):
        return None
    digits = text.replace(",", "").rstrip(".")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 10:
        return None
    return valid_step(int(digits))


def valid_step(value: Any) -> int | None:
    """A whole number that may be a step, else None; 10.0 counts as 10."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < MAX_STEP else None


@lru_cache(maxsize=2048)
def normalised(name: str) -> str:
    """A metric's name as it is stored: lower case, words joined by `_`, at most 60 characters; empty if none is left."""
    words = (word.strip(".'-+") for word in name[:200].lower().split())
    return _NOT_IN_NAMES.sub("", "_".join(word for word in words if word))[:MAX_NAME].strip("_/.")
