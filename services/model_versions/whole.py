"""All files of a model version as one zip, written while it is read: nothing is kept of it, however large it is."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.model_versions import ModelVersion
from services.gateways import gateways

PIECE_BYTES = 1 << 20


class _Sink(io.RawIOBase):
    """Takes what is written until it is taken."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


def folder_name(version: ModelVersion) -> str:
    """The folder that the files lie in when they are unpacked: the model's name, as every system takes it."""
    return re.sub(r"[^\w.-]+", "-", version.trained_model.name).strip("-.") or "model"


def zipped(version: ModelVersion) -> Iterator[bytes]:
    """The zip in pieces. Nothing is compressed: weights do not get smaller by it."""
    store, folder = gateways().storage, folder_name(version)
    return _pieces([(f"{folder}/{file.name}", store.path(file.storage_key)) for file in version.files])


def _pieces(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files:
            with path.open("rb") as source, archive.open(name, "w", force_zip64=True) as target:
                while piece := source.read(PIECE_BYTES):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()
