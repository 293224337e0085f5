"""A model that was trained elsewhere, brought along as finished uploads: checked, kept, and a version like any other."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from agent.artifact_names import name_fault
from models.accounts import User
from models.base import db, end_read, transaction
from models.model_versions import ModelVersion
from models.uploads import Upload
from services import credits, uploads
from services.errors import Conflict, Invalid, NotFound, Unsupported
from services.model_versions import reading, weights
from services.model_versions.keeping import NewFile, add_version, kept, named, refuse_one_too_many

MOST_FILES = 500
LONGEST_NAME, LONGEST_DESCRIPTION = 120, 2000
WEIGHTS = ".safetensors"
ADAPTER = "adapter_model.safetensors"
CAN_RUN_CODE = (
    ".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".h5", ".keras", ".msgpack", ".zip",
)  # fmt: skip
# How a pickle (protocol 2 and later) and a zip, which torch.save writes around pickles, begin.
_PICKLE = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04", re.DOTALL)
_CHECKED_JSON = ("config.json", "adapter_config.json", "generation_config.json", "model.safetensors.index.json")
_MOST_JSON_BYTES = 4 << 20


@dataclass(frozen=True)
class Brought:
    """What the files turned out to be."""

    method: str
    base_name: str
    tensors: int
    parameters: int


def create(actor: User, name: str, description: str, base_model: str, files: Sequence[tuple[str, str]]) -> ModelVersion:
    """Make finished uploads, given as (name, upload id), the next version of the member's model of this name.

    The same files as the newest version are that version. Raises Invalid for what is no model, Unsupported for weights that
    can run code, Conflict for an upload that is unfinished or in use, PaymentNeeded above the plan's number of models.
    """
    name, description = name.strip(), description.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise Invalid.of(name=f"Give the model a name of 1 to {LONGEST_NAME} characters.")
    if len(description) > LONGEST_DESCRIPTION:
        raise Invalid.of(description=f"Describe it in at most {LONGEST_DESCRIPTION:,} characters.")
    _check_names([file for file, _ in files])
    found = [(file, _finished(actor, file, upload_id)) for file, upload_id in files]
    with uploads.in_use([upload for _, upload in found]):
        return _made(actor, name, description, base_model, found)


def _made(
    actor: User, name: str, description: str, base_model: str, found: Sequence[tuple[str, Upload]]
) -> ModelVersion:
    same = _same_as_newest(actor, name, found)
    if same is not None:
        return _forgotten(same, found)
    refuse_one_too_many(actor, name)
    brought = _look(actor, base_model.strip(), found)
    new = [NewFile(file, uploads.path_of(upload), upload.size, str(upload.sha256)) for file, upload in found]
    end_read()
    details = {"tensors": brought.tensors, "parameters": brought.parameters, "description": description}
    with kept(new) as stored, transaction():
        credits.lock(actor.id)  # nobody else counts her models at the same time
        refuse_one_too_many(actor, name)
        version = add_version(
            actor.id, name, stored, job_id=None, recipe="", method=brought.method, base_name=brought.base_name,
            details=details,
        )  # fmt: skip
        for _, upload in found:
            uploads.forget(upload)
    return version


def _check_names(names: list[str]) -> None:
    if not 1 <= len(names) <= MOST_FILES or len({name.lower() for name in names}) != len(names):
        raise Invalid.of(files=f"A model lists 1 to {MOST_FILES} files, each name once.")
    for name in names:
        if fault := name_fault(name):
            raise Invalid.of(files=f"{name[:100]!r} is not a name for a file of a model: {fault}.")
        if name.lower().endswith(CAN_RUN_CODE):
            raise _can_run_code(name)
    if not any(name.endswith(WEIGHTS) for name in names):
        raise Invalid.of(files="No file holds weights. Upload them as safetensors.")


def _can_run_code(name: str) -> Unsupported:
    sentence = f"{name} is a kind of file that can run code when it is loaded. Upload safetensors."
    return Unsupported(sentence, {"files": sentence}, code="can_run_code")


def _finished(actor: User, name: str, upload_id: str) -> Upload:
    try:
        upload = uploads.get_for(actor, upload_id)
    except NotFound as missing:
        raise Invalid.of(files=f"{name}: {missing.message}") from None
    if upload.state == "open":
        raise Conflict(f"The upload of {name} is not complete.", code="upload_open")
    return upload


def _same_as_newest(actor: User, name: str, found: Sequence[tuple[str, Upload]]) -> ModelVersion | None:
    """The newest version of this name if it was brought along too and has the very same files."""
    trained = named(actor.id, name)
    if trained is None:
        return None
    newest = db.session.scalar(
        select(ModelVersion)
        .where(ModelVersion.trained_model_id == trained.id)
        .order_by(ModelVersion.version.desc())
        .limit(1)
    )
    if newest is None or newest.job_id is not None:
        return None
    there = {(file.name, file.sha256) for file in newest.files}
    return newest if there == {(file, upload.sha256) for file, upload in found} else None


def _forgotten(version: ModelVersion, found: Sequence[tuple[str, Upload]]) -> ModelVersion:
    with transaction():
        for _, upload in found:
            uploads.forget(upload)
    return version


def _look(actor: User, base_model: str, found: Sequence[tuple[str, Upload]]) -> Brought:
    """Check every file and say what they are together. Raises Invalid or Unsupported."""
    objects: dict[str, dict[str, Any]] = {}
    tensors = parameters = 0
    for name, upload in found:
        path = uploads.path_of(upload)
        if name.endswith(WEIGHTS):
            seen = _weights(name, path)
            tensors += seen.tensors
            parameters += seen.parameters if "/" not in name else 0
        elif name.rpartition("/")[2] in _CHECKED_JSON:
            objects[name] = _object(name, path)
        else:
            _check_beginning(name, path)
    method = "lora" if any(name == ADAPTER for name, _ in found) else "full"
    told = objects.get("adapter_config.json", {}).get("base_model_name_or_path")
    told = told or objects.get("config.json", {}).get("_name_or_path")
    return Brought(method, _base_name(actor, base_model, told), tensors, parameters)


def _weights(name: str, path: Path) -> weights.Weights:
    try:
        return weights.look(path)
    except weights.BadWeights as fault:
        sentence = f"{name} {fault}. Save it again with the safetensors library and upload it."
        raise Invalid(sentence, {"files": sentence}, code="bad_weights") from None


def _object(name: str, path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ValueError("it is too large")
        given = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Invalid.of(files=f"{name} is not a JSON object of at most {_MOST_JSON_BYTES >> 20} MiB.")
    return given


def _check_beginning(name: str, path: Path) -> None:
    with path.open("rb") as file:
        if _PICKLE.match(file.read(4)):
            raise _can_run_code(name)


def _base_name(actor: User, given: str, told: Any) -> str:
    """What the model was trained from, in words: what the member says, else what its own files say."""
    if re.fullmatch("model:[0-9]{1,9}", given):
        try:
            own = reading.get_for(actor, int(given.removeprefix("model:")))
        except NotFound:
            raise Invalid.of(base_model=f"You have no model {given!r}.") from None
        return f"{own.trained_model.name}, version {own.version}"[:200]
    text = given or (told if isinstance(told, str) else "")
    return "".join(character for character in text if character.isprintable())[:200]
