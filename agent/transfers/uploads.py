"""Brings one file to the server, piece by piece from wherever it has arrived."""

from __future__ import annotations

import re
from pathlib import Path

from ..files import file_sha256
from ..runner import Say
from ..words import file_size
from .retries import persistently
from .server import Refused, Server, Trouble

CHUNK, MOST_CHUNK = 8 << 20, 64 << 20  # bytes; each is held in memory


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
        _send(server, address, file, size, chunk_bytes, say, int(made.get("offset") or 0))
        try:
            persistently(lambda: server.request("POST", f"{address}/complete"), say)
            return upload_id
        except Refused as refusal:
            if refusal.status != 422:  # 422: other bytes arrived than announced; once more from the beginning
                raise
    raise Refused(422, f"{name} arrived twice with other bytes than it has here.")


def _send(server: Server, address: str, file: Path, size: int, chunk_bytes: int, say: Say, offset: int) -> None:
    place = [offset]

    def step() -> None:
        chunk = _chunk(file, place[0], chunk_bytes)
        headers = {"Upload-Offset": str(place[0]), "Content-Type": "application/offset+octet-stream"}
        try:
            place[0] = server.request("PATCH", address, chunk, headers).offset()
        except Refused as refusal:
            if refusal.status != 409:
                raise
            before, place[0] = place[0], server.request("HEAD", address).offset()
            if place[0] == before:
                raise Trouble(str(refusal)) from None
        except Trouble:
            # What of the piece has arrived is known by the server alone; the pause comes before the next piece.
            place[0] = server.request("HEAD", address).offset()
            raise

    place[0] = persistently(lambda: server.request("HEAD", address).offset(), say)
    while place[0] < size:
        persistently(step, say)
        say(f"Sent {file_size(place[0])} of {file_size(size)} of {file.name}.")


def _chunk(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)
