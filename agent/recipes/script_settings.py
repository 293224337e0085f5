"""The settings of the recipe `script`: which file runs, with what, for how long, and what is kept of it.

What a script declares for itself in its `yard.toml` is checked by `agent.scripts.manifest`, where that file is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from .parameters import Parameter, Recipe

NO_BASE_MODEL = "none"
A_SCRIPT = "train.py or src/train.py"
MOST_PATTERNS = 20
MOST_DEPTHS = 2  # ** in one pattern
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def path_fault(text: str, example: str = "out/model.pt") -> str | None:
    """What is wrong with a path or a pattern that has to stay below the script's folder; None when nothing is."""
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or "\\" in text or text.startswith("~"):
        return (
            f"{text or 'An empty path'} does not lie below the script's folder. Name it from there, such as {example}."
        )
    return None


def patterns_fault(patterns: Sequence[str]) -> str | None:
    """What is wrong with patterns for files below the script's folder; None when nothing is. They are matched again and
    again while the script runs, so there is an end to how much work they are."""
    if len(patterns) > MOST_PATTERNS:
        return f"These are {len(patterns)} patterns; at most {MOST_PATTERNS} are taken. Name folders, such as out/**."
    for pattern in patterns:
        if fault := path_fault(pattern):
            return fault
        if pattern.split("/").count("**") > MOST_DEPTHS:
            return f"{pattern[:100]} holds more than two **. One stands for any number of folders, such as out/**/*.pt."
    return None


def _settle(given: dict[str, Any], base_model: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    errors = {}
    entry = given["entry"]
    if entry is not None and (fault := path_fault(entry, A_SCRIPT)):
        errors["entry"] = fault
    elif entry is not None and not entry.endswith(".py"):
        errors["entry"] = f"{entry} is no Python file. Name the script itself, such as train.py."
    for name in ("outputs", "checkpoints"):
        if fault := patterns_fault(given[name] or ()):
            errors[name] = fault
    wrong = [name for name in given["environment"] or () if not VARIABLE.fullmatch(name)]
    if wrong:
        errors["environment"] = f"{wrong[0][:60]!r} is not the name of an environment variable. Names only, no values."
    filled = {p.name: p.default if given[p.name] is None else given[p.name] for p in SCRIPT.parameters}
    return filled, errors


SCRIPT = Recipe(
    name="script",
    label="Your own script",
    module="agent.recipes.script",
    settle=_settle,
    parameters=(
        Parameter(
            "entry", "text", "Script",
            "The Python file that trains, named from the script's folder. Left empty, yard.toml says it, or train.py or "
            "main.py is taken.",
        ),
        Parameter(
            "arguments", "texts", "Arguments",
            "What stands last on the script's command line, one text each, in place of yard.toml's own arguments. They win "
            "over its parameters, which stand in front of them. Left empty, yard.toml's are used.",
        ),
        Parameter(
            "values", "values", "Settings of the script",
            "Values for the settings that its yard.toml declares, by name.",
        ),
        Parameter(
            "python", "text", "Interpreter",
            "On a machine of yours: the Python that runs it, inside a folder the agent may use. Left empty, an environment "
            "is made from requirements.txt where there is one; else the agent's own Python runs it.",
        ),
        Parameter(
            "environment", "texts", "Environment variables",
            "On a machine of yours: names of variables the script gets, out of those the agent was started with "
            "(--pass-env). Left empty, it gets all of those. Their values never leave the machine.",
        ),
        Parameter(
            "outputs", "texts", "Files to keep",
            "Patterns such as out/*.safetensors, from the script's folder. What matches is uploaded when it has ended; "
            "anything else stays where it is. Left empty, yard.toml's are used, else output/ and outputs/.",
        ),
        Parameter(
            "checkpoints", "texts", "Checkpoints",
            "Patterns such as out/ckpt-*. The newest is given back to the script when the training is resumed.",
        ),
        Parameter(
            "resume", "texts", "Arguments to go on",
            "What is added to the command line when the training is resumed and there is a checkpoint; {checkpoint} stands "
            "for its path. Left empty, yard.toml's are used.",
        ),
        Parameter(
            "max_minutes", "int", "At most minutes",
            "On the server the credits for this time are set aside, and what is not used returns. When it is used up, the "
            "script is stopped, and Resume lets it go on.",
            default=60, minimum=1, maximum=10_080,
        ),
    ),
)  # fmt: skip
