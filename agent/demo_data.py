"""A data set that every machine has: functions of Python's standard library and their descriptions.

A row asks for a function by its name and the description in its docstring; the answer is its source
without the docstring. The sources are only parsed, never imported.
"""

from __future__ import annotations

import ast
import json
import os
import random
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

from agent.formats import DataError

ROW_BYTES = 1000
"""Largest row in bytes, so that a row fits in a short context even when tokens are bytes."""

_SKIPPED = frozenset(
    ("test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "lib2to3", "turtledemo")
)
_DESCRIPTION_CHARS = range(20, 301)
_SOURCE_CHARS = range(40, 801)

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def build(path: Path, rows: int = 2000, seed: int = 0) -> int:
    """Writes `rows` rows {"prompt", "completion"} as JSONL to `path`; returns how many there are.

    Fewer when the library does not hold as many. The same Python version, `rows` and `seed` give the
    same bytes. Raises `DataError` when this Python comes without its sources, `OSError` when `path`
    cannot be written.
    """
    pairs = sorted(set(_pairs(Path(sysconfig.get_path("stdlib")))))
    if not pairs:
        raise DataError(
            "This Python comes without the sources of its standard library, so there is no sample to build. "
            "Install Python with its sources, or choose a data file of your own."
        )
    random.Random(seed).shuffle(pairs)  # noqa: S311 - an order, no secret
    lines = [_row(prompt, completion) for prompt, completion in pairs[:rows]]
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(b"".join(lines))
    os.replace(partial, path)
    return len(lines)


def _pairs(library: Path) -> Iterator[tuple[str, str]]:
    for source_file in _source_files(library):
        try:
            source = source_file.read_text(encoding="utf-8")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
        except (OSError, ValueError, SyntaxError, RecursionError):
            continue
        lines = source.splitlines()
        for name, function in _functions(tree, ""):
            pair = _pair(name, function, lines)
            if pair and len(_row(*pair)) <= ROW_BYTES:
                yield pair


def _source_files(library: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(library):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("__"))
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _functions(node: ast.AST, inside: str) -> Iterator[tuple[str, _Function]]:
    """The functions of a module with their names, those of a class as `Class.name`; none within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inside + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{inside}{child.name}.")


def _pair(name: str, function: _Function, lines: list[str]) -> tuple[str, str] | None:
    """Prompt and completion of one function, or None for one that makes no sensible row."""
    docstring = ast.get_docstring(function)
    if not docstring or len(function.body) < 2:
        return None
    description = " ".join(docstring.split("\n\n")[0].split())
    source = _without_docstring(function, lines)
    if (
        len(description) not in _DESCRIPTION_CHARS
        or ">>>" in description
        or source is None
        or len(source) not in _SOURCE_CHARS
    ):
        return None
    word = "method" if "." in name else "function"
    end = "" if description.endswith((".", "!", "?", ":")) else "."
    return f"Write the Python {word} {name}: {description}{end}", source


def _without_docstring(function: _Function, lines: list[str]) -> str | None:
    """The source of a function without its docstring, unindented; None where a line holds more than that."""
    docstring, following = function.body[0], function.body[1]
    end = docstring.end_lineno or docstring.lineno
    before = lines[docstring.lineno - 1][: docstring.col_offset]
    if before.strip() or following.lineno <= end:
        return None
    start = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    head, body = lines[start - 1 : docstring.lineno - 1], lines[end : function.end_lineno]
    while body and not body[0].strip():
        body = body[1:]
    return textwrap.dedent("\n".join(head + body)).rstrip()


def _row(prompt: str, completion: str) -> bytes:
    return json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False).encode() + b"\n"
