"""Uploaded zip archives: what is in one, and unpacking it without believing it.

Only regular files and folders come out, below one folder, within bounds that count the bytes that really come out. A
refusal names the entry, says what is wrong and leaves nothing behind. The format: APPNOTE.TXT 6.3 of PKWARE. This file
imports nothing of its package, so that it can run alone inside a box: `python archive.py [--json] ZIP FOLDER`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import stat
import struct
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

REFUSED = 3  # the exit code for a BadArchive
PACKED_AT = 946_684_800  # the year 2000: before any job, so that what was packed is nothing a job has written
_SMALL = 1 << 20  # below this no ratio is too large
_CHUNK = 1 << 20
_NAME_PART_BYTES = 255
_ENTRY_BYTES = 2_048  # what an entry may take in the directory, name and extra fields included
_LOCAL = struct.Struct("<4s22xHH")
_END, _END_64, _LOCATOR = struct.Struct("<4s6xHIIH"), struct.Struct("<4s28xQQQ"), struct.Struct("<4s4xQ4x")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCHED = 0x20
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])( *\..*)?", re.IGNORECASE)
_OTHERS = {  # first bytes, or bytes at 257 for tar: what people bring instead
    b"\x1f\x8b": "a gzip file (tar.gz)", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a rar archive",
    b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"(\xb5/\xfd": "a zstd file",
}  # fmt: skip


class BadArchive(Exception):
    """`kind` is type (not a zip that can be read), content (an entry that may not be) or size (too much of it)."""

    def __init__(self, kind: str, message: str, entry: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.entry = kind, message, entry


@dataclass(frozen=True)
class Bounds:
    """How much may come out of one archive."""

    entries: int = 10_000
    total_bytes: int = 20_000_000_000
    ratio: float = 200.0  # unpacked to packed, over the whole archive
    depth: int = 32  # folders in folders
    name_bytes: int = 1_024


@dataclass(frozen=True)
class Entry:
    """One file: its path with "/" between folders, and its bytes as the archive claims them."""

    name: str
    size: int


def lone_folder(names: Iterable[str]) -> str:
    """The one folder that all files lie in, as when a folder was packed from outside; empty when there is none."""
    tops = {name.partition("/")[0] if "/" in name else "" for name in names}
    return tops.pop() if len(tops) == 1 else ""


def is_of_finder(name: str) -> bool:
    """Whether a path is one of those that macOS puts beside a member's own files."""
    parts = name.rstrip("/").split("/")
    return parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or any(part.startswith("._") for part in parts)


def contents(archive: Path, bounds: Bounds | None = None) -> list[Entry]:
    """The files of an archive, checked as far as that goes without unpacking. Raises BadArchive and OSError."""
    with _opened(archive, bounds or Bounds()) as (_, entries):
        return [Entry(info.filename, info.file_size) for info in entries if not info.is_dir()]


def read(archive: Path, name: str, most: int) -> bytes:
    """The first `most` bytes of one file of an archive. Raises BadArchive and OSError."""
    with _opened(archive, Bounds()) as (source, _), source.open(name) as file:
        return file.read(most)


def unpack(archive: Path, folder: Path, bounds: Bounds | None = None) -> list[Entry]:
    """Unpack into `folder`, which must be empty or not be there yet; archives in the archive stay packed.

    Raises BadArchive and OSError; then `folder` is as it was before.
    """
    bounds = bounds or Bounds()
    existed = folder.exists()
    if existed and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty.")
    try:
        with _opened(archive, bounds) as (source, entries):
            folder.mkdir(parents=True, exist_ok=True)
            return list(_written(source, entries, folder, _allowance(archive, bounds)))
    except BaseException:
        if folder.exists():
            _empty(folder)
            if not existed:
                folder.rmdir()
        raise


def _allowance(archive: Path, bounds: Bounds) -> int:
    return int(min(bounds.total_bytes, max(_SMALL, bounds.ratio * archive.stat().st_size)))


@contextlib.contextmanager
def _opened(archive: Path, bounds: Bounds) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    _check_kind(archive)
    _check_directory(archive, bounds)
    try:
        with zipfile.ZipFile(archive) as source:
            yield source, _checked(source, archive, bounds)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeDecodeError) as error:
        raise BadArchive("content", f"The archive is damaged: {str(error).rstrip('.')}. Pack it again.") from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile's words for methods and passwords
        raise BadArchive("type", f"The archive cannot be read: {error}.") from None


def _check_kind(archive: Path) -> None:
    with open(archive, "rb") as file:
        start = file.read(512)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return
    other = next((what for begin, what in _OTHERS.items() if start.startswith(begin)), None)
    other = "a tar archive" if start[257:262] == b"ustar" else other
    raise BadArchive("type", f"This is {other or 'not a zip archive'}. Bring the folder as a zip archive.")


def _check_directory(archive: Path, bounds: Bounds) -> None:
    """Look at the size of the directory before anything reads it into memory."""
    size = archive.stat().st_size
    with open(archive, "rb") as file:
        file.seek(max(0, size - _END.size - 65_535))
        tail = file.read()
        at = len(tail) - _END.size
        if at < 0 or tail[at : at + 4] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
            at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _END.size:
            raise BadArchive("content", "The archive has no end: it was cut off. Bring it again.")
        _, count, directory, _, _ = _END.unpack_from(tail, at)
        if 0xFFFF in (count, directory >> 16) and at >= _LOCATOR.size:
            mark, offset = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
            file.seek(min(offset, size))
            larger = file.read(_END_64.size)
            if mark == b"PK\x06\x07" and len(larger) == _END_64.size:
                _, count, directory, _ = _END_64.unpack(larger)
    if count > bounds.entries:
        raise BadArchive("size", f"The archive has {count:,} entries; the most is {bounds.entries:,}.")
    if directory > bounds.entries * _ENTRY_BYTES:
        raise BadArchive("size", f"The archive's directory alone has {directory:,} bytes, which is too much.")


def _checked(source: zipfile.ZipFile, archive: Path, bounds: Bounds) -> list[zipfile.ZipInfo]:
    """What of the archive is taken: everything is checked, what macOS has added is left out."""
    entries = source.infolist()
    if len(entries) > bounds.entries:
        raise BadArchive("size", f"The archive has {len(entries):,} entries; the most is {bounds.entries:,}.")
    names = _Names()
    for info in entries:
        name = info.orig_filename  # `filename` is cut at a NUL
        _check_name(name, bounds)
        _check_entry(info, name)
        names.add(name)
    own = [info for info in entries if not is_of_finder(info.filename)]
    if all(info.is_dir() for info in own):
        raise BadArchive("content", "The archive holds no files.")
    _check_overlap(source, entries)
    total, most = sum(info.file_size for info in entries), _allowance(archive, bounds)
    if total > most:
        raise BadArchive("size", _too_much(most, bounds, archive))
    return own


def _too_much(most: int, bounds: Bounds, archive: Path) -> str:
    if most >= bounds.total_bytes:
        return f"The archive unpacks to more than {most:,} bytes, which is the most that is allowed."
    size = archive.stat().st_size
    return f"The archive unpacks to more than {bounds.ratio:g} times its {size:,} bytes, as no folder of scripts does."


def _check_name(name: str, bounds: Bounds) -> None:
    fault = _fault_of(name, bounds)
    if fault is not None:
        shown = name if len(name) <= 120 else name[:117] + "..."
        raise BadArchive("content", f"The entry {json.dumps(shown)} {fault}. Rename it and pack again.", name)


def _fault_of(name: str, bounds: Bounds) -> str | None:
    parts = name.removesuffix("/").split("/")
    if any(unicodedata.category(character) in ("Cc", "Cs") or _turns(character) for character in name):
        return "has a control character in its name"
    if "\\" in name:
        return "has a back-slash in its name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "names a place outside the archive"
    if ".." in parts:
        return "leads out of its folder"
    if "" in parts or "." in parts:
        return "has an empty part in its name"
    if len(os.fsencode(name)) > bounds.name_bytes or any(len(os.fsencode(part)) > _NAME_PART_BYTES for part in parts):
        return "has a name that is too long"
    if len(parts) - 1 > bounds.depth:
        return f"lies more than {bounds.depth} folders deep"
    if any(part.endswith((".", " ")) for part in parts):
        return "has a part that ends with a dot or a blank"
    if any(_RESERVED.fullmatch(part) for part in parts):
        return "has the name of a device"
    return None


def _turns(character: str) -> bool:
    """Whether it changes the direction of writing, so that a name looks like another one."""
    return character in "\u200e\u200f\u061c" or "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"


def _check_entry(info: zipfile.ZipInfo, name: str) -> None:
    def refuse(what: str, kind: str = "content") -> BadArchive:
        return BadArchive(kind, f"The entry {json.dumps(name)} {what}.", name)

    if info.flag_bits & _ENCRYPTED:
        raise refuse("is encrypted; pack it without a password", "type")
    if info.flag_bits & _PATCHED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refuse("is packed by a method that is not deflate; pack it with the usual one", "type")
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refuse("is a link or a device; only files and folders are taken")
    if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        raise refuse("has a special right (setuid, setgid or sticky)")
    if (kind == stat.S_IFDIR) != info.is_dir() and kind != 0:
        raise refuse("is a file and a folder at once")
    if info.is_dir() and info.file_size:
        raise refuse("is a folder with content")


class _Names:
    """The names so far, as a file system sees them that does not tell large letters from small ones."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._listed: set[str] = set()

    def add(self, name: str) -> None:
        parts = name.removesuffix("/").split("/")
        own = len(parts) if name.endswith("/") else len(parts) - 1
        for count in range(1, own + 1):
            self._take(self._folders, self._files, "/".join(parts[:count]), name)
        if name.endswith("/"):
            if name in self._listed:
                raise self._twice(name, name)
            self._listed.add(name)
        else:
            if (before := self._files.get(_folded(name))) is not None:
                raise self._twice(name, before)
            self._take(self._files, self._folders, name, name)

    def _take(self, own: dict[str, str], others: dict[str, str], path: str, name: str) -> None:
        key = _folded(path)
        before = own.setdefault(key, path)
        if before != path or key in others:
            raise self._twice(name, before if before != path else others[key])

    def _twice(self, name: str, before: str) -> BadArchive:
        message = f"The entries {json.dumps(before)} and {json.dumps(name)} would be the same file. Rename one and pack again."
        return BadArchive("content", message, name)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _check_overlap(source: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Each entry has bytes of its own: a bomb lets thousands of entries share the same ones."""
    file = source.fp
    assert file is not None
    free = 0
    for info in sorted(entries, key=lambda one: one.header_offset):
        if info.header_offset < free:
            raise BadArchive("content", f"The entry {json.dumps(info.filename)} overlaps another one.", info.filename)
        file.seek(info.header_offset)
        head = file.read(30)
        if len(head) < 30:
            raise BadArchive(
                "content", f"The entry {json.dumps(info.filename)} lies outside the archive.", info.filename
            )
        mark, name, extra = _LOCAL.unpack(head)
        free = info.header_offset + 30 + name + extra + info.compress_size
        if mark != b"PK\x03\x04" or free > source.start_dir:
            raise BadArchive("content", f"The entry {json.dumps(info.filename)} overlaps another one.", info.filename)


def _written(
    source: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], folder: Path, allowance: int
) -> Iterator[Entry]:
    left = allowance
    for info in entries:
        path = folder / info.filename
        if info.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        size = _write(source, info, path, left)
        left -= size
        yield Entry(info.filename, size)


def _write(source: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Inflate one file; the bytes are counted as they come, whatever the header says."""
    mode = 0o755 if info.external_attr >> 16 & 0o111 else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    size = 0
    with os.fdopen(descriptor, "wb") as target, source.open(info) as packed:
        while chunk := packed.read(_CHUNK):
            size += len(chunk)
            if size > left:
                message = f"The archive unpacks to more than it may: the bound was met at {json.dumps(info.filename)}."
                raise BadArchive("size", message, info.filename)
            target.write(chunk)
        target.flush()
        os.utime(target.fileno(), (PACKED_AT, PACKED_AT))
    if size != info.file_size:
        raise BadArchive(
            "content", f"The entry {json.dumps(info.filename)} is not as long as it claims.", info.filename
        )
    return size


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack one archive; the exit code is 0, or REFUSED with the reason."""
    parser = argparse.ArgumentParser(description="Unpack an uploaded zip archive within bounds.")
    parser.add_argument("zip", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true", help="answer as JSON")
    for bound in fields(Bounds):
        option = "--" + bound.name.replace("_", "-")
        parser.add_argument(option, type=type(bound.default), default=bound.default)
    given = vars(parser.parse_args(arguments))
    archive, folder, as_json = given.pop("zip"), given.pop("folder"), given.pop("json")
    try:
        entries = unpack(archive, folder, Bounds(**given))
    except BadArchive as refusal:
        told = {"kind": refusal.kind, "message": refusal.message, "entry": refusal.entry}
        print(json.dumps(told) if as_json else refusal.message, file=sys.stdout if as_json else sys.stderr)
        return REFUSED
    listed = {"entries": [asdict(entry) for entry in entries]}
    print(json.dumps(listed) if as_json else f"{len(entries):,} files are in {folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
