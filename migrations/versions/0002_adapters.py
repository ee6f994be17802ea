"""Adapters: which model they stand on, and their shape.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    for table in ("jobs", "models"):
        op.add_column(table, sa.Column("stands_on", sa.Text(), nullable=True))
        op.create_index(op.f(f"ix_{table}_stands_on"), table, ["stands_on"])
    op.add_column("models", sa.Column("adapter", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("models", "adapter")
    for table in ("models", "jobs"):
        op.drop_index(op.f(f"ix_{table}_stands_on"), table)
        op.drop_column(table, "stands_on")
