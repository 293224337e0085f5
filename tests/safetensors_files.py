"""Small safetensors files for tests, whole and broken, written by hand so that every byte can be wrong on purpose."""

from __future__ import annotations

import json
from typing import Any


def file(header: Any = None, buffer: bytes = b"\0" * 16, *, length: int | None = None) -> bytes:
    """A file of two tensors of two F32 each, or of whatever header and buffer are given."""
    if header is None:
        header = {"a": tensor(0, 8), "b": tensor(8, 16), "__metadata__": {"format": "pt"}}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + buffer


def tensor(begins: int, ends: int, dtype: str = "F32", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [2] if shape is None else shape, "data_offsets": [begins, ends]}
