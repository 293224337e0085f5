"""What a setting of a recipe may be, and the sentence that says so when it is something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["int", "float", "choice", "text", "texts", "flag", "values"]

LONGEST_TEXT = 1_000
MOST_TEXTS = 200
_WIDEST = 2.0**63


@dataclass(frozen=True)
class Parameter:
    """One setting of a recipe. `default` is None where the default depends on other settings or is "not set".

    The kinds: numbers with bounds, a choice, a text of one line, a list of such texts, yes or no, and `values`: the
    settings that a script declares for itself, by name.
    """

    name: str
    kind: Kind
    label: str
    explanation: str
    default: int | float | str | bool | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def checked(self, value: object) -> Any:
        """The value as the recipe takes it. ValueError with a sentence when it does not fit."""
        return _CHECKS[self.kind](self, value)


@dataclass(frozen=True)
class Recipe:
    """One way to train: its settings, and the module whose `train(assignment)` carries it out.

    `settle(checked, base_model)` fills in what depends on other settings and answers with it the contradictions, a
    sentence for each field; None in `checked` means "not given".
    """

    name: str
    label: str
    parameters: tuple[Parameter, ...]
    module: str
    settle: Callable[[dict[str, Any], str | None], tuple[dict[str, Any], dict[str, str]]]


def plain(number: float) -> str:
    """A bound as a person writes it: 1e-08 becomes 0.00000001, 1000000 becomes 1,000,000."""
    return f"{number:,.8f}".rstrip("0").rstrip(".")


def _number(parameter: Parameter, value: object) -> int | float:
    noun = "a whole number" if parameter.kind == "int" else "a number"
    sentence = f"{parameter.label} must be {noun}{_range(parameter)}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(sentence)
    low = -_WIDEST if parameter.minimum is None else parameter.minimum
    high = _WIDEST if parameter.maximum is None else parameter.maximum
    # The range comes first: it refuses NaN and infinities, and integers too large for a float.
    if not low <= value <= high:
        raise ValueError(sentence)
    if parameter.kind == "float":
        return float(value)
    if value != int(value):
        raise ValueError(sentence)
    return int(value)


def _range(parameter: Parameter) -> str:
    low, high = parameter.minimum, parameter.maximum
    if low is not None and high is not None:
        return f" from {plain(low)} to {plain(high)}"
    if low is not None:
        return f" of at least {plain(low)}"
    return "" if high is None else f" of at most {plain(high)}"


def _choice(parameter: Parameter, value: object) -> str:
    if not isinstance(value, str) or value not in parameter.choices:
        raise ValueError(f"{parameter.label} must be one of {', '.join(parameter.choices)}.")
    return value


def _text(parameter: Parameter, value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST_TEXT:
        raise ValueError(f"{parameter.label} must be one line of at most {LONGEST_TEXT:,} characters.")
    return value.strip()


def _texts(parameter: Parameter, value: object) -> list[str]:
    sentence = f"{parameter.label} must be a list of at most {MOST_TEXTS} texts of one line."
    if not isinstance(value, list) or len(value) > MOST_TEXTS:
        raise ValueError(sentence)
    if not all(isinstance(text, str) and text.isprintable() and len(text) <= LONGEST_TEXT for text in value):
        raise ValueError(sentence)
    return value


def _flag(parameter: Parameter, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{parameter.label} must be true or false.")
    return value


def _values(parameter: Parameter, value: object) -> dict[str, Any]:
    sentence = f"{parameter.label} must be an object of names with a number, a text, true or false each."
    if not isinstance(value, dict) or len(value) > MOST_TEXTS:
        raise ValueError(sentence)
    for name, given in value.items():
        if not isinstance(name, str) or not isinstance(given, str | int | float | bool):
            raise ValueError(sentence)
        if isinstance(given, str) and (not given.isprintable() or len(given) > LONGEST_TEXT):
            raise ValueError(sentence)
    return value


_CHECKS = {
    "int": _number,
    "float": _number,
    "choice": _choice,
    "text": _text,
    "texts": _texts,
    "flag": _flag,
    "values": _values,
}
