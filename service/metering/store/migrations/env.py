"""Runs migrations over the connection that `metering.store.installation` hands in."""

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table=context.config.attributes["version_table"])
with context.begin_transaction():
    # Replicas that start together: the first one migrates, the others find it done.
    connection.execute(text("SELECT pg_advisory_xact_lock(1147, 4)"))
    # Recording waits behind whoever waits for a table of its own: that is done for a moment only, and then all of this
    # is undone and tried again, see `metering.store.installation`.
    connection.execute(text("SET LOCAL lock_timeout = '1s'"))
    context.run_migrations()
