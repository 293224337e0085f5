"""Payments count the looks written of them, checkouts know whether they are paid by card, plans rank by their price, and a
member's history is found by its own index."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

WITH_JOB = sa.text("job_id IS NOT NULL")


def upgrade() -> None:
    op.add_column("payments", sa.Column("version", sa.Integer(), server_default="0", nullable=False))
    op.add_column("checkouts", sa.Column("by_card", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute("UPDATE plans SET rank = price_cents")
    op.create_index("ix_ledger_operations_user_id_id", "ledger_operations", ["user_id", "id"])
    op.drop_index("ix_ledger_operations_job_id", "ledger_operations")
    op.create_index(
        "ix_ledger_operations_job_id", "ledger_operations", ["job_id"], sqlite_where=WITH_JOB, postgresql_where=WITH_JOB
    )


def downgrade() -> None:
    op.drop_index("ix_ledger_operations_job_id", "ledger_operations")
    op.create_index("ix_ledger_operations_job_id", "ledger_operations", ["job_id"])
    op.drop_index("ix_ledger_operations_user_id_id", "ledger_operations")
    op.drop_column("checkouts", "by_card")
    op.drop_column("payments", "version")
