"""Jobs: plan, create, list, watch, cancel, retry, delete, and the clip of one."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Request
from starlette.responses import Response

from soundstage.jobs.errors import Conflict, Gone
from soundstage.jobs.states import FINAL, JobState
from soundstage.jobs.views import LOCAL, Asset, Job, JobRequest, Page, PlanView
from soundstage.server import content
from soundstage.server.access import JobsOf, Reader, Submitter, allow
from soundstage.server.answers import After, Id, IdempotencyKey, Limit, as_json, failures
from soundstage.server.bodies import Deleted
from soundstage.server.routes.assets import TicketWord, by_key, by_ticket
from soundstage.server.routing import Router

router = Router(tags=["jobs"])


@router.post("/plan", operation_id="plan_job", response_model=PlanView, responses=failures(404))
def plan(asked: JobRequest, owner: Reader, jobs: JobsOf) -> Response:
    """Work out what a request makes and what it takes, without making it."""
    return as_json(jobs.plan(owner, asked))


@router.post(
    "/jobs",
    operation_id="create_job",
    status_code=202,
    response_model=Job,
    responses=failures(404, 409, 413, 503),
)
def create(asked: JobRequest, owner: Submitter, jobs: JobsOf, key: IdempotencyKey = None) -> Response:
    """Queue a job. It is planned before the answer, and refused if it cannot be made."""
    job = jobs.create(owner, asked, idempotency_key=key)
    return as_json(job, 202, {"Location": job.links.self})


@router.get("/jobs", operation_id="list_jobs", response_model=Page[Job], responses=failures())
def list_jobs(
    owner: Reader,
    jobs: JobsOf,
    state: Annotated[JobState | None, Query(description="Only those in this state.")] = None,
    label: Annotated[str | None, Query(max_length=200, description="Only those with this label.")] = None,
    text: Annotated[
        str | None, Query(max_length=200, description="Only those whose prompt has this.")
    ] = None,
    via: Annotated[str | None, Query(max_length=40, description="Only those of this interface.")] = None,
    after: After = None,
    limit: Limit = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="Oldest or newest first.")] = "desc",
) -> Response:
    """List jobs, the newest first."""
    page = jobs.list(
        owner, state=state, label=label, text=text, via=via, after=after, limit=limit, order=order
    )
    return as_json(page)


@router.get("/jobs/{id}", operation_id="get_job", response_model=Job, responses=failures(404))
def get(id: Id, owner: Reader, jobs: JobsOf) -> Response:
    """Return a job, with its state, place in the queue, progress and result."""
    return as_json(jobs.get(owner, id))


@router.delete("/jobs/{id}", operation_id="delete_job", response_model=Deleted, responses=failures(404, 409))
def delete(id: Id, owner: Submitter, jobs: JobsOf) -> Response:
    """Delete an ended job with its files."""
    jobs.delete(owner, id)
    return as_json(Deleted(id=id, object="job.deleted"))


@router.post("/jobs/{id}/cancel", operation_id="cancel_job", response_model=Job, responses=failures(404, 409))
def cancel(id: Id, owner: Submitter, jobs: JobsOf) -> Response:
    """Cancel a job that waits or is being made."""
    return as_json(jobs.cancel(owner, id))


@router.post("/jobs/{id}/pause", operation_id="pause_job", response_model=Job, responses=failures(404, 409))
def pause(id: Id, owner: Submitter, jobs: JobsOf) -> Response:
    """Let a job wait until it is resumed. One that is made stops with a checkpoint first."""
    return as_json(jobs.pause(owner, id))


@router.post("/jobs/{id}/resume", operation_id="resume_job", response_model=Job, responses=failures(404, 409))
def resume(id: Id, owner: Submitter, jobs: JobsOf) -> Response:
    """Put a paused job back into the queue, where it was; it goes on from its checkpoint."""
    return as_json(jobs.resume(owner, id))


@router.post(
    "/jobs/{id}/retry",
    operation_id="retry_job",
    status_code=202,
    response_model=Job,
    responses=failures(404, 409, 503),
)
def retry(id: Id, owner: Submitter, jobs: JobsOf, key: IdempotencyKey = None) -> Response:
    """Queue the request of an ended job again, as a new job with the same seed."""
    job = jobs.retry(owner, id, idempotency_key=key)
    return as_json(job, 202, {"Location": job.links.self})


def clip_of(job: Job) -> Asset:
    """Return the clip of a job. Raises Conflict before the end, Gone where none was made."""
    return _made(job, None if job.result is None else job.result.clip, "clip")


def main_file(job: Job) -> Asset:
    """Return what a job was for: its clip, or the LoRA of a training. Raises as `clip_of` does."""
    main = None if job.result is None else job.result.main
    return _made(job, main, "LoRA" if job.kind == "train" else "clip")


def _made(job: Job, file: Asset | None, what: str) -> Asset:
    if file is not None:
        return file
    if job.state in FINAL:
        why = job.error.message if job.error is not None else f"it is {job.state}"
        raise Gone(f"{job.id} has no {what}: {why}")
    raise Conflict(f"{job.id} is {job.state}; its {what} is there when it has succeeded")


@router.get(
    "/jobs/{id}/content",
    operation_id="get_job_content",
    response_class=Response,
    responses=failures(404, 409, 410, 416),
)
def job_content(id: Id, request: Request, jobs: JobsOf, ticket: TicketWord = None) -> Response:
    """Return the file of a job's clip, or of its LoRA, or a range of it."""
    if ticket is not None:
        found = by_ticket(jobs, main_file(jobs.get(LOCAL, id)).id, ticket)
    else:
        owner = allow(request.state.owner, "read")
        found = by_key(jobs, request, main_file(jobs.get(owner, id)).id)
    return content.answer(request, found.path, found.asset)


@router.head("/jobs/{id}/content", include_in_schema=False)
def job_content_head(id: Id, request: Request, jobs: JobsOf, ticket: TicketWord = None) -> Response:
    """Return what GET does, without the bytes."""
    return job_content(id, request, jobs, ticket)
