"""Make the first tables."""

from __future__ import annotations

from alembic import op

from soundstage.jobs.tables import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    metadata.create_all(op.get_bind())
