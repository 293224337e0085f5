"""The containers: JSONL, JSON, CSV and TXT as streams of records with their lines in the file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from agent.formats.columns import COLUMNS
from agent.formats.paragraphs import text_records
from agent.formats.rows import ROW_BYTES, BadRow, DataError, Record, RowProblem, listed
from agent.formats.strict_json import ArrayReader, StrictDecoder, as_record, parse_value, too_long

JSON_BYTES = 512 * 2**20
"""Largest JSON file: it has to be held in memory as a whole, which the other containers need not."""

REREAD_BYTES = 256 * 2**20
"""How much text in all may be read a second time to find the next row behind an unclosed quotation mark."""

DELIMITERS = ",;\t|"

Source = Callable[[], Iterator[Record | BadRow]]

_BOM = b"\xef\xbb\xbf"


def source_of(container: str, path: Path) -> Source:
    """A function that starts reading the file from its beginning, as often as it is called."""
    readers = {"jsonl": jsonl_records, "json": json_records, "csv": csv_records, "txt": text_records}
    return partial(readers[container], path)


def jsonl_records(path: Path) -> Iterator[Record | BadRow]:
    """One object a line; blank lines are passed over. Memory: one line, 16 MiB at most."""
    decoder = StrictDecoder()
    with path.open("rb") as file:
        for line, raw in _lines(file):
            if raw is None:
                yield BadRow(line, too_long())
            elif raw.strip():
                try:
                    yield as_record(line, parse_value(_decode(raw).rstrip("\r\n"), decoder))
                except RowProblem as problem:
                    yield BadRow(line, str(problem))


def json_records(path: Path) -> Iterator[Record | BadRow]:
    """The objects of an array, of `{"data": [...]}`, or written one after another.

    Raises `DataError` for a file above `JSON_BYTES`, in another encoding, or with a syntax error.
    """
    if path.stat().st_size > JSON_BYTES:
        raise DataError(
            f"A JSON file has to fit in memory and may have {JSON_BYTES // 2**20} MiB at most. Convert it to "
            "JSONL (with jq: jq -c '.[]' data.json > data.jsonl), which may have any size."
        )
    raw = path.read_bytes().removeprefix(_BOM)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise DataError(f"Line {line}: {_not_utf8(column, raw[error.start])}", line=line) from None
    del raw
    yield from ArrayReader(text)


def csv_records(path: Path) -> Iterator[Record | BadRow]:
    """The rows below the header row; cells are text, rows without anything in them are passed over.

    The delimiter is the one of `DELIMITERS` that splits the header row into most columns. Quotation
    marks follow RFC 4180. Raises `DataError` for a header row that cannot be used.
    """
    csv.field_size_limit(max(csv.field_size_limit(), ROW_BYTES))
    with path.open("rb") as file:
        feed = _Feed(file)
        delimiter, header = _header(feed)
        for line, fields in _csv_rows(feed, delimiter):
            if isinstance(fields, str):
                yield BadRow(line, fields)
            elif len(fields) == len(header):
                if any(field and not field.isspace() for field in fields):
                    yield Record(line, dict(zip(header, fields, strict=True)))
            elif any(fields):
                yield BadRow(line, _field_count(len(fields), len(header), delimiter))


def _header(feed: _Feed) -> tuple[str, list[str]]:
    """The delimiter and the names of the columns, from the first line with something in it."""
    line, first = 0, ""
    while not first.strip():
        feed.start_row()
        try:
            first = next(feed)
        except StopIteration:
            raise DataError("The file holds only blank lines. Choose a file with at least one row.") from None
        except RowProblem as problem:
            raise DataError(f"The header row: {problem}", line=feed.first) from None
        line = feed.first
    if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:
        return first[4], _named(_first_row(feed, first[4]), line + 1)
    feed.rewind(0)
    delimiter = max(DELIMITERS, key=lambda mark: len(_split(first, mark)))
    return delimiter, _named(_first_row(feed, delimiter), line)


def _first_row(feed: _Feed, delimiter: str) -> list[str]:
    for line, fields in _csv_rows(feed, delimiter):
        if isinstance(fields, str):
            raise DataError(f"The header row: {fields}", line=line)
        if fields:
            return fields
    raise DataError("The file has no header row. The first row of a CSV file names its columns.")


def _named(cells: list[str], line: int) -> list[str]:
    """The names of the columns; one without a name (an exported index) is called by its number."""
    if len(cells) > COLUMNS:
        raise DataError(
            f"The header row has {len(cells):,} columns, more than {COLUMNS:,}. The first row names the "
            "columns of the data; keep only those that are needed.",
            line=line,
        )
    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, start=1)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(
            f"The header row names {listed(sorted(twice))} more than once. Give each column its own name.",
            line=line,
        )
    return names


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _csv_rows(feed: _Feed, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Rows as (line, fields), and (line, reason) for one that cannot be read.

    Behind a row that breaks the rules for quotation marks reading goes on at its second line, so that
    one forgotten mark does not swallow the rows below it.
    """
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.start_row()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield feed.first, _quoting(error)
            feed.rewind(1)
            continue
        except RowProblem as problem:
            yield feed.first, str(problem)
            feed.rewind(1)
            continue
        yield feed.first, feed.problem or fields


def _quoting(error: csv.Error) -> str:
    text = str(error)
    if "end of data" in text or "field larger" in text:
        return "A quotation mark opened in this row is never closed. Write quotation marks inside a cell twice."
    if "expected after" in text:
        return (
            "A quoted cell goes on after its closing quotation mark. Write quotation marks inside a cell "
            'twice: "he said ""yes""".'
        )
    if "new-line character" in text:
        return "A carriage return stands outside quotation marks. Put the cell in quotation marks."
    return f"The row does not follow the rules of CSV: {text}."


def _field_count(found: int, wanted: int, delimiter: str) -> str:
    mark = {"\t": "tab"}.get(delimiter, delimiter)
    return (
        f"Cells in the row: {found}, in the header row: {wanted}. Put cells that contain the delimiter ({mark}), "
        "quotation marks or line breaks in quotation marks."
    )


class _Feed:
    """Hands the lines of a file to `csv.reader`, and can go back to the second line of the present row.

    `first` is the line on which the present row begins; `problem` is set when one of its lines is not UTF-8.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lines = _lines(file)
        self._last = 0
        self._place = 0
        self._starts = [(0, 0)]
        self._size = 0
        self._budget = REREAD_BYTES
        self.first = 1
        self.problem: str | None = None

    def start_row(self) -> None:
        """Forgets the row before; the next line taken is the first of a new row."""
        self._starts, self._size, self.problem = [(self._last, self._place)], 0, None
        self.first = self._last + 1

    def rewind(self, keep: int) -> None:
        """Goes back to the beginning of the present row (`keep` 0) or to its second line (1)."""
        last, place = self._starts[min(keep, len(self._starts) - 1)]
        self._budget -= self._place - place
        if self._budget >= 0:
            self._last, self._place = last, place
            self._file.seek(place)
            self._lines = _lines(self._file, last)

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self._last, raw = next(self._lines)
        self._place = self._file.tell()
        if len(self._starts) == 1:
            self._starts.append((self._last, self._place))
        if raw is None:
            raise RowProblem(too_long())
        self._size += len(raw)
        if self._size > ROW_BYTES:
            raise RowProblem(f"{too_long()} A quotation mark that is never closed has the same effect.")
        try:
            return _decode(raw)
        except RowProblem as problem:
            where = "" if self._last == self.first else f"Line {self._last}: "
            self.problem = self.problem or f"{where}{problem}"
            return raw.decode("utf-8", errors="replace")


def _lines(file: IO[bytes], number: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers, the next being `number` + 1; None in place of one longer than `ROW_BYTES`."""
    while raw := file.readline(ROW_BYTES + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(_BOM)
        if len(raw) > ROW_BYTES and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(2**20)
            yield number, None
        else:
            yield number, raw


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowProblem(_not_utf8(error.start + 1, raw[error.start])) from None


def _not_utf8(place: int, byte: int) -> str:
    return f"Byte {place} of the line (0x{byte:02x}) is not UTF-8 text. Save the file as UTF-8, or mend that character."
