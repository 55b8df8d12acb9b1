"""Alembic's entry: runs the steps on the connection that `kilonova.store.migration` hands over."""

from alembic import context

from kilonova.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
