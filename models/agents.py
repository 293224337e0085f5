"""The machines of members that have connected."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model


class Agent(Created, Model):
    """`machine_id` and its secret are made on the machine; `session` names the socket that speaks for it now."""

    __tablename__ = "agents"
    __table_args__ = (UniqueConstraint("user_id", "machine_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    machine_id: Mapped[str] = mapped_column(String(64))
    secret_digest: Mapped[str] = mapped_column(String(64))
    api_key_id: Mapped[int] = mapped_column(ForeignKey("api_keys.id"))
    name: Mapped[str] = mapped_column(String(80))
    version: Mapped[str] = mapped_column(String(20))
    machine: Mapped[dict[str, Any]] = mapped_column(JSON)
    ready: Mapped[bool]
    missing: Mapped[list[str]] = mapped_column(JSON)
    advice: Mapped[str | None] = mapped_column(String(2000))
    session: Mapped[str | None] = mapped_column(String(36))
    boot: Mapped[str] = mapped_column(String(64))  # another one each time the agent is started
    last_seen_at: Mapped[datetime] = mapped_column(Instant)
