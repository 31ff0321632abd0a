"""Files between a server and its workers elsewhere: bodies into files, folders as tar archives."""

from __future__ import annotations

import os
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from soundstage.errors import RequestError
from soundstage.jobs.errors import NotFound
from soundstage.jobs.service import Jobs
from soundstage.server.failures import BadCall

PIECE_BYTES = 1024 * 1024  # that are written at once
MAX_FILES = 1000  # of a checkpoint


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


def unpack(archive: Path, folder: Path) -> None:
    """Replace a folder by the files of a tar archive, which is removed. Raises RequestError for a bad one."""
    aside = archive.with_suffix(".folder")
    try:
        aside.mkdir()
        with tarfile.open(archive) as tar:
            for count, member in enumerate(tar):
                if not member.isfile() or Path(member.name).name != member.name or count >= MAX_FILES:
                    raise RequestError("the checkpoint holds more than plain files; send its folder as it is")
                tar.extract(member, aside, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder)
    except tarfile.TarError as error:
        raise RequestError(f"the checkpoint is no tar archive ({error})") from None
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)


def packed(folder: Path, tmp: Path) -> FileResponse:
    """Return a folder's files as a tar archive. Raises NotFound where there is none."""
    if not folder.is_dir():
        raise NotFound("the job has no checkpoint")
    archive = tmp / f"{secrets.token_hex(16)}.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                tar.add(path, path.name)
    removed = BackgroundTask(archive.unlink, missing_ok=True)
    return FileResponse(archive, media_type="application/x-tar", background=removed)
