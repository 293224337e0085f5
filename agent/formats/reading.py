"""Reads a data file of a member: finds out what it is, then streams its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.formats.columns import COLUMNS, Columns, apply_mapping, check_mapping, detect, names_of
from agent.formats.containers import Source, source_of
from agent.formats.files import container_of, look
from agent.formats.rows import BadRow, DataError, Record, Row
from agent.formats.shapes import to_row

DETECTION_ROWS = 100
"""So many rows decide on the format."""

BAD_ROWS_KEPT = 1000
"""So many bad rows are kept with line and reason; `Reading.bad_count` counts all of them."""


class Reading:
    """The rows of a file whose format is known. Iterating streams them from the beginning, each time anew.

    `format`, `container` ('jsonl', 'json', 'csv' or 'txt'), `columns` and `fields` (target to column) are
    known from the start. `row_count`, `bad_count` and `bad_rows` belong to the latest iteration and are
    complete when it has ended, so there must be only one at a time.
    """

    def __init__(self, container: str, source: Source, columns: list[str], plan: Columns) -> None:
        self.container = container
        self.format = plan.format
        self.columns = columns
        self.fields = dict(plan.fields)
        self.row_count = 0
        self.bad_count = 0
        self.bad_rows: list[BadRow] = []
        self._source = source
        self._plan = plan

    def __iter__(self) -> Iterator[Row]:
        """The usable rows in the order of the file.

        Raises `DataError` when the file is no longer what it was, and `OSError` when it cannot be read.
        """
        self.row_count, self.bad_count, self.bad_rows = 0, 0, []
        for item in self._source():
            row = to_row(item, self._plan) if isinstance(item, Record) else item
            if isinstance(row, Row):
                self.row_count += 1
                yield row
            else:
                self.bad_count += 1
                if len(self.bad_rows) < BAD_ROWS_KEPT:
                    self.bad_rows.append(row)


def read(path: Path, mapping: Mapping[str, str] | None = None, name: str | None = None) -> Reading:
    """Opens the data file at `path`; at least one row of what it returns is usable.

    `name` is the name the file had where it came from (its suffix tells the container; by default the
    name in `path`). `mapping` says which column holds which target, as in {"prompt": "question",
    "completion": "answer"}; without one the columns must be those of a known format.

    Raises `MappingNeeded` when they are not, and `DataError` when the file as a whole cannot be used. JSONL,
    CSV and TXT are read as a stream; a JSON file is checked to its end, since a syntax error spoils it.
    """
    wanted = check_mapping(mapping) if mapping else {}
    head = look(path, name or path.name)
    container = container_of(head, name or path.name)
    source = source_of(container, path)
    records, columns = _first_records(source, set(wanted.values()))
    plan = apply_mapping(wanted, columns) if wanted else detect(records)
    reading = Reading(container, source, columns[:COLUMNS], plan)
    _check_usable(reading)
    return reading


def _first_records(source: Source, wanted: set[str]) -> tuple[list[Record], list[str]]:
    """The first records and their columns; goes on through the file while a wanted column is missing."""
    records: list[Record] = []
    bad: list[BadRow] = []
    bad_count = 0
    columns: dict[str, None] = {}
    for item in source():
        if isinstance(item, BadRow):
            bad_count += 1
            if len(bad) < BAD_ROWS_KEPT:
                bad.append(item)
            continue
        columns |= dict.fromkeys(names_of([item]))
        if len(records) < DETECTION_ROWS:
            records.append(item)
        elif wanted <= columns.keys():
            break
    if not records:
        raise _nothing_usable(bad, bad_count)
    return records, list(columns)


def _check_usable(reading: Reading) -> None:
    """Finds the first usable row, and reads a JSON file to its end, so that errors come before any row."""
    rows: Iterator[Any] = iter(reading)
    if next(rows, None) is None:
        raise _nothing_usable(reading.bad_rows, reading.bad_count)
    if reading.container == "json":
        for _ in rows:
            pass
    reading.row_count, reading.bad_count, reading.bad_rows = 0, 0, []


def _nothing_usable(bad: list[BadRow], count: int) -> DataError:
    if not bad:
        return DataError("The file holds no rows (nothing, or only a header). Choose a file with at least one row.")
    reasons = " ".join(f"Line {row.line}: {row.reason}" for row in bad[:3])
    more = f" The same goes for {count - 3:,} more." if count > 3 else ""
    return DataError(f"No row of the file can be used. {reasons}{more}", line=bad[0].line, bad_rows=bad)
