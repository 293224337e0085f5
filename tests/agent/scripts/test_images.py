"""How large an image claims to be: read from the first bytes of real files, cut off wherever."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest

from agent.scripts.images import size_of

# The beginnings of images of 300 x 200 pixels, as Pillow 12 writes them.
BEGINNINGS = {
    "gif": b"GIF87a\x2c\x01\xc8\x00\x80\x00\x00",
    "jpeg": base64.b64decode("/9j/4AAQSkZJRgABAQAAAQABAAD/2wBD")
    + b"\0"
    + b"\xff" * 64
    + base64.b64decode("/8AACwgAyAEsAQERAA=="),
    "webp": base64.b64decode("UklGRqYAAABXRUJQVlA4IJoAAABwEACdASosAcgAP83m"),
    "webp, lossless": base64.b64decode("UklGRiIAAABXRUJQVlA4TBYAAAAvK8ExAAcQEf0PACjS"),
    "webp, extended": base64.b64decode("UklGRtIAAABXRUJQVlA4WAoAAAAQAAAAKwEAxwAAQUxQSBEA"),
}


def png(width: int, height: int) -> bytes:
    """A PNG that claims this size and has hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_header_tells_the_size(name: str) -> None:
    assert size_of(name.partition(",")[0], BEGINNINGS[name]) == (300, 200)


def test_a_png_tells_it_too() -> None:
    assert size_of("png", png(50_000, 50_000)) == (50_000, 50_000)


@pytest.mark.parametrize("name", [*BEGINNINGS, "png"])
def test_an_image_that_breaks_off_says_its_size_or_nothing(name: str) -> None:
    whole = BEGINNINGS.get(name) or png(300, 200)
    for end in range(len(whole)):
        assert size_of(name.partition(",")[0], whole[:end]) in (None, (300, 200))
