"""A server in this process, on a free port of the loopback address, for tests of what speaks HTTP.

    with serving(tmp_path, work=True) as server:
        httpx.get(f"{server.url}/v1/jobs")

work: jobs are made by a worker of this process, with the engine of quick_engine.py, which trains
nothing either.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from fastapi import APIRouter

from soundstage.jobs import worker as worker_module
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import WorkerInfo
from soundstage.jobs.worker import JobWorker
from soundstage.server.app import create_app
from soundstage.server.dialect import Dialect
from soundstage.server.dialects import DIALECTS
from soundstage.server.serving import Serving, address_of, listen
from soundstage.server.settings import ServerSettings
from tests.in_process import InProcess
from tests.quick_engine import QuickEngine, quick_trained

ROOT = Path(__file__).parents[1]


@dataclass
class Server:
    """A running server. client: calls it, and follows no redirects."""

    url: str
    jobs: Jobs
    app: Any
    client: httpx.Client
    stop: Any


@contextmanager
def serving(
    data: Path,
    *,
    settings: ServerSettings | None = None,
    dialects: Sequence[Dialect] | None = None,
    pages: APIRouter | None = None,
    work: bool = False,
    **options: Any,
) -> Iterator[Server]:
    """Run a server while the block lasts. options: of Jobs.open."""
    jobs = Jobs.open(data, **options)
    app = create_app(jobs, settings, DIALECTS if dialects is None else tuple(dialects), pages)
    listening = listen("127.0.0.1", 0)
    url = address_of("127.0.0.1", listening)
    running = Serving(app, drain=lambda: end_streams(app, jobs), hurry=lambda: None)
    thread = threading.Thread(target=running.serve_on, args=(listening,), daemon=True)
    thread.start()
    try:
        with (
            httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
            working(jobs) if work else nullcontext(),
        ):
            yield Server(url, jobs, app, client, running.ask_to_end)
    finally:
        running.ask_to_end()
        thread.join(20)
        app.state.intake.close()
        jobs.close()


@contextmanager
def working(jobs: Jobs) -> Iterator[None]:
    """Make jobs by a worker of this process, with the quick engine, while the block lasts."""
    worker = JobWorker(InProcess(jobs), WorkerInfo(id="w", name="worker of a test"), device="cpu", wait_s=1.0)
    thread = threading.Thread(target=worker.run, daemon=True)
    with (
        patch.object(worker_module, "load_engine", QuickEngine),
        patch.object(worker_module.TrainingWork, "trained", quick_trained),
    ):
        thread.start()
        try:
            yield
        finally:
            worker.drain()
            jobs.news.tell()
            thread.join(20)


def end_streams(app: Any, jobs: Jobs) -> None:
    """Let streams of events end, as the command does."""
    app.state.ending.set()
    jobs.news.tell()
