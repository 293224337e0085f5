"""The little of the protobuf wire format that event files need (protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

_DTYPES = {1: ("<f", 4), 2: ("<d", 8), 3: ("<i", 4), 9: ("<q", 8)}  # float, double, int32, int64 of types.proto
_PACKED = {5: "<f", 6: "<d", 7: "varint", 10: "varint"}  # float_val, double_val, int_val, int64_val of tensor.proto


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value: whole numbers for varints, bytes for everything else. Raises ValueError when torn."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire = key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if wire == 2:
            length, place = _varint(message, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"A field has the unknown wire type {wire}.")
        if place + length > len(message):
            raise ValueError("A field is longer than its message.")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value & (2**64 - 1), place
    raise ValueError("A number is torn.")


def number(layout: str, data: bytes) -> float | None:
    """One number of that `struct` layout; None when it is not finite. Raises ValueError for another length."""
    if len(data) != struct.calcsize(layout):
        raise ValueError("A number has the wrong length.")
    value = float(struct.unpack(layout, data)[0])
    return value if math.isfinite(value) else None


def scalar_of_tensor(tensor: bytes) -> float | None:
    """The one number of a TensorProto {dtype = 1, tensor_shape = 2, tensor_content = 4, *_val}.

    Raises ValueError when it holds none, several, or something other than numbers.
    """
    dtype, found = 0, []
    for field, value in fields(tensor):
        if field == 1 and isinstance(value, int):
            dtype = value
        elif field == 4 and isinstance(value, bytes) and dtype in _DTYPES:
            found.append(number(_DTYPES[dtype][0], value))
        elif field in _PACKED:
            found.append(_packed(_PACKED[field], value))
    if len(found) != 1:
        raise ValueError("The tensor is not one number.")
    return found[0]


def _packed(layout: str, value: int | bytes) -> float | None:
    if isinstance(value, bytes) and layout != "varint":
        return number(layout, value)
    if isinstance(value, bytes):
        value, end = _varint(value, 0)
    return float(value - 2**64 if value >= 2**63 else value)
