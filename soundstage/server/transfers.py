"""Files between a server and its workers elsewhere: bodies into files, folders as tar checkpoint_files."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from soundstage.jobs import checkpoint_files
from soundstage.jobs.errors import NotFound
from soundstage.jobs.service import Jobs
from soundstage.server.failures import BadCall

PIECE_BYTES = 1024 * 1024  # that are written at once


async def received(request: Request, jobs: Jobs, suffix: str) -> Path:
    """Write the body of a call into a new file and return its path."""
    path = jobs.tmp / f"{secrets.token_hex(16)}-{suffix}"
    try:
        await write(path, request.stream())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


async def write(path: Path, pieces: AsyncIterator[bytes]) -> None:
    """Write pieces to a new file as they come, a megabyte at a time. Raises BadCall for none."""
    held, count = bytearray(), 0
    with path.open("xb") as file:
        async for piece in pieces:
            held += piece
            count += len(piece)
            if len(held) >= PIECE_BYTES:
                await run_in_threadpool(file.write, bytes(held))
                held.clear()
        await run_in_threadpool(_finish, file, bytes(held))
    if not count:
        raise BadCall("the body is empty; send the bytes of a file")


def _finish(file: Any, rest: bytes) -> None:
    file.write(rest)
    file.flush()
    os.fsync(file.fileno())


def unpacked(archive: Path, folder: Path) -> None:
    """Replace a folder by the files of a tar archive, which is removed. Raises RequestError for a bad one."""
    try:
        checkpoint_files.unpack(archive, folder)
    finally:
        archive.unlink(missing_ok=True)


def packed(folder: Path, tmp: Path) -> FileResponse:
    """Return a folder's files as a tar archive. Raises NotFound where there is none."""
    if not folder.is_dir():
        raise NotFound("the job has no checkpoint")
    archive = tmp / f"{secrets.token_hex(16)}.tar"
    checkpoint_files.pack(folder, archive)
    removed = BackgroundTask(archive.unlink, missing_ok=True)
    return FileResponse(archive, media_type="application/x-tar", background=removed)
