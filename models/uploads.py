"""A file on its way in: created with its size, filled at an offset, completed with its hash."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model


class Upload(Created, Model):
    """`expires_at` is the end of the upload, or, while a request makes something of it (`in_use`), of that request.
    `job_id` and `attempt` are set when a job's runner delivers its artifacts through it."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(255))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    offset: Mapped[int] = mapped_column(BigInteger, default=0)
    state: Mapped[str] = mapped_column(String(10), default="open")  # open, complete, in_use
    job_id: Mapped[int | None] = mapped_column(ForeignKey("training_jobs.id"))
    attempt: Mapped[int | None]
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
