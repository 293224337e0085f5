"""Trainings that were ordered, their attempts, and everything that was reported about them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Float, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.agents import Agent
from models.base import Created, Instant, Model
from models.datasets import DatasetVersion

OPEN_STATES = ("queued", "starting", "training", "paused", "uploading")
RUNNING_STATES = ("starting", "training", "uploading")
FINAL_STATES = ("completed", "cancelled")  # `failed` may be retried
_ON_SERVER = text("agent_id IS NULL")


class TrainingJob(Created, Model):
    """One ordered training. The row is the truth: queue entries and frames are only hints about it.

    `attempt` is the number of the present attempt, and the fencing token of whoever works on it. `last_event` numbers the
    events of the job for pages. `stop_mode` is an order that has not been carried out yet.
    """

    __tablename__ = "training_jobs"
    __table_args__ = (
        Index("ix_training_jobs_user_id_id", "user_id", "id"),
        Index("ix_training_jobs_state_place", "state", "agent_id"),
        Index("ix_training_jobs_finished", "finished_at", "state"),
        Index(  # what a quote goes by
            "ix_training_jobs_on_server",
            "base_name",
            "state",
            "id",
            sqlite_where=_ON_SERVER,
            postgresql_where=_ON_SERVER,
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(120))
    description: Mapped[str] = mapped_column(Text, default="")
    recipe: Mapped[str] = mapped_column(String(30))
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    dataset_version_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_versions.id"))
    local_path: Mapped[str | None] = mapped_column(String(4096))
    mapping: Mapped[dict[str, str] | None] = mapped_column(JSON)
    base_model: Mapped[str] = mapped_column(String(4096))
    base_name: Mapped[str] = mapped_column(String(200))
    agent_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id"))  # empty: on the server

    state: Mapped[str] = mapped_column(String(12), default="queued")
    stage: Mapped[str] = mapped_column(String(10), default="prepare")
    stop_mode: Mapped[str | None] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=1)
    automatic_retries: Mapped[int] = mapped_column(default=0)
    dispatched_at: Mapped[datetime | None] = mapped_column(Instant)
    disconnected_since: Mapped[datetime | None] = mapped_column(Instant)
    started_at: Mapped[datetime | None] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)

    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    loss: Mapped[float | None] = mapped_column(Float)
    steps_per_second: Mapped[float | None] = mapped_column(Float)
    memory_bytes: Mapped[float | None] = mapped_column(Float)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    metric_names: Mapped[list[str]] = mapped_column(JSON, default=list)
    curves_off: Mapped[list[str]] = mapped_column(
        JSON, default=list
    )  # readings of a script's output that are not shown
    last_event: Mapped[int] = mapped_column(default=0)

    price_per_minute: Mapped[int] = mapped_column(default=0)
    quoted: Mapped[int] = mapped_column(default=0)
    at_most: Mapped[int] = mapped_column(default=0)
    charged: Mapped[int] = mapped_column(default=0)
    refunded: Mapped[int] = mapped_column(default=0)

    error_cause: Mapped[str | None] = mapped_column(String(20))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_advice: Mapped[str | None] = mapped_column(Text)
    model_version_id: Mapped[int | None]

    dataset_version: Mapped[DatasetVersion | None] = relationship(lazy="joined")
    agent: Mapped[Agent | None] = relationship(lazy="joined")
    attempts: Mapped[list[Attempt]] = relationship(order_by="Attempt.number", lazy="select")

    @property
    def on_server(self) -> bool:
        return self.agent_id is None


class Attempt(Created, Model):
    """One go at a job: who has it, until when without a sign of life, and how it ended."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("job_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("training_jobs.id"))
    number: Mapped[int]
    holder: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None] = mapped_column(Instant, index=True)
    started_at: Mapped[datetime | None] = mapped_column(Instant)
    first_step: Mapped[int | None]
    first_step_at: Mapped[datetime | None] = mapped_column(Instant)
    last_step_at: Mapped[datetime | None] = mapped_column(Instant)
    minutes_charged: Mapped[int] = mapped_column(default=0)
    extensions: Mapped[int] = mapped_column(default=0)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    outcome: Mapped[str | None] = mapped_column(String(10))
    cause: Mapped[str | None] = mapped_column(String(20))
    message: Mapped[str | None] = mapped_column(Text)
    log_verified: Mapped[bool | None]  # whether the stored log has the sum that its runner told
    log_missing: Mapped[int] = mapped_column(default=0)  # records of the log that its machine has lost
    # stream -> last number stored without a hole; and `samples_bytes`, how much of its samples is stored
    stored: Mapped[dict[str, int]] = mapped_column(JSON, default=dict)


class TrainingEvent(Model):
    """A record as it was reported. `number` counts all events of the job in the order they were stored."""

    __tablename__ = "training_events"
    __table_args__ = (
        UniqueConstraint("job_id", "attempt", "stream", "seq"),
        Index("ix_training_events_job_stream", "job_id", "stream", "number"),
    )

    job_id: Mapped[int] = mapped_column(ForeignKey("training_jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    stream: Mapped[str] = mapped_column(String(8))  # a stream of the protocol; `status` is the server's own
    seq: Mapped[int]
    at: Mapped[datetime] = mapped_column(Instant)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
