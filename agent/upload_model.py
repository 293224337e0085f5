"""The verb `upload` for a trained model: a folder in Hugging Face format, or one .safetensors file.

Weights travel as safetensors only. Other kinds of weights can run code when they are loaded; they stay here and are named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .addresses import http_base
from .artifact_names import name_fault
from .files import file_sha256
from .transfers.retries import persistently
from .transfers.server import Refused, Server
from .transfers.uploads import upload
from .upload import GIVE_UP_AFTER, NotUploaded, Sayer, why_refused
from .words import file_size, listed

WEIGHTS = ".safetensors"
CAN_RUN_CODE = (
    ".pt",
    ".pth",
    ".bin",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".npy",
    ".npz",
    ".joblib",
    ".h5",
    ".keras",
    ".msgpack",
)
# Written during training and of no use for loading the model.
_LEFT_OUT_FOLDERS = re.compile(r"checkpoint-\d+|runs|logs|wandb|global_step\d+")
MOST_FILES = 500


@dataclass(frozen=True)
class Found:
    """What a folder holds: files by the names they will have, and what stays here, with the reason."""

    files: dict[str, Path]
    left_out: list[str]


def is_model(path: Path) -> bool:
    """Whether PATH is brought as a model: a folder, or a file of weights."""
    return path.is_dir() or path.suffix == WEIGHTS or path.suffix in CAN_RUN_CODE


def upload_model(
    server_url: str, key: str, path: Path, name: str | None, description: str | None, base_model: str | None
) -> str:
    """Upload the files and return a sentence about the model they became. Raises NotUploaded."""
    found = look(path)
    server, say = Server(http_base(server_url), key), Sayer()
    order: dict[str, object] = {"name": name or path.resolve().name if path.is_dir() else path.stem}
    order |= {"description": description} if description else {}
    order |= {"base_model": base_model} if base_model else {}
    try:
        sums = {inside: file_sha256(file) for inside, file in found.files.items()}
        order["files"] = [
            {"name": inside, "upload": _brought(server, file, inside, say)} for inside, file in found.files.items()
        ]
        # The same content under the same name asked twice, after a lost answer, say, is one model.
        asked = hashlib.sha256(repr((sorted(sums.items()), sorted(order.items(), key=str))).encode()).hexdigest()
        headers = {"Idempotency-Key": asked}
        made = persistently(lambda: server.request("POST", "/api/models", order, headers).json(), say, GIVE_UP_AFTER)
    except Refused as refusal:
        raise NotUploaded(why_refused(refusal, server)) from None
    except TimeoutError as error:
        raise NotUploaded(f"The server could not be reached: {error}.") from None
    total = file_size(sum(file.stat().st_size for file in found.files.values()))
    lines = [f"Model {made.get('id')}: {made.get('name')}, version {made.get('version')}, {total}."]
    lines += [f"{http_base(server_url)}/models/{made.get('id')}", *(f"  left out: {one}" for one in found.left_out)]
    return "\n".join(lines)


def _brought(server: Server, file: Path, inside: str, say: Sayer) -> str:
    upload_id = upload(server, file, inside, say)
    say.finish()
    return upload_id


def look(path: Path) -> Found:
    """What of PATH makes a model. Raises NotUploaded when it holds no safetensors weights, or too many files."""
    if not path.exists():
        raise NotUploaded(f"There is no file or folder {path}.")
    if path.is_file():
        if path.suffix != WEIGHTS:
            raise NotUploaded(f"{path} can run code when it is loaded. {_CONVERT}")
        return Found({f"model{WEIGHTS}" if name_fault(path.name) else path.name: path}, [])
    files: dict[str, Path] = {}
    left_out: list[str] = []
    for file in _below(path):
        inside = file.relative_to(path).as_posix()
        if reason := _reason_to_leave_out(file, inside):
            left_out.append(f"{inside} ({reason})")
        else:
            files[inside] = file
    if not any(name.endswith(WEIGHTS) for name in files):
        others = [one for one in left_out if "code" in one]
        there = (
            f" It holds {listed(others[:3])}. {_CONVERT}"
            if others
            else " Name the folder that holds the model's files."
        )
        raise NotUploaded(f"{path} holds no weights in safetensors.{there}")
    if len(files) > MOST_FILES:
        raise NotUploaded(
            f"{path} holds {len(files)} files and a model has at most {MOST_FILES}. Name the model's own folder."
        )
    return Found(files, left_out)


_CONVERT = "Save it as safetensors: model.save_pretrained(folder, safe_serialization=True), and upload that folder."


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (path.is_dir() and _LEFT_OUT_FOLDERS.fullmatch(path.name)):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)
        elif path.is_file():
            yield path


def _reason_to_leave_out(file: Path, inside: str) -> str | None:
    if file.suffix in CAN_RUN_CODE:
        return "can run code when it is loaded"
    if name_fault(inside):
        return "the server does not take this name"
    return "it is empty" if file.stat().st_size == 0 else None
