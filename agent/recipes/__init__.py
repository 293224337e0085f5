"""The catalogue of recipes: what can be trained, with which parameters, and how a job is handed to a recipe.

Only the standard library is needed here, so pages and the API can describe, check and price a job without importing
torch. The recipes themselves are modules beside this one; `load` imports one when it is about to run.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

YARD_TINY = "yard-tiny"
HELD_OUT_SHARE = 0.02
HELD_OUT_MOST = 200
HELD_OUT_FROM = 100


@dataclass(frozen=True)
class Parameter:
    """One setting of a recipe. `default` is None where the default depends on other settings or is "not set"."""

    name: str
    kind: Literal["int", "float", "choice"]
    label: str
    explanation: str
    default: int | float | str | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One way to train: its settings, and the module whose `train(assignment)` carries it out."""

    name: str
    label: str
    parameters: tuple[Parameter, ...]
    module: str


@dataclass(frozen=True)
class Assignment:
    """Everything a recipe needs to carry out one job in the current process.

    `report(kind, **fields)` takes the kinds stage, metrics, checkpoint and facts. `folder` is the job's own: the
    recipe keeps `checkpoints/` and `output/` in it. `private_data` says that the data may not leave this machine:
    then no report and no log line carries any of its content.
    """

    parameters: dict[str, Any]
    data: Path
    mapping: dict[str, str] | None
    base_model: str
    base_name: str
    folder: Path
    name: str
    report: Callable[..., None]
    stop_requested: Callable[[], bool]
    checkpoint_seconds: float = 300.0
    private_data: bool = False


LANGUAGE = Recipe(
    name="language",
    label="Language model",
    module="agent.recipes.language",
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

CATALOG: dict[str, Recipe] = {LANGUAGE.name: LANGUAGE}


def check(recipe: str, given: dict[str, Any], base_model: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Fill in the defaults of a recipe's parameters and refuse what does not fit.

    Returns (resolved, errors): every parameter by name, None where it does not apply, and a sentence per refused
    field. A None in `given` means "not given", so the resolved parameters pass unchanged. `base_model` matters only
    to the learning rate's default. KeyError if there is no such recipe.
    """
    parameters = CATALOG[recipe].parameters
    known = {parameter.name for parameter in parameters}
    errors = {
        name: f"There is no setting called {name}. The settings are {', '.join(sorted(known))}."
        for name in given
        if name not in known
    }
    resolved: dict[str, Any] = {}
    for parameter in parameters:
        value = given.get(parameter.name)
        if value is None:
            resolved[parameter.name] = None
            continue
        try:
            resolved[parameter.name] = _checked(parameter, value)
        except ValueError as refusal:
            errors[parameter.name] = str(refusal)
    if not errors:
        errors = _contradictions(resolved)
    if errors:
        return resolved, errors
    return _with_defaults(parameters, resolved, base_model), {}


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


def load(recipe: str) -> ModuleType:
    """Import the module of a recipe (torch and all) and return it. KeyError if there is no such recipe."""
    # The threads of torch's OpenMP spin while they wait for each other, which is fine on a machine that does nothing
    # else. Beside another job each spins away the time the other needs: two jobs on two cores were seen to take 12 s
    # for a step of 0.3 s, and 0.6 s with this limit, which costs a lone job about 5 %. The library reads it once, when
    # torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return importlib.import_module(CATALOG[recipe].module)


def _checked(parameter: Parameter, value: object) -> int | float | str:
    if parameter.kind == "choice":
        if not isinstance(value, str) or value not in parameter.choices:
            raise ValueError(f"{parameter.label} must be one of {', '.join(parameter.choices)}.")
        return value
    low, high = parameter.minimum, parameter.maximum
    noun = "a whole number" if parameter.kind == "int" else "a number"
    sentence = f"{parameter.label} must be {noun} from {_plain(low)} to {_plain(high)}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(sentence)
    # The range comes first: it refuses NaN and infinities, and integers too large for a float.
    if not (low is not None and high is not None and low <= value <= high):
        raise ValueError(sentence)
    if parameter.kind == "float":
        return float(value)
    if value != int(value):
        raise ValueError(sentence)
    return int(value)


def _contradictions(resolved: dict[str, Any]) -> dict[str, str]:
    errors = {}
    if resolved.get("epochs") is not None and resolved.get("max_steps") is not None:
        errors["max_steps"] = "Give either epochs or max_steps, not both: each of them says when to stop."
    if resolved.get("method") == "full" and resolved.get("lora_rank") is not None:
        errors["lora_rank"] = "The rank belongs to LoRA. Leave it out for full training, or choose the method lora."
    return errors


def _with_defaults(
    parameters: tuple[Parameter, ...], resolved: dict[str, Any], base_model: str | None
) -> dict[str, Any]:
    filled: dict[str, Any] = {p.name: p.default if resolved[p.name] is None else resolved[p.name] for p in parameters}
    if filled["max_steps"] is not None:
        filled["epochs"] = None
    if filled["method"] == "full":
        filled["lora_rank"] = None
    if filled["learning_rate"] is None:
        filled["learning_rate"] = default_learning_rate(filled["method"], base_model)
    return filled


def _plain(number: float | None) -> str:
    """A bound as a person writes it: 1e-08 becomes 0.00000001, 1000000 becomes 1,000,000."""
    if number is None:
        return "any"
    return f"{number:,.8f}".rstrip("0").rstrip(".")
