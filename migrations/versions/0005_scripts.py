"""A job knows the names of its metrics, and which readings of its script's output are not shown."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("metric_names", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("training_jobs", sa.Column("curves_off", sa.JSON(), server_default="[]", nullable=False))


def downgrade() -> None:
    op.drop_column("training_jobs", "curves_off")
    op.drop_column("training_jobs", "metric_names")
