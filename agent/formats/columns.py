"""Which column is what: recognises a format by its columns, or applies the mapping a member gives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.formats.rows import FORMATS, DataError, MappingNeeded, Record, listed, shown

SAMPLE_ROWS = 5
"""Rows shown to a member who is asked for a mapping."""

COLUMNS = 1000
"""Most columns that are listed, and most that a CSV file may have."""

SAMPLE_CHARS = 200
SAMPLE_COLUMNS = 50

TARGETS: dict[str, dict[str, list[str]]] = {
    "chat": {"required": ["messages"], "optional": []},
    "sharegpt": {"required": ["conversations"], "optional": ["system"]},
    "prompt_completion": {"required": ["prompt", "completion"], "optional": ["system"]},
    "alpaca": {"required": ["instruction", "output"], "optional": ["input", "system", "history"]},
    "text": {"required": ["text"], "optional": []},
}
"""For each format the columns it is made of, which are the targets a mapping may name.

In the order of recognition: a file with both `instruction`, `output` and `text` is alpaca."""

_PROMPTS = ("prompt", "question", "query", "instruction", "request", "problem", "description", "user")
_PROMPTS_LATE = ("input", "source", "title", "docstring")
_COMPLETIONS = (
    "completion",
    "answer",
    "response",
    "output",
    "reply",
    "solution",
    "target",
    "chosen",
    "assistant",
    "code",
)
_TEXTS = ("content", "body", "document", "article", "passage")
_CONVERSATIONS = ("conversation", "dialog", "dialogue", "turns", "chat")


@dataclass(frozen=True)
class Columns:
    """The format of a file and, for each of its targets that is there, the column that holds it."""

    format: str
    fields: dict[str, str]


def recognise(columns: Sequence[str]) -> Columns | None:
    """The known format that has these columns, in whatever case they are written; None without one."""
    for format, targets in TARGETS.items():
        fields = _fields_of(format, columns)
        if fields.keys() >= set(targets["required"]):
            return Columns(format, fields)
    return None


def detect(records: Sequence[Record]) -> Columns:
    """The format that most of the first rows have. Raises `MappingNeeded` when most have none.

    Optional columns count when any of the rows has them.
    """
    found = [recognise(list(record.value)) for record in records]
    winner = Counter(columns.format if columns else None for columns in found).most_common(1)[0][0]
    if winner is None:
        raise _mapping_needed(records)
    fields: dict[str, str] = {}
    for columns in found:
        if columns and columns.format == winner:
            fields = columns.fields | fields
    return Columns(winner, fields)


def apply_mapping(mapping: Mapping[str, str], columns: Sequence[str]) -> Columns:
    """The format that the targets of `mapping` make. Raises `DataError` when they make none.

    `columns` are those of the data; every column that the mapping names must be among them.
    """
    for target, column in mapping.items():
        if column not in columns:
            raise DataError(
                f"The mapping takes {shown(target)} from the column {shown(column)}, which is not "
                f"in the data. The columns are: {listed(columns)}."
            )
    twice = [column for column, count in Counter(mapping.values()).items() if count > 1]
    if twice:
        raise DataError(
            f"The mapping uses the column {shown(twice[0])} for more than one target. Give each target a "
            f"column of its own. The columns are: {listed(columns)}."
        )
    return Columns(_format_of(mapping, columns), dict(mapping))


def check_mapping(mapping: Any) -> dict[str, str]:
    """`mapping` as a dict of texts with known targets. Raises `DataError` when it is anything else."""
    example = 'Write it as {"prompt": "question", "completion": "answer"}.'
    if not isinstance(mapping, Mapping):
        raise DataError(f"The mapping must say for each target which column holds it. {example}")
    known = list(dict.fromkeys(target for format in TARGETS for target in _all_targets(format)))
    for target, column in mapping.items():
        if not isinstance(target, str) or target not in known:
            raise DataError(
                f"The mapping names the target {shown(str(target))}, which does not exist. "
                f"Targets are: {', '.join(known)}."
            )
        if not isinstance(column, str) or not column:
            raise DataError(f"The mapping gives no column for {shown(target)}. {example}")
    return dict(mapping)


def names_of(records: Iterable[Record]) -> list[str]:
    """The columns of some rows, in the order in which they first appear.

    A name with half a surrogate pair cannot be written anywhere, so it is left out.
    """
    names = dict.fromkeys(name for record in records for name in record.value)
    return [name for name in names if name.isascii() or name.encode("utf-8", errors="ignore").decode() == name]


def _format_of(mapping: Mapping[str, str], columns: Sequence[str]) -> str:
    given = set(mapping)
    there = f"The columns are: {listed(columns)}."
    for format in TARGETS:
        if set(TARGETS[format]["required"]) <= given <= set(_all_targets(format)):
            return format
    for format, targets in TARGETS.items():
        missing = [target for target in targets["required"] if target not in given]
        if given <= set(_all_targets(format)) and len(missing) < len(targets["required"]):
            raise DataError(f"The mapping is not complete: {listed(mapping)} needs {listed(missing)} as well. {there}")
    possible = "; ".join(", ".join(TARGETS[format]["required"]) for format in FORMATS)
    raise DataError(
        f"The targets {listed(mapping)} do not make one format together. Map one of these sets: {possible}. {there}"
    )


def _mapping_needed(records: Sequence[Record]) -> DataError:
    columns = names_of(records)
    if not columns:
        return DataError(
            "The rows of the file are empty objects. Each row needs fields, such as prompt and completion."
        )
    suggestion = suggest(columns)
    example = json.dumps(suggestion or {"prompt": columns[0][:60], "completion": columns[-1][:60]}, ensure_ascii=True)
    return MappingNeeded(
        f"The columns {listed(columns)} are not those of a known format. Say which column is what, for "
        f"example {example}.",
        columns=columns[:COLUMNS],
        sample=[_sampled(record) for record in records[:SAMPLE_ROWS]],
        formats=TARGETS,
        suggestion=suggestion,
    )


def suggest(columns: Sequence[str]) -> dict[str, str]:
    """A mapping that looks right by the names of the columns; empty when none does."""
    prompt = _first(columns, _PROMPTS) or _first(columns, _PROMPTS_LATE)
    completion = _first(columns, _COMPLETIONS)
    context = _first(columns, ("context",))
    if prompt and completion and context:
        return {"instruction": prompt, "input": context, "output": completion}
    if prompt and completion and prompt != completion:
        system = _first(columns, ("system", "system_prompt"))
        return {"prompt": prompt, "completion": completion} | ({"system": system} if system else {})
    if conversation := _first(columns, _CONVERSATIONS):
        return {"messages": conversation}
    text = _first(columns, _TEXTS) or (columns[0] if len(columns) == 1 else "")
    return {"text": text} if text else {}


def _first(columns: Sequence[str], names: Sequence[str]) -> str:
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), "")


def _sampled(record: Record) -> dict[str, str]:
    return {name: _cut(record.value[name]) for name in names_of([record])[:SAMPLE_COLUMNS]}


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    return text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS] + "…"


def _fields_of(format: str, columns: Sequence[str]) -> dict[str, str]:
    """The targets of a format that are there, with their columns; the exact spelling goes first."""
    by_name = {name.strip().lower(): name for name in columns} | {name: name for name in columns}
    return {target: by_name[target] for target in _all_targets(format) if target in by_name}


def _all_targets(format: str) -> list[str]:
    return TARGETS[format]["required"] + TARGETS[format]["optional"]
