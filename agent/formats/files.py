"""What kind of file lies there: refuses what is no text, and picks the container the rows are in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from agent.formats.columns import recognise
from agent.formats.rows import DataError, shown

HEAD_BYTES = 64 * 1024
"""How much of the beginning is looked at."""

CONTROL_SHARE = 0.05
"""Above this share of control characters in its beginning a file is taken for binary."""

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
}
_UNPACK = "Unpack it on your machine and upload the data file inside, or choose the kind Training script if it is one"
_EXPORT = "Export the data as JSONL, JSON, CSV or TXT and upload that"
_CONVERT = "Convert it to JSONL (with pandas: to_json(path, orient='records', lines=True)) and upload that"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (
        b"PK\x03\x04",
        "a zip archive (or an Excel or Word file, which are zips inside)",
        f"{_UNPACK}. From Excel or Word, export the data as JSONL, JSON, CSV or TXT and upload that",
    ),
    (b"PK\x05\x06", "an empty zip archive", _EXPORT),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"PAR1", "a Parquet file", _CONVERT),
    (b"ARROW1", "an Arrow file", _CONVERT),
    (b"\x89HDF", "an HDF5 file", _CONVERT),
    (b"SQLite format 3\x00", "an SQLite database", _EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file", _EXPORT),
    (b"%PDF-", "a PDF document", "Copy its text into a .txt file and upload that"),
    (b"{\\rtf", "a rich text document", "Save it as plain text (.txt) in UTF-8 and upload that"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", _EXPORT),
    (b"\xff\xd8\xff", "a JPEG image", _EXPORT),
    (b"GIF87a", "a GIF image", _EXPORT),
    (b"GIF89a", "a GIF image", _EXPORT),
    (b"RIFF", "a WebP image or a sound or video file", _EXPORT),
    (b"MZ", "a Windows program", _EXPORT),
    (b"\x7fELF", "a program", _EXPORT),
    (b"\xcf\xfa\xed\xfe", "a program", _EXPORT),
    (b"\x80\x02", "a Python pickle", _EXPORT),
    (b"\x80\x03", "a Python pickle", _EXPORT),
    (b"\x80\x04", "a Python pickle", _EXPORT),
    (b"\x80\x05", "a Python pickle", _EXPORT),
)
_PRINTABLE_MAGIC = (b"BZh", b"PAR1", b"ARROW1", b"RIFF", b"MZ")
"""Beginnings that a text could have too: they count only when what follows is not text."""

_UTF8_ADVICE = 'Save it as UTF-8 (in Excel "CSV UTF-8", in Notepad "Save as", encoding UTF-8) and upload it again'
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Head:
    """The beginning of a file: its first bytes without a UTF-8 mark, and whether that is all."""

    start: bytes
    whole: bool

    @property
    def lines(self) -> list[str]:
        """The lines with something in them; the last may be cut when the head is not the whole file."""
        text = self.start.decode("utf-8", errors="replace")
        return [line for line in text.split("\n") if line.strip()]


def look(path: Path, name: str) -> Head:
    """The beginning of the file at `path`.

    Raises `DataError` when there is no readable regular file, or when it is empty or holds no text.
    """
    try:
        if not path.is_file():
            raise DataError(f"There is no file {shown(name)}. Give the path of a data file.")
        with path.open("rb") as file:
            start, size = file.read(HEAD_BYTES), path.stat().st_size
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
        raise DataError(f"The file {shown(name)} cannot be read: {reason}.") from None
    except ValueError:
        raise DataError("The path of the data file holds a character that no path may hold.") from None
    if not start:
        raise DataError("The file is empty. Choose a file with at least one row.")
    _refuse_binary(start)
    head = Head(start.removeprefix(b"\xef\xbb\xbf"), whole=size <= len(start))
    if head.whole and not head.start.strip():
        raise DataError("The file holds only blank lines. Choose a file with at least one row.")
    return head


def container_of(head: Head, name: str) -> str:
    """'jsonl', 'json', 'csv' or 'txt': by the suffix of `name`, unless the content plainly says otherwise.

    Raises `DataError` for a web page or a file with line ends of the old Mac kind.
    """
    suffix = PurePath(name).suffix.lower()
    container = _container(head, suffix)
    beginning = head.start.lstrip()[:100].lower()
    if container != "txt" and (beginning.startswith((b"<!doctype html", b"<html"))):
        raise DataError(
            "This is a web page, not a data file: a log-in or error page may have been saved in its place. "
            "Download the data again and look at it in a text editor before uploading."
        )
    if container != "json" and b"\n" not in head.start and b"\r" in head.start.rstrip():
        raise DataError(
            "The lines of the file end in the old Mac way (CR alone). Save it with line ends of the kind LF "
            "(Unix) or CRLF (Windows) and upload it again."
        )
    return container


def _container(head: Head, suffix: str) -> str:
    lines = head.lines
    named = _SUFFIXES.get(suffix)
    if not lines:
        return named or "txt"
    whole = lines if head.whole else lines[:-1]
    objects = [_is_object(line) for line in whole[:10]]
    if any(first and second for first, second in pairwise(objects)):
        return "jsonl"
    if named in ("csv", "txt"):
        return "jsonl" if objects == [True] and head.whole else named
    if lines[0].lstrip()[:1] in ("[", "{"):
        return _array_or_lines(lines, suffix, objects == [True] and head.whole)
    return named or ("csv" if _has_known_columns(lines[0]) else "txt")


def _array_or_lines(lines: list[str], suffix: str, one_object: bool) -> str:
    """Whether text that begins like JSON is one JSON value (json) or one value on each line (jsonl)."""
    if one_object:
        wrapped = isinstance(json.loads(lines[0]).get("data"), list)
        return "json" if wrapped or suffix == ".json" else "jsonl"
    if suffix == ".json":
        return "json"
    first = lines[0].strip()
    following = lines[1].strip() if len(lines) > 1 else ""
    if first[0] == "{":
        return "json" if first == "{" and following.startswith('"') else "jsonl"
    inside = (first[1:] + following).lstrip()
    return "json" if inside.startswith("{") or inside == "]" else "jsonl"


def _is_object(line: str) -> bool:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def _has_known_columns(header: str) -> bool:
    """Whether a first line reads like the header of a CSV file in a known format."""
    cells = re.split(r"[,;\t|]", header.replace('"', ""))
    return len(cells) > 1 and recognise([cell.strip() for cell in cells]) is not None


def _refuse_binary(start: bytes) -> None:
    controls = len(start) - len(start.translate(None, _CONTROLS))
    binary = controls / len(start) > CONTROL_SHARE
    for magic, what, advice in _MAGIC:
        if start.startswith(magic) and (magic not in _PRINTABLE_MAGIC or binary or b"\x00" in start[:512]):
            raise DataError(f"The file is {what}, which cannot be read as data. {advice}.")
    if start[257:262] == b"ustar":
        raise DataError(f"The file is a tar archive, which cannot be read as data. {_UNPACK}.")
    if start[4:9] == b"\x00\x00\x00\x00{":
        raise DataError(f"The file is a safetensors file: it holds the weights of a model, not data. {_EXPORT}.")
    if _is_utf16(start):
        raise DataError(f'The file is in UTF-16 (Windows calls it "Unicode"), not in UTF-8. {_UTF8_ADVICE}.')
    if binary:
        raise DataError(f"The file is binary: it does not hold text, whatever its name says. {_EXPORT}.")
    if start.startswith(_POINTER):
        raise DataError(
            "The file is a Git LFS pointer: a note of three lines in place of the data. Run git lfs pull, or "
            "use the download link of the page, and upload the real file."
        )


def _is_utf16(start: bytes) -> bool:
    """By the mark at the beginning, or by a NUL in most of the even or most of the odd places."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    half = len(start) // 2
    return half >= 4 and any(
        start[side::2].count(0) > 0.6 * half > start[1 - side :: 2].count(0) * 4 for side in (0, 1)
    )
