"""The end of a job or of a worker's turn at it, within one transaction with all that follows from it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from soundstage.jobs import ids
from soundstage.jobs.core import Core
from soundstage.jobs.states import FINAL, JobState
from soundstage.jobs.store import RowValues, one
from soundstage.jobs.tables import device_use, events, jobs, webhook_deliveries
from soundstage.jobs.views import JobFault


class Ending(Core):
    """Moves of a job out of a worker's hands."""

    def move(self, db: Connection, row: Row[Any], state: JobState, **values: Any) -> Row[Any]:
        """Put a job into another state, with its event; return the new row."""
        changed = db.execute(
            sa.update(jobs).where(jobs.c.id == row.id).values(state=state, **values).returning(*jobs.c)
        ).one()
        self.emit(db, changed, [{"type": "state", "state": state}])
        return changed

    def end(self, db: Connection, row: Row[Any], state: JobState, fault: JobFault | None = None) -> Row[Any]:
        """Put a job into a final state: with its result event, its webhook, and its device time counted."""
        assert state in FINAL
        self.count_use(db, row)
        error = None if fault is None else fault.model_dump()
        ended = self.move(
            db, row, state, finished_at=self.clock(), error=error, lease_until=None, cancel_asked=False,
            cancel_by=None, pause_asked=False,
        )  # fmt: skip
        view = self.view(db, ended)
        told: RowValues = {"type": "result", "state": state}
        if fault is not None:
            told = {**told, "error": error}
        if view.result is not None:
            told = {**told, "result": view.result.model_dump(mode="json")}
        self.emit(db, ended, [told])
        self._drop_old_progress(db, row.id)
        if ended.webhook_url:
            self._add_delivery(db, ended, json.dumps(view.model_dump(mode="json"), ensure_ascii=False))
        return ended

    def requeue(self, db: Connection, row: Row[Any], **values: Any) -> Row[Any]:
        """Put a job back into the line, where it was before; one that should pause waits beside it."""
        self.count_use(db, row)
        return self.move(
            db, row, "paused" if row.pause_asked else "queued", lease_id=None, lease_until=None, worker=None,
            forgiven=False, pause_asked=False, **values,
        )  # fmt: skip

    def count_use(self, db: Connection, row: Row[Any]) -> None:
        """Count the device time of a worker's turn, if it was one."""
        if row.lease_until is None or row.claimed_at is None:
            return
        seconds = max(0.0, self.clock() - row.claimed_at)
        db.execute(
            sa.insert(device_use).values(owner=row.owner, job_id=row.id, at=self.clock(), seconds=seconds)
        )

    def _drop_old_progress(self, db: Connection, job_id: str) -> None:
        """Keep the last progress of a job that has ended; the others tell nothing any more."""
        of_job = sa.and_(events.c.job_id == job_id, events.c.type == "progress")
        last = one(db, sa.select(sa.func.max(events.c.id)).where(of_job))
        if last is not None and last[0] is not None:
            db.execute(sa.delete(events).where(of_job, events.c.id < last[0]))

    def _add_delivery(self, db: Connection, row: Row[Any], body: str) -> None:
        now = self.clock()
        db.execute(
            sa.insert(webhook_deliveries).values(
                id=ids.new_id("wd"), job_id=row.id, owner=row.owner, via=row.via, url=row.webhook_url,
                body=body, state="pending", attempt=0, created_at=now, next_at=now,
            )
        )  # fmt: skip
