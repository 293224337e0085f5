"""What a runner tells about its job, kept only in the shapes that pages and programs are promised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Facts = dict[str, Any]


def shaped(told: Facts) -> Facts:
    """The same facts; of those that have a shape what is in it, and None where nothing is. Other names are free."""
    return {name: _SHAPES[name](value) if name in _SHAPES else value for name, value in told.items()}


def _example(told: Any) -> list[list[Any]] | None:
    """One row as [text, supervised] stretches."""
    stretches = told if isinstance(told, list) else []
    return [one for one in stretches if isinstance(one, list) and [*map(type, one)] == [str, bool]] or None


def _versions(told: Any) -> dict[str, str | None] | None:
    versions = told if isinstance(told, dict) else {}
    return {name: value for name, value in versions.items() if value is None or isinstance(value, str)} or None


def _curves(told: Any) -> list[Facts] | None:
    """How curves were read: rules by their names, each with the names of its curves and a few words about it."""
    rules = [rule for rule in told if isinstance(rule, dict)] if isinstance(told, list) else []
    return [_rule(rule) for rule in rules if isinstance(rule.get("rule"), str)] or None


def _rule(told: Facts) -> Facts:
    words = {name: told[name] for name in ("rule", "label", "example", "unit") if isinstance(told.get(name), str)}
    points = {"points": told["points"]} if type(told.get("points")) is int else {}
    return {**words, **points, "names": _texts(told.get("names")) or []}


def _texts(told: Any) -> list[str] | None:
    texts = told if isinstance(told, list) else []
    return [text for text in texts if isinstance(text, str)] or None


_SHAPES: dict[str, Callable[[Any], Any]] = {
    "example": _example, "versions": _versions, "curves": _curves, "outputs_left": _texts, "outputs_wanted": _texts,
    "environment": _texts,
}  # fmt: skip
