"""A version of a model may have no job: its files were brought along from elsewhere."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _let_job_be_missing(True)


def downgrade() -> None:
    op.execute(
        "DELETE FROM model_files WHERE model_version_id IN (SELECT id FROM model_versions WHERE job_id IS NULL)"
    )
    op.execute("DELETE FROM model_versions WHERE job_id IS NULL")
    _let_job_be_missing(False)


def _let_job_be_missing(missing: bool) -> None:
    """SQLite changes a column by making the table anew; the files that refer to its rows step aside meanwhile."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    if on_sqlite:
        op.execute("CREATE TEMPORARY TABLE model_files_aside AS SELECT * FROM model_files")
        op.execute("DELETE FROM model_files")
    with op.batch_alter_table("model_versions") as table:
        table.alter_column("job_id", existing_type=sa.Integer(), nullable=missing)
    if on_sqlite:
        op.execute("INSERT INTO model_files SELECT * FROM model_files_aside")
        op.execute("DROP TABLE model_files_aside")
