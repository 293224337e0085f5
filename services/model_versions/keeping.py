"""Keeping the files of a model, and publishing them as its next version."""

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
from services.errors import PaymentNeeded
from services.gateways import gateways
from services.model_versions.reading import of_job


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
        return add_version(
            job.user_id, job.name, files, job_id=job.id, recipe=job.recipe, method=str(job.parameters.get("method", "")),
            base_name=job.base_name, details={"steps": job.step, "loss": job.loss},
        )  # fmt: skip


def add_version(user_id: int, name: str, files: Sequence[NewFile], **about: Any) -> ModelVersion:
    """The next version of the member's model of this name, with its kept files; inside a transaction of the caller's."""
    trained = named(user_id, name) or add(TrainedModel(user_id=user_id, name=name))
    last = db.session.scalar(select(func.max(ModelVersion.version)).where(ModelVersion.trained_model_id == trained.id))
    version = add(
        ModelVersion(
            trained_model_id=trained.id, version=(last or 0) + 1, bytes=sum(file.bytes for file in files), **about
        )
    )
    for file in files:
        add(
            ModelFile(
                model_version_id=version.id, name=file.name, bytes=file.bytes, sha256=file.sha256, storage_key=file.key
            )
        )
    return version


def refuse_one_too_many(actor: User, name: str) -> None:
    """Raise PaymentNeeded when a model of a new name, trained on the server or uploaded, would be more than the plan keeps."""
    allowed = subscriptions.limit(actor, "models")
    kept = db.session.scalar(
        select(func.count(TrainedModel.id)).where(TrainedModel.user_id == actor.id, TrainedModel.deleted_at.is_(None))
    )
    if (kept or 0) >= allowed and named(actor.id, name) is None:
        plan, advice = subscriptions.way_out(actor, "models", lambda most: bool(most and most > (kept or 0)))
        raise PaymentNeeded(
            f"Your plan keeps {allowed} {'model' if allowed == 1 else 'models'}. Use the name of one you have to make its "
            f"next version, or delete one. {advice}",
            code="models_full", limit=allowed, plan=plan,
        )  # fmt: skip


def named(user_id: int, name: str) -> TrainedModel | None:
    """The member's model of this name."""
    return db.session.scalar(
        select(TrainedModel).where(
            TrainedModel.user_id == user_id, TrainedModel.name == name, TrainedModel.deleted_at.is_(None)
        )
    )
