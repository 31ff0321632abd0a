"""Answers with a file: whole or a range of it, with a fixed media type and a safe name."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from soundstage.jobs.views import Asset

SHOWN = ("video/", "audio/", "image/")  # a browser shows these itself; anything else it saves
ACTIVE = ("image/svg+xml",)  # that can hold programs
POLICY = "default-src 'none'; sandbox; media-src 'self'; img-src 'self'"
CACHE = "private, max-age=31536000, immutable"  # the bytes of an asset never change
MAX_NAME = 80  # letters of a file's name
_BYTES = re.compile(r"bytes=[0-9 ,\t-]{2,2000}")


class AssetFile(FileResponse):
    """The file of an asset. A header Range that is no range of bytes is as if it were not there."""

    def __init__(self, path: Path, asset: Asset, name: str | None = None) -> None:
        plain = asset.media_type.startswith(SHOWN) and asset.media_type not in ACTIVE
        super().__init__(
            path,
            media_type=asset.media_type if plain else "application/octet-stream",
            filename=name or file_name(asset),
            content_disposition_type="inline" if plain else "attachment",
            headers={
                "etag": f'"{asset.sha256}"',
                "cache-control": CACHE,
                "content-security-policy": POLICY,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [(name, value) for name, value in scope["headers"] if name != b"range" or _is_range(value)]
        await super().__call__({**scope, "headers": kept}, receive, send)


def _is_range(value: bytes) -> bool:
    found = _BYTES.fullmatch(value.decode("latin-1").strip())
    return found is not None and re.search(r"\d", found[0]) is not None


def answer(request: Request, path: Path, asset: Asset, name: str | None = None) -> Response:
    """Return the file, or 304 to a client that has it."""
    if asset.kind == "preview":  # its file is replaced by the next one at any moment
        return Response(path.read_bytes(), media_type=asset.media_type, headers={"cache-control": "no-store"})
    response = AssetFile(path, asset, name)
    asked = request.headers.get("if-none-match")
    if asked is not None and _holds(asked, response.headers["etag"]):
        kept = {key: response.headers[key] for key in ("etag", "cache-control")}
        return Response(status_code=304, headers=kept)
    return response


def _holds(asked: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in asked.split(",")]
    return "*" in tags or etag in tags


def file_name(asset: Asset) -> str:
    """Return a name for the file that every system takes: the client's letters, and an ending of ours."""
    stem, _, _ = (asset.name or asset.id).rpartition(".")
    stem = re.sub(r"[^\w -]+", "_", stem or asset.name or asset.id).strip(" _.-")[:MAX_NAME] or asset.id
    ending = re.sub(r"[^a-z0-9]", "", (asset.name or "").rpartition(".")[2].lower())[:8]
    known = ENDINGS.get(asset.media_type)
    return f"{stem}.{known or ending or 'bin'}"


ENDINGS = {
    "video/mp4": "mp4",
    "video/webm": "webm",
    "video/quicktime": "mov",
    "video/x-matroska": "mkv",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/png": "png",
    "image/jpeg": "jpg",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/flac": "flac",
    "audio/mpeg": "mp3",
    "audio/mp4": "m4a",
}
