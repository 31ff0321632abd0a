"""Changes to jobs that are there: cancel, pause, resume, retry and delete them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from soundstage.jobs.errors import Conflict
from soundstage.jobs.states import FINAL, WORKING
from soundstage.jobs.submitting import Submitting
from soundstage.jobs.tables import assets, events, jobs, loras, uses
from soundstage.jobs.views import Job, JobRequest, Owner


class Changing(Submitting):
    """Changes that owners make to their jobs."""

    def cancel(self, owner: Owner, job_id: str) -> Job:
        """Cancel a job: one that waits at once, one under work as soon as its worker hears of it.

        Raises Conflict for one that has ended; a cancelled one stays so.
        """
        self.require(owner, "submit")
        with self.store.writing() as db:
            row = self._locked(db, owner, job_id)
            if row.state == "cancelled":
                return self.view(db, row)
            if row.state in FINAL:
                raise Conflict(f"the job {job_id} has ended already: {row.state}")
            if row.state not in WORKING:
                return self.view(db, self.end(db, row, "cancelled"))
            by = sa.func.coalesce(jobs.c.cancel_by, self.clock() + self.limits.cancel_s)
            return self._ask(db, row, "cancellation asked for", cancel_asked=True, cancel_by=by)

    def pause(self, owner: Owner, job_id: str) -> Job:
        """Let a job wait until it is resumed. One under work stops as when a worker ends, and is kept.

        Raises Conflict for one that has ended or is being cancelled; a paused one stays so.
        """
        self.require(owner, "submit")
        with self.store.writing() as db:
            row = self._locked(db, owner, job_id)
            if row.state in FINAL:
                raise Conflict(f"the job {job_id} has ended already: {row.state}")
            if row.cancel_asked:
                raise Conflict(f"the job {job_id} is being cancelled")
            if row.state == "paused":
                return self.view(db, row)
            if row.state not in WORKING:
                return self.view(db, self.move(db, row, "paused"))
            return self._ask(db, row, "pause asked for", pause_asked=True)

    def resume(self, owner: Owner, job_id: str) -> Job:
        """Put a paused job back into the line, where it was before; it goes on from its checkpoint.

        A job that waits or is made goes on as it does. Raises Conflict for one that has ended.
        """
        self.require(owner, "submit")
        with self.store.writing() as db:
            row = self._locked(db, owner, job_id)
            if row.state in FINAL:
                raise Conflict(f"the job {job_id} has ended already: {row.state}")
            if row.state == "paused":
                return self.view(db, self.move(db, row, "queued"))
            return (
                self._ask(db, row, "pause withdrawn", pause_asked=False)
                if row.pause_asked
                else self.view(db, row)
            )

    def delete(self, owner: Owner, job_id: str) -> None:
        """Delete a job that has ended, or that waits, with its files. Raises Conflict for one under work."""
        self.require(owner, "submit")
        with self.store.writing() as db:
            row = self._locked(db, owner, job_id)
            if row.state in WORKING:
                raise Conflict(f"the job {job_id} is being made; cancel it first")
            if row.state not in FINAL:
                row = self.end(db, row, "cancelled")
            files = self.erase(db, row)
        self.remove_files(files)
        self.clear_checkpoint(job_id)

    def retry(self, owner: Owner, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Submit a job that failed or was cancelled once more, as a new job with the same seed.

        idempotency_key: as that of `create`. Raises Conflict for one that has not ended, has succeeded, or
        ran out of memory.
        """
        self.require(owner, "submit")
        with self.store.reading() as db:
            row = self.job_row(db, owner, job_id)
        if row.state not in ("failed", "cancelled"):
            raise Conflict(
                f"the job {job_id} is {row.state}; only one that failed or was cancelled is retried"
            )
        if (row.error or {}).get("code") == "out_of_memory":
            raise Conflict(f"the job {job_id} ran out of memory; ask for a smaller size or a shorter clip")
        request = row.request if row.seed is None else {**row.request, "seed": row.seed}
        request = request if row.kind == "generate" else {}
        asked = JobRequest(**{**row.asked, "request": request})
        return self.create(owner, asked, idempotency_key=idempotency_key, via=row.via, parent_id=job_id)

    # --- within a transaction --------------------------------------------------------------------------

    def erase(self, db: Connection, row: Row[Any]) -> Sequence[str]:
        """Delete a job's content within a transaction, and return its files, which are removed after it.

        A trace of the job stays for a while, so that it is known as deleted. A LoRA that it has trained and
        that has a name stays, as one that was uploaded does.
        """
        named = sa.and_(assets.c.job_id == row.id, assets.c.id.in_(sa.select(loras.c.asset_id)))
        db.execute(sa.update(assets).where(named).values(job_id=None))
        files = db.execute(sa.select(assets.c.file).where(assets.c.job_id == row.id)).scalars().all()
        made = sa.select(assets.c.id).where(assets.c.job_id == row.id)
        db.execute(sa.delete(uses).where(sa.or_(uses.c.job_id == row.id, uses.c.asset_id.in_(made))))
        db.execute(sa.delete(events).where(events.c.job_id == row.id))
        db.execute(sa.delete(assets).where(assets.c.job_id == row.id))
        empty: dict[str, Any] = {"asked": {}, "request": {}, "plan": None, "label": None, "words": ""}
        empty |= {"error": None, "warnings": None, "deleted_at": self.clock()}
        db.execute(sa.update(jobs).where(jobs.c.id == row.id).values(**empty))
        return files

    def _ask(self, db: Connection, row: Row[Any], told: str, **values: Any) -> Job:
        """Write down what the worker of a job should do, which hears of it when it reports."""
        asked = db.execute(
            sa.update(jobs).where(jobs.c.id == row.id).values(**values).returning(*jobs.c)
        ).one()
        self.emit(db, asked, [{"type": "log", "level": "info", "message": told}])
        return self.view(db, asked)

    def _locked(self, db: Connection, owner: Owner, job_id: str) -> Row[Any]:
        """Return a job's row that nobody changes until the transaction ends."""
        self.job_row(db, owner, job_id)
        query = sa.select(jobs).where(jobs.c.id == job_id)
        return db.execute(query if self.store.is_sqlite else query.with_for_update()).one()
