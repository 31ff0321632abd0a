"""Events as they happen, of one job or of all."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from soundstage.server.access import JobsOf, Reader
from soundstage.server.answers import Described, Id, failures
from soundstage.server.routing import Router
from soundstage.server.streaming import MAX_ID, EventStream, last_seen

router = Router(tags=["events"])
_AfterEvent = Annotated[
    int | None,
    Query(ge=0, le=MAX_ID, description="Send events after this id; the header Last-Event-ID says the same."),
]
STREAM: Described = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@router.get(
    "/jobs/{id}/events",
    operation_id="watch_job",
    response_class=StreamingResponse,
    responses={**STREAM, **failures(404)},
)
async def job_events(
    id: Id, request: Request, owner: Reader, jobs: JobsOf, after: _AfterEvent = None
) -> StreamingResponse:
    """Stream the events of a job, from its first on, until it has ended."""
    await run_in_threadpool(jobs.get, owner, id)
    return EventStream(request, jobs, owner, id, last_seen(request, after)).response()


@router.get(
    "/events",
    operation_id="watch_all",
    response_class=StreamingResponse,
    responses={**STREAM, **failures()},
)
async def events(
    request: Request, owner: Reader, jobs: JobsOf, after: _AfterEvent = None
) -> StreamingResponse:
    """Stream the events of all jobs that the caller sees, from now on or from an event on."""
    asked = after is not None or "last-event-id" in request.headers
    newest = last_seen(request, after) if asked else await run_in_threadpool(jobs.last_event)
    return EventStream(request, jobs, owner, None, newest).response()
