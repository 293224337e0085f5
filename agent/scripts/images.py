"""How large an image claims to be, by its header alone: nothing is decoded, so nothing small can become large here.

PNG: ISO/IEC 15948, 11.2.2. GIF: GIF89a, 18. JPEG: ITU-T T.81, B.2.2. WebP: RFC 9649, 2.5 to 2.7.
"""

from __future__ import annotations

import struct

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of JPEG that begin a frame
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length


def size_of(kind: str, data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a `png`, `gif`, `jpeg` or `webp`; None where the header does not say."""
    try:
        if kind == "png" and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if kind == "gif":
            width, height = struct.unpack_from("<HH", data, 6)
            return width, height
        if kind == "jpeg":
            return _of_jpeg(data)
        return _of_webp(data) if kind == "webp" else None
    except (struct.error, IndexError):
        return None


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker == 0xFF:
            at += 1
        else:
            at += 2 if marker in _ALONE else 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return None


def _of_webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        wide, wider, high, higher = struct.unpack_from("<HBHB", data, 24)
        return 1 + (wide | wider << 16), 1 + (high | higher << 16)
    if kind == b"VP8L":
        bits = int(struct.unpack_from("<I", data, 21)[0])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
