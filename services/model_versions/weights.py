"""What a safetensors file must be before it is kept: the header read and compared with the file, no tensor looked at.

The format is that of the safetensors library (README, "Format"): eight bytes with the length of a JSON header, the header, and
one buffer that the tensors fill without gap or overlap. The bounds are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services import strict_json

MOST_HEADER_BYTES = 1 << 20
MOST_TENSORS = 10_000
MOST_DIMENSIONS = 64
LARGEST = 2**63
# dtype -> bits of one element.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class BadWeights(Exception):
    """This is no safetensors file that can be kept; `str()` says what is wrong, without the file's name."""


@dataclass(frozen=True)
class Weights:
    """How many tensors a file holds, and how many numbers they hold together."""

    tensors: int
    parameters: int


def look(path: Path) -> Weights:
    """Read the header of a safetensors file and check it against the file. Raises BadWeights."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length < 2:
            raise BadWeights("is too short for a safetensors file")
        if length > min(MOST_HEADER_BYTES, size - 8):
            raise BadWeights(
                f"announces a header of {length:,} bytes; it may have {MOST_HEADER_BYTES:,}, and lies in the file"
            )
        header = _header(file.read(length))
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    if not 1 <= len(tensors) <= MOST_TENSORS:
        raise BadWeights(f"holds {len(tensors):,} tensors; it may hold 1 to {MOST_TENSORS:,}")
    spans = sorted(_span(name, tensor) for name, tensor in tensors.items())
    _check_filled(spans, size - 8 - length)
    return Weights(len(tensors), sum(_count(tensor["shape"]) for tensor in tensors.values()))


def _header(raw: bytes) -> dict[str, Any]:
    try:
        header = strict_json.loads(raw.decode("utf-8"))
    except ValueError:
        header = None
    if not raw.startswith(b"{") or not isinstance(header, dict):
        raise BadWeights("has a header that is no JSON object, or names a tensor twice")
    about = header.get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise BadWeights("has a `__metadata__` that is not made of texts")
    return header


def _span(name: str, tensor: Any) -> tuple[int, int, str]:
    """Where a tensor lies in the buffer, once its dtype, shape and offsets agree."""
    if not isinstance(tensor, dict) or set(tensor) != {"dtype", "shape", "data_offsets"}:
        raise BadWeights(f"describes the tensor {name[:80]!r} in another way than dtype, shape and data_offsets")
    dtype, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise BadWeights(f"holds {name[:80]!r} in the unknown dtype {str(dtype)[:20]!r}")
    if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
        raise BadWeights(f"gives {name[:80]!r} a shape or offsets that are no whole numbers")
    bits = _count(shape) * BITS[dtype]
    if bits >= LARGEST or bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise BadWeights(f"gives {name[:80]!r} {offsets[1] - offsets[0]:,} bytes, which is not what its shape needs")
    return offsets[0], offsets[1], name


def _are_sizes(given: Any) -> bool:
    return isinstance(given, list) and all(type(one) is int and 0 <= one < LARGEST for one in given)


def _count(shape: list[int]) -> int:
    return math.prod(shape)


def _check_filled(spans: list[tuple[int, int, str]], buffer: int) -> None:
    end = 0
    for begins, ends, name in spans:
        if begins != end:
            fault = "overlaps another tensor" if begins < end else "leaves a gap before it"
            raise BadWeights(f"holds the tensor {name[:80]!r}, which {fault}")
        end = ends
    if end != buffer:
        raise BadWeights(f"holds {buffer:,} bytes of tensors and its header describes {end:,}")
