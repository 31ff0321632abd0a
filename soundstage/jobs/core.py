"""The base of `Jobs`: the store, the data folder, events, and views of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from soundstage.jobs import ids
from soundstage.jobs.errors import Forbidden, Gone, NotFound
from soundstage.jobs.limits import Limits
from soundstage.jobs.line import Line, Places, Waiting, places
from soundstage.jobs.rows import LinePlace, asset_view, job_views
from soundstage.jobs.states import WORKING
from soundstage.jobs.store import RowValues, Store, insert_all, next_numbers, one
from soundstage.jobs.tables import assets, device_use, events, jobs, workers
from soundstage.jobs.views import Asset, AssetKind, Job, Owner, Scope

FOLDERS = ("assets", "checkpoints", "tmp")
ALIVE_S = 60.0  # a worker that was seen within this time counts for the expected times


class Core:
    """The store of a server, and what all parts of `Jobs` need of it. clock: gives the time, for tests."""

    def __init__(
        self, store: Store, data: Path, limits: Limits, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.data = data
        self.limits = limits
        self.clock = clock
        self.news = store.news
        self.draining = False
        self._line = Line()
        for name in FOLDERS:
            (data / name).mkdir(parents=True, exist_ok=True)

    @property
    def tmp(self) -> Path:
        """Return the folder of files that are being written."""
        return self.data / "tmp"

    def checkpoint_folder(self, job_id: str) -> Path:
        """Return the folder of a job's checkpoint, which may not be there."""
        return self.data / "checkpoints" / job_id

    def require(self, owner: Owner, scope: Scope) -> None:
        """Raise Forbidden where the owner's key has no such scope."""
        if not owner.may(scope):
            raise Forbidden(f"this key may not do that; it needs the scope '{scope}'")

    # --- events ----------------------------------------------------------------------------------------

    def emit(self, db: Connection, job: Row[Any], told: Sequence[RowValues]) -> None:
        """Keep events of a job. told: fields of each, with its "type"."""
        if not told:
            return
        first, now = next_numbers(db, "events", len(told)), self.clock()
        rows = [
            {
                "id": first + i,
                "job_id": job.id,
                "owner": job.owner,
                "type": fields["type"],
                "at": now,
                "data": {key: value for key, value in fields.items() if key != "type"},
            }
            for i, fields in enumerate(told)
        ]
        insert_all(db, events, rows)

    # --- rows ------------------------------------------------------------------------------------------

    def job_row(self, db: Connection, owner: Owner, job_id: str) -> Row[Any]:
        """Return a job's row. Raises NotFound for one of another owner, Gone for a deleted one."""
        found = one(db, sa.select(jobs).where(jobs.c.id == job_id))
        if found is None or not self.sees(owner, found.owner):
            raise NotFound(f"there is no job {job_id!r}; GET /v1/jobs lists yours")
        if found.deleted_at is not None:
            raise Gone(f"the job {job_id!r} was deleted")
        return found

    def asset_row(self, db: Connection, owner: Owner, asset_id: str) -> Row[Any]:
        """Return a file's row. Raises NotFound for one of another owner."""
        found = one(db, sa.select(assets).where(assets.c.id == asset_id))
        if found is None or not self.sees(owner, found.owner):
            raise NotFound(f"there is no file {asset_id!r}; it may have been deleted")
        return found

    def sees(self, owner: Owner, other: str) -> bool:
        """Return whether an owner may see what belongs to another."""
        return other == owner.id or owner.may("admin")

    # --- views -----------------------------------------------------------------------------------------

    def view(self, db: Connection, row: Row[Any]) -> Job:
        """Return a job as its owner sees it."""
        return self.views(db, [row])[0]

    def views(self, db: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
        """Return jobs as their owners see them."""
        files = self.files_of(db, [row.id for row in rows if row.state not in ("queued", "paused")])
        found = self._places(db) if any(row.state == "queued" for row in rows) else None
        return job_views(rows, files, lambda row: self._place(row, found))

    def files_of(self, db: Connection, job_ids: Sequence[str]) -> dict[str, list[Asset]]:
        """Return the files that jobs have made, by the job."""
        made: dict[str, list[Asset]] = {}
        if job_ids:
            for row in db.execute(sa.select(assets).where(assets.c.job_id.in_(job_ids))):
                made.setdefault(row.job_id, []).append(asset_view(row, self.limits))
        return made

    def _place(self, row: Row[Any], found: Places | None) -> LinePlace:
        if row.state == "queued" and found is not None:
            position, done_s = found.places.get(row.id, (None, None))
            return position, done_s
        if row.state in WORKING:
            return None, remaining_s(row, self.clock())
        return None, None

    def _places(self, db: Connection) -> Places:
        now, version = self.clock(), self.news.version
        known = self._line.known(now, version)
        return known or self._line.keep(Places(now, version, self._current_places(db, now)))

    def _current_places(self, db: Connection, now: float) -> dict[str, tuple[int, float | None]]:
        fields = (jobs.c.id, jobs.c.owner, jobs.c.priority, jobs.c.queued_at, jobs.c.price_s)
        waiting = [
            Waiting(*row) for row in db.execute(sa.select(*fields).where(jobs.c.state == "queued")).all()
        ]
        working = db.execute(sa.select(jobs).where(jobs.c.state.in_(WORKING))).all()
        alive = (
            db.execute(
                sa.select(workers.c.id).where(
                    workers.c.seen_at > now - ALIVE_S, workers.c.draining.is_(False)
                )
            )
            .scalars()
            .all()
        )
        left = {row.worker: remaining_s(row, now) or 0.0 for row in working}
        busy = [left.get(worker, 0.0) for worker in alive]
        return places(waiting, self.use_of_owners(db, now), busy, self.limits.fair_grain_s)

    def use_of_owners(self, db: Connection, now: float) -> dict[str, float]:
        """Return the seconds of device time that owners had lately, running jobs counted whole."""
        used: dict[str, float] = {}
        for owner, seconds in db.execute(self.use_query(now)):
            used[owner] = float(seconds)
        return used

    def use_query(self, now: float) -> sa.Select[Any]:
        """Return the query of owners and their device time within the window of the fair share."""
        grain = self.limits.fair_grain_s
        past = sa.select(device_use.c.owner, device_use.c.seconds).where(
            device_use.c.at > now - self.limits.fair_window_s
        )
        running = sa.select(
            jobs.c.owner, (sa.func.coalesce(jobs.c.price_s, 0.0) + grain).label("seconds")
        ).where(jobs.c.state.in_(WORKING))
        both = sa.union_all(past, running).subquery()
        return sa.select(both.c.owner, sa.func.sum(both.c.seconds).label("seconds")).group_by(both.c.owner)

    # --- files -----------------------------------------------------------------------------------------

    def new_asset(self, owner: str, kind: AssetKind, job_id: str | None, fields: RowValues) -> dict[str, Any]:
        """Return a row of a new file. fields: media_type, bytes, sha256, name, file, info."""
        now = self.clock()
        row = {"id": ids.new_id("as"), "owner": owner, "kind": kind, "job_id": job_id}
        return {**row, "created_at": now, "used_at": now, **fields}


def remaining_s(row: Row[Any], now: float) -> float | None:
    """Return the seconds that a job under work still needs; None where nothing is known of it."""
    told = (row.progress or {}).get("remaining_s")
    elapsed = now - (row.claimed_at or now)
    if told is not None:
        return max(0.0, float(told))
    return None if row.price_s is None or elapsed > row.price_s else row.price_s - elapsed
