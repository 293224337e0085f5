"""Brings one file to the server, piece by piece from wherever it has arrived."""

from __future__ import annotations

import re
import time
from pathlib import Path

from ..files import file_sha256
from ..runner import Say
from ..words import file_size
from .retries import persistently
from .server import Refused, Server, Trouble

CHUNK, MOST_CHUNK = 8 << 20, 64 << 20  # bytes; each is held in memory
FIRST_PIECE, LEAST_PIECE = 64 << 10, 16 << 10
QUICK_SECONDS, SLOW_SECONDS = 2.0, 12.0  # a piece that takes less, or more, is followed by a larger, or smaller, one


def upload(server: Server, file: Path, name: str, say: Say) -> str:
    """Bring a file to the server and return the id of the upload. Raises Refused."""
    size, sha256 = file.stat().st_size, file_sha256(file, say)
    order = {"name": name, "size": size, "sha256": sha256}
    made = persistently(lambda: server.request("POST", "/api/uploads", order).json(), say)
    upload_id, chunk_bytes = str(made["id"]), min(max(int(made.get("chunk_bytes") or CHUNK), 1), MOST_CHUNK)
    address = f"/api/uploads/{upload_id}"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", upload_id):
        raise Refused(0, "The server gave the upload a name this agent does not accept.")
    for _ in range(2):
        _send(server, address, file, size, chunk_bytes, say)
        try:
            persistently(lambda: server.request("POST", f"{address}/complete"), say)
            return upload_id
        except Refused as refusal:
            if refusal.status != 422:  # 422: other bytes arrived than announced; once more from the beginning
                raise
    raise Refused(422, f"{name} arrived twice with other bytes than it has here.")


class _Sending:
    """A file on its way, piece by piece. A piece is what the line carries in a few seconds: on a slow one a large piece runs
    into the time-out of its request, and what it has left in the buffers holds up the next."""

    def __init__(self, server: Server, address: str, file: Path, most: int) -> None:
        self._server, self._address, self._file, self._most = server, address, file, most
        self._piece = min(FIRST_PIECE, most)
        self.offset = 0

    def ask(self) -> None:
        """Learn from the server where to go on. Raises Refused and Trouble."""
        self.offset = self._server.request("HEAD", self._address).offset()

    def step(self) -> None:
        """Send one piece. Raises Refused and Trouble."""
        piece, began = _chunk(self._file, self.offset, self._piece), time.monotonic()
        headers = {"Upload-Offset": str(self.offset), "Content-Type": "application/offset+octet-stream"}
        try:
            self.offset = self._server.request("PATCH", self._address, piece, headers).offset()
        except Refused as refusal:
            if refusal.status != 409:
                raise
            before = self.offset
            self.ask()
            if self.offset == before:
                raise Trouble(str(refusal)) from None
        except Trouble:
            # What of the piece has arrived is known by the server alone; the pause comes before the next piece.
            self._next_is(self._piece // 4)
            self.ask()
            raise
        else:
            self._fit(time.monotonic() - began)

    def _fit(self, seconds: float) -> None:
        if seconds < QUICK_SECONDS:
            self._next_is(self._piece * 2)
        elif seconds > SLOW_SECONDS:
            self._next_is(self._piece // 2)

    def _next_is(self, size: int) -> None:
        self._piece = min(self._most, max(LEAST_PIECE, size))


def _send(server: Server, address: str, file: Path, size: int, chunk_bytes: int, say: Say) -> None:
    sending = _Sending(server, address, file, chunk_bytes)
    persistently(sending.ask, say)
    while sending.offset < size:
        persistently(sending.step, say)
        say(f"Sent {file_size(sending.offset)} of {file_size(size)} of {file.name}.")


def _chunk(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)
