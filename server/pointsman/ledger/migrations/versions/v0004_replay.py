"""The columns that `replay` reads."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add those that are not there."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("requests")}
    for column in (
        sa.Column("confidence_alone", sa.Double),
        sa.Column("scorer", sa.String(16), nullable=False, server_default=""),
        sa.Column("hardness_by", sa.String(16), nullable=False, server_default=""),
        sa.Column("asked", sa.Text, nullable=False, server_default=""),
    ):
        if column.name not in there:
            op.add_column("requests", column)
