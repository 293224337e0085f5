"""The settings of the recipe `language`, and the arithmetic of its steps. Needs no torch: pages and prices use it."""

from __future__ import annotations

import math
from typing import Any

from .parameters import Parameter, Recipe

YARD_TINY = "yard-tiny"
HELD_OUT_SHARE = 0.02
HELD_OUT_MOST = 200
HELD_OUT_FROM = 100


def default_learning_rate(method: str, base_model: str | None) -> float:
    """The learning rate when none is given. yard-tiny starts from random weights and needs much larger steps than a
    model that already knows something; the figures for it were measured on school-maths answers (4,000 rows)."""
    if base_model == YARD_TINY:
        return 0.003 if method == "lora" else 0.002
    return 2e-4 if method == "lora" else 5e-5


def held_out_target(rows: int) -> int:
    """How many rows are held out to measure on: 2 %, at most 200, none below 100 rows."""
    return min(HELD_OUT_MOST, round(rows * HELD_OUT_SHARE)) if rows >= HELD_OUT_FROM else 0


def steps_for(examples: int, parameters: dict[str, Any]) -> int:
    """Optimizer steps for this many training examples; the last batch of an epoch may be short."""
    if parameters.get("max_steps"):
        return int(parameters["max_steps"])
    per_epoch = math.ceil(examples / int(parameters["batch_size"]))
    # Rounded first: 1.1 epochs of 10 steps are 11, although 1.1 * 10 is a hair above 11 in binary.
    return max(1, math.ceil(round(float(parameters["epochs"]) * per_epoch, 6)))


def total_steps(rows: int, parameters: dict[str, Any]) -> int:
    """Optimizer steps of a job over a data set of `rows` rows, as far as the number of rows alone tells: rows that
    turn out too long may be dropped or split and change it. Pure, so a page can quote before anything is read."""
    return steps_for(max(1, rows - held_out_target(rows)), parameters)


def _settle(given: dict[str, Any], base_model: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Fill in the defaults that depend on other settings; a sentence for each contradiction."""
    errors = _contradictions(given)
    if errors:
        return given, errors
    filled: dict[str, Any] = {
        p.name: p.default if given[p.name] is None else given[p.name] for p in LANGUAGE.parameters
    }
    if filled["max_steps"] is not None:
        filled["epochs"] = None
    if filled["method"] == "full":
        filled["lora_rank"] = None
    if filled["learning_rate"] is None:
        filled["learning_rate"] = default_learning_rate(filled["method"], base_model)
    return filled, {}


def _contradictions(resolved: dict[str, Any]) -> dict[str, str]:
    errors = {}
    if resolved.get("epochs") is not None and resolved.get("max_steps") is not None:
        errors["max_steps"] = "Give either epochs or max_steps, not both: each of them says when to stop."
    if resolved.get("method") == "full" and resolved.get("lora_rank") is not None:
        errors["lora_rank"] = "The rank belongs to LoRA. Leave it out for full training, or choose the method lora."
    return errors


LANGUAGE = Recipe(
    name="language",
    label="Language model",
    module="agent.recipes.language",
    settle=_settle,
    parameters=(
        Parameter(
            "method", "choice", "Method",
            "LoRA trains a small adapter beside the frozen model: less memory, a small file. "
            "Full training changes every weight.",
            default="lora", choices=("lora", "full"),
        ),
        Parameter(
            "epochs", "float", "Epochs",
            "How often each row is read. One is enough for most data; with more than three it may learn them by heart.",
            default=1.0, minimum=0.001, maximum=1000,
        ),
        Parameter(
            "max_steps", "int", "Steps",
            "Instead of epochs: stop after this many optimizer steps, whatever the size of the data.",
            minimum=1, maximum=1_000_000,
        ),
        Parameter(
            "learning_rate", "float", "Learning rate",
            "How far each step moves the weights. Left empty it fits the method: 0.0002 for LoRA, 0.00005 for full "
            "training. yard-tiny has never been trained and starts from chance, so there it is 0.003 and 0.002.",
            minimum=1e-8, maximum=1.0,
        ),
        Parameter(
            "lora_rank", "int", "LoRA rank",
            "Size of the adapter. 8 to 32 suits most data; a higher rank can learn more and takes more memory.",
            default=16, minimum=1, maximum=256,
        ),
        Parameter(
            "batch_size", "int", "Batch size",
            "Examples per optimizer step. They are cut into smaller pieces by themselves when memory is short, "
            "with the same result.",
            default=8, minimum=1, maximum=1024,
        ),
        Parameter(
            "max_length", "int", "Longest example",
            "In tokens. Longer rows are shortened as the next setting says; memory and time grow with it.",
            default=512, minimum=16, maximum=32_768,
        ),
        Parameter(
            "truncation", "choice", "Rows that are too long",
            "keep_tail leaves out the beginning of the prompt and keeps the answer; drop leaves the row out; "
            "split makes several examples of it. What happened to how many rows is shown.",
            default="keep_tail", choices=("keep_tail", "drop", "split"),
        ),
        Parameter(
            "seed", "int", "Seed",
            "The same seed, data and settings give the same model on the same kind of machine.",
            default=42, minimum=0, maximum=2**32 - 1,
        ),
    ),
)  # fmt: skip
