"""Weights a member owns: a name, its frozen states, and their files."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Created, Instant, Model


class TrainedModel(Created, Model):
    __tablename__ = "trained_models"
    __table_args__ = (Index("ix_trained_models_user_id_id", "user_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(120))
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)


class ModelVersion(Created, Model):
    """One frozen state, made by one job; or brought along from elsewhere, and then without one."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("trained_model_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    trained_model_id: Mapped[int] = mapped_column(ForeignKey("trained_models.id"))
    version: Mapped[int]
    job_id: Mapped[int | None] = mapped_column(ForeignKey("training_jobs.id"), unique=True)
    recipe: Mapped[str] = mapped_column(String(30))
    method: Mapped[str] = mapped_column(String(12))
    base_name: Mapped[str] = mapped_column(String(200))
    bytes: Mapped[int] = mapped_column(BigInteger)
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)

    trained_model: Mapped[TrainedModel] = relationship(lazy="joined")
    files: Mapped[list[ModelFile]] = relationship(order_by="ModelFile.name", lazy="select")


class ModelFile(Model):
    __tablename__ = "model_files"
    __table_args__ = (UniqueConstraint("model_version_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"))
    name: Mapped[str] = mapped_column(String(200))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    storage_key: Mapped[str] = mapped_column(String(120))
