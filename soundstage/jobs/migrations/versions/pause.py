"""Let jobs be paused, and give cancellations a time at which they hold in any case."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what a job's owner has asked for."""
    op.add_column("jobs", sa.Column("pause_asked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("cancel_by", sa.Float(), nullable=True))
