"""Leases: a worker claims a job, renews while it works, and hands in what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from soundstage.jobs import ids
from soundstage.jobs.assets import AssetFiles, PlacedFile
from soundstage.jobs.checkpoint_files import newest_state
from soundstage.jobs.ending import Ending
from soundstage.jobs.errors import LeaseLost, NotFound
from soundstage.jobs.rows import asset_view
from soundstage.jobs.states import FINAL, WORKING, JobState
from soundstage.jobs.store import RowValues, insert_all, one
from soundstage.jobs.tables import ANY_SHAPE, assets, jobs, loras, timings, uses, workers
from soundstage.jobs.views import (
    Job,
    JobFault,
    JobRequest,
    Lease,
    MadeFiles,
    Order,
    WorkerInfo,
    WorkerView,
    WorkReport,
)

MAX_WARNINGS = 50
TIMINGS_KEPT = 0.7  # weight of what was measured before
LOST = "the worker that made it died, and there was no checkpoint to go on from"


class _Cancelled(Exception):
    """The cancellation of a job was asked for before its files came."""


class Leases(Ending, AssetFiles):
    """The workers' side of `Jobs`."""

    def claim(self, worker: WorkerInfo) -> Lease | None:
        """Give a worker the next job that it can run; None where there is none, or it should stop.

        Only a claim that finds a job is told: a worker that waits would wake itself, and ask without an end.
        """
        now = self.clock()
        with self.store.writing(tells=False) as db:
            known = self._see_worker(db, worker, now)
            if self.draining or known.draining:
                return None
            row = self._claimed(db, worker, now)
            if row is None:
                return None
            self.emit(db, row, [{"type": "state", "state": row.state}])
            lease = self._lease(db, row)
        self.news.tell()
        return lease

    def renew(self, lease_id: str, report: WorkReport) -> Order:
        """Keep a lease, and what its worker tells. Raises LeaseLost where the job is no longer its own."""
        placed = None if report.preview is None else self.placed("preview", report.preview)
        now = self.clock()
        with self.store.writing() as db:
            row = self._held(db, lease_id)
            until = now + self.limits.lease_s
            state = report.state if report.state in WORKING else row.state
            values: dict[str, Any] = {"state": state, "lease_until": until, "forgiven": False}
            if report.progress is not None:
                values["progress"] = report.progress.model_dump(mode="json", by_alias=True)
            if report.warnings:
                values["warnings"] = [*(row.warnings or []), *report.warnings][:MAX_WARNINGS]
            if state in ("running", "checking", "encoding") and row.started_at is None:
                values["started_at"] = now
            if report.checkpointed:
                values["lost"] = 0
            db.execute(sa.update(jobs).where(jobs.c.id == row.id).values(**values))
            self.emit(db, row, self._told(db, row, report, placed))
            db.execute(sa.update(workers).where(workers.c.id == row.worker).values(seen_at=now))
            known = one(db, sa.select(workers.c.draining).where(workers.c.id == row.worker))
            drain = self.draining or row.pause_asked or (known is not None and known.draining)
            return Order(cancel=row.cancel_asked, drain=drain, until=until)

    def finish(self, lease_id: str, made: MadeFiles) -> Job:
        """Take the files of a job that is done: they are put in place, then all is committed at once.

        A second call with the same lease gives the same job. Raises LeaseLost, and keeps no file, where the
        job is no longer the worker's.
        """
        placed: list[PlacedFile] = []
        try:
            with self.store.reading() as db:
                row = self._held(db, lease_id, also="succeeded")
                if row.state == "succeeded":
                    return self.view(db, row)
            placed = [self.placed(kind, file) for kind, file in made.files.items()]
            placed += [self.placed("validation", file) for file in made.validation]
            with self.store.writing() as db:
                row = self._held(db, lease_id)
                if row.cancel_asked:
                    raise _Cancelled
                insert_all(db, assets, [self.new_asset(row.owner, p.kind, row.id, p.fields) for p in placed])
                values = {
                    "warnings": [*(row.warnings or []), *made.warnings][:MAX_WARNINGS],
                    "stage_seconds": made.seconds,
                }
                row = db.execute(
                    sa.update(jobs).where(jobs.c.id == row.id).values(**values).returning(*jobs.c)
                ).one()
                self._keep_timing(db, row, made)
                job = self.view(db, self.end(db, row, "succeeded"))
        except BaseException as error:
            self.remove_files([p.fields["file"] for p in placed])
            if isinstance(error, LeaseLost | _Cancelled):
                left = [*made.files.values(), *made.validation]
                self.remove_files([f"tmp/{Path(file.file).name}" for file in left])
            if not isinstance(error, _Cancelled):
                raise
            return self.fail(lease_id, "cancelled", "")
        self.clear_checkpoint(job.id)
        return job

    def fail(
        self, lease_id: str, code: str, message: str, retry: bool = False, field: str | None = None
    ) -> Job:
        """End a worker's turn that failed. retry: the cause may pass, so the job begins once more.

        The code "cancelled" ends a job whose cancellation was asked for.
        """
        with self.store.writing() as db:
            row = self._held(db, lease_id)
            fault = JobFault(code=code, message=message, field=field)
            if row.cancel_asked or code == "cancelled":
                ended = self.end(db, row, "cancelled")
            elif retry and row.lost < self.limits.lost_retries:
                self.emit(db, row, [{"type": "log", "level": "warning", "message": message}])
                ended = self.requeue(db, row, lost=row.lost + 1)
            else:
                ended = self.end(db, row, "failed", fault)
            job = self.view(db, ended)
        if job.state in FINAL:
            self.clear_checkpoint(job.id)
        return job

    def release(self, lease_id: str) -> Job:
        """Put a job back into the line with its checkpoint, as a worker does that is about to stop."""
        with self.store.writing() as db:
            row = self._held(db, lease_id)
            moved = self.end(db, row, "cancelled") if row.cancel_asked else self.requeue(db, row)
            return self.view(db, moved)

    def leased_job(self, lease_id: str) -> str:
        """Return the job that a lease is for. Raises LeaseLost where it is no longer the worker's."""
        with self.store.reading() as db:
            return str(self._held(db, lease_id).id)

    def lease_input(self, lease_id: str, asset_id: str) -> Path:
        """Return a file that the job of a lease refers to. Raises LeaseLost and NotFound."""
        with self.store.reading() as db:
            row = self._held(db, lease_id)
            wanted = sa.and_(uses.c.job_id == row.id, uses.c.asset_id == asset_id)
            if one(db, sa.select(uses).where(wanted)) is None:
                raise NotFound(f"the job {row.id} does not refer to the file {asset_id!r}")
            return self.ticketed_path(asset_id)[1]

    def worker_died(self, worker_id: str) -> None:
        """Take the job of a worker that is known to have died, without waiting for its lease to end."""
        with self.store.writing() as db:
            db.execute(sa.delete(workers).where(workers.c.id == worker_id))
            rows = db.execute(
                sa.select(jobs).where(jobs.c.worker == worker_id, jobs.c.state.in_(WORKING))
            ).all()
            ended = [self._interrupt(db, row) for row in rows]
        self._clear_ended(ended)

    def end_silent_leases(self) -> None:
        """Take jobs from workers that were silent for too long: they go on elsewhere, or fail.

        One whose cancellation the worker has not carried out in time is cancelled.
        """
        now = self.clock()
        due = sa.or_(jobs.c.lease_until < now, jobs.c.cancel_by < now)
        late = sa.and_(jobs.c.state.in_(WORKING), due)
        with self.store.reading() as db:
            if one(db, sa.select(jobs.c.id).where(late)) is None:
                return
        query = sa.select(jobs).where(late)
        with self.store.writing() as db:
            rows = db.execute(query.with_for_update(skip_locked=True)).all()
            ended = [self._interrupt(db, row) for row in rows]
        self._clear_ended(ended)

    def silent_workers(self) -> list[str]:
        """Return the workers of this machine that were seen, but not for a while, although they should."""
        late = workers.c.seen_at < self.clock() - self.limits.silent_s
        with self.store.reading() as db:
            return list(db.execute(sa.select(workers.c.id).where(workers.c.local, late)).scalars())

    def workers(self) -> list[WorkerView]:
        """Return the workers that were seen within the last hour."""
        now = self.clock()
        with self.store.reading() as db:
            busy = {
                row.worker: row.id
                for row in db.execute(sa.select(jobs.c.id, jobs.c.worker).where(jobs.c.state.in_(WORKING)))
            }
            query = sa.select(workers).where(workers.c.seen_at > now - 3600).order_by(workers.c.started_at)
            return [self._worker_view(row, busy.get(row.id), now) for row in db.execute(query)]

    # --- within a transaction --------------------------------------------------------------------------

    def _see_worker(self, db: Connection, worker: WorkerInfo, now: float) -> Row[Any]:
        values = {
            "name": worker.name, "device": worker.device, "local": worker.local, "models": worker.models,
            "loaded": worker.loaded, "machine": worker.machine, "seen_at": now,
        }  # fmt: skip
        seen = db.execute(
            sa.update(workers).where(workers.c.id == worker.id).values(**values).returning(*workers.c)
        ).first()
        if seen is not None:
            return seen
        return db.execute(
            sa.insert(workers)
            .values(id=worker.id, started_at=now, draining=False, **values)
            .returning(*workers.c)
        ).one()

    def _claimed(self, db: Connection, worker: WorkerInfo, now: float) -> Row[Any] | None:
        """Claim the next job in one statement."""
        limits = self.limits
        use = self.use_query(now).subquery()
        share = sa.cast(sa.func.coalesce(use.c.seconds, 0.0) / limits.fair_grain_s, sa.Integer)
        warm = sa.case(
            (jobs.c.queued_at < now - limits.affinity_s, 0),
            (jobs.c.affinity == (worker.loaded or ""), 1),
            else_=2,
        )
        fits = jobs.c.state == "queued"
        if worker.models:
            other = jobs.c.kind.in_(("convert", "pull"))
            fits = sa.and_(fits, sa.or_(other, jobs.c.model.in_(worker.models)))
        following = (
            sa.select(jobs.c.id)
            .outerjoin(use, use.c.owner == jobs.c.owner)
            .where(fits)
            .order_by(jobs.c.priority.desc(), share, warm, jobs.c.queued_at, jobs.c.id)
            .limit(1)
        )
        if not self.store.is_sqlite:
            following = following.with_for_update(of=jobs, skip_locked=True)
        values = {
            "state": "loading", "worker": worker.id, "lease_id": ids.new_id("ls"),
            "lease_until": now + limits.lease_s, "claimed_at": now, "attempt": jobs.c.attempt + 1,
            "progress": None, "forgiven": False,
        }  # fmt: skip
        return db.execute(
            sa.update(jobs)
            .where(jobs.c.id == following.scalar_subquery(), jobs.c.state == "queued")
            .values(**values)
            .returning(*jobs.c)
        ).first()

    def _lease(self, db: Connection, row: Row[Any]) -> Lease:
        named = db.execute(
            sa.select(assets).join(uses, uses.c.asset_id == assets.c.id).where(uses.c.job_id == row.id)
        ).all()
        by_reference = {f"asset:{row.id}": row for row in named}
        for name, asset_id in db.execute(sa.select(loras.c.name, loras.c.asset_id)):
            if f"asset:{asset_id}" in by_reference:
                by_reference[f"lora:{name}"] = by_reference[f"asset:{asset_id}"]
        seed = {} if row.seed is None else {"seed": row.seed}
        return Lease(
            id=row.lease_id,
            job=self.view(db, row),
            asked=JobRequest(**row.asked),
            request={**row.request, **seed},
            assets={key: asset_view(file, self.limits) for key, file in by_reference.items()},
            files={key: file.file for key, file in by_reference.items()},
            affinity=row.affinity,
            has_checkpoint=newest_state(self.checkpoint_folder(row.id)) is not None,
            until=row.lease_until,
            renew_s=self.limits.renew_s,
        )

    def _held(self, db: Connection, lease_id: str, also: JobState | None = None) -> Row[Any]:
        """Return the job of a lease. also: a state besides those of work that is right."""
        query = sa.select(jobs).where(jobs.c.lease_id == lease_id)
        row = one(db, query if self.store.is_sqlite else query.with_for_update())
        if row is None or (row.state not in WORKING and row.state != also):
            raise LeaseLost("this lease has ended: the job was given to another worker, or is over")
        return row

    def _told(
        self, db: Connection, row: Row[Any], report: WorkReport, placed: PlacedFile | None
    ) -> list[RowValues]:
        """Return the events of a report, in the order in which they are told."""
        told: list[RowValues] = []
        if report.state in WORKING and report.state != row.state:
            told.append({"type": "state", "state": report.state})
        told += [{"type": "warning", "message": text} for text in report.warnings]
        told += [{"type": "log", "level": "info", "message": text} for text in report.logs]
        if report.progress is not None:
            progress = report.progress.model_dump(mode="json", by_alias=True)
            told.append({"type": "progress", "progress": progress})
        if placed is not None:
            told.append({"type": "preview", "asset": self._keep_preview(db, row, placed)})
        return told

    def _keep_preview(self, db: Connection, row: Row[Any], placed: PlacedFile) -> RowValues:
        """Put the newest preview in the place of the one before, under the same identifier."""
        of_job = sa.and_(assets.c.job_id == row.id, assets.c.kind == "preview")
        before = one(db, sa.select(assets).where(of_job))
        if before is None:
            values = self.new_asset(row.owner, "preview", row.id, placed.fields)
            kept = db.execute(sa.insert(assets).values(**values).returning(*assets.c)).one()
        else:
            self.replace_file(placed.fields["file"], before.file)
            fields = {key: value for key, value in placed.fields.items() if key != "file"}
            kept = db.execute(sa.update(assets).where(of_job).values(**fields).returning(*assets.c)).one()
        return asset_view(kept, self.limits).model_dump(mode="json")

    def _interrupt(self, db: Connection, row: Row[Any]) -> Row[Any]:
        """Take a job from a worker that is gone, and decide what becomes of it."""
        if row.cancel_asked:
            return self.end(db, row, "cancelled")
        made = self._checkpointed_since(row)
        lost = 0 if made else row.lost if row.forgiven else row.lost + 1
        self.move(db, row, "interrupted")
        if lost > self.limits.lost_retries:
            return self.end(db, row, "failed", JobFault(code="worker_lost", message=LOST))
        return self.requeue(db, row, lost=lost)

    def _checkpointed_since(self, row: Row[Any]) -> bool:
        """Return whether a checkpoint was written in this turn."""
        stamp = newest_state(self.checkpoint_folder(row.id))
        return stamp is not None and stamp >= row.claimed_at

    def _clear_ended(self, rows: list[Row[Any]]) -> None:
        for row in rows:
            if row.state in FINAL:
                self.clear_checkpoint(row.id)

    def _keep_timing(self, db: Connection, row: Row[Any], made: MadeFiles) -> None:
        """Keep what a job of this shape took, for the next one; not of one that was resumed."""
        seconds = sum(made.seconds.values()) - made.seconds.get("load", 0.0)
        resumed = "resume" in made.seconds or row.attempt > 1
        if row.shape is None or row.model is None or resumed or seconds <= 0:
            return
        self._keep_mean(db, row.model, row.shape, seconds)
        if row.worked_out_s:
            self._keep_mean(db, row.model, ANY_SHAPE, seconds / row.worked_out_s)

    def _keep_mean(self, db: Connection, model: str, shape: str, seconds: float) -> None:
        key = sa.and_(timings.c.model == model, timings.c.shape == shape)
        known = one(db, sa.select(timings).where(key))
        if known is None:
            values = {"model": model, "shape": shape, "seconds": seconds, "runs": 1, "at": self.clock()}
            db.execute(sa.insert(timings).values(**values))
            return
        mean = TIMINGS_KEPT * known.seconds + (1 - TIMINGS_KEPT) * seconds
        db.execute(sa.update(timings).where(key).values(seconds=mean, runs=known.runs + 1, at=self.clock()))

    def _worker_view(self, row: Row[Any], job_id: str | None, now: float) -> WorkerView:
        gone = row.seen_at < now - max(60.0, 2 * self.limits.lease_s)
        state: Any = "gone" if gone else "draining" if row.draining else "busy" if job_id else "idle"
        return WorkerView(
            id=row.id, name=row.name, device=row.device, state=state, job_id=job_id, loaded=row.loaded,
            seen_at=row.seen_at, started_at=row.started_at,
        )  # fmt: skip
