"""Rows of the store as the records that leave `Jobs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.engine import Row

from soundstage.jobs.limits import Limits
from soundstage.jobs.states import FINAL, PRIORITIES
from soundstage.jobs.views import (
    Asset,
    Delivery,
    Job,
    JobEvent,
    JobProgress,
    Key,
    Links,
    Result,
)

RESULT_KINDS = ("clip", "poster", "sheet", "latents")
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


def job_view(
    row: Row[Any], files: Iterable[Asset], place: tuple[int | None, float | None] = (None, None)
) -> Job:
    """Return a row of jobs. files: those of its result, and its preview. place: position and seconds."""
    held = {file.kind: file for file in files}
    result = {kind: held[kind] for kind in RESULT_KINDS if kind in held}  # type: ignore[index]
    path = f"/v1/jobs/{row.id}"
    return Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        model=row.model,
        label=row.label,
        owner=row.owner,
        via=row.via,
        priority=PRIORITIES[row.priority],
        format=row.format,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        attempt=row.attempt,
        position=place[0],
        eta_s=place[1],
        progress=JobProgress(**_progress(row)),
        request=row.request,
        seed=row.seed,
        plan=row.plan,
        warnings=row.warnings or [],
        error=row.error,
        preview=held.get("preview"),
        result=Result(**result) if row.state == "succeeded" else None,  # type: ignore[arg-type]
        parent_id=row.parent_id,
        links=Links(self=path, events=f"{path}/events", cancel=f"{path}/cancel", content=f"{path}/content"),
    )


def _progress(row: Row[Any]) -> Mapping[str, Any]:
    if row.state == "succeeded":
        return {"fraction": 1.0, "phase": "done", "remaining_s": 0.0}
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
