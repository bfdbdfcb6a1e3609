"""The table of requests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create it."""
    op.create_table(
        "requests",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("caller", sa.String(128), nullable=False),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("tier", sa.String(8), nullable=False),
        sa.Column("specialist", sa.String(64), nullable=False),
        sa.Column("routed_to", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("intent", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("rule", sa.String(64), nullable=False),
        sa.Column("similarity", sa.Double),
        sa.Column("score", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("confidence", sa.Double),
        sa.Column("difficulty", sa.Double),
        sa.Column("answer_confidence", sa.Double),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("route_ms", sa.Double),
        sa.Column("queue_ms", sa.Double),
        sa.Column("ttft_ms", sa.Double),
        sa.Column("total_ms", sa.Double),
        sa.Column("retries", sa.Integer),
        sa.Column("cost", sa.Double),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("catalog_version", sa.String(128), nullable=False),
        sa.Column("prompt", sa.Text),
        sa.Column("answer", sa.Text),
    )
    op.create_index("requests_time", "requests", ["time"])
    op.create_index("requests_request_id", "requests", ["request_id"])
