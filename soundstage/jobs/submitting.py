"""The clients' side of `Jobs`: jobs are submitted, looked at, cancelled and deleted."""

from __future__ import annotations

import json
import mimetypes
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from soundstage.errors import RequestError, WeightsError, shown
from soundstage.jobs import ids, references
from soundstage.jobs.admission import Admission, Admitted, ToldByReference, admit_convert, admit_pull
from soundstage.jobs.assets import AssetFiles, page
from soundstage.jobs.ending import Ending
from soundstage.jobs.errors import Conflict, Draining, Gone, NotFound, TooMany
from soundstage.jobs.rows import SHOWN, asset_view, event_view
from soundstage.jobs.states import FINAL, PRIORITIES, JobState
from soundstage.jobs.store import insert_all, one
from soundstage.jobs.tables import (
    ANY_SHAPE,
    assets,
    device_use,
    events,
    idempotency,
    jobs,
    loras,
    timings,
    uses,
    workers,
)
from soundstage.jobs.views import Asset, Job, JobEvent, JobRequest, Owner, Page, PlanView
from soundstage.planning.given import GivenStart, latent_shapes, start_in
from soundstage.planning.plan import Plan

MAX_LIST = 1000
MAX_KEY = 255
QUEUE_RETRY_S = 30.0


def call_here(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in this process."""
    return function(*args)


class Submitting(Ending, AssetFiles):
    """Jobs as their owners use them."""

    admission: Admission
    bring: references.Bring | None = None
    inputs: Path | None = None
    check_address: Callable[[str, str], object] | None = (
        None  # refuses an address that is not called, by field
    )
    guarded: Callable[..., Any] = staticmethod(call_here)  # calls what looks into files of strangers

    def plan(self, owner: Owner, asked: JobRequest) -> PlanView:
        """Return what would be made, and what it takes. Raises RequestError for what cannot be made."""
        self.require(owner, "read")
        admitted, _ = self._admitted(owner, asked)
        if admitted.plan is None:
            raise RequestError(f"kind is {asked.kind!r}, which needs no plan", field="kind")
        return admitted.plan

    def create(
        self,
        owner: Owner,
        asked: JobRequest,
        *,
        idempotency_key: str | None = None,
        via: str = "native",
        parent_id: str | None = None,
        warnings: Sequence[str] = (),
    ) -> Job:
        """Check, plan and price a job, and put it into the line.

        idempotency_key: a second call with the same key and the same words gives the same job; with other
        words it raises Conflict. warnings: the first ones of the job. Raises RequestError, TooMany, Draining
        and Forbidden.
        """
        self.require(owner, "submit" if asked.kind != "pull" else "admin")
        if self.draining:
            raise Draining("the server is about to stop and takes no new jobs; try again in a minute")
        of_parent = {} if parent_id is None else {"parent_id": parent_id}
        said = {**asked.model_dump(mode="json"), **of_parent}
        request_hash = ids.hash_of(json.dumps(said, sort_keys=True))
        known = self._known(owner, idempotency_key, request_hash)
        if known is not None:
            return known
        with self.store.reading() as db:
            self._check_room(db, owner, 0.0)
        admitted, used = self._admitted(owner, asked)
        row = self._new_row(owner, asked, admitted, request_hash, via, parent_id)
        row["warnings"] = list(warnings) or None
        try:
            with self.store.writing() as db:
                self._check_room(db, owner, row["price_s"] or 0.0)
                if idempotency_key is not None:
                    self._keep_key(db, owner, idempotency_key, request_hash, row["id"])
                made = db.execute(sa.insert(jobs).values(**row).returning(*jobs.c)).one()
                insert_all(db, uses, [{"job_id": row["id"], "asset_id": asset.id} for asset in used])
                self.emit(db, made, [{"type": "state", "state": "queued"}])
                return self.view(db, made)
        except IntegrityError:
            known = self._known(owner, idempotency_key, request_hash)
            if known is None:
                raise Conflict("a file of the request was deleted meanwhile; upload it again") from None
            return known

    def get(self, owner: Owner, job_id: str) -> Job:
        """Return a job. Raises NotFound, and Gone for a deleted one."""
        with self.store.reading() as db:
            return self.view(db, self.job_row(db, owner, job_id))

    def list(
        self,
        owner: Owner,
        *,
        state: JobState | Sequence[JobState] | None = None,
        label: str | None = None,
        text: str | None = None,
        via: str | None = None,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page[Job]:
        """Return a page of an owner's jobs, or of all owners' for an admin.

        after: the last one of the page before. text: words of the prompt or the label, in any case.
        """
        if not 1 <= limit <= MAX_LIST:
            raise RequestError(f"limit is {limit}; give 1 to {MAX_LIST}", field="limit")
        query = sa.select(*SHOWN).where(jobs.c.deleted_at.is_(None))
        if not owner.may("admin"):
            query = query.where(jobs.c.owner == owner.id)
        if state is not None:
            query = query.where(jobs.c.state.in_([state] if isinstance(state, str) else state))
        if label is not None:
            query = query.where(jobs.c.label == label)
        if via is not None:
            query = query.where(jobs.c.via == via)
        for word in (text or "").lower().split():
            query = query.where(jobs.c.words.contains(word, autoescape=True))
        newest_first = order == "desc"
        key = sa.tuple_(jobs.c.created_at, jobs.c.id)
        with self.store.reading() as db:
            if after is not None:
                last = self._cursor(db, owner, after)
                query = query.where(key < last if newest_first else key > last)
            by = [c.desc() if newest_first else c.asc() for c in (jobs.c.created_at, jobs.c.id)]
            rows = db.execute(query.order_by(*by).limit(limit + 1)).all()
            return page(self.views(db, rows), limit)

    def events(self, owner: Owner, job_id: str | None, after: int, limit: int = 500) -> Sequence[JobEvent]:
        """Return events after a number, of one job or of all that the owner sees, in their order."""
        query = sa.select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
        with self.store.reading() as db:
            if job_id is not None:
                self.job_row(db, owner, job_id)
                query = query.where(events.c.job_id == job_id)
            elif not owner.may("admin"):
                query = query.where(events.c.owner == owner.id)
            return [event_view(row) for row in db.execute(query)]

    def last_event(self) -> int:
        """Return the number of the newest event, from which on a new stream begins."""
        with self.store.reading() as db:
            found = one(db, sa.select(sa.func.max(events.c.id)))
            return 0 if found is None or found[0] is None else int(found[0])

    # --- admission -------------------------------------------------------------------------------------

    def _admitted(self, owner: Owner, asked: JobRequest) -> tuple[Admitted, Sequence[Asset]]:
        """Return a job as it is admitted, and the inputs it refers to."""
        if asked.webhook_url is not None and self.check_address is not None:
            self.check_address(asked.webhook_url, "webhook_url")
        if asked.kind != "train" and (asked.data or asked.training or asked.dataset):
            name = "data" if asked.data else "training" if asked.training else "dataset"
            raise RequestError(f"{name} is for jobs of kind train, not {asked.kind}", field=name)
        if asked.kind != "generate":
            return self._admitted_other(owner, asked)
        fields = references.checked_fields(asked.request)
        paths, used = self._resolved(owner, references.places(fields))
        known = self._machines()
        start = None
        if asked.latents is not None:
            asset, start = self._start(owner, asked)
            used = [*used, asset]
        elif asked.denoise != 1.0:
            raise RequestError(f"denoise is {asked.denoise:g}, and no latents are given", field="denoise")
        admitted = self.admission.admit(fields, asked.model, asked.format, paths, known, start)
        assert admitted.plan is not None
        self._check_length(admitted.plan)
        return self._with_measured(admitted, admitted.plan), used

    def _machines(self) -> Sequence[Mapping[str, Any]]:
        """Return the machines of the workers that were seen, the last one first."""
        query = sa.select(workers.c.machine).order_by(workers.c.seen_at.desc()).limit(50)
        with self.store.reading() as db:
            return [machine for machine in db.execute(query).scalars() if machine]

    def _start(self, owner: Owner, asked: JobRequest) -> tuple[Asset, GivenStart]:
        """Return the latents that a job starts from, by their header."""
        place = references.ReferencePlace({"latents": asked.latents}, "latents", "latents")
        if not place.text.startswith(references.ASSET):
            raise RequestError(
                f'latents is {shown(place.text)}; give "asset:ID" of an uploaded file', field="latents"
            )
        asset, path = self._found(owner, place)
        try:
            return asset, start_in(latent_shapes(path), asked.denoise)
        except WeightsError as error:
            raise RequestError(str(error).replace(str(path), place.text), field="latents") from None

    def _admitted_other(self, owner: Owner, asked: JobRequest) -> tuple[Admitted, Sequence[Asset]]:
        """Return a job that makes no clip anew."""
        if asked.request:
            raise RequestError(f"request is for jobs of kind generate, not {asked.kind}", field="request")
        if asked.latents is not None:
            raise RequestError(f"latents are for jobs of kind generate, not {asked.kind}", field="latents")
        if asked.kind == "pull":
            return admit_pull(asked.model), ()
        if asked.kind == "train":
            return self._admitted_training(owner, asked)
        if asked.asset is None:
            raise RequestError("asset is missing; give the ID of the clip to convert", field="asset")
        try:
            asset, path = self.asset(owner, asked.asset), self.asset_path(owner, asked.asset)
        except (NotFound, Gone):
            raise RequestError(
                f"asset is {asked.asset!r}, and there is no such file", field="asset"
            ) from None
        return admit_convert(f"{references.ASSET}{asset.id}", path, asked.format), [asset]

    def _admitted_training(self, owner: Owner, asked: JobRequest) -> tuple[Admitted, Sequence[Asset]]:
        """Return a training, its zip unpacked and looked into."""
        from soundstage.jobs import training

        if asked.asset is not None or asked.format is not None:
            name = "asset" if asked.asset is not None else "format"
            raise RequestError(f"{name} is not for jobs of kind train; leave it out", field=name)
        fields = training.checked_training(asked, self.limits.max_train_steps)
        self.admission.engine(asked.model)
        paths, used = self._resolved(owner, training.training_places(fields))
        zipped = next(asset for asset in used if f"{references.ASSET}{asset.id}" == fields["data"])
        if zipped.kind != "data":
            raise RequestError(
                f"data is {fields['data']}, a file of type {zipped.media_type}; upload a zip of clips "
                "with the purpose data",
                field="data",
            )
        with ToldByReference(paths):
            looked = training.looked_into(fields, paths, self.tmp, self.guarded)
        admitted = self.admission.admit_training(
            fields, asked.model, looked, paths, self._machines(), self._check_length
        )
        assert admitted.plan is not None
        return self._with_measured(admitted, admitted.plan), used

    def _check_length(self, plan: PlanView | Plan) -> None:
        most, found = self.limits.max_duration_s, plan.duration_s
        if most is not None and found > most:
            raise RequestError(
                f"duration_s is {found:g}; this server makes clips of up to {most:g} s", field="duration_s"
            )

    def _with_measured(self, admitted: Admitted, plan: PlanView) -> Admitted:
        """Return an admitted job with the seconds that the same work took before, where that is known."""
        model = plan.model
        with self.store.reading() as db:
            shapes = timings.c.shape.in_([admitted.shape, ANY_SHAPE])
            rows = db.execute(sa.select(timings).where(timings.c.model == model, shapes)).all()
        known = {row.shape: row.seconds for row in rows}
        seconds = known.get(admitted.shape or "")
        if seconds is None and ANY_SHAPE in known and admitted.worked_out_s is not None:
            seconds = known[ANY_SHAPE] * admitted.worked_out_s
        if seconds is None:
            return admitted
        told = plan.model_copy(update={"seconds": round(seconds, 3)})
        return replace(admitted, plan=told, price_s=seconds)

    def _resolved(
        self, owner: Owner, places: Iterable[references.ReferencePlace]
    ) -> tuple[dict[str, Path], Sequence[Asset]]:
        """Bring in what addresses refer to, and return the paths of all references, and the assets."""
        paths: dict[str, Path] = {}
        used: dict[str, Asset] = {}
        for place in places:
            if place.text.startswith(references.REMOTE):
                place.put(self._bring(owner, place))
            if place.text.startswith(references.FILE) and self.inputs is not None:
                place.put(self._copied(owner, place, self.inputs))
            asset, path = self._found(owner, place)
            paths[place.text] = path
            used[asset.id] = asset
        return paths, list(used.values())

    def _bring(self, owner: Owner, place: references.ReferencePlace) -> str:
        if self.bring is None or place.is_lora:
            raise references.unknown(place)
        self.require(owner, "submit")
        kind = references.kind_of(place)
        return self._kept(owner, place, self.bring(place.text, place.where, self.tmp, kind))

    def _kept(self, owner: Owner, place: references.ReferencePlace, brought: references.Brought) -> str:
        """Keep a file as the owner's asset, and return its reference."""
        asset = self.add_asset(
            owner,
            path=brought.path,
            kind=references.kind_of(place),
            name=brought.name,
            media_type=brought.media_type,
            info=brought.info,
        )
        return f"{references.ASSET}{asset.id}"

    def _copied(self, owner: Owner, place: references.ReferencePlace, inputs: Path) -> str:
        """Copy a file of the server's inputs, so that the job has it as it was when it was asked for."""
        self.require(owner, "submit")
        root = inputs.resolve()
        path = (root / place.text.removeprefix(references.FILE)).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise RequestError(
                f"{place.where} is {place.text!r}, and there is no such file in the server's inputs",
                field=place.field,
            )
        copy = self.tmp / ids.new_id("tmp")
        shutil.copyfile(path, copy)
        media_type = mimetypes.guess_type(path.name)[0] or ""
        if not media_type.startswith(("image/", "video/", "audio/")) or "svg" in media_type:
            media_type = "application/octet-stream"
        return self._kept(owner, place, references.Brought(copy, path.name, media_type))

    def _found(self, owner: Owner, place: references.ReferencePlace) -> tuple[Asset, Path]:
        text = place.text
        if text.startswith(references.LORA) and place.is_lora:
            return self._lora(place)
        if not text.startswith(references.ASSET):
            raise references.unknown(place)
        asset_id = text.removeprefix(references.ASSET)
        try:
            return self.asset(owner, asset_id), self.asset_path(owner, asset_id)
        except (NotFound, Gone):
            raise RequestError(
                f"{place.where} is {text!r}, and there is no such file; upload it first", field=place.field
            ) from None

    def _lora(self, place: references.ReferencePlace) -> tuple[Asset, Path]:
        name = place.text.removeprefix(references.LORA)
        with self.store.reading() as db:
            row = one(
                db,
                sa.select(assets).join(loras, loras.c.asset_id == assets.c.id).where(loras.c.name == name),
            )
        if row is None:
            raise RequestError(
                f"{place.where} is {place.text!r}, and no LoRA of that name is registered", field=place.field
            )
        return asset_view(row, self.limits), self._path(row.file)

    def _new_row(
        self,
        owner: Owner,
        asked: JobRequest,
        admitted: Admitted,
        request_hash: str,
        via: str,
        parent_id: str | None,
    ) -> dict[str, Any]:
        now = self.clock()
        prompt = str(admitted.fields.get("prompt", ""))
        stored = asked.model_dump(mode="json", exclude={"request"})
        plan = None if admitted.plan is None else admitted.plan.model_dump(mode="json")
        return {
            "id": ids.new_id("job"), "owner": owner.id, "kind": asked.kind, "via": via, "state": "queued",
            "priority": PRIORITIES.index(asked.priority), "model": admitted.model,
            "affinity": admitted.affinity, "label": asked.label,
            "words": f"{prompt} {asked.label or ''}".lower(), "asked": stored,
            "request": dict(admitted.fields), "request_hash": request_hash, "format": admitted.format,
            "seed": admitted.seed, "plan": plan, "shape": admitted.shape,
            "price_s": admitted.price_s, "worked_out_s": admitted.worked_out_s,
            "created_at": now, "queued_at": now, "attempt": 0, "lost": 0,
            "forgiven": False, "cancel_asked": False, "pause_asked": False, "webhook_url": asked.webhook_url,
            "parent_id": parent_id,
        }  # fmt: skip

    # --- limits ----------------------------------------------------------------------------------------

    def _check_room(self, db: Connection, owner: Owner, price_s: float) -> None:
        """Raise TooMany where the line is full, or the owner's device time is used up."""
        limits, waiting = self.limits, jobs.c.state.in_(("queued", "paused"))
        counts = db.execute(
            sa.select(jobs.c.owner, sa.func.count()).where(waiting).group_by(jobs.c.owner)
        ).all()
        total, own = sum(n for _, n in counts), dict(map(tuple, counts)).get(owner.id, 0)
        if total >= limits.max_queued:
            raise TooMany(f"{total} jobs wait already; try again later", retry_after_s=QUEUE_RETRY_S)
        if own >= limits.max_queued_per_owner:
            raise TooMany(
                f"{own} of your jobs wait already, the most that may; wait for some, or cancel them",
                retry_after_s=QUEUE_RETRY_S,
            )
        if limits.quota_s is not None:
            self._check_quota(db, owner, price_s, limits.quota_s)

    def _check_quota(self, db: Connection, owner: Owner, price_s: float, quota_s: float) -> None:
        now, window = self.clock(), self.limits.quota_window_s
        recent = sa.and_(device_use.c.owner == owner.id, device_use.c.at > now - window)
        past = db.execute(sa.select(sa.func.sum(device_use.c.seconds)).where(recent)).scalar() or 0.0
        ahead = (
            db.execute(
                sa.select(sa.func.sum(jobs.c.price_s)).where(
                    jobs.c.owner == owner.id, jobs.c.state.not_in(FINAL)
                )
            ).scalar()
            or 0.0
        )
        if past + ahead + price_s > quota_s:
            oldest = db.execute(sa.select(sa.func.min(device_use.c.at)).where(recent)).scalar()
            wait = QUEUE_RETRY_S if oldest is None else max(QUEUE_RETRY_S, oldest + window - now)
            raise TooMany(
                f"the job takes about {price_s:.0f} s of a device, and of {quota_s:g} s in "
                f"{window / 3600:g} hours {past + ahead:.0f} are used or spoken for",
                retry_after_s=wait,
            )

    # --- idempotency -----------------------------------------------------------------------------------

    def _known(self, owner: Owner, key: str | None, request_hash: str) -> Job | None:
        """Return the job that was made with a key before."""
        if key is None:
            return None
        if not 0 < len(key) <= MAX_KEY or not key.isprintable():
            raise RequestError(f"the idempotency key is not 1 to {MAX_KEY} printable characters long")
        with self.store.reading() as db:
            found = one(db, self._key_query(owner, key))
            if found is None or found.at < self.clock() - self.limits.idempotency_s:
                return None
            if found.request_hash != request_hash:
                raise Conflict("this idempotency key was used for another request; give a new one")
            return self.view(db, self.job_row(db, owner, found.job_id))

    def _key_query(self, owner: Owner, key: str) -> sa.Select[Any]:
        return sa.select(idempotency).where(idempotency.c.owner == owner.id, idempotency.c.key == key)

    def _keep_key(self, db: Connection, owner: Owner, key: str, request_hash: str, job_id: str) -> None:
        now = self.clock()
        db.execute(
            sa.delete(idempotency).where(
                idempotency.c.owner == owner.id,
                idempotency.c.key == key,
                idempotency.c.at < now - self.limits.idempotency_s,
            )
        )
        values = {"owner": owner.id, "key": key, "request_hash": request_hash, "job_id": job_id, "at": now}
        db.execute(sa.insert(idempotency).values(**values))

    def _cursor(self, db: Connection, owner: Owner, job_id: str) -> Any:
        row = one(db, sa.select(jobs).where(jobs.c.id == job_id))
        if row is None or not self.sees(owner, row.owner):
            raise NotFound(f"there is no job {job_id!r} to go on after")
        return sa.tuple_(sa.literal(row.created_at), sa.literal(row.id))
