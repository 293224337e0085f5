"""The layout of a record on disk, and what stands in for a record that is lost."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from ..protocol import STREAMS

Item = dict[str, Any]

MAX_ITEM_BYTES = 32_768

HEAD = struct.Struct("<II")
BODY = struct.Struct("<BQ")
OVERHEAD = HEAD.size + BODY.size


def pack(stream: str, number: int, payload: bytes) -> bytes:
    """A record as it lies in a segment; `Cursor` takes it apart again."""
    body = BODY.pack(STREAMS.index(stream), number) + payload
    return HEAD.pack(len(payload), zlib.crc32(body)) + body


def empty_item(stream: str) -> Item:
    """What is read in place of a record that no longer exists; the server stores it like any other."""
    empty: dict[str, Item] = {"log": {"text": ""}, "metrics": {"steps": [], "values": {}}, "event": {"kind": "gap"}}
    return empty.get(stream, {})
