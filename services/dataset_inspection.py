"""One look through a whole data file: rows, tokens, bad rows, quality. Runs as a process of its own.

Reading a large file keeps a core busy for many seconds, which the process that answers pages cannot spare, and what a
hostile file might do to a parser stays in a process that is thrown away. `python -m services.dataset_inspection` reads
`{"path", "name", "mapping"}` from standard input and writes one JSON object.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent import formats
from services.dataset_quality import Quality, count_tokens
from services.errors import Invalid

BAD_ROWS_KEPT = 200
LONGEST_SECONDS = 3600
MEMORY_BYTES = 4 * 1024**3


def inspect(path: Path, name: str, mapping: dict[str, str] | None) -> dict[str, Any]:
    """What a data file holds. Raises Invalid when nothing in it can be used, or its columns have to be mapped."""
    given = json.dumps({"path": str(path), "name": name, "mapping": mapping})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "services.dataset_inspection"], input=given, capture_output=True, text=True,
            cwd=Path(__file__).parent.parent, timeout=LONGEST_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Invalid("Reading this file took longer than an hour. Split it into smaller files.") from None
    if done.returncode != 0:
        if "MemoryError" in done.stderr:
            raise Invalid(
                "Reading this file needs more memory than the server gives. Save it as JSONL, one row a line."
            )
        raise RuntimeError(f"reading a data file ended with {done.returncode}: {done.stderr[-2000:]}")
    result = json.loads(done.stdout)
    if "error" in result:
        error = result.pop("error")
        field = "mapping" if error["kind"] in ("mapping_needed", "mapping") else "file"
        raise Invalid(error["message"], {field: error["message"]}, code=error["kind"], **error["details"])
    return dict(result)


def preview(path: Path, name: str, mapping: dict[str, str] | None, rows: int = 10) -> list[dict[str, Any]]:
    """The first good rows as they will be trained on."""
    shown = []
    for row in formats.read(path, mapping, name):
        shown.append({"line": row.line, **({"messages": row.messages} if row.messages else {"text": row.text})})
        if len(shown) == rows:
            break
    return shown


def _look(path: Path, name: str, mapping: dict[str, str] | None) -> dict[str, Any]:
    reading = formats.read(path, mapping, name)
    quality, rows, tokens = Quality(), 0, 0
    for row in reading:
        rows += 1
        tokens += count_tokens(row)
        quality.add(row)
    return {
        "format": reading.format, "rows": rows, "tokens": tokens, "quality": quality.result(),
        "bad_count": reading.bad_count, "bad_rows": _listed(reading.bad_rows),
    }  # fmt: skip


def _listed(bad_rows: Sequence[formats.BadRow]) -> list[dict[str, Any]]:
    return [{"line": row.line, "reason": row.reason} for row in bad_rows[:BAD_ROWS_KEPT]]


def _refusal(error: formats.DataError, given: dict[str, Any]) -> dict[str, Any]:
    """Why the file as a whole cannot be used; the columns are told where mapping them is the way on."""
    mapping, details = given["mapping"], dict[str, Any]()
    if unmapped := _unmapped(error, given):
        details = {"columns": unmapped.columns, "sample": unmapped.sample, "suggestion": unmapped.suggestion}
    elif error.bad_rows:
        details = {"bad_rows": _listed(error.bad_rows)}
    elif error.line is not None:
        details = {"bad_rows": [{"line": error.line, "reason": error.message}]}
    kind = "mapping" if mapping and "columns" in details else "mapping_needed" if "columns" in details else "data"
    return {"error": {"kind": kind, "message": error.message, "details": details}}


def _unmapped(error: formats.DataError, given: dict[str, Any]) -> formats.MappingNeeded | None:
    """What the columns are when the file would be read with another mapping."""
    if isinstance(error, formats.MappingNeeded) or not given["mapping"]:
        return error if isinstance(error, formats.MappingNeeded) else None
    try:
        formats.read(Path(given["path"]), None, given["name"])
    except formats.MappingNeeded as needed:
        return needed
    except formats.DataError:
        return None
    return None


def main() -> None:
    """Answer one question from standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    given = json.load(sys.stdin)
    try:
        result = _look(Path(given["path"]), given["name"], given["mapping"])
    except formats.DataError as error:
        result = _refusal(error, given)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
