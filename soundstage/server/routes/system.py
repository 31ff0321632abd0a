"""Health, metrics, and what the machine has."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from soundstage.jobs.errors import Draining, NoWorker
from soundstage.server import metrics
from soundstage.server.access import Admin, JobsOf
from soundstage.server.answers import failures
from soundstage.server.machine import MachineReports
from soundstage.server.routing import Router

watched = Router(tags=["health"])  # outside /v1
router = Router(tags=["system"])


@watched.get("/healthz", operation_id="is_alive")
async def healthz() -> dict[str, str]:
    """Answer while the process lives."""
    return {"status": "ok"}


@watched.get("/readyz", operation_id="is_ready", responses=failures(503))
def readyz(request: Request, jobs: JobsOf) -> dict[str, str]:
    """Answer 200 while the server takes work: its store answers, it is not stopping, and it has a worker."""
    stats = jobs.stats()
    if jobs.draining:
        raise Draining("the server is about to stop; it takes no new work")
    if not any(stats["workers"].get(state) for state in ("idle", "busy")):
        notes = [worker.note for worker in request.app.state.restarting() if worker.note]
        why = "; ".join(notes) or "no worker is there yet"
        raise NoWorker(f"{why}; jobs wait in the queue until one is there")
    return {"status": "ready"}


@watched.get("/metrics", operation_id="read_metrics", response_class=Response)
def read_metrics(request: Request, jobs: JobsOf) -> Response:
    """Return the metrics in Prometheus' text form: counts by state and code, no names."""
    return Response(metrics.exposition(jobs, request.app.state.calls), media_type=metrics.CONTENT_TYPE)


@router.get("/system", operation_id="get_system", responses=failures())
def system(
    owner: Admin,
    request: Request,
    device: Annotated[
        str, Query(pattern="^(auto|[a-z]{1,10}(:[0-9]{1,3})?)$", description="auto, cpu, cuda or cuda:1.")
    ] = "auto",
) -> Response:
    """Return what `soundstage doctor --json` prints: the machine, and what clips need on it.

    The header Age says how many seconds ago that was found out.
    """
    reports: MachineReports = request.app.state.machine
    found = reports.of(device)
    age_s = max(0, round(time.monotonic() - found.at))
    return Response(found.text, headers={"Age": str(age_s)}, media_type="application/json")
