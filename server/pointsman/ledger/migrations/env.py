"""What Alembic runs: the connection comes from `ledger.database`, and nothing from a file."""

from alembic import context

from pointsman.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
