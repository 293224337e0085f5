"""An attempt counts the records of its log that its machine has lost; a quote finds the last trainings of a base model."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("log_missing", sa.Integer(), server_default="0", nullable=False))
    on_server = sa.text("agent_id IS NULL")
    op.create_index(
        "ix_training_jobs_on_server", "training_jobs", ["base_name", "state", "id"],
        sqlite_where=on_server, postgresql_where=on_server,
    )  # fmt: skip


def downgrade() -> None:
    op.drop_index("ix_training_jobs_on_server", "training_jobs")
    op.drop_column("attempts", "log_missing")
