"""Data a member keeps: a name, and frozen contents known by their hash."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Created, Instant, Model

SCRIPT_KIND = "script"  # not rows to learn from, but a zip with a program that trains
KINDS = ("conversation", "code_generation", "error_fixing", "refactoring", SCRIPT_KIND)


class Dataset(Created, Model):
    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_user_id_id", "user_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(120))
    kind: Mapped[str] = mapped_column(String(20), default="conversation")
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)

    versions: Mapped[list[DatasetVersion]] = relationship(
        back_populates="dataset", order_by="DatasetVersion.version.desc()"
    )


class DatasetVersion(Created, Model):
    """One content, never changed: the file as it came, how it is read, and what was found in it."""

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    version: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    storage_key: Mapped[str] = mapped_column(String(120))
    file_name: Mapped[str] = mapped_column(String(255))
    bytes: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str] = mapped_column(String(20))
    mapping: Mapped[dict[str, str] | None] = mapped_column(JSON)
    rows: Mapped[int]
    tokens: Mapped[int] = mapped_column(BigInteger)
    bad_count: Mapped[int]
    bad_rows: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    quality: Mapped[dict[str, Any]] = mapped_column(JSON)

    dataset: Mapped[Dataset] = relationship(back_populates="versions", lazy="joined")
