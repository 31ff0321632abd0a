"""The app: routes over the jobs, behind the gate."""

from __future__ import annotations

import threading

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from soundstage import __version__
from soundstage.intake.bring import Intake
from soundstage.jobs.service import Jobs
from soundstage.server import description
from soundstage.server.access import DESCRIBED
from soundstage.server.dialect import Dialect
from soundstage.server.dialects import DIALECTS
from soundstage.server.gate import Gate
from soundstage.server.machine import MachineReports
from soundstage.server.metrics import Calls
from soundstage.server.previews import Previews
from soundstage.server.routes import (
    assets,
    events,
    keys,
    models,
    system,
    webhooks,
    workers,
)
from soundstage.server.routes import (
    jobs as job_routes,
)
from soundstage.server.settings import ServerSettings

NATIVE = (job_routes, events, assets, models, keys, webhooks, workers, system)


def create_app(
    jobs: Jobs,
    settings: ServerSettings | None = None,
    dialects: tuple[Dialect, ...] = DIALECTS,
    pages: APIRouter | None = None,
) -> FastAPI:
    """Return the app that serves jobs. It starts nothing: no worker, no webhooks. pages: the studio's."""
    settings = settings or ServerSettings()
    calls = Calls()
    app = FastAPI(
        title=description.TITLE,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        middleware=_layers(jobs, settings, dialects, calls),
        redirect_slashes=False,
    )
    app.state.jobs, app.state.settings, app.state.calls = jobs, settings, calls
    app.state.restarting = list  # gives the workers of this server that start again after a pause
    app.state.machine = MachineReports()
    app.state.ending = threading.Event()  # set when streams of events should end
    app.state.intake = jobs.bring = Intake(settings.fetch, settings.intake)
    jobs.check_address = settings.webhooks.check
    jobs.guarded = app.state.intake.guard.call
    app.state.previews = Previews(jobs.data / "previews", app.state.intake.guard)
    for error in (HTTPException, RequestValidationError):
        app.add_exception_handler(error, _pass_on)
    for module in NATIVE:
        app.include_router(module.router, prefix="/v1", dependencies=list(DESCRIBED))
    app.include_router(system.watched)
    for dialect in dialects:
        app.include_router(dialect.router)
    if pages is not None:
        app.include_router(pages)
    description.describe(app, __version__)
    return app


def _layers(
    jobs: Jobs, settings: ServerSettings, dialects: tuple[Dialect, ...], calls: Calls
) -> list[Middleware]:
    gate = Middleware(Gate, jobs=jobs, settings=settings, dialects=dialects, calls=calls)
    if not settings.origins:
        return [gate]
    cross = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
        allow_headers=[
            "Authorization",
            "X-API-Key",
            "Content-Type",
            "Idempotency-Key",
            "Last-Event-ID",
            "Range",
        ],
        expose_headers=["Location", "Retry-After", "X-Request-Id", "Content-Range", "ETag"],
    )
    return [cross, gate]


async def _pass_on(request: Request, error: Exception) -> Response:
    """Leave an error to the gate, which answers in the words of the call's dialect."""
    raise error
