"""Run by Alembic: takes the connection, and with it the transaction, that `migrate` opened."""

from alembic import context

from whorl.arena.store.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # SQLite has it, once the driver does not commit by itself
)
with context.begin_transaction():
    context.run_migrations()
