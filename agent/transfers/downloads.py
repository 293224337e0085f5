"""Brings one file from the server, going on where an earlier try broke off."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import IO

from ..errors import JobFailed
from ..files import file_sha256
from ..runner import Say
from ..words import file_size
from .retries import persistently
from .server import Refused, Server, Trouble

PIECE = 1 << 18


def download(server: Server, path: str, target: Path, sha256: str, say: Say, size: int | None = None) -> Path:
    """Bring a file from the server to `target`, going on where an earlier try broke off, and check its hash.

    What is there already with the right hash is kept. Raises Refused, and JobFailed (platform) for a hash that stays wrong.
    """
    if target.is_file() and file_sha256(target, say) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_name(f"{target.name}.part")
    for _ in range(2):
        persistently(lambda: _download_rest(server, path, partial, say, size), say)
        if file_sha256(partial, say) == sha256:
            partial.replace(target)
            return target
        partial.unlink()
    raise JobFailed(
        "platform",
        f"{target.name} arrived twice with other bytes than the server announced.",
        "Press Try again. If it happens again, the stored file is damaged: upload it once more.",
    )


def _download_rest(server: Server, path: str, partial: Path, say: Say, size: int | None) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    if partial.exists() and start == size:
        return
    if size is not None and start > size:
        partial.unlink()
        start = 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        with server.open("GET", path, headers=headers) as response, open(partial, "ab") as file:
            if response.status != 206:
                file.truncate(0)
            _copy(response, file, say, size)
    except _TooLong:
        partial.unlink(missing_ok=True)
        raise JobFailed(
            "platform",
            f"{partial.stem} is longer than the server announced, which was {file_size(size)}.",
            "Press Try again. If it happens again, tell the operator.",
        ) from None
    except Refused as refusal:
        if refusal.status != 416:
            raise
        # What lies here is longer than the file: it is another one.
        partial.unlink(missing_ok=True)
        raise Trouble("what had arrived so far does not belong to this file") from None


class _TooLong(Exception):
    """More bytes came than were announced: there may be no end to them, and this disk has one."""


def _copy(response: http.client.HTTPResponse, file: IO[bytes], say: Say, size: int | None) -> None:
    expected = response.length
    received = 0
    while True:
        try:
            piece = response.read(PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise Trouble(f"the connection broke ({error})") from None
        if not piece:
            break
        if size is not None and file.tell() + len(piece) > size:
            raise _TooLong
        file.write(piece)
        received += len(piece)
        say(f"Received {file_size(file.tell())} of {file_size(size)}." if size else "")
    if expected is not None and received < expected:
        raise Trouble("the connection broke")
