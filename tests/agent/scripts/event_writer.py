"""Writes TensorBoard event files from the description of their format, for the tests that read them."""

from __future__ import annotations

import struct

from agent.scripts.event_files import masked_crc


def varint(value: int) -> bytes:
    value %= 2**64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """A varint or a length-delimited field."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def float_field(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)


def tensor(dtype: int, *parts: bytes) -> bytes:
    return field(8, field(1, dtype) + field(2, b"") + b"".join(parts))


def scalar(tag: str, value: float) -> bytes:
    return field(5, field(1, field(1, tag.encode()) + float_field(2, value)))


def valued(tag: str, value: bytes) -> bytes:
    """A summary of one value that holds a tensor, a picture or the like."""
    return field(5, field(1, field(1, tag.encode()) + value))


def event(step: int, *summaries: bytes) -> bytes:
    return varint(1 << 3 | 1) + struct.pack("<d", 1.8e9) + field(2, step) + b"".join(summaries)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", 0)


def file_of(*events: bytes) -> bytes:
    version = varint(1 << 3 | 1) + struct.pack("<d", 1.8e9) + field(3, b"brain.Event:2")
    return b"".join(record(data) for data in (version, *events))
