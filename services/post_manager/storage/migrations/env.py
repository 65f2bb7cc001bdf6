"""Where Alembic makes its steps: on the connection that it is handed, and in the transaction which that is in."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # also on SQLite: our transactions begin explicitly
)
context.run_migrations()
