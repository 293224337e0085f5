"""The catalogue of recipes: what can be trained, with which parameters, and how a job is handed to a recipe.

Only the standard library is needed here, so pages and the API can describe, check and price a job without importing
torch. The recipes themselves are modules beside this one; `load` imports one when it is about to run.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .language_settings import LANGUAGE, YARD_TINY, default_learning_rate, held_out_target, steps_for, total_steps
from .parameters import Parameter, Recipe
from .script_settings import NO_BASE_MODEL, SCRIPT

__all__ = [
    "CATALOG",
    "LANGUAGE",
    "NO_BASE_MODEL",
    "SCRIPT",
    "YARD_TINY",
    "Assignment",
    "Parameter",
    "Recipe",
    "check",
    "default_learning_rate",
    "held_out_target",
    "load",
    "steps_for",
    "total_steps",
]

CATALOG: dict[str, Recipe] = {recipe.name: recipe for recipe in (LANGUAGE, SCRIPT)}


@dataclass(frozen=True)
class Assignment:
    """Everything a recipe needs to carry out one job in the current process.

    `report(kind, **fields)` takes the kinds stage, metrics, checkpoint, facts and sample. `folder` is the job's own: the
    recipe keeps `checkpoints/` and `output/` in it. `private_data` says that the data may not leave this machine:
    then no report and no log line carries any of its content. `grace_seconds` is how long a stop may take. `terms` is
    what whoever runs the job allows it, as plain data; `agent.scripts.terms` reads it.
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
    grace_seconds: float = 10.0
    terms: dict[str, Any] = field(default_factory=dict)


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
        try:
            resolved[parameter.name] = None if value is None else parameter.checked(value)
        except ValueError as refusal:
            errors[parameter.name] = str(refusal)
    return (resolved, errors) if errors else CATALOG[recipe].settle(resolved, base_model)


def load(recipe: str) -> ModuleType:
    """Import the module of a recipe (torch and all) and return it. KeyError if there is no such recipe."""
    # The threads of torch's OpenMP spin while they wait for each other, which is fine on a machine that does nothing
    # else. Beside another job each spins away the time the other needs: two jobs on two cores were seen to take 12 s
    # for a step of 0.3 s, and 0.6 s with this limit, which costs a lone job about 5 %. The library reads it once, when
    # torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # for what does not read the first: 60 steps 3.8 s, not 137 s
    return importlib.import_module(CATALOG[recipe].module)
