"""Rows of the store as the records that leave `Jobs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.engine import Row

from soundstage.jobs.limits import Limits
from soundstage.jobs.states import FINAL, PRIORITIES
from soundstage.jobs.tables import jobs
from soundstage.jobs.views import (
    Asset,
    Delivery,
    Job,
    JobEvent,
    Key,
)

LinePlace = tuple[int | None, float | None]
JOBS: TypeAdapter[list[Job]] = TypeAdapter(list[Job])
# Columns of a job that are fields of its record as they are, and the others that a record is made of.
SAME = (
    "id", "kind", "state", "model", "label", "owner", "via", "format", "created_at", "started_at",
    "finished_at", "attempt", "request", "seed", "plan", "error", "parent_id",
)  # fmt: skip
OTHERS = ("priority", "progress", "warnings", "worker", "claimed_at", "price_s")
SHOWN = tuple(jobs.c[name] for name in (*SAME, *OTHERS))
RESULT_KINDS = ("clip", "poster", "sheet", "latents", "lora", "config", "losses", "report")
DELIVERY_FIELDS = tuple(name for name in Delivery.model_fields if name != "object")


def asset_view(row: Row[Any], limits: Limits) -> Asset:
    """Return a row of assets."""
    keep_s = limits.keep_inputs_s if row.job_id is None and row.kind == "input" else None
    return Asset(
        id=row.id,
        kind=row.kind,
        media_type=row.media_type,
        bytes=row.bytes,
        sha256=row.sha256,
        name=row.name,
        created_at=row.created_at,
        expires_at=None if keep_s is None else row.used_at + keep_s,
        url=f"/v1/assets/{row.id}/content",
        **row.info,
    )


def job_views(
    rows: Sequence[Row[Any]], files: Mapping[str, Iterable[Asset]], place: Callable[[Row[Any]], LinePlace]
) -> list[Job]:
    """Return rows of one query of jobs. files: results and previews. place: position and seconds."""
    names = rows[0]._fields if rows else ()
    return JOBS.validate_python([_job_fields(names, row, files.get(row.id, ()), place(row)) for row in rows])


def _job_fields(
    names: Sequence[str], row: Row[Any], files: Iterable[Asset], place: LinePlace
) -> dict[str, Any]:
    """Return the fields of a job, which are checked for all jobs of a page at once."""
    known = dict(zip(names, row, strict=True))  # far quicker than row._asdict()
    fields = {name: known[name] for name in SAME}
    files = tuple(files)
    held = {file.kind: file for file in files}
    path = f"/v1/jobs/{fields['id']}"
    fields["priority"] = PRIORITIES[known["priority"]]
    fields["position"], fields["eta_s"] = place
    fields["progress"] = _progress(row)
    fields["warnings"] = known["warnings"] or []
    fields["preview"] = held.get("preview")
    if fields["state"] == "succeeded":
        fields["result"] = {kind: held[kind] for kind in RESULT_KINDS if kind in held}  # type: ignore[index]
        clips = [file for file in files if file.kind == "validation"]
        if clips:
            fields["result"]["validation"] = sorted(clips, key=lambda file: file.name or "")
    fields["links"] = {
        "self": path, "events": f"{path}/events", "cancel": f"{path}/cancel", "content": f"{path}/content",
    }  # fmt: skip
    return fields


def _progress(row: Row[Any]) -> Mapping[str, Any]:
    if row.state == "succeeded":
        losses = (row.progress or {}).get("losses")
        return {"fraction": 1.0, "phase": "done", "remaining_s": 0.0, "losses": losses}
    if row.state in FINAL:
        return {**(row.progress or {}), "remaining_s": None}
    return row.progress or {}


def event_view(row: Row[Any]) -> JobEvent:
    """Return a row of events."""
    return JobEvent(id=row.id, job_id=row.job_id, type=row.type, at=row.at, **row.data)


def key_view(row: Row[Any]) -> Key:
    """Return a row of api_keys, without its hash."""
    return Key(
        id=row.id,
        owner=row.owner,
        name=row.name,
        scopes=row.scopes,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
    )


def delivery_view(row: Row[Any]) -> Delivery:
    """Return a row of webhook_deliveries."""
    return Delivery(**{name: getattr(row, name) for name in DELIVERY_FIELDS})
