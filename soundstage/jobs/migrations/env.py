"""Run the migrations on the connection that store.py hands over."""

from __future__ import annotations

from alembic import context

from soundstage.jobs.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
context.run_migrations()
