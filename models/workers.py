"""The processes that train on the server, as they report themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model


class Worker(Created, Model):
    """`lane` is the best lane of the sandbox that held on its machine (agent.sandbox), None when there is none; `report` is
    what was tried for that, wall by wall."""

    __tablename__ = "workers"
    __table_args__ = (Index("ix_workers_seen_at", "seen_at"),)

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    host: Mapped[str] = mapped_column(String(120))
    pid: Mapped[int]
    accelerator: Mapped[str] = mapped_column(String(20))
    lane: Mapped[int | None]
    lane_name: Mapped[str] = mapped_column(String(60))
    report: Mapped[dict[str, Any]] = mapped_column(JSON)
    seen_at: Mapped[datetime] = mapped_column(Instant)
