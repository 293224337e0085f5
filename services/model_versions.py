"""Models of members: publishing what a job made, listing it, giving its files out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from models.accounts import User
from models.base import add, db, transaction
from models.model_versions import ModelFile, ModelVersion, TrainedModel
from models.training_jobs import TrainingJob
from services import subscriptions
from services.errors import NotFound, PaymentNeeded
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


@dataclass(frozen=True)
class NewFile:
    """A finished artifact on this machine; `key` says where it is kept, once it is."""

    name: str
    path: Path
    bytes: int
    sha256: str
    key: str = ""


@contextmanager
def kept(files: Sequence[NewFile]) -> Iterator[list[NewFile]]:
    """Keep the files before the transaction that publishes them: copying takes time. What fails leaves none behind."""
    done: list[NewFile] = []
    try:
        for file in files:
            key = gateways().storage.new_key("models")
            done.append(replace(file, key=key))
            gateways().storage.keep(file.path, key)
        yield done
    except BaseException:
        for file in done:
            gateways().storage.delete(file.key)
        raise


def publish(job: TrainingJob, files: Sequence[NewFile]) -> ModelVersion:
    """Make kept files the next version of the model of the job's name; once per job."""
    with transaction():
        known = of_job(job.id)
        if known:
            return known
        trained = _named(job.user_id, job.name) or add(TrainedModel(user_id=job.user_id, name=job.name))
        last = db.session.scalar(
            select(func.max(ModelVersion.version)).where(ModelVersion.trained_model_id == trained.id)
        )
        version = add(
            ModelVersion(
                trained_model_id=trained.id, version=(last or 0) + 1, job_id=job.id, recipe=job.recipe,
                method=str(job.parameters.get("method", "")), base_name=job.base_name,
                bytes=sum(file.bytes for file in files), details={"steps": job.step, "loss": job.loss},
            )
        )  # fmt: skip
        for file in files:
            add(
                ModelFile(
                    model_version_id=version.id,
                    name=file.name,
                    bytes=file.bytes,
                    sha256=file.sha256,
                    storage_key=file.key,
                )
            )
        return version


def refuse_one_too_many(actor: User, name: str) -> None:
    """Raise PaymentNeeded when a model of a new name, trained on the server, would be more than the plan keeps."""
    allowed = subscriptions.limit(actor, "models")
    kept = db.session.scalar(
        select(func.count(TrainedModel.id)).where(TrainedModel.user_id == actor.id, TrainedModel.deleted_at.is_(None))
    )
    if (kept or 0) >= allowed and _named(actor.id, name) is None:
        plan, advice = subscriptions.way_out(actor, "models", lambda most: bool(most and most > (kept or 0)))
        raise PaymentNeeded(
            f"Your plan keeps {allowed} {'model' if allowed == 1 else 'models'}. Use the name of one you have to train its "
            f"next version. {advice}",
            code="models_full", limit=allowed, plan=plan,
        )  # fmt: skip


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


def of_job(job_id: int) -> ModelVersion | None:
    """What a job has published."""
    return db.session.scalar(select(ModelVersion).where(ModelVersion.job_id == job_id))


def file_of(version: ModelVersion, name: str) -> tuple[ModelFile, Path]:
    """One file of a version and where it lies. Raises NotFound."""
    for file in version.files:
        if file.name == name:
            return file, gateways().storage.path(file.storage_key)
    raise NotFound("This model has no such file.")


def artifacts(version: ModelVersion | None) -> list[dict[str, Any]]:
    """The files of a version as pages and the API show them."""
    return [
        {
            "name": file.name, "bytes": file.bytes, "sha256": file.sha256,
            "url": f"/api/models/{file.model_version_id}/files/{file.name}",
            "explanation": EXPLANATIONS.get(file.name, ""),
        }
        for file in (version.files if version else [])
    ]  # fmt: skip


def _named(user_id: int, name: str) -> TrainedModel | None:
    return db.session.scalar(
        select(TrainedModel).where(
            TrainedModel.user_id == user_id, TrainedModel.name == name, TrainedModel.deleted_at.is_(None)
        )
    )
