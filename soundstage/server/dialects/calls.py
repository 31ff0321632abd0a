"""Steps of a call that all dialects share: queue its job, wait for one, find its files and name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from soundstage.errors import RequestError
from soundstage.jobs.errors import Conflict, Draining
from soundstage.jobs.references import REMOTE
from soundstage.jobs.service import Jobs
from soundstage.jobs.states import FINAL, Priority
from soundstage.jobs.views import Asset, Job, Owner
from soundstage.server.dialects import slots
from soundstage.server.dialects.draft import Draft, bad, list_of, record_of

LOOK_S = 0.5  # between two looks at a job that another process may change
TICKET_S = 24 * 3600.0  # so long an address in an answer can be opened without a key
OWN_ASSET = re.compile(r"/v1/assets/(as_[a-z0-9]+)(?:/content)?")
OWN_SLOT = re.compile(r"/(?:fal|ltx)/files/([0-9a-f]{32})(?:/.*)?")
LTX_SLOT = "ltx://uploads/"
KEPT = ("asset:", "lora:", "file:", *REMOTE)  # references that the jobs resolve


def base_of(request: Request) -> str:
    """Return the address by which the client calls this server."""
    return str(request.base_url).rstrip("/")


def queue(
    jobs: Jobs,
    owner: Owner,
    draft: Draft,
    *,
    via: str,
    webhook: Any = None,
    label: str | None = None,
    priority: Priority = "normal",
    key: str | None = None,
    parent: str | None = None,
) -> Job:
    """Queue a draft's job. key: for idempotency. Raises what `Jobs.create` does, in the service's names."""
    try:
        return jobs.create(
            owner,
            draft.asked(webhook=webhook, label=label, priority=priority),
            idempotency_key=key,
            via=via,
            parent_id=parent,
            warnings=draft.warnings,
        )
    except RequestError as error:
        raise draft.told(error) from None


async def ended(jobs: Jobs, owner: Owner, id: str, request: Request) -> Job:
    """Wait until a job has ended. A client that goes away before has its job cancelled."""
    while True:
        seen = jobs.news.version
        job = await run_in_threadpool(jobs.get, owner, id)
        if job.state in FINAL:
            return job
        if request.app.state.ending.is_set():
            raise Draining("the server is about to stop; the job goes on, and is in the list of jobs")
        if await request.is_disconnected():
            await run_in_threadpool(jobs.cancel, owner, id)
            return await run_in_threadpool(jobs.get, owner, id)
        await jobs.news.changed(seen, LOOK_S)


def clip_of(job: Job) -> Asset:
    """Return the clip of a job that succeeded. Raises Conflict for any other."""
    if job.result is None or job.result.clip is None:
        raise Conflict(f"{job.id} is {job.state} and has no clip")
    return job.result.clip


def address(jobs: Jobs, asset: Asset, base: str) -> str:
    """Return an address of a file that opens without a key for a day."""
    return f"{base}{asset.url}?ticket={jobs.ticket(asset.id, TICKET_S)}"


def media(jobs: Jobs, name: str, value: Any, request: Request | None) -> str:
    """Return the reference for a file that a field names: an upload, a clip of this server, an address."""
    if not isinstance(value, str) or not value:
        raise bad(name, value, "the address of a file, or a data: URI")
    if value.startswith(LTX_SLOT):
        return "asset:" + slots.asset_of(jobs, value.removeprefix(LTX_SLOT), name)
    if value.startswith(("http://", "https://")) and request is not None:
        own = urlsplit(value)
        if own.netloc == request.url.netloc:
            return _of_this_server(jobs, name, own.path)
    if re.fullmatch(r"as_[a-z0-9]+", value):
        return f"asset:{value}"
    if not value.startswith(KEPT):
        raise bad(name, value, "an https address, an upload's address, or a data: URI")
    return value


def media_in(jobs: Jobs, draft: Draft, name: str, to: str, request: Request | None) -> str | None:
    """Read a field that names a file. to: the request's field that it decides."""
    value = draft.take(name, to)
    return None if value is None else media(jobs, name, value, request)


def lora_path(jobs: Jobs, name: str, value: Any, request: Request | None) -> str:
    """Return the reference for a LoRA: a registered name, or an upload."""
    if isinstance(value, str) and ":" not in value and not value.startswith("as_"):
        return f"lora:{value}"
    return media(jobs, name, value, request)


def loras_in(jobs: Jobs, draft: Draft, value: Any, name: str, request: Request | None) -> None:
    """Read LoRAs: names, or objects with path or name, and scale or strength."""
    items = [value] if isinstance(value, str | Mapping) else list_of(name, value)
    for item in items:
        if isinstance(item, str):
            draft.lora(lora_path(jobs, name, item, request))
            continue
        fields = Draft(record_of(name, item))
        path = fields.take("path") or fields.take("name")
        scale = fields.number("scale", least=-10, most=10)
        strength = fields.number("strength", least=-10, most=10)
        draft.lora(lora_path(jobs, name, path, request), scale if strength is None else strength)
        for warning in fields.warnings:
            draft.warn(f"{name}: {warning}")


def _of_this_server(jobs: Jobs, name: str, path: str) -> str:
    found = OWN_ASSET.fullmatch(path)
    if found is not None:
        return f"asset:{found[1]}"
    slot = OWN_SLOT.fullmatch(path)
    if slot is not None:
        return "asset:" + slots.asset_of(jobs, slot[1], name)
    raise bad(name, path, "the address of an upload or a clip of this server")


def prompt_of(job: Job) -> str:
    """Return the prompt of a job."""
    return str(job.request.get("prompt", ""))


def answer(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return a body as JSON."""
    return JSONResponse(dict(body), status, dict(headers or {}))
