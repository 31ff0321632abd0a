"""Lightricks' API: v1 answers with the clip itself, v2 with a job to ask for later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from soundstage.errors import RequestError
from soundstage.jobs.errors import Conflict, Forbidden
from soundstage.jobs.service import Jobs
from soundstage.jobs.states import JobState
from soundstage.jobs.views import Job, Owner
from soundstage.server import content
from soundstage.server.access import JobsOf, Reader, Submitter
from soundstage.server.answers import Id
from soundstage.server.dialect import Dialect
from soundstage.server.dialects import calls, filing
from soundstage.server.dialects.draft import Draft, bad
from soundstage.server.dialects.fal_fields import CAMERAS, FITTING_PROMPT, add_camera, set_retake
from soundstage.server.dialects.forms import body_of
from soundstage.server.dialects.shapes import set_pixels
from soundstage.server.failures import HttpFailure
from soundstage.server.routing import Router

VIA, PREFIX = "lightricks", "/ltx"
RECIPES = {"ltx-2-3-fast": "fast", "ltx-2-3-pro": "pro"}
OTHER_MODELS = ("ltx-2-5-fast", "ltx-2-5-pro", "ltx-2-fast", "ltx-2-pro")
UPLOAD_S, FILE_S = 3600, 24 * 3600
STATUS: dict[JobState, str] = {
    "queued": "pending", "paused": "pending", "interrupted": "pending",
    "loading": "processing", "running": "processing", "checking": "processing", "encoding": "processing",
    "succeeded": "completed", "failed": "failed", "cancelled": "failed",
}  # fmt: skip
TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 410: "not_found_error",
    413: "request_too_large", 503: "service_unavailable_error",
}  # fmt: skip
BAD = 400  # Lightricks' status for a body that does not fit

router = Router(prefix=PREFIX, include_in_schema=False)


# --- fields -----------------------------------------------------------------------------------------------


def read(endpoint: str, given: Mapping[str, Any], jobs: Jobs, request: Request | None = None) -> Draft:
    """Return the draft of a call to an endpoint. Raises Forbidden for one that is not done here."""
    if endpoint not in READERS:
        raise Forbidden(f"the endpoint {endpoint[:60]} is not offered; there are {', '.join(READERS)}")
    draft = Draft(given)
    if endpoint in ("retake", "audio-to-video", "extend"):
        draft.prompt_or(FITTING_PROMPT)
    else:
        draft.prompt()
    _set_model(draft)
    set_pixels(draft, "resolution")
    draft.number("fps", "fps", least=1, most=240)
    if endpoint not in ("retake", "extend"):
        draft.number("duration", "duration_s", least=0.01, most=86_400)
    draft.whole("seed", "seed")
    draft.text("negative_prompt", "negative_prompt")
    draft.number("guidance_scale", "guidance", most=100)
    draft.sound("generate_audio")
    camera = draft.word("camera_motion", (*CAMERAS, "focus_shift"))
    if camera is not None:
        add_camera(draft, jobs, "camera_motion", camera, None)
    READERS[endpoint](draft, jobs, request)
    return draft


def _set_model(draft: Draft) -> None:
    model = draft.text("model", most=100)
    if model in RECIPES:
        draft.request["recipe"] = RECIPES[model]
        draft.decided("recipe", "model")
    elif model in OTHER_MODELS:
        raise bad("model", model, f"one of {', '.join(RECIPES)}, or a model of this server")
    elif model is not None:
        draft.job["model"] = model


def _needed(draft: Draft, jobs: Jobs, name: str, to: str, request: Request | None) -> str:
    found = calls.media_in(jobs, draft, name, to, request)
    if found is None:
        raise RequestError(f"{name} is missing; give the file's address", field=name)
    return found


def _text(draft: Draft, jobs: Jobs, request: Request | None) -> None:
    """Read text-to-video, which has nothing of its own."""


def _image(draft: Draft, jobs: Jobs, request: Request | None) -> None:
    draft.guide(_needed(draft, jobs, "image_uri", "guides", request))
    last = calls.media_in(jobs, draft, "last_frame_uri", "guides", request)
    if last is not None:
        draft.guide(last, at="last")


def _audio(draft: Draft, jobs: Jobs, request: Request | None) -> None:
    draft.request["audio"] = {"file": _needed(draft, jobs, "audio_uri", "audio", request)}
    image = calls.media_in(jobs, draft, "image_uri", "guides", request)
    if image is not None:
        draft.guide(image)


def _retake(draft: Draft, jobs: Jobs, request: Request | None) -> None:
    set_retake(draft, _needed(draft, jobs, "video_uri", "source", request), "mode")


def _extend(draft: Draft, jobs: Jobs, request: Request | None) -> None:
    video = _needed(draft, jobs, "video_uri", "source", request)
    seconds = draft.number("duration", about="source", least=0.01, most=86_400)
    if seconds is None:
        raise RequestError("duration is missing; say how many seconds are added", field="duration")
    where = "extend_before_s" if draft.word("mode", ("start", "end")) == "start" else "extend_after_s"
    draft.request["source"] = {"video": video, where: seconds}
    draft.idle("context", "the whole clip is looked at")


READERS: dict[str, Callable[[Draft, Jobs, Request | None], None]] = {
    "text-to-video": _text, "image-to-video": _image, "audio-to-video": _audio, "retake": _retake,
    "extend": _extend,
}  # fmt: skip


def told_of(job: Job, jobs: Jobs, base: str) -> dict[str, Any]:
    """Return a job in the words of v2."""
    found: dict[str, Any] = {
        "id": job.id, "status": STATUS[job.state], "result": None, "error": None,
        "created_at": _time(job.created_at), "completed_at": _time(job.finished_at),
        "queue_position": job.position, "eta_s": job.eta_s, "warnings": job.warnings,
    }  # fmt: skip
    if job.result is not None and job.result.clip is not None:
        found["result"] = {"video_url": calls.address(jobs, job.result.clip, base)}
    elif job.state == "cancelled":
        found["error"] = {"type": "cancelled", "message": "the job was cancelled"}
    elif job.error is not None:
        found["error"] = {"type": job.error.code, "message": job.error.message}
    return found


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


# --- routes -----------------------------------------------------------------------------------------------


@router.post("/v1/upload")
def upload(request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Announce an upload."""
    slot = filing.announce(jobs, owner, None)
    url = f"{calls.base_of(request)}{PREFIX}/files/{slot}"
    told = {"upload_url": url, "storage_uri": f"{calls.LTX_SLOT}{slot}", "required_headers": {}}
    return calls.answer(told)


@router.put("/files/{slot}")
async def put(slot: Id, request: Request, jobs: JobsOf) -> Response:
    """Take an announced file. Its address is the right to send it."""
    return await filing.take(slot, request, jobs)


@router.post("/v1/{endpoint}")
async def make(endpoint: str, request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Make a clip and answer with its bytes."""
    job = await _queued(endpoint, request, owner, jobs)
    job = await calls.ended(jobs, owner, job.id, request)
    if job.state != "succeeded":
        fault = job.error
        raise Conflict("the job was cancelled" if fault is None else fault.message)
    clip = calls.clip_of(job)
    path = await run_in_threadpool(jobs.asset_path, owner, clip.id)
    response = content.answer(request, path, clip)
    response.headers["x-request-id"] = job.id
    if job.warnings:
        response.headers["x-warnings"] = "; ".join(job.warnings).encode("ascii", "replace").decode()[:2000]
    return response


@router.post("/v2/{endpoint}")
async def submit(endpoint: str, request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Queue a clip."""
    job = await _queued(endpoint, request, owner, jobs)
    told = {"id": job.id, "created_at": _time(job.created_at), "warnings": job.warnings}
    return calls.answer(told, 202)


@router.get("/v2/{endpoint}/{id}")
def retrieve(endpoint: str, id: Id, request: Request, owner: Reader, jobs: JobsOf) -> Response:
    """Return a job's state."""
    return calls.answer(told_of(jobs.get(owner, id), jobs, calls.base_of(request)))


async def _queued(endpoint: str, request: Request, owner: Owner, jobs: Jobs) -> Job:
    given = await body_of(request, jobs, owner)

    def made() -> Job:
        draft = read(endpoint, given, jobs, request)
        key = request.headers.get("idempotency-key")
        return calls.queue(jobs, owner, draft, via=VIA, key=key)

    return await run_in_threadpool(made)


def _shape(busy: str) -> Callable[[HttpFailure], tuple[int, dict[str, Any], dict[str, str]]]:
    def shape(failure: HttpFailure) -> tuple[int, dict[str, Any], dict[str, str]]:
        kinds = {**TYPES, 429: busy}
        kind = kinds.get(failure.status, "api_error" if failure.status >= 500 else "invalid_request_error")
        status = BAD if failure.status == 422 else failure.status
        told = {"type": kind, "message": failure.message}
        return status, {"type": "error", "error": told}, dict(failure.headers)

    return shape


FILES = (f"{PREFIX}/files/",)
DIALECT = Dialect(PREFIX, router, _shape("rate_limit_error"), files=FILES)
V1 = Dialect(f"{PREFIX}/v1", Router(), _shape("concurrency_limit_error"))
