"""OpenRouter's /api/v1/videos over the same jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from soundstage.jobs.errors import NotFound
from soundstage.jobs.service import Jobs
from soundstage.jobs.states import JobState
from soundstage.jobs.views import Delivery, Job
from soundstage.server import content
from soundstage.server.access import JobsOf, Reader, Submitter
from soundstage.server.answers import Id
from soundstage.server.dialect import Dialect
from soundstage.server.dialects import calls
from soundstage.server.dialects.draft import Draft, list_of, record_of
from soundstage.server.dialects.forms import body_of
from soundstage.server.dialects.openai import set_model
from soundstage.server.dialects.shapes import own_size, set_pixels, set_shape
from soundstage.server.failures import HttpFailure
from soundstage.server.routes.jobs import clip_of
from soundstage.server.routing import Router
from soundstage.server.webhooks import Letter, letter

VIA, PREFIX = "openrouter", "/api/v1/videos"
FRAMES = {"first_frame": None, "last_frame": "last"}
STATUS: dict[JobState, str] = {
    "queued": "pending", "paused": "pending", "interrupted": "pending",
    "loading": "in_progress", "running": "in_progress", "checking": "in_progress", "encoding": "in_progress",
    "succeeded": "completed", "failed": "failed", "cancelled": "cancelled",
}  # fmt: skip

router = Router(prefix=PREFIX, include_in_schema=False)


def read(given: Mapping[str, Any], jobs: Jobs, request: Request | None, own: tuple[int, int]) -> Draft:
    """Return the draft of a call."""
    draft = Draft(given)
    draft.prompt()
    set_model(draft)
    draft.number("duration", "duration_s", least=0.01, most=86_400)
    aspect, lines = draft.text("aspect_ratio", most=10), draft.text("resolution", most=10)
    if not set_pixels(draft, "size"):
        set_shape(draft, lines, aspect, own)
    elif aspect or lines:
        draft.warn("aspect_ratio and resolution have no effect: size is given too, and counts")
    draft.sound("generate_audio")
    draft.whole("seed", "seed")
    for index, item in enumerate(list_of("frame_images", draft.take("frame_images", "guides"))):
        name = f"frame_images[{index}]"
        fields = Draft(record_of(name, item))
        place = fields.word("frame_type", tuple(FRAMES)) or "first_frame"
        draft.guide(_picture(jobs, name, fields, request), at=FRAMES[place])
    found = [
        _picture(jobs, f"input_references[{index}]", Draft(record_of("input_references", item)), request)
        for index, item in enumerate(
            list_of("input_references", draft.take("input_references", "references"))
        )
    ]
    if found:
        draft.request["references"] = [{"video": reference} for reference in found]
    return draft


def _picture(jobs: Jobs, name: str, fields: Draft, request: Request | None) -> str:
    kind = fields.word("type", ("image_url", "video_url")) or "image_url"
    url = record_of(f"{name}.{kind}", fields.take(kind)).get("url")
    return calls.media(jobs, f"{name}.{kind}.url", url, request)


def told_of(job: Job, jobs: Jobs, base: str) -> dict[str, Any]:
    """Return a job in OpenRouter's words."""
    found: dict[str, Any] = {
        "id": job.id, "generation_id": job.id, "polling_url": f"{base}{PREFIX}/{job.id}",
        "status": STATUS[job.state], "model": job.model, "created_at": int(job.created_at),
        "queue_position": job.position, "eta_s": job.eta_s, "progress": round(job.progress.fraction, 3),
        "seed": job.seed, "warnings": job.warnings,
    }  # fmt: skip
    if job.error is not None:
        found["error"] = job.error.message
    if job.result is not None and job.result.clip is not None:
        found["unsigned_urls"] = [calls.address(jobs, job.result.clip, base)]
    return found


@router.post("")
async def create(request: Request, owner: Submitter, jobs: JobsOf) -> Response:
    """Queue a video."""
    given = await body_of(request, jobs, owner)
    base = calls.base_of(request)

    def made() -> Job:
        draft = read(given, jobs, request, own_size(jobs.models(owner)[0]))
        webhook = draft.take("callback_url", "webhook_url")
        key = request.headers.get("idempotency-key")
        return calls.queue(
            jobs, owner, draft, via=VIA, webhook=webhook, label=f"{base}{PREFIX}"[:200], key=key
        )

    return calls.answer(told_of(await run_in_threadpool(made), jobs, base), 202)


@router.get("/models")
def models(owner: Reader, jobs: JobsOf) -> Response:
    """List the models and what they can."""
    return calls.answer({"data": [_model(found) for found in jobs.models(owner)]})


def _model(found: Mapping[str, Any]) -> dict[str, Any]:
    defaults = found.get("defaults", {})
    return {
        "id": found["id"], "name": found["id"], "canonical_slug": found["id"],
        "supported_resolutions": sorted(defaults.get("resolutions", {}), key=lambda word: int(word[:-1])),
        "supported_aspect_ratios": ["16:9", "9:16", "1:1", "4:3", "3:4"],
        "supported_frame_images": list(FRAMES), "generate_audio": True, "seed": True,
        "max_duration": defaults.get("max_duration_s"),
    }  # fmt: skip


@router.get("/{id}")
def retrieve(id: Id, request: Request, owner: Reader, jobs: JobsOf) -> Response:
    """Return a video's state."""
    return calls.answer(told_of(jobs.get(owner, id), jobs, calls.base_of(request)))


@router.get("/{id}/content")
def video_content(id: Id, request: Request, owner: Reader, jobs: JobsOf, index: int = Query(0)) -> Response:
    """Return the clip."""
    if index != 0:
        raise NotFound(f"index is {index}; a job has one clip, at 0")
    clip = clip_of(jobs.get(owner, id))
    return content.answer(request, jobs.asset_path(owner, clip.id), clip)


def shape(failure: HttpFailure) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return a failure in OpenRouter's words."""
    more = {"field": failure.field, "code": failure.code}
    told = {"code": failure.status, "message": failure.message, "metadata": more}
    return failure.status, {"error": told}, dict(failure.headers)


def webhook(jobs: Jobs, delivery: Delivery, at: int) -> Letter:
    """Return a webhook: the job as a poll would give it."""
    job = Job.model_validate_json(delivery.body)
    base = (job.label or "").removesuffix(PREFIX)
    return letter(jobs, delivery, at, json.dumps(told_of(job, jobs, base)))


DIALECT = Dialect(PREFIX, router, shape, letters={VIA: webhook})
