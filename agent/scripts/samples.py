"""What a script writes to `samples/`, texts and images, on its way to the job's page.

A file is taken once it has not changed between two looks. It travels in pieces, each small enough for one record:

    {"name", "step", "type": "text" | "png" | "jpeg" | "gif" | "webp", "bytes", "piece", "pieces", "text" | "data"}

`data` is base64. What a file is, is told by its first bytes and not by its name.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from time import monotonic
from typing import Any

from .found_files import Folder
from .images import size_of

MOST_SAMPLES = 200
MOST_TEXT_BYTES = 65_536
MOST_IMAGE_BYTES = 1 << 20
MOST_PIXELS = 40_000_000  # a small file may claim more than any browser can show
PIECE_BYTES = 16_384
AGAIN_SECONDS = 10.0  # a file that is written again and again is sent as often as this, and at the end
_TEXTS = (".txt", ".md", ".log", ".json", ".jsonl", ".csv")
_IMAGES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"))
_STEP = re.compile(r"(\d{1,9})(?!.*\d)")

Piece = dict[str, Any]


class Samples:
    """Looks into one folder again and again and answers what is new in it, in pieces."""

    def __init__(self, folder: Folder, since: float) -> None:
        self._folder, self._since = folder, since
        self._seen: dict[str, tuple[float, int]] = {}  # at the last look
        self._taken: dict[str, tuple[float, int]] = {}
        self._taken_at: dict[str, float] = {}
        self.notes: list[str] = []

    def poll(self, step: int, last: bool = False) -> Iterator[Piece]:
        """The pieces of every file that is new and at rest; `step` is told with those whose name has no number.

        With `last`, when the script has ended, nothing is waited for.
        """
        seen, self._seen = self._seen, {}
        for name, facts in self._folder.files(deepest=2, notes=self.notes):
            state = (facts.st_mtime, facts.st_size)
            at_rest = last or seen.get(name) == state
            self._seen[name] = state
            if facts.st_mtime < self._since or not at_rest or self._taken.get(name) == state:
                continue
            if not last and monotonic() - self._taken_at.get(name, -AGAIN_SECONDS) < AGAIN_SECONDS:
                continue
            if len(self._taken) >= MOST_SAMPLES and name not in self._taken:
                if len(self._taken) == MOST_SAMPLES:
                    self._taken[""] = state
                    self.notes.append(f"Only the first {MOST_SAMPLES} samples are shown.")
                continue
            self._taken[name], self._taken_at[name] = state, monotonic()
            yield from self._pieces(name, facts.st_size, step)

    def _pieces(self, name: str, size: int, step: int) -> Iterator[Piece]:
        if size > MOST_IMAGE_BYTES:
            self.notes.append(
                f"The sample {name} is not shown: it has {size:,} bytes, at most {MOST_IMAGE_BYTES:,} are."
            )
            return
        try:
            with self._folder.open(name) as file:
                data = file.read(MOST_IMAGE_BYTES + 1)
        except OSError:
            return
        kind = kind_of(name, data)
        if kind is None or (kind == "text" and len(data) > MOST_TEXT_BYTES):
            self.notes.append(
                f"The sample {name} is not shown: it is no text up to 64 KiB and no PNG, JPEG, GIF or WebP."
            )
            return
        width, height = size_of(kind, data) or (0, 0)
        if width * height > MOST_PIXELS:
            self.notes.append(
                f"The sample {name} is not shown: it is {width:,} × {height:,} pixels large, at most {MOST_PIXELS:,} are."
            )
            return
        number = _STEP.search(name)
        common = {"name": name[:200], "step": int(number[1]) if number else step, "type": kind, "bytes": len(data)}
        if kind == "text":  # whole: secrets are masked in it before it is cut
            yield {**common, "text": data.decode("utf-8", "replace")}
            return
        parts = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)] or [b""]
        for piece, raw in enumerate(parts):
            yield {**common, "piece": piece, "pieces": len(parts), "data": base64.b64encode(raw).decode("ascii")}


def kind_of(name: str, data: bytes) -> str | None:
    """What a file is: text, png, jpeg, gif or webp; None for anything else."""
    for beginning, kind in _IMAGES:
        if data.startswith(beginning):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "text" if name.lower().endswith(_TEXTS) and b"\0" not in data else None
