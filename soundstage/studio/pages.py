"""Routes of the studio's files, for the server to include: / and everything under /studio.

The page is static: HTML, style sheets and ES modules that need no build. It speaks only the native API. The
policy sent with every file lets a browser load nothing from elsewhere and run no script inside the HTML.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304 while it is the same
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class StaticFile:
    """A file of the page as it is sent."""

    data: bytes
    media_type: str
    etag: str


@functools.cache
def static_files() -> dict[str, StaticFile]:
    """Return the files of the page by their path under /studio, read once: there are no others."""
    return {
        path.relative_to(STATIC).as_posix(): _read(path)
        for path in sorted(STATIC.rglob("*"))
        if path.suffix in TYPES
    }


def _read(path: Path) -> StaticFile:
    data = path.read_bytes()
    return StaticFile(data, TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')


@router.api_route("/", methods=["GET", "HEAD"])
def root() -> Response:
    """Lead to the page."""
    return RedirectResponse("/studio/", 307)


@router.api_route("/studio", methods=["GET", "HEAD"])
def without_slash() -> Response:
    """Lead to the page: its files are found beside it."""
    return RedirectResponse("/studio/", 308)


@router.api_route("/studio/{path:path}", methods=["GET", "HEAD"])
def page(path: str, request: Request) -> Response:
    """Return a file of the page, or 304 where the browser has it."""
    found = static_files().get(path or "index.html")
    if found is None:
        raise HTTPException(404, "the studio has no such file")
    headers = {**HEADERS, "ETag": found.etag}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type=found.media_type, headers=headers)
