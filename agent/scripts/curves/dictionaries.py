"""Dictionaries in the log: those that the Trainer of transformers prints, JSON lines, and any Python one of numbers.

Nothing is evaluated: what is not JSON is looked through for `key: number`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from .lines import Reading
from .names import IN_SUMMARY, Kind, kind_of
from .points import normalised, number_in, step_in, valid_step

MAX_KEYS = 100
_LONG_TEXT = 60  # a dictionary that holds one is data, not a report

_ITEM = re.compile(
    r"""(['"])([^'"\\{}]{1,80}+)\1\s*+:\s*+(?:[\w.]{0,30}\()?+['"]?+"""
    r"""([-+]?+(?:[0-9]++(?:,[0-9]++)*+(?:\.[0-9]*+)?+(?:e[-+]?[0-9]++)?+|nan|inf(?:inity)?+))['"]?+\)?+\s*+[,}]""",
    re.IGNORECASE,
)
_SPELLED = {"nan", "inf", "-inf", "infinity", "-infinity"}


def read_dictionary(line: str) -> Reading | None:
    """What the dictionary in a line says; None when there is none, or it is not about a training."""
    start, end = line.find("{"), line.rfind("}")
    if start < 0 or end < start + 6 or "'" not in line and '"' not in line:
        return None
    reading = Reading()
    kinds = set()
    items = list(_items(line[start : end + 1]))
    is_summary = any(name == "train_runtime" for name, _ in items)
    for name, value in items:
        if is_summary:
            name = IN_SUMMARY.get(name, name)
        kind = kind_of(name)
        if kind in (Kind.STEP, Kind.EPOCH, Kind.BATCH):
            _take_count(kind, value, reading)
        elif kind is not Kind.NEVER and len(reading.values) < MAX_KEYS:
            kinds.add(kind if kind is not Kind.WEAK or isinstance(value, float) else Kind.UNKNOWN)
            reading.values.setdefault(normalised(name), _finite(value))
    reading.values.pop("", None)
    placed = reading.step is not None or reading.part_of_epochs is not None
    if Kind.METRIC in kinds or (Kind.WEAK in kinds and not _is_long(line, start, end)):
        return reading
    return reading if placed and kinds & {Kind.METRIC, Kind.WEAK, Kind.COMPANION} else None


def _take_count(kind: Kind, value: float | int | None, reading: Reading) -> None:
    whole = valid_step(value)
    if kind is Kind.STEP and reading.step is None:
        reading.step = whole
    elif kind is Kind.EPOCH:
        reading.part_of_epochs = _finite(value)
        if isinstance(value, int):
            reading.epoch = whole


def _items(text: str) -> Iterator[tuple[str, float | int | None]]:
    """The names and numbers of a dictionary and of those directly inside it (`train/loss`)."""
    parsed = _parsed(text)
    if parsed is None:
        for _, name, number in _ITEM.findall(text):
            whole = step_in(number)
            if _is_number(number):
                yield name, whole if whole is not None else number_in(number)
        return
    for name, value in parsed.items():
        inner = value.items() if isinstance(value, dict) else ()
        for key, each in [(name, value), *((f"{name}/{key}", each) for key, each in inner)]:
            if isinstance(each, str) and len(each) < 40 and _is_number(each):
                yield str(key), number_in(each)
            elif isinstance(each, int | float) and not isinstance(each, bool):
                yield str(key), each


def _parsed(text: str) -> dict[str, Any] | None:
    for spelled in (text, text.replace("'", '"')) if '"' in text else (text.replace("'", '"'),):
        try:
            parsed = json.loads(spelled)
        except (ValueError, RecursionError):
            continue
        return parsed if isinstance(parsed, dict) else None
    return None


def _is_number(text: str) -> bool:
    return text.lower() in _SPELLED or number_in(text) is not None


def _finite(value: float | int | None) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:
        return None


def _is_long(line: str, start: int, end: int) -> bool:
    """Whether a text of some length stands inside: then a word such as `score` is data that is printed."""
    return any(len(text) > _LONG_TEXT for text in re.split("""["']""", line[start:end])[1::2])
