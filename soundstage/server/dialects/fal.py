"""fal's queue: submit, status, result, cancel and uploads, over the same jobs."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from soundstage.jobs.errors import NotFound, TooLarge
from soundstage.jobs.service import Jobs
from soundstage.jobs.states import FINAL, WAITING, Priority
from soundstage.jobs.views import Delivery, Job, JobEvent, JobProgress, Owner
from soundstage.server.access import JobsOf, Reader, Submitter, key_of
from soundstage.server.answers import Id
from soundstage.server.dialect import Dialect
from soundstage.server.dialects import calls, fal_fields, fal_signing, fal_training, filing
from soundstage.server.dialects.forms import body_of
from soundstage.server.dialects.shapes import own_size
from soundstage.server.failures import BadCall, HttpFailure
from soundstage.server.routing import Router
from soundstage.server.webhooks import Letter

VIA, PREFIX = "fal", "/fal"
MAX_LABEL = 200
MAX_INLINE = 64 * 1024 * 1024  # bytes of a clip that an answer holds itself
MAX_LOGS = 500
FILES = (f"{PREFIX}/files/",)
HELD = "Request is still in progress"

router = Router(prefix=PREFIX, include_in_schema=False)
keys_router = Router(include_in_schema=False)


# --- what a client is told --------------------------------------------------------------------------------


def asked_at(job: Job) -> tuple[str, str, bool]:
    """Return by which address a job was asked for, its app, and whether the answer holds the clip itself.

    A job's label is that address, since webhooks are sent when no call is at hand.
    """
    asked = urlsplit(job.label or "")
    base, _, app = (asked.netloc and f"{asked.scheme}://{asked.netloc}"), "", asked.path
    app = app.removeprefix(f"{PREFIX}/")
    return base or "", app, parse_qs(asked.query).get("sync_mode") == ["true"]


def status_of(job: Job, base: str, logs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return a job's status in fal's words."""
    _, app, _ = asked_at(job)
    own = f"{base}{PREFIX}/{'/'.join(app.split('/')[:2]) or 'fal-ai/ltx-2.3'}/requests/{job.id}"
    found: dict[str, Any] = {
        "status": "COMPLETED" if job.state in FINAL else "IN_PROGRESS",
        "request_id": job.id, "gateway_request_id": job.id, "response_url": own,
        "status_url": f"{own}/status", "cancel_url": f"{own}/cancel", "logs": logs, "eta_s": job.eta_s,
        "warnings": job.warnings,
    }  # fmt: skip
    if job.state in WAITING:
        found |= {"status": "IN_QUEUE", "queue_position": job.position or 0}
    if job.state in FINAL:
        seconds = (job.finished_at or 0) - (job.started_at or job.finished_at or 0)
        found["metrics"] = {"inference_time": round(seconds, 3)}
    if job.state in FINAL and job.state != "succeeded":
        fault = fault_of(job)
        found |= {"error": fault["msg"], "error_type": fault["type"]}
    return found


def fault_of(job: Job) -> dict[str, Any]:
    """Return why a job has no result, as one of fal's findings."""
    if job.error is None:
        return {"loc": ["body"], "msg": "the request was cancelled", "type": "cancelled"}
    field = [job.error.field] if job.error.field else []
    return {"loc": ["body", *field], "msg": job.error.message, "type": job.error.code}


def output_of(job: Job, jobs: Jobs, base: str) -> dict[str, Any]:
    """Return the output of a job that succeeded."""
    if job.kind == "train":
        return fal_training.output_of(job, jobs, base)
    clip = calls.clip_of(job)
    _, _, inline = asked_at(job)
    url = calls.address(jobs, clip, base)
    if inline:
        path = jobs.ticketed_path(clip.id)[1]
        if clip.bytes > MAX_INLINE:
            raise TooLarge("the clip is too large for sync_mode; ask without it")
        url = f"data:{clip.media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
    video = {
        "url": url, "content_type": clip.media_type, "file_name": clip.name or f"{job.id}.{job.format}",
        "file_size": clip.bytes, "width": clip.width, "height": clip.height, "fps": clip.fps,
        "duration": clip.duration_s, "num_frames": clip.num_frames,
    }  # fmt: skip
    told = {"video": video, "seed": job.seed, "prompt": calls.prompt_of(job), "warnings": job.warnings}
    notes = [] if job.plan is None else job.plan.notes
    return {**told, "notes": notes}


def logs_of(jobs: Jobs, owner: Owner, id: str) -> list[dict[str, Any]]:
    """Return what a job has told so far."""
    return [log for event in jobs.events(owner, id, 0, MAX_LOGS) if (log := _log(event)) is not None]


def _log(event: JobEvent) -> dict[str, Any] | None:
    message = event.message or event.state
    if event.type == "progress" and event.progress is not None:
        message = _progress_words(event.progress)
    if message is None:
        return None
    level = "WARNING" if event.type == "warning" else (event.level or "info").upper()
    at = datetime.fromtimestamp(event.at, UTC).isoformat()
    return {"message": message, "level": level, "source": "worker", "timestamp": at}


def _progress_words(now: JobProgress) -> str:
    """Return a progress in words; of a training, its step and losses too."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in (now.losses or {}).items())
    step = f", step {now.step} of {now.num_steps}: {losses}" if losses else ""
    return f"{now.phase} {now.fraction:.0%}{step}"


# --- uploads ----------------------------------------------------------------------------------------------


@router.post("/storage/upload/initiate")
async def initiate(request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Announce an upload: the file goes to one address, and is named by the other."""
    given = await body_of(request, jobs, owner)
    slot = await run_in_threadpool(filing.announce, jobs, owner, given.get("file_name"))
    url = f"{calls.base_of(request)}{PREFIX}/files/{slot}"
    return calls.answer({"upload_url": url, "file_url": url})


@router.put("/files/{slot}")
async def put(slot: Id, request: Request, jobs: JobsOf) -> Response:
    """Take an announced file. Its address is the right to send it."""
    return await filing.take(slot, request, jobs)


@router.post("/storage/auth/token")
async def token(request: Request, owner: Submitter) -> Response:
    """Name this server as the store of files, to clients that ask for one."""
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    held = key_of(request.headers) or "none"
    base = calls.base_of(request) + PREFIX
    return calls.answer({"token": held, "token_type": "Bearer", "base_url": base, "expires_at": until})


@router.post("/files/upload")
async def upload(request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Store a file and return its address."""
    name = request.headers.get("x-fal-file-name")
    asset = await filing.receive(request, jobs, owner, name)
    return calls.answer({"access_url": calls.address(jobs, asset, calls.base_of(request))})


# --- requests of an app -----------------------------------------------------------------------------------


@router.post("/run/{app:path}")
async def run(app: str, request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Make a clip and answer with the output."""
    job = await _submitted(app, request, owner, jobs, None)
    job = await calls.ended(jobs, owner, job.id, request)
    return await run_in_threadpool(_result, job, jobs, calls.base_of(request))


@router.get("/{app:path}/requests/{id}/status")
def status(
    id: Id, request: Request, owner: Reader, jobs: JobsOf, logs: bool = Query(False), app: str = Path()
) -> Response:
    """Return where a request stands."""
    job = jobs.get(owner, id)
    told = status_of(job, calls.base_of(request), logs_of(jobs, owner, id) if logs else None)
    return calls.answer(told, 200 if job.state in FINAL else 202)


@router.get("/{app:path}/requests/{id}/status/stream")
async def stream(
    id: Id, request: Request, owner: Reader, jobs: JobsOf, logs: bool = Query(False), app: str = Path()
) -> Response:
    """Stream the status until the request has ended."""
    await run_in_threadpool(jobs.get, owner, id)
    base = calls.base_of(request)

    async def pieces() -> AsyncIterator[str]:
        last = ""
        while not request.app.state.ending.is_set():
            seen = jobs.news.version
            job = await run_in_threadpool(jobs.get, owner, id)
            told = await run_in_threadpool(logs_of, jobs, owner, id) if logs else None
            text = json.dumps(status_of(job, base, told))
            if text != last:
                last = text
                yield f"data: {text}\n\n"
            if job.state in FINAL:
                return
            await jobs.news.changed(seen, calls.LOOK_S)

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(pieces(), media_type="text/event-stream", headers=headers)


@router.put("/{app:path}/requests/{id}/cancel")
def cancel(id: Id, owner: Submitter, jobs: JobsOf, app: str = Path()) -> Response:
    """Cancel a request."""
    try:
        job = jobs.get(owner, id)
    except NotFound:
        return calls.answer({"status": "NOT_FOUND"}, 404)
    if job.state in FINAL:
        return calls.answer({"status": "ALREADY_COMPLETED"}, 400)
    jobs.cancel(owner, id)
    return calls.answer({"status": "CANCELLATION_REQUESTED"}, 202)


@router.get("/{app:path}/requests/{id}")
def result(id: Id, request: Request, owner: Reader, jobs: JobsOf, app: str = Path()) -> Response:
    """Return the output of a request, or why there is none."""
    return _result(jobs.get(owner, id), jobs, calls.base_of(request))


@router.post("/{app:path}")
async def submit(
    app: str, request: Request, owner: Submitter, jobs: JobsOf, fal_webhook: str | None = Query(None)
) -> Response:
    """Queue a request."""
    job = await _submitted(app, request, owner, jobs, fal_webhook)
    return calls.answer(status_of(job, calls.base_of(request)))


async def _submitted(app: str, request: Request, owner: Owner, jobs: Jobs, webhook: str | None) -> Job:
    given = await body_of(request, jobs, owner)

    def made() -> Job:
        size = own_size(jobs.models(owner.model_copy(update={"scopes": owner.scopes | {"read"}}))[0])
        draft, inline = fal_fields.read(app, given, jobs, request, size)
        if request.headers.get("x-fal-request-timeout") is not None:
            draft.warn("x-fal-request-timeout has no effect: requests wait until they are made or cancelled")
        label = f"{calls.base_of(request)}{PREFIX}/{app.strip('/')}{'?sync_mode=true' if inline else ''}"
        if len(label) > MAX_LABEL:
            raise BadCall("the address is too long")
        return calls.queue(
            jobs, owner, draft, via=VIA, webhook=webhook, label=label, priority=_priority(request),
            key=request.headers.get("idempotency-key"),
        )  # fmt: skip

    return await run_in_threadpool(made)


def _priority(request: Request) -> Priority:
    return "low" if request.headers.get("x-fal-queue-priority") == "low" else "normal"


def _result(job: Job, jobs: Jobs, base: str) -> Response:
    if job.state not in FINAL:
        return JSONResponse({"detail": HELD}, 400)
    if job.state != "succeeded":
        fault = fault_of(job)
        return JSONResponse({"detail": [fault], "error_type": fault["type"]}, 422)
    return calls.answer(output_of(job, jobs, base))


# --- errors and webhooks ----------------------------------------------------------------------------------


def shape(failure: HttpFailure) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return a failure in fal's words."""
    headers = {**failure.headers, "x-fal-error-type": failure.code}
    if failure.status != 422:
        return failure.status, {"detail": failure.message, "error_type": failure.code}, headers
    loc = ["body", *([failure.field] if failure.field else [])]
    found = [{"loc": loc, "msg": failure.message, "type": failure.code}]
    return 422, {"detail": found, "error_type": failure.code}, headers


def webhook(jobs: Jobs, delivery: Delivery, at: int) -> Letter:
    """Return a webhook as fal sends it."""
    job = Job.model_validate_json(delivery.body)
    base, _, _ = asked_at(job)
    told: dict[str, Any] = {"request_id": job.id, "gateway_request_id": job.id, "status": "OK"}
    if job.state == "succeeded":
        told["payload"] = output_of(job, jobs, base)
    else:
        fault = fault_of(job)
        told |= {"status": "ERROR", "error": fault["msg"], "payload": {"detail": [fault]}}
    return fal_signing.signed(jobs, delivery, at, told)


@keys_router.get("/.well-known/jwks.json")
def jwks(jobs: JobsOf) -> Response:
    """Return the key that checks the signatures of webhooks; it is no secret."""
    return calls.answer(fal_signing.public_keys(jobs))


DIALECT = Dialect(PREFIX, router, shape, letters={VIA: webhook}, files=FILES)
KEYS = Dialect("/.well-known", keys_router)
