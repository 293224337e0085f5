"""Models of members as they are listed, shown and given out; and putting one away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import select, update

from models.accounts import User
from models.base import changed, db, now, transaction
from models.model_versions import ModelFile, ModelVersion, TrainedModel
from services.errors import NotFound
from services.gateways import gateways

EXPLANATIONS = {
    "adapter_model.safetensors": "The LoRA adapter: only what was trained. It needs its base model beside it.",
    "adapter_config.json": "What the adapter is and which base model it belongs to.",
    "model.safetensors": "The whole model's weights.",
    "merged/model.safetensors": "Base model and adapter merged into one: loads by itself in plain transformers.",
    "config.json": "The shape of the model.",
    "tokenizer.json": "The tokenizer: text to numbers and back.",
    "chat_template.jinja": "How messages were written out for training; keep it with the weights.",
    "README.md": "The model card: data, settings, result.",
    "trainer_log.jsonl": "One line for each training step.",
    "training_args.json": "Every setting as it was used.",
}


def list_for(actor: User, limit: int = 50, before: int | None = None) -> list[ModelVersion]:
    """Every version of every model of a member, newest first."""
    query = (
        select(ModelVersion)
        .join(TrainedModel)
        .where(TrainedModel.user_id == actor.id, TrainedModel.deleted_at.is_(None))
        .order_by(ModelVersion.id.desc())
        .limit(limit)
    )
    return list(db.session.scalars(query.where(ModelVersion.id < before) if before is not None else query))


def get_for(actor: User, version_id: int) -> ModelVersion:
    """One version of this member's models. Raises NotFound."""
    version = db.session.get(ModelVersion, version_id)
    if version is None or version.trained_model.user_id != actor.id or version.trained_model.deleted_at:
        raise NotFound("You have no such model.")
    return version


def delete(actor: User, version_id: int) -> None:
    """Put the model of this version away, with all its versions, so that it counts for the plan no more. Raises NotFound.

    The files stay: a training that began from it may be tried again.
    """
    with transaction():
        version = get_for(actor, version_id)
        changed(update(TrainedModel).where(TrainedModel.id == version.trained_model_id).values(deleted_at=now()))


def of_job(job_id: int) -> ModelVersion | None:
    """What a job has published."""
    return db.session.scalar(select(ModelVersion).where(ModelVersion.job_id == job_id))


def file_of(version: ModelVersion, name: str) -> tuple[ModelFile, Path]:
    """One file of a version and where it lies. Raises NotFound."""
    for file in version.files:
        if file.name == name:
            return file, gateways().storage.path(file.storage_key)
    raise NotFound("This model has no such file.")


def names_of(versions: Sequence[ModelVersion]) -> dict[int, list[str]]:
    """The names of the files of each of these versions."""
    named: dict[int, list[str]] = {version.id: [] for version in versions}
    rows = select(ModelFile.model_version_id, ModelFile.name).where(ModelFile.model_version_id.in_(named))
    for version_id, name in db.session.execute(rows):
        named[version_id].append(name)
    return named


def artifacts(version: ModelVersion | None) -> list[dict[str, Any]]:
    """The files of a version as pages and the API show them."""
    return [
        {
            "name": file.name, "bytes": file.bytes, "sha256": file.sha256,
            "url": f"/api/models/{file.model_version_id}/files/{quote(file.name)}",
            "explanation": EXPLANATIONS.get(file.name, ""),
        }
        for file in (version.files if version else [])
    ]  # fmt: skip
