"""Health, metrics, and what the machine has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from soundstage.jobs.errors import Draining
from soundstage.server import metrics
from soundstage.server.access import Admin, JobsOf
from soundstage.server.answers import failures
from soundstage.server.routing import Router

watched = Router(tags=["health"])  # outside /v1
router = Router(tags=["system"])


@watched.get("/healthz", operation_id="is_alive")
async def healthz() -> dict[str, str]:
    """Answer while the process lives."""
    return {"status": "ok"}


@watched.get("/readyz", operation_id="is_ready", responses=failures(503))
def readyz(jobs: JobsOf) -> dict[str, str]:
    """Answer 200 while the server takes work: its store answers, it is not stopping, and it has a worker."""
    stats = jobs.stats()
    if jobs.draining:
        raise Draining("the server is about to stop; it takes no new work")
    if not any(stats["workers"].get(state) for state in ("idle", "busy")):
        raise Draining("no worker is there yet; jobs wait in the queue until one is")
    return {"status": "ready"}


@watched.get("/metrics", operation_id="read_metrics", response_class=Response)
def read_metrics(request: Request, jobs: JobsOf) -> Response:
    """Return the metrics in Prometheus' text form: counts by state and code, no names."""
    return Response(metrics.exposition(jobs, request.app.state.calls), media_type=metrics.CONTENT_TYPE)


@router.get("/system", operation_id="get_system", responses=failures())
async def system(
    owner: Admin,
    device: Annotated[str, Query(max_length=40, description="auto, cpu, cuda or cuda:1.")] = "auto",
) -> Response:
    """Return what `soundstage doctor --json` prints: the machine, and what clips need on it."""
    from soundstage.diagnostics import report

    found = await run_in_threadpool(report.examine, device, None, "auto", "auto")
    return JSONResponse(asdict(found))
