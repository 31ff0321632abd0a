"""Uploads as other services have them: announced first and sent to an address, or sent at once."""

from __future__ import annotations

import secrets
from pathlib import PurePosixPath

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Asset, AssetKind, Owner
from soundstage.server import transfers, uploads
from soundstage.server.dialects import slots

PURPOSES: dict[str, AssetKind] = {".safetensors": "lora", ".zip": "data"}  # of files by their endings


def announce(jobs: Jobs, owner: Owner, name: object) -> str:
    """Return a new slot for a file of a client's name."""
    return slots.announce(jobs, owner, name if isinstance(name, str) else None)


async def take(slot: str, request: Request, jobs: Jobs) -> Response:
    """Store the file of a slot."""
    owner, name = await run_in_threadpool(slots.opened, jobs, slot)
    asset = await receive(request, jobs, owner, name)
    await run_in_threadpool(slots.fill, jobs, slot, asset.id)
    return Response(status_code=200)


async def receive(request: Request, jobs: Jobs, owner: Owner, name: str | None) -> Asset:
    """Store a bare body. A name that ends as weights do makes it a LoRA, one of a zip data to train on."""
    path = jobs.tmp / f"upload-{secrets.token_hex(16)}"
    kind = PURPOSES.get(PurePosixPath(name or "").suffix.lower(), "input")
    try:
        await transfers.write(path, request.stream())
        return await run_in_threadpool(uploads.add, jobs, request.app.state.intake, owner, path, name, kind)
    finally:
        path.unlink(missing_ok=True)
