"""Answers of the cloud that broke off or were given up, and are in no cost."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column, if it is not there."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("requests")}
    if "uncounted" not in there:
        op.add_column("requests", sa.Column("uncounted", sa.Integer))
