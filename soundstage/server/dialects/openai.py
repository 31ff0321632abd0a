"""OpenAI's /v1/videos, with the fields that self-hosted engines have added, over the same jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from soundstage.errors import RequestError
from soundstage.jobs.errors import Conflict, NotFound
from soundstage.jobs.service import Jobs
from soundstage.jobs.states import FINAL, WORKING, JobState
from soundstage.jobs.views import Delivery, Job, Owner
from soundstage.request.request import Request as EngineRequest
from soundstage.server import content
from soundstage.server.access import JobsOf, Reader, Submitter
from soundstage.server.answers import Id
from soundstage.server.dialect import Dialect
from soundstage.server.dialects import calls
from soundstage.server.dialects.draft import Draft, bad, record_of
from soundstage.server.dialects.forms import body_of
from soundstage.server.dialects.shapes import set_pixels
from soundstage.server.failures import HttpFailure
from soundstage.server.routes.assets import PreviewsOf
from soundstage.server.routes.jobs import clip_of
from soundstage.server.routing import Router
from soundstage.server.webhooks import Letter, letter

VIA = "openai"
PREFIX = "/v1/videos"
ELSEWHERE = re.compile(r"sora-.*")  # models of the service itself
EDIT_DENOISE = 0.7  # of a clip that is edited, unless `strength` says otherwise
DELETE_S = 10.0  # so long a deletion waits for the worker to stop
POLL_MS = (200, 5000)
STATUS: dict[JobState, str] = {
    "queued": "queued", "paused": "queued", "interrupted": "queued",
    "loading": "in_progress", "running": "in_progress", "checking": "in_progress", "encoding": "in_progress",
    "succeeded": "completed", "failed": "failed", "cancelled": "failed",
}  # fmt: skip
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

router = Router(prefix=PREFIX, include_in_schema=False)


# --- fields ---------------------------------------------------------------------------------------------


def read_create(given: Mapping[str, Any], jobs: Jobs, request: Request | None = None) -> Draft:
    """Return the draft of a call that makes a video."""
    draft = Draft(given)
    draft.prompt()
    set_model(draft)
    draft.number("seconds", "duration_s", least=0.01, most=86_400)
    sized = set_pixels(draft, "size")
    width, height = draft.whole("width", least=1), draft.whole("height", least=1)
    if (width is None) != (height is None):
        raise RequestError("width and height go together; give both", field="width")
    if width is not None and not sized:
        draft.request["size"] = [width, height]
    _set_numbers(draft)
    draft.sound("generate_sound", "generate_audio")
    _set_files(draft, jobs, request)
    calls.loras_in(jobs, draft, _lora_value(draft), "lora", request)
    _set_extras(draft)
    return draft


def set_model(draft: Draft) -> None:
    """Read the model; the service's own names mean the usual one here."""
    model = draft.text("model", "model")
    draft.request.pop("model", None)
    if model is not None and ELSEWHERE.fullmatch(model):
        draft.warn(f"model {model} is not here; the server's own model is used")
    elif model is not None:
        draft.job["model"] = model


def _set_numbers(draft: Draft) -> None:
    frames = draft.whole("num_frames", "num_frames", least=1)
    if frames is not None and draft.request.pop("duration_s", None) is not None:
        draft.warn("seconds has no effect: num_frames is given too, and counts")
    draft.number("fps", "fps", least=1, most=240)
    draft.whole("num_inference_steps", "steps", least=1, most=1000)
    draft.number("guidance_scale", "guidance", most=100)
    draft.whole("seed", "seed")
    draft.text("negative_prompt", "negative_prompt")
    draft.text("recipe", "recipe", most=100)
    form = draft.text("format", most=10)
    if form is not None:
        draft.job["format"] = form


def _set_files(draft: Draft, jobs: Jobs, request: Request | None) -> None:
    for name in ("input_reference", "image_reference"):
        value = draft.take(name, "guides")
        if value is not None:
            draft.guide(_file(jobs, name, value, request))
    value = draft.take("video_reference", "references")
    if value is not None:
        draft.request["references"] = [{"video": _file(jobs, "video_reference", value, request)}]
    value = draft.take("audio_reference", "audio")
    if value is not None:
        draft.request["audio"] = {"file": _file(jobs, "audio_reference", value, request)}


def _file(jobs: Jobs, name: str, value: Any, request: Request | None) -> str:
    """Return the reference for a file: a part of the form, or an object with its address or id."""
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return calls.media(jobs, name, value, request)
    given = record_of(name, value)
    for key in ("image_url", "file_id", "url", "id"):
        if given.get(key) is not None:
            return calls.media(jobs, f"{name}.{key}", given[key], request)
    raise bad(name, dict(given), "a file, or an object with image_url or file_id")


def _lora_value(draft: Draft) -> Any:
    value = draft.take("lora", "loras")
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            return json.loads(value)
        except ValueError:
            raise bad("lora", value, "a name, or an object with path and scale") from None
    return value


def _set_extras(draft: Draft) -> None:
    """Read extra_params: fields of a Soundstage request by their own names."""
    value = draft.take("extra_params")
    if value is None:
        return
    for name, item in record_of("extra_params", value).items():
        if name not in EngineRequest.model_fields:
            draft.warn(f"extra_params.{str(name)[:60]} is not a field of a request, and has no effect")
        elif name in draft.request:
            raise RequestError(f"extra_params has {name}, which is given beside it too; keep one", field=name)
        else:
            draft.request[name] = item


def read_edit(
    given: Mapping[str, Any], jobs: Jobs, owner: Owner, request: Request | None
) -> tuple[Draft, Any]:
    """Return the draft of an edit, and the id of the video that is edited, if it is one of this server."""
    draft, video, parent = _following(given, jobs, owner, request)
    strength = draft.number("strength", about="source", least=0.01, most=1)
    draft.request["source"] = {"video": video, "denoise": EDIT_DENOISE if strength is None else strength}
    return draft, parent


def read_extension(
    given: Mapping[str, Any], jobs: Jobs, owner: Owner, request: Request | None
) -> tuple[Draft, Any]:
    """Return the draft of an extension, and the id of the video that it extends."""
    draft, video, parent = _following(given, jobs, owner, request)
    seconds = draft.number("seconds", about="source", least=0.01, most=86_400)
    if seconds is None:
        raise RequestError("seconds is missing; say how much is added", field="seconds")
    draft.request["source"] = {"video": video, "extend_after_s": seconds}
    return draft, parent


def _following(
    given: Mapping[str, Any], jobs: Jobs, owner: Owner, request: Request | None
) -> tuple[Draft, str, str | None]:
    """Return the draft of a video made from another one, that one, and its id if it is of this server."""
    draft = Draft(given)
    draft.prompt()
    video, parent = _video(draft, jobs, owner, request)
    draft.whole("seed", "seed")
    set_model(draft)
    return draft, video, parent


def _video(draft: Draft, jobs: Jobs, owner: Owner, request: Request | None) -> tuple[str, str | None]:
    value = draft.take("video")
    if value is None:
        raise RequestError("video is missing; give a file, or the id of a video", field="video")
    text = value if isinstance(value, str) else record_of("video", value).get("id")
    if isinstance(text, str) and text.startswith("job_"):
        return f"asset:{clip_of(jobs.get(owner, text)).id}", text
    return calls.media(jobs, "video", text, request), None


# --- the video object -----------------------------------------------------------------------------------


def video_of(job: Job, jobs: Jobs | None = None, base: str = "") -> dict[str, Any]:
    """Return a job as a video object."""
    plan, error = job.plan, None
    if job.state == "cancelled":
        error = {"code": "cancelled", "message": "the job was cancelled"}
    elif job.error is not None:
        error = {"code": job.error.code, "message": job.error.message}
    clip = None if job.result is None else job.result.clip
    found: dict[str, Any] = {
        "id": job.id, "object": "video", "model": job.model, "status": STATUS[job.state],
        "progress": 100 if job.state == "succeeded" else min(99, int(100 * job.progress.fraction)),
        "created_at": int(job.created_at),
        "completed_at": int(job.finished_at) if job.finished_at and job.state == "succeeded" else None,
        "expires_at": None if clip is None or clip.expires_at is None else int(clip.expires_at),
        "seconds": "" if plan is None else f"{plan.duration_s:.3g}",
        "size": "" if plan is None else f"{plan.size[0]}x{plan.size[1]}",
        "prompt": calls.prompt_of(job), "remixed_from_video_id": job.parent_id, "error": error,
        "seed": job.seed, "queue_position": job.position, "eta_s": job.eta_s, "warnings": job.warnings,
        "notes": [] if plan is None else plan.notes,
    }  # fmt: skip
    if clip is not None and jobs is not None:
        found |= {"url": calls.address(jobs, clip, base), "file_name": clip.name}
        if job.started_at and job.finished_at:
            found["inference_time_s"] = round(job.finished_at - job.started_at, 3)
    return found


def _told(job: Job, jobs: Jobs, request: Request) -> Response:
    eta_ms = 1000 if job.eta_s is None else int(1000 * job.eta_s / 4)
    pause = str(min(POLL_MS[1], max(POLL_MS[0], eta_ms)))
    return calls.answer(video_of(job, jobs, calls.base_of(request)), headers={"openai-poll-after-ms": pause})


# --- routes ---------------------------------------------------------------------------------------------


@router.post("")
async def create(request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Queue a video."""
    return _told(await _created(request, owner, jobs), jobs, request)


async def _created(request: Request, owner: Owner, jobs: Jobs) -> Job:
    given = await body_of(request, jobs, owner)

    def made() -> Job:
        webhook = given.pop("webhook_url", None)
        draft = read_create(given, jobs, request)
        key = request.headers.get("idempotency-key")
        return calls.queue(jobs, owner, draft, via=VIA, webhook=webhook, key=key)

    return await run_in_threadpool(made)


@router.post("/sync")
async def create_sync(request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Make a video and answer with its bytes."""
    job = await _created(request, owner, jobs)
    job = await calls.ended(jobs, owner, job.id, request)
    return await run_in_threadpool(_content, job, owner, jobs, request)


@router.post("/edits")
async def edit(request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Queue a clip made from another by a prompt."""
    given = await body_of(request, jobs, owner)
    return await run_in_threadpool(_follow, read_edit, given, request, owner, jobs)


@router.post("/extensions")
async def extend(request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Queue a clip that goes on after another."""
    given = await body_of(request, jobs, owner)
    return await run_in_threadpool(_follow, read_extension, given, request, owner, jobs)


@router.post("/characters")
@router.get("/characters/{id}")
async def characters() -> Response:
    """Refuse characters, which no field of a request has."""
    raise NotFound("characters are not offered here; give a picture as input_reference, or a LoRA")


@router.post("/{id}/remix")
async def remix(id: Id, request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Queue an edit of a finished video."""
    given = {**await body_of(request, jobs, owner), "video": {"id": id}}
    return await run_in_threadpool(_follow, read_edit, given, request, owner, jobs)


def _follow(read: Any, given: dict[str, Any], request: Request, owner: Owner, jobs: Jobs) -> Response:
    webhook = given.pop("webhook_url", None)
    draft, parent = read(given, jobs, owner, request)
    key = request.headers.get("idempotency-key")
    return _told(
        calls.queue(jobs, owner, draft, via=VIA, webhook=webhook, key=key, parent=parent), jobs, request
    )


@router.get("")
def list_videos(
    request: Request,
    owner: Reader,
    jobs: JobsOf,
    after: str | None = Query(None, max_length=64),
    limit: int = Query(20, ge=1, le=100),
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List videos of this interface."""
    page = jobs.list(owner, via=VIA, after=after, limit=limit, order=order)
    base = calls.base_of(request)
    told = page.model_dump(exclude={"data"})
    return calls.answer({**told, "data": [video_of(job, jobs, base) for job in page.data]})


@router.get("/{id}")
def retrieve(id: Id, request: Request, owner: Reader, jobs: JobsOf) -> Response:
    """Return a video's state."""
    return _told(jobs.get(owner, id), jobs, request)


@router.delete("/{id}")
async def delete(id: Id, owner: Submitter, jobs: JobsOf, request: Request) -> Response:
    """Delete a video; one that is being made is cancelled first."""
    job = await run_in_threadpool(jobs.get, owner, id)
    if job.state in WORKING:
        await run_in_threadpool(jobs.cancel, owner, id)
        left = DELETE_S
        while job.state not in FINAL and left > 0:
            await jobs.news.changed(jobs.news.version, calls.LOOK_S)
            left -= calls.LOOK_S
            job = await run_in_threadpool(jobs.get, owner, id)
        if job.state not in FINAL:
            raise Conflict(f"{id} is being cancelled; delete it in a moment")
    await run_in_threadpool(jobs.delete, owner, id)
    return calls.answer({"id": id, "object": "video.deleted", "deleted": True})


@router.get("/{id}/content")
def video_content(
    id: Id,
    request: Request,
    owner: Reader,
    jobs: JobsOf,
    kept: PreviewsOf,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
) -> Response:
    """Return the clip, a small picture of it, or frames side by side."""
    job = jobs.get(owner, id)
    if variant == "video":
        return _content(job, owner, jobs, request)
    clip = clip_of(job)
    path = jobs.asset_path(owner, clip.id)
    data = kept.thumbnail(clip, path, 640) if variant == "thumbnail" else kept.strip(clip, path, 10, 180)
    return Response(data, media_type="image/jpeg")


def _content(job: Job, owner: Owner, jobs: Jobs, request: Request) -> Response:
    clip = clip_of(job)
    return content.answer(request, jobs.asset_path(owner, clip.id), clip)


# --- errors and webhooks --------------------------------------------------------------------------------


def shape(failure: HttpFailure) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return a failure in OpenAI's words."""
    kind = TYPES.get(failure.status, "server_error" if failure.status >= 500 else "invalid_request_error")
    told = {"message": failure.message, "type": kind, "param": failure.field, "code": failure.code}
    return failure.status, {"error": told}, dict(failure.headers)


def webhook(jobs: Jobs, delivery: Delivery, at: int) -> Letter:
    """Return a webhook as OpenAI sends it, signed as all of this server's are."""
    job = Job.model_validate_json(delivery.body)
    ended = "video.completed" if job.state == "succeeded" else "video.failed"
    told = {
        "id": f"evt_{delivery.id}", "object": "event", "created_at": int(job.finished_at or at),
        "type": ended, "data": {"id": job.id},
    }  # fmt: skip
    return letter(jobs, delivery, at, json.dumps(told))


DIALECT = Dialect(PREFIX, router, shape, letters={VIA: webhook})
