"""Uploads: streamed to a file under a name of the server's, counted, hashed, then looked into."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from soundstage.errors import RequestError
from soundstage.intake.bring import Intake
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Asset, AssetKind, Owner
from soundstage.server import transfers
from soundstage.server.multipart import FileForm

PURPOSES: tuple[AssetKind, ...] = ("input", "lora", "mask", "latents", "data")
_BINARY = {"type": "string", "format": "binary"}
DESCRIBED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": _BINARY, "purpose": {"enum": list(PURPOSES)}},
                }
            },
            "application/octet-stream": {"schema": _BINARY},
        },
    }
}


async def receive(request: Request, jobs: Jobs, owner: Owner, name: str | None, purpose: str | None) -> Asset:
    """Store the file of a call and return its asset. Raises a SoundstageError for what is none.

    name: the client's, for a bare body. purpose: that of the query; a field of the form counts before it.
    """
    path = jobs.tmp / f"upload-{secrets.token_hex(16)}"
    kind = request.headers.get("content-type", "")
    try:
        if kind.lower().startswith("multipart/"):
            form = FileForm(kind, request.stream())
            await transfers.write(path, form.pieces())
            name, purpose = form.file_name, form.fields.get("purpose", purpose)
        else:
            await transfers.write(path, request.stream())
        return await run_in_threadpool(
            add, jobs, request.app.state.intake, owner, path, name, purpose or "input"
        )
    finally:
        path.unlink(missing_ok=True)


def add(jobs: Jobs, intake: Intake, owner: Owner, path: Path, name: str | None, purpose: str) -> Asset:
    """Look into a file, and add it to the store, which moves it."""
    kind = next((kind for kind in PURPOSES if kind == purpose), None)
    if kind is None:
        raise RequestError(f"purpose is {purpose[:40]!r}; give {', '.join(PURPOSES)}", field="purpose")
    found = intake.look(path, kind)
    return jobs.add_asset(
        owner, path=path, kind=kind, name=name, media_type=found.media_type, info=found.info
    )
