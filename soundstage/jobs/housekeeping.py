"""Housekeeping: what is over is taken back, what is old is deleted, what nobody knows is removed."""

from __future__ import annotations

import shutil
import time
from typing import Any

import sqlalchemy as sa

from soundstage.jobs.changing import Changing
from soundstage.jobs.leases import Leases
from soundstage.jobs.states import FINAL, WORKING
from soundstage.jobs.store import one
from soundstage.jobs.tables import assets, device_use, idempotency, jobs, loras, uses, workers
from soundstage.jobs.tables import webhook_deliveries as deliveries

LOCAL_S = 4.0  # within this time a worker of a server that is gone has ended too
TMP_S = 6 * 3600.0  # a temporary file that was not written to for so long belongs to nobody
ORPHAN_S = 600.0  # a file in place that no row knows for so long belongs to nobody
BATCH = 50
STATS_JOBS = 500  # newest jobs whose stages are counted


class Housekeeping(Leases, Changing):
    """The upkeep of `Jobs`."""

    def sweep(self) -> None:
        """Take back silent leases, and delete what is over its time. Cheap where nothing is due."""
        self.end_silent_leases()
        self._delete_old_jobs()
        self._delete_old_inputs()
        self._keep_within_bytes()
        self._forget()

    def recover(self) -> None:
        """Begin again after a stop: leases get time to be renewed, and do not count if they end.

        Files that no row knows, and temporary files that nobody writes any more, are removed. Called once
        when a server starts.
        """
        now = self.clock()
        with self.store.writing() as db:
            local = jobs.c.worker.in_(sa.select(workers.c.id).where(workers.c.local))
            until = sa.case((local, now + min(LOCAL_S, self.limits.lease_s)), else_=now + self.limits.lease_s)
            db.execute(
                sa.update(jobs).where(jobs.c.state.in_(WORKING)).values(forgiven=True, lease_until=until)
            )
        self.remove_orphans()
        self.sweep()

    def drain(self) -> None:
        """Take no more jobs, and let workers give theirs back."""
        self.draining = True
        self.news.tell()

    def remove_orphans(self) -> None:
        """Remove files that no row knows: a process ended between writing and committing."""
        now = time.time()
        with self.store.reading() as db:
            known = set(db.execute(sa.select(assets.c.file)).scalars())
            alive = set(db.execute(sa.select(jobs.c.id).where(jobs.c.state.not_in(FINAL))).scalars())
        for path in (self.data / "assets").glob("*/*"):
            name = path.relative_to(self.data).as_posix()
            if name not in known and path.stat().st_mtime < now - ORPHAN_S:
                path.unlink(missing_ok=True)
        for path in self.tmp.iterdir():
            if path.stat().st_mtime < now - TMP_S:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for path in (self.data / "checkpoints").iterdir():
            if path.name not in alive:
                shutil.rmtree(path, ignore_errors=True)

    def stats(self) -> dict[str, Any]:
        """Return numbers for an operator's charts."""
        now = self.clock()
        with self.store.reading() as db:
            states = dict(
                map(tuple, db.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)).all())
            )
            oldest = db.execute(
                sa.select(sa.func.min(jobs.c.queued_at)).where(jobs.c.state == "queued")
            ).scalar()
            errors = db.execute(sa.select(jobs.c.error).where(jobs.c.state == "failed")).scalars().all()
            newest = sa.select(jobs.c.stage_seconds).where(jobs.c.stage_seconds.is_not(None))
            stages = db.execute(newest.order_by(jobs.c.finished_at.desc()).limit(STATS_JOBS)).scalars().all()
        failures: dict[str, int] = {}
        for error in errors:
            code = (error or {}).get("code", "unknown")
            failures[code] = failures.get(code, 0) + 1
        seconds: dict[str, float] = {}
        for stage, spent in ((s, t) for found in stages for s, t in (found or {}).items()):
            seconds[stage] = seconds.get(stage, 0.0) + spent
        counted: dict[str, int] = {}
        for worker in self.workers():
            counted[worker.state] = counted.get(worker.state, 0) + 1
        return {
            "states": states,
            "queue_depth": states.get("queued", 0),
            "oldest_queued_s": 0.0 if oldest is None else max(0.0, now - oldest),
            "failures": failures,
            "stage_seconds": seconds,
            "workers": counted,
        }

    # --- what is over ----------------------------------------------------------------------------------

    def _delete_old_jobs(self) -> None:
        keep_s = self.limits.keep_results_s
        if keep_s is None:
            return
        old = sa.and_(
            jobs.c.state.in_(FINAL), jobs.c.deleted_at.is_(None), jobs.c.finished_at < self.clock() - keep_s
        )
        self._delete_jobs(sa.select(jobs.c.id).where(old).limit(BATCH))

    def _delete_jobs(self, query: sa.Select[Any]) -> int:
        """Delete jobs that have ended, with their files; return how many."""
        with self.store.reading() as db:
            found = db.execute(query).scalars().all()
        for job_id in found:
            files: list[str] = []
            with self.store.writing() as db:
                row = one(db, sa.select(jobs).where(jobs.c.id == job_id, jobs.c.deleted_at.is_(None)))
                if row is not None:
                    files = list(self.erase(db, row))
            self.remove_files(files)
        return len(found)

    def _delete_old_inputs(self) -> None:
        """Delete inputs that no job refers to any more, once they were not used for a while."""
        keep_s = self.limits.keep_inputs_s
        if keep_s is None:
            return
        wanted = sa.union_all(sa.select(uses.c.asset_id), sa.select(loras.c.asset_id))
        old = sa.and_(
            assets.c.job_id.is_(None),
            assets.c.used_at < self.clock() - keep_s,
            assets.c.id.not_in(wanted),
        )
        with self.store.reading() as db:
            if one(db, sa.select(assets.c.id).where(old)) is None:
                return
        with self.store.writing() as db:
            files = db.execute(sa.delete(assets).where(old).returning(assets.c.file)).scalars().all()
        self.remove_files(files)

    def _keep_within_bytes(self) -> None:
        """Delete the oldest jobs that have ended while all files together are too large."""
        most = self.limits.keep_bytes
        while most is not None:
            with self.store.reading() as db:
                total = db.execute(sa.select(sa.func.sum(assets.c.bytes))).scalar() or 0
            oldest = (
                sa.select(jobs.c.id)
                .where(jobs.c.state.in_(FINAL), jobs.c.deleted_at.is_(None))
                .where(sa.exists().where(assets.c.job_id == jobs.c.id))
                .order_by(jobs.c.finished_at)
                .limit(1)
            )
            if total <= most or self._delete_jobs(oldest) == 0:
                return

    def _forget(self) -> None:
        """Drop traces that are of no use any more."""
        now, limits = self.clock(), self.limits
        old = now - limits.keep_traces_s
        used_old = now - max(limits.quota_window_s, limits.fair_window_s)
        conditions = [
            (idempotency, idempotency.c.at < now - limits.idempotency_s),
            (jobs, jobs.c.deleted_at < old),
            (deliveries, sa.and_(deliveries.c.state != "pending", deliveries.c.created_at < old)),
            (device_use, device_use.c.at < used_old),
            (workers, workers.c.seen_at < now - 3600),
        ]
        with self.store.reading() as db:
            due = [
                pair for pair in conditions if one(db, sa.select(sa.literal(1)).where(pair[1])) is not None
            ]
        if due:
            with self.store.writing() as db:
                for table, over in due:
                    db.execute(sa.delete(table).where(over))
