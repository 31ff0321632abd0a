"""Jobs: submitted, claimed by lease, finished once, and what becomes of them when a worker is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from soundstage.jobs.limits import Limits
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import (
    JobProgress,
    JobRequest,
    MadeFile,
    MadeFiles,
    Owner,
    WorkerInfo,
    WorkReport,
)

PROMPT = {"prompt": "A red ball bounces.", "duration_s": 1.0}
ANNA = Owner(id="anna", name="anna")
BEN = Owner(id="ben", name="ben")
WORKER = WorkerInfo(id="w1", name="one")


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(tmp_path: Path, clock: Clock, database: str | None) -> Iterator[Jobs]:
    found = Jobs.open(
        tmp_path / "data", database=database, clock=clock, limits=Limits(max_queued_per_owner=5)
    )
    yield found
    found.close()


def asked(**more: object) -> JobRequest:
    return JobRequest(request={**PROMPT, **more})


def finish(jobs: Jobs, lease_id: str, data: bytes = b"clip") -> None:
    (jobs.tmp / "made.mp4").write_bytes(data)
    file = MadeFile(file="made.mp4", media_type="video/mp4", info={"width": 192})
    jobs.finish(lease_id, MadeFiles(files={"clip": file}, seconds={"denoise": 2.0}))


def test_a_job_is_planned_claimed_and_finished(jobs: Jobs) -> None:
    job = jobs.create(ANNA, asked())
    assert (job.state, job.position, job.model) == ("queued", 0, "nano")
    assert job.seed is not None
    assert job.plan is not None
    assert job.plan.duration_s > 0.9
    lease = jobs.claim(WORKER)
    assert lease is not None
    assert lease.request["seed"] == job.seed
    jobs.renew(lease.id, WorkReport(state="running", progress=JobProgress(fraction=0.5, phase="denoise")))
    assert jobs.get(ANNA, job.id).progress.fraction == 0.5
    finish(jobs, lease.id)
    done = jobs.get(ANNA, job.id)
    assert done.state == "succeeded"
    assert done.result is not None
    assert done.result.clip is not None
    assert jobs.asset_path(ANNA, done.result.clip.id).read_bytes() == b"clip"
    told = [(event.type, event.state) for event in jobs.events(ANNA, job.id, 0)]
    assert told == [
        ("state", "queued"), ("state", "loading"), ("state", "running"), ("progress", None),
        ("state", "succeeded"), ("result", "succeeded"),
    ]  # fmt: skip
