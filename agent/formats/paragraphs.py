"""Plain text as rows: whole paragraphs, grouped up to a length that training can use."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from agent.formats.rows import BadRow, Record

PARAGRAPH_CHARS = 2000
"""Paragraphs are put together in rows of at most this many characters; a longer one is cut."""

_PIECE_BYTES = 64 * 1024
_SENTENCE_END = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*\\s|[\u3002\uff01\uff1f]|\n")


def text_records(path: Path) -> Iterator[Record | BadRow]:
    """Rows `{"text": ...}` of a UTF-8 text; paragraphs are separated by blank lines.

    Memory does not grow with the file, nor with the length of its lines: a line is read in pieces.
    """
    grouper = _Grouper()
    with path.open("rb") as file:
        for line, piece, starts in _pieces(file):
            if isinstance(piece, BadRow):
                yield from grouper.end_paragraph()
                yield piece
            elif starts and not piece.strip():
                yield from grouper.end_paragraph()
            else:
                yield from grouper.add(line, piece, starts)
    yield from grouper.end_paragraph()
    yield from grouper.end_group()


class _Grouper:
    """Puts paragraphs together. `_text` is the paragraph being read, `_group` the row being filled."""

    def __init__(self) -> None:
        self._text, self._line = "", 0
        self._group, self._group_line = "", 0

    def add(self, line: int, piece: str, starts: bool) -> Iterator[Record]:
        """Adds a line, or (not `starts`) more of the same line; gives the rows that are full by that."""
        if not self._text:
            self._text, self._line = piece, line
        else:
            self._text += "\n" + piece if starts else piece
        if len(self._text) > PARAGRAPH_CHARS:
            yield from self.end_group()
        while len(self._text) > PARAGRAPH_CHARS:
            end = _cut(self._text)
            row, line = self._text[:end].rstrip(), self._line
            rest = self._text[end:].lstrip()
            self._line += self._text.count("\n", 0, len(self._text) - len(rest))
            self._text = rest
            if row:
                yield Record(line, {"text": row})

    def end_paragraph(self) -> Iterator[Record]:
        """Closes the paragraph: it joins the group when it fits, else it opens the next one."""
        text, self._text = self._text.rstrip(), ""
        if not text:
            return
        if self._group and len(self._group) + 2 + len(text) > PARAGRAPH_CHARS:
            yield from self.end_group()
        if self._group:
            self._group += "\n\n" + text
        else:
            self._group, self._group_line = text, self._line

    def end_group(self) -> Iterator[Record]:
        """Gives the row being filled, if there is one."""
        if self._group:
            yield Record(self._group_line, {"text": self._group})
        self._group = ""


def _cut(text: str) -> int:
    """Where to cut a text that is too long: behind a sentence, else at a space, else at the limit."""
    window = text[:PARAGRAPH_CHARS]
    ends = [match.end() for match in _SENTENCE_END.finditer(window, PARAGRAPH_CHARS // 2)]
    if ends:
        return ends[-1]
    spaces = [match.end() for match in re.finditer(r"\s", window) if match.start() > 0]
    return spaces[-1] if spaces else PARAGRAPH_CHARS


def _pieces(file: IO[bytes]) -> Iterator[tuple[int, str | BadRow, bool]]:
    """Lines without their ends, long ones in pieces: (line, text, whether it is the first of its line).

    A line that is not UTF-8 gives a bad row in place of its text, or in place of what is left of it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, offset, bad = 1, 0, False
    while raw := file.readline(_PIECE_BYTES):
        ends = raw.endswith(b"\n")
        body = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 and offset == 0 else raw
        held = len(decoder.getstate()[0])
        try:
            text = "" if bad else decoder.decode(body, final=ends)
        except UnicodeDecodeError as error:
            bad = True
            decoder.reset()
            place = offset - held + error.start + 1
            yield line, _broken(line, place), offset == 0
        if not bad:
            if "\x00" in text:
                bad = True
                yield line, BadRow(line, "The line holds a NUL character. Remove it."), offset == 0
            else:
                yield line, text.rstrip("\r\n") if ends else text, offset == 0
        line, offset, bad = (line + 1, 0, False) if ends else (line, offset + len(raw), bad)
    if not bad and decoder.getstate()[0]:
        yield line, _broken(line, offset - len(decoder.getstate()[0]) + 1), False


def _broken(line: int, place: int) -> BadRow:
    return BadRow(line, f"Byte {place} of the line is not UTF-8 text. Save the file as UTF-8, or mend that character.")
