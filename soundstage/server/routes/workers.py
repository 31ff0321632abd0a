"""Workers: they claim a job, report on it, send its files, and end it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Path, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from soundstage.jobs.views import Job, Lease, MadeFiles, Order, Page, WorkerInfo, WorkerView, WorkReport
from soundstage.server import transfers
from soundstage.server.access import Admin, JobsOf, Worker
from soundstage.server.answers import Id, as_json, failures
from soundstage.server.bodies import Body
from soundstage.server.routing import Router

router = Router(prefix="/workers", tags=["workers"])
MAX_WAIT_S, LOOK_S = 60.0, 2.0
FileWord = Annotated[str, Path(max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Failed(Body):
    """A worker's report that it could not make a job."""

    code: Annotated[str, Field(max_length=60)]
    """A word for programs."""
    message: Annotated[str, Field(max_length=4000)]
    """One sentence."""
    field: Annotated[str | None, Field(max_length=200)] = None
    """The field of the request that is wrong, if it is one."""
    retry: bool = False
    """Whether another try may succeed."""


class StoredFile(Body):
    """A file that a worker has sent."""

    file: str
    """Its name in the server's folder of files under way."""


@router.get("", operation_id="list_workers", response_model=Page[WorkerView], responses=failures())
def list_workers(owner: Admin, request: Request, jobs: JobsOf) -> Response:
    """List the workers that were seen lately, and those of this server that are about to start again."""
    restarting: list[WorkerView] = request.app.state.restarting()
    return as_json(Page[WorkerView](data=[*jobs.workers(), *restarting]))


@router.post("/claim", operation_id="claim_job", response_model=Lease, responses={204: {}, **failures()})
async def claim(
    worker: WorkerInfo,
    owner: Worker,
    request: Request,
    jobs: JobsOf,
    wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="How long to wait for a job.")] = 0.0,
) -> Response:
    """Take the next job; 204 where none came in time."""
    until = time.monotonic() + wait_s
    ending: Any = request.app.state.ending
    while True:
        seen = jobs.news.version
        lease = await run_in_threadpool(jobs.claim, worker)
        if lease is not None:
            return as_json(lease)
        left_s = until - time.monotonic()
        if left_s <= 0 or ending.is_set() or jobs.draining or await request.is_disconnected():
            return Response(status_code=204)
        await jobs.news.changed(seen, min(LOOK_S, left_s))


@router.post("/leases/{id}/renew", operation_id="renew_lease", response_model=Order, responses=failures(409))
def renew(id: Id, report: WorkReport, owner: Worker, jobs: JobsOf) -> Response:
    """Keep a lease, tell what happened, and hear whether to go on."""
    return as_json(jobs.renew(id, report))


@router.post("/leases/{id}/finish", operation_id="finish_lease", response_model=Job, responses=failures(409))
def finish(id: Id, made: MadeFiles, owner: Worker, jobs: JobsOf) -> Response:
    """End a job with its files, which are in the folder of files under way."""
    return as_json(jobs.finish(id, made))


@router.post("/leases/{id}/fail", operation_id="fail_lease", response_model=Job, responses=failures(409))
def fail(id: Id, failed: Failed, owner: Worker, jobs: JobsOf) -> Response:
    """End a job that could not be made, or give it back to be tried again."""
    return as_json(jobs.fail(id, failed.code, failed.message, field=failed.field, retry=failed.retry))


@router.post(
    "/leases/{id}/release", operation_id="release_lease", response_model=Job, responses=failures(409)
)
def release(id: Id, owner: Worker, jobs: JobsOf) -> Response:
    """Give a job back to the queue with its checkpoint."""
    return as_json(jobs.release(id))


@router.put(
    "/leases/{id}/files/{name}",
    operation_id="send_file",
    response_model=StoredFile,
    responses=failures(409, 413),
)
async def send_file(id: Id, name: FileWord, request: Request, owner: Worker, jobs: JobsOf) -> Response:
    """Send a file of the job, as the body. The answer has the name that `finish` takes."""
    await run_in_threadpool(jobs.leased_job, id)
    path = await transfers.received(request, jobs, suffix=name)
    return as_json(StoredFile(file=path.name))


@router.get(
    "/leases/{id}/inputs/{asset}",
    operation_id="read_input",
    response_class=FileResponse,
    responses=failures(404, 409),
)
def read_input(id: Id, asset: Id, owner: Worker, jobs: JobsOf) -> Response:
    """Return the bytes of a file that the job needs."""
    return FileResponse(jobs.lease_input(id, asset), media_type="application/octet-stream")


@router.put(
    "/leases/{id}/checkpoint",
    operation_id="send_checkpoint",
    status_code=204,
    responses=failures(409, 413),
)
async def send_checkpoint(id: Id, request: Request, owner: Worker, jobs: JobsOf) -> Response:
    """Send the folder of a checkpoint, a tar archive, as the body."""
    job_id = await run_in_threadpool(jobs.leased_job, id)
    path = await transfers.received(request, jobs, suffix="checkpoint.tar")
    await run_in_threadpool(transfers.unpacked, path, jobs.checkpoint_folder(job_id))
    return Response(status_code=204)


@router.get(
    "/leases/{id}/checkpoint",
    operation_id="read_checkpoint",
    response_class=FileResponse,
    responses=failures(404, 409),
)
def read_checkpoint(id: Id, owner: Worker, jobs: JobsOf) -> Response:
    """Return the checkpoint of the job as a tar archive."""
    return transfers.packed(jobs.checkpoint_folder(jobs.leased_job(id)), jobs.tmp)
