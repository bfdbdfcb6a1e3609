"""The table of comparisons with the cloud."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create it."""
    op.create_table(
        "comparisons",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("caller", sa.String(128), nullable=False),
        sa.Column("specialist", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("agrees", sa.Boolean, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("answers_hash", sa.String(64), nullable=False),
        sa.Column("cut", sa.Boolean, nullable=False),
        sa.Column("logprobs", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
    )
    op.create_index("comparisons_time", "comparisons", ["time"])
    op.create_index("comparisons_request_id", "comparisons", ["request_id"])
