"""Files: uploads, their bytes, small pictures of them, and tickets for players."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from soundstage.jobs.errors import NotFound
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Asset, AssetKind, Page
from soundstage.server import content, uploads
from soundstage.server.access import JobsOf, Reader, SettingsOf, Submitter, allow
from soundstage.server.answers import After, Described, Id, Limit, as_json, failures
from soundstage.server.bodies import Deleted, FileMetadata, Ticket, WaveformPeaks
from soundstage.server.failures import StaleTicket
from soundstage.server.previews import Previews
from soundstage.server.routing import Router

router = Router(tags=["assets"])
TicketWord = Annotated[
    str | None, Query(max_length=200, description="In place of a key: what POST /assets/{id}/ticket gave.")
]
PICTURE: Described = {200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}}
CACHE = {"Cache-Control": "private, max-age=86400"}


@dataclass(frozen=True)
class Opened:
    """An asset that the caller may see, and its file."""

    asset: Asset
    path: Path


def shown(id: Id, request: Request, jobs: JobsOf, ticket: TicketWord = None) -> Opened:
    """Return an asset by a ticket for it, or by a key that may read it."""
    return by_ticket(jobs, id, ticket) if ticket is not None else by_key(jobs, request, id)


def by_ticket(jobs: Jobs, id: str, ticket: str) -> Opened:
    """Return an asset. Raises StaleTicket for a ticket that has run out or is for another."""
    if not jobs.check_ticket(id, ticket):
        raise StaleTicket("the ticket has run out, or is for another file; ask for a new one")
    return Opened(*jobs.ticketed_path(id))


def by_key(jobs: Jobs, request: Request, id: str) -> Opened:
    """Return an asset that the caller's key may read."""
    owner = allow(request.state.owner, "read")
    return Opened(jobs.asset(owner, id), jobs.asset_path(owner, id))


OpenedAsset = Annotated[Opened, Depends(shown)]


def previews_of(request: Request) -> Previews:
    """Return what makes small pictures for the server that answers."""
    found: Previews = request.app.state.previews
    return found


PreviewsOf = Annotated[Previews, Depends(previews_of)]


@router.post(
    "/uploads",
    operation_id="upload",
    status_code=201,
    response_model=Asset,
    responses=failures(413, 415, 503),
    openapi_extra=uploads.DESCRIBED,
)
async def upload(
    request: Request,
    owner: Submitter,
    jobs: JobsOf,
    name: Annotated[
        str | None, Query(max_length=255, description="The file's name, for a bare body.")
    ] = None,
    purpose: Annotated[
        str | None, Query(description="What it is for: input, lora, mask, latents or data.")
    ] = None,
) -> Response:
    """Store a file that a request may refer to as asset:ID.

    Send a multipart form with the field `file`, or the bytes themselves with ?name=.
    """
    made = await uploads.receive(request, jobs, owner, name, purpose)
    return as_json(made, 201, {"Location": f"/v1/assets/{made.id}"})


@router.get("/assets", operation_id="list_assets", response_model=Page[Asset], responses=failures())
def list_assets(
    owner: Reader,
    jobs: JobsOf,
    kind: Annotated[AssetKind | None, Query(description="Only of this kind.")] = None,
    after: After = None,
    limit: Limit = 20,
) -> Response:
    """List files, the newest first."""
    return as_json(jobs.assets(owner, kind=kind, after=after, limit=limit))


@router.get("/assets/{id}", operation_id="get_asset", response_model=Asset, responses=failures(404, 410))
def get(id: Id, owner: Reader, jobs: JobsOf) -> Response:
    """Return what is known of a file."""
    return as_json(jobs.asset(owner, id))


@router.head("/assets/{id}", include_in_schema=False)
def head(id: Id, owner: Reader, jobs: JobsOf) -> Response:
    """Return what GET does, without the body."""
    return as_json(jobs.asset(owner, id))


@router.delete(
    "/assets/{id}", operation_id="delete_asset", response_model=Deleted, responses=failures(404, 409)
)
def delete(id: Id, owner: Submitter, jobs: JobsOf, kept: PreviewsOf) -> Response:
    """Delete a file that no waiting job needs."""
    jobs.delete_asset(owner, id)
    kept.forget(id)
    return as_json(Deleted(id=id, object="asset.deleted"))


@router.get(
    "/assets/{id}/content",
    operation_id="get_asset_content",
    response_class=Response,
    responses=failures(404, 410, 416),
)
def asset_content(request: Request, found: OpenedAsset) -> Response:
    """Return the bytes of a file, or a range of them."""
    return content.answer(request, found.path, found.asset)


@router.head("/assets/{id}/content", include_in_schema=False)
def asset_content_head(request: Request, found: OpenedAsset) -> Response:
    """Return what GET does, without the bytes."""
    return asset_content(request, found)


@router.post(
    "/assets/{id}/ticket", operation_id="make_ticket", response_model=Ticket, responses=failures(404)
)
def ticket(id: Id, owner: Reader, jobs: JobsOf, settings: SettingsOf) -> Response:
    """Return an address of the file that works without a key for some minutes, for a player or a link."""
    jobs.asset(owner, id)
    word = jobs.ticket(id, settings.ticket_s)
    expires_at = time.time() + settings.ticket_s
    return as_json(Ticket(url=f"/v1/assets/{id}/content?ticket={word}", expires_at=expires_at))


def _worked_out(data: bytes, media_type: str) -> Response:
    """Return the answer of what was made from a file; a browser may keep it."""
    return Response(data, media_type=media_type, headers=dict(CACHE))


@router.get(
    "/assets/{id}/thumbnail",
    operation_id="get_thumbnail",
    response_class=Response,
    responses={**PICTURE, **failures(404, 410)},
)
def thumbnail(
    found: OpenedAsset,
    kept: PreviewsOf,
    width: Annotated[int, Query(ge=16, le=1024, description="Pixels of the longer side at most.")] = 320,
) -> Response:
    """Return a small picture of a clip, a picture or a sound."""
    data = kept.thumbnail(found.asset, found.path, width)
    return _worked_out(data, "image/jpeg")


@router.get(
    "/assets/{id}/strip",
    operation_id="get_strip",
    response_class=Response,
    responses={**PICTURE, **failures(404, 410)},
)
def strip(
    found: OpenedAsset,
    kept: PreviewsOf,
    frames: Annotated[int, Query(ge=1, le=60, description="How many frames.")] = 12,
    height: Annotated[int, Query(ge=16, le=360, description="Pixels of their height.")] = 72,
) -> Response:
    """Return frames of a clip side by side, at equal distances over its whole length."""
    data = kept.strip(found.asset, found.path, frames, height)
    return _worked_out(data, "image/jpeg")


@router.get(
    "/assets/{id}/waveform",
    operation_id="get_waveform",
    response_model=WaveformPeaks,
    responses=failures(404, 410),
)
def waveform(
    found: OpenedAsset,
    kept: PreviewsOf,
    peaks: Annotated[int, Query(ge=1, le=4000, description="How many parts.")] = 400,
) -> Response:
    """Return the lowest and highest sample of equal parts of a sound, by channel, from -1 to 1."""
    data = kept.waveform(found.asset, found.path, peaks)
    return _worked_out(data, "application/json")


@router.get(
    "/assets/{id}/metadata",
    operation_id="get_metadata",
    response_model=FileMetadata,
    responses=failures(404, 410),
)
async def metadata(found: OpenedAsset, kept: PreviewsOf) -> Response:
    """Return the request and the provenance that a file made by Soundstage holds."""
    if found.asset.kind == "latents":
        raise NotFound(
            f"{found.asset.id} is latents; only clips, sounds and pictures tell how they were made"
        )
    told = await run_in_threadpool(kept.metadata, found.path)
    return Response(content=told, media_type="application/json")
