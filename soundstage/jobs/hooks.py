"""Webhooks: what is to be sent, and what became of it. Sending is the server's work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from soundstage.jobs.assets import page
from soundstage.jobs.core import Core
from soundstage.jobs.errors import NotFound
from soundstage.jobs.rows import delivery_view
from soundstage.jobs.store import one
from soundstage.jobs.tables import webhook_deliveries as deliveries
from soundstage.jobs.views import Delivery, Owner, Page

SENDING_S = 120.0  # within this time the one who took a delivery must tell what became of it


class Hooks(Core):
    """The webhooks of `Jobs`. A row is written in the transaction that ends a job."""

    def due_deliveries(self, limit: int = 20) -> Sequence[Delivery]:
        """Return deliveries whose time has come. No other call gets them within two minutes."""
        now = self.clock()
        due = sa.and_(deliveries.c.state == "pending", deliveries.c.next_at <= now)
        with self.store.reading() as db:
            if one(db, sa.select(deliveries.c.id).where(due)) is None:
                return []
        chosen = sa.select(deliveries.c.id).where(due).order_by(deliveries.c.next_at).limit(limit)
        if not self.store.is_sqlite:
            chosen = chosen.with_for_update(skip_locked=True)
        with self.store.writing() as db:
            rows = db.execute(
                sa.update(deliveries)
                .where(deliveries.c.id.in_(chosen))
                .values(next_at=now + SENDING_S, attempt=deliveries.c.attempt + 1)
                .returning(*deliveries.c)
            ).all()
        return [delivery_view(row) for row in rows]

    def delivered(
        self, delivery_id: str, *, status: int | None, error: str | None, retry_at: float | None
    ) -> None:
        """Keep what became of a delivery. retry_at: when to try again; None is the end of it."""
        now = self.clock()
        done = error is None
        values: dict[str, Any] = {
            "state": "delivered" if done else "failed" if retry_at is None else "pending",
            "status": status,
            "error": error,
            "next_at": retry_at if not done else None,
            "delivered_at": now if done else None,
        }
        with self.store.writing() as db:
            db.execute(sa.update(deliveries).where(deliveries.c.id == delivery_id).values(**values))

    def deliveries(
        self, owner: Owner, *, job: str | None = None, after: str | None = None, limit: int = 20
    ) -> Page[Delivery]:
        """Return an owner's deliveries, the newest first."""
        query = sa.select(deliveries)
        if not owner.may("admin"):
            query = query.where(deliveries.c.owner == owner.id)
        if job is not None:
            query = query.where(deliveries.c.job_id == job)
        key = sa.tuple_(deliveries.c.created_at, deliveries.c.id)
        with self.store.reading() as db:
            if after is not None:
                last = self._delivery(db, owner, after)
                query = query.where(key < sa.tuple_(sa.literal(last.created_at), sa.literal(last.id)))
            by = (deliveries.c.created_at.desc(), deliveries.c.id.desc())
            rows = db.execute(query.order_by(*by).limit(limit + 1)).all()
        return page([delivery_view(row) for row in rows], limit)

    def redeliver(self, owner: Owner, delivery_id: str) -> Delivery:
        """Send a delivery again now, whatever became of it before."""
        self.require(owner, "submit")
        with self.store.writing() as db:
            self._delivery(db, owner, delivery_id)
            row = db.execute(
                sa.update(deliveries)
                .where(deliveries.c.id == delivery_id)
                .values(state="pending", next_at=self.clock(), attempt=0)
                .returning(*deliveries.c)
            ).one()
        return delivery_view(row)

    def _delivery(self, db: Connection, owner: Owner, delivery_id: str) -> Row[Any]:
        row = one(db, sa.select(deliveries).where(deliveries.c.id == delivery_id))
        if row is None or not self.sees(owner, row.owner):
            raise NotFound(f"there is no delivery {delivery_id!r}")
        return row
