"""A server in this process, on a free port of the loopback address, for tests of what speaks HTTP.

    with serving(tmp_path, work=True) as server:
        httpx.get(f"{server.url}/v1/jobs")

work: each job gets the same small clip, by a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import APIRouter

from soundstage.clip import Clip
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import JobProgress, MadeFile, MadeFiles, WorkerInfo, WorkReport
from soundstage.server.app import create_app
from soundstage.server.command import DIALECTS
from soundstage.server.dialect import Dialect
from soundstage.server.serving import Serving, address_of, listen
from soundstage.server.settings import ServerSettings


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
    if work:
        threading.Thread(target=_work, args=(jobs, app.state.ending), daemon=True).start()
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            yield Server(url, jobs, app, client, running.ask_to_end)
    finally:
        running.ask_to_end()
        thread.join(20)
        app.state.intake.close()
        jobs.close()


def _work(jobs: Jobs, ending: threading.Event) -> None:
    """Make every job, until the server ends."""
    worker = WorkerInfo(id="w", name="worker of a test")
    frames, wave = np.full((9, 64, 64, 3), 90, np.uint8), np.zeros((2, 18_000), np.float32)
    while not ending.is_set():
        seen = jobs.news.version
        lease = jobs.claim(worker)
        if lease is None:
            jobs.news.wait(seen, 1.0)
            continue
        jobs.renew(lease.id, WorkReport(state="running", progress=JobProgress(fraction=0.5, phase="denoise")))
        made = {"request": {"prompt": str(lease.request["prompt"])}}
        path = Clip(frames, wave, 24.0, made).save(jobs.tmp / f"{lease.id}.mp4")
        file = MadeFile(file=path.name, media_type="video/mp4", name="clip.mp4")
        jobs.finish(lease.id, MadeFiles(files={"clip": file}))


def end_streams(app: Any, jobs: Jobs) -> None:
    """Let streams of events end, as the command does."""
    app.state.ending.set()
    jobs.news.tell()
