"""Bodies that come as JSON or as a multipart form, whose files are stored as assets."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from soundstage.errors import RequestError
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Owner
from soundstage.server import uploads
from soundstage.server.failures import BadCall, WrongType

MAX_FILES, MAX_FIELDS = 8, 200
KEY = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")


async def body_of(request: Request, jobs: Jobs, owner: Owner) -> dict[str, Any]:
    """Return the fields of a body; a file among them is "asset:ID"."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, jobs, owner)
    if kind in ("application/json", ""):
        try:
            found = await request.json() if await request.body() else {}
        except json.JSONDecodeError as error:
            raise BadCall(f"the body is not JSON ({error}); send a JSON object") from None
        if not isinstance(found, dict):
            raise BadCall("the body is not a JSON object; send one")
        return found
    raise WrongType("the body is neither JSON nor a multipart form; send one of them")


async def _form(request: Request, jobs: Jobs, owner: Owner) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
        for name, value in form.multi_items():
            if "\0" in name or (isinstance(value, str) and "\0" in value):
                raise BadCall("the form holds a NUL; leave it out")
            if isinstance(value, UploadFile):
                value = f"asset:{await run_in_threadpool(_stored, value, request, jobs, owner)}"
            _put(found, name, value)
    return found


def _stored(file: UploadFile, request: Request, jobs: Jobs, owner: Owner) -> str:
    path = jobs.tmp / f"form-{secrets.token_hex(16)}"
    try:
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        return uploads.add(jobs, request.app.state.intake, owner, path, file.filename, "input").id
    finally:
        path.unlink(missing_ok=True)


def _put(found: dict[str, Any], name: str, value: str) -> None:
    """Put a field in its place: "a[b]" is b of the object a, "a[]" one of a list."""
    nested = KEY.fullmatch(name)
    if nested is None:
        found[name] = value
        return
    outer, inner = nested.groups()
    held = found.setdefault(outer, {} if inner else [])
    if inner and isinstance(held, dict):
        held[inner] = value
    elif not inner and isinstance(held, list):
        held.append(value)
    else:
        raise RequestError(f"{outer} is given in two forms; keep one", field=outer)
