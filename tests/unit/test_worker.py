"""The worker: a job from its lease to its files, and what stops it on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from soundstage.clip import Clip
from soundstage.errors import RequestError
from soundstage.jobs import worker as worker_module
from soundstage.jobs.limits import Limits
from soundstage.jobs.service import Jobs
from soundstage.jobs.states import FINAL
from soundstage.jobs.transport import ServerAway
from soundstage.jobs.views import LOCAL, Job, JobRequest, Lease, Order, WorkerInfo, WorkReport
from soundstage.jobs.worker import JobWorker
from soundstage.library import pull as pulling
from tests.in_process import InProcess
from tests.limits import joined, until
from tests.quick_engine import QuickEngine

REQUEST = {"prompt": "A red ball bounces.", "num_frames": 9, "size": [64, 64], "steps": 4, "seed": 5}
LONG = {**REQUEST, "steps": 400}  # at 0.05 s a step it lasts longer than any test waits for its middle


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(worker_module, "load_engine", QuickEngine)
    found = Jobs.open(tmp_path / "data", limits=Limits(renew_s=0.05))
    yield found
    found.close()


def submit(jobs: Jobs, prompt: str = "A red ball bounces.", **more: object) -> Job:
    return jobs.create(LOCAL, JobRequest(request={**REQUEST, "prompt": prompt}, **more))  # type: ignore[arg-type]


def new_worker(jobs: Jobs, transport: InProcess | None = None) -> JobWorker:
    info = WorkerInfo(id="w", name="here")
    return JobWorker(transport or InProcess(jobs), info, device="cpu", wait_s=0.05, checkpoint_s=0)


def work(jobs: Jobs, transport: InProcess | None = None) -> None:
    """Make one job."""
    lease = jobs.claim(WorkerInfo(id="w", name="here"))
    assert lease is not None
    new_worker(jobs, transport).work_on(lease)


def clip_of(jobs: Jobs, job_id: str) -> Path:
    job = jobs.get(LOCAL, job_id)
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert job.result.clip is not None
    return jobs.asset_path(LOCAL, job.result.clip.id)


def test_a_job_becomes_a_clip_with_a_poster_a_preview_and_a_sheet(jobs: Jobs) -> None:
    job = submit(jobs, "A NOTICE on a wall.", preview_every=2, sheet=True)
    work(jobs)
    clip = Clip.open(clip_of(jobs, job.id))
    assert clip.frames is not None
    assert clip.frames.shape == (9, 64, 64, 3)
    assert clip.provenance["request"]["seed"] == 5
    done = jobs.get(LOCAL, job.id)
    assert done.warnings == ["a notice of the quick engine"]
    assert done.preview is not None
    assert done.preview.media_type == "image/webp"
    assert done.result is not None
    assert done.result.poster is not None
    assert done.result.sheet is not None
    assert done.result.clip is not None
    assert (done.result.clip.width, done.result.clip.num_frames, done.result.clip.has_sound) == (64, 9, True)
    assert not list(jobs.tmp.iterdir())


def test_a_clip_names_its_inputs_by_reference(jobs: Jobs) -> None:
    first = submit(jobs)
    work(jobs)
    source = jobs.get(LOCAL, first.id).result
    assert source is not None
    assert source.clip is not None
    reference = f"asset:{source.clip.id}"
    request = {**REQUEST, "source": {"video": reference, "modalities": ["audio"]}}
    second = jobs.create(LOCAL, JobRequest(request=request))
    work(jobs)
    told = Clip.open(clip_of(jobs, second.id)).provenance
    assert told["request"]["source"]["video"] == reference
    assert str(jobs.data) not in str(told)


@pytest.mark.parametrize(("prompt", "code"), [("FAIL", "invalid_request"), ("OOM", "out_of_memory")])
def test_a_failed_job_says_why(jobs: Jobs, prompt: str, code: str) -> None:
    job = submit(jobs, prompt)
    work(jobs)
    failed = jobs.get(LOCAL, job.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.code == code


def test_a_job_under_work_is_cancelled_between_two_steps(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICK_STEP_S", "0.05")
    job = jobs.create(LOCAL, JobRequest(request=LONG))
    thread = threading.Thread(target=work, args=(jobs,), daemon=True)
    thread.start()
    until(lambda: jobs.get(LOCAL, job.id).state == "running")
    assert jobs.cancel(LOCAL, job.id).state == "running"
    joined(thread)
    assert jobs.get(LOCAL, job.id).state == "cancelled"


def test_a_job_that_is_cancelled_while_its_clip_is_written_leaves_no_file(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(jobs)
    save = Clip.save

    def cancel_and_save(clip: Clip, path: Path) -> None:
        jobs.cancel(LOCAL, job.id)
        save(clip, path)
        time.sleep(0.3)  # the worker hears of it with its next report

    monkeypatch.setattr(Clip, "save", cancel_and_save)
    work(jobs)
    assert jobs.get(LOCAL, job.id).state == "cancelled"
    assert list(jobs.tmp.iterdir()) == []


def test_a_drained_worker_gives_its_job_back_and_the_next_goes_on(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = jobs.create(LOCAL, JobRequest(request=LONG))
    work(jobs)
    monkeypatch.setenv("QUICK_STEP_S", "0.05")
    job = jobs.create(LOCAL, JobRequest(request=LONG))
    first = new_worker(jobs)
    thread = threading.Thread(target=first.run, daemon=True)
    thread.start()
    until(lambda: jobs.get(LOCAL, job.id).progress.step > 1)
    first.drain()
    joined(thread)
    waiting = jobs.get(LOCAL, job.id)
    assert (waiting.state, waiting.attempt) == ("queued", 1)
    monkeypatch.setenv("QUICK_STEP_S", "0")
    work(jobs)
    assert jobs.get(LOCAL, job.id).attempt == 2
    assert "resume" in [event.message for event in jobs.events(LOCAL, job.id, 0)]
    assert clip_of(jobs, job.id).read_bytes() == clip_of(jobs, whole.id).read_bytes()
    assert not jobs.checkpoint_folder(job.id).exists()


def test_a_worker_whose_lease_was_given_away_hands_nothing_in(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_STEP_S", "0.05")
    job = jobs.create(LOCAL, JobRequest(request=LONG))
    thread = threading.Thread(target=work, args=(jobs,), daemon=True)
    thread.start()
    until(lambda: jobs.get(LOCAL, job.id).state == "running")
    jobs.worker_died("w")
    assert jobs.get(LOCAL, job.id).state == "queued"
    joined(thread)
    assert jobs.get(LOCAL, job.id).state == "queued"
    monkeypatch.setenv("QUICK_STEP_S", "0")
    work(jobs)
    assert clip_of(jobs, job.id).is_file()


class Away(InProcess):
    """A server that does not answer for a while."""

    calls = 0

    def renew(self, lease: Lease, report: WorkReport) -> Order:
        self._miss()
        return super().renew(lease, report)

    def finish(self, lease: Lease, made: object) -> None:
        self._miss()
        super().finish(lease, made)  # type: ignore[arg-type]

    def _miss(self) -> None:
        self.calls += 1
        if self.calls < 3:
            raise ServerAway("the server does not answer")


def test_a_worker_goes_on_while_its_server_is_away(jobs: Jobs) -> None:
    job = submit(jobs, "A NOTICE on a wall.")
    transport = Away(jobs)
    work(jobs, transport)
    assert clip_of(jobs, job.id).is_file()
    assert transport.calls >= 3


def test_a_worker_runs_all_jobs_that_wait(jobs: Jobs) -> None:
    made = [submit(jobs, f"Ball {n}.").id for n in range(3)]
    worker = new_worker(jobs)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    until(lambda: all(jobs.get(LOCAL, job_id).state in FINAL for job_id in made))
    worker.drain()
    joined(thread)
    assert {jobs.get(LOCAL, job_id).state for job_id in made} == {"succeeded"}


def test_a_finished_clip_is_converted_by_a_job_of_its_own(jobs: Jobs) -> None:
    submit(jobs)
    work(jobs)
    (first,) = jobs.list(LOCAL).data
    assert first.result is not None
    assert first.result.clip is not None
    asked = JobRequest(kind="convert", asset=first.result.clip.id, format="gif")
    with pytest.raises(RequestError, match="format is 'exe'"):
        jobs.create(LOCAL, asked.model_copy(update={"format": "exe"}))
    job = jobs.create(LOCAL, asked)
    work(jobs)
    assert clip_of(jobs, job.id).read_bytes()[:3] == b"GIF"


def latents(jobs: Jobs, **tensors: torch.Tensor) -> str:
    """Upload latents, and return their reference."""
    path = jobs.tmp / "latents"
    save_file(tensors, path)
    asset = jobs.add_asset(LOCAL, path=path, kind="latents", name=None, media_type="application/octet-stream")
    return f"asset:{asset.id}"


def test_a_job_starts_from_latents_that_are_given(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[Any, Any]] = []

    class Watched(QuickEngine):
        def run(self, plan: Any, *, given: Any = None, **words: Any) -> Any:
            runs.append((plan.passes[0], given))
            return super().run(plan, **words)

    monkeypatch.setattr(worker_module, "load_engine", Watched)
    video = torch.ones(1, 128, 2, 2, 2)
    reference = latents(jobs, video=video)
    job = jobs.create(LOCAL, JobRequest(request=REQUEST, latents=reference, denoise=0.5))
    assert job.plan is not None
    assert job.plan.passes[0].steps == 2
    work(jobs)
    clip_of(jobs, job.id)
    ((first, given),) = runs
    assert (first.start, first.num_steps) == ("previous", 2)
    assert torch.equal(given.video, video)
    assert given.audio is None


def test_latents_that_do_not_fit_are_refused_before_the_job_waits(jobs: Jobs) -> None:
    wide, strange = latents(jobs, video=torch.ones(1, 128, 2, 2, 4)), latents(jobs, weight=torch.ones(4))
    picture = submit(jobs)
    work(jobs)
    made = jobs.get(LOCAL, picture.id).result
    assert made is not None
    assert made.clip is not None
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"latents": wide}, "give the size, length and fps it was made with"),
        ({"latents": strange}, "give latents of LTX-2.3"),
        ({"latents": f"asset:{made.clip.id}"}, "latents|safetensors"),
        ({"latents": "/etc/passwd"}, 'give "asset:ID"'),
        ({"latents": "asset:as_none"}, "there is no such file"),
        ({"denoise": 0.5}, "no latents are given"),
        ({"latents": wide, "request": {}, "kind": "pull", "model": "nano"}, "for jobs of kind generate"),
    ]
    for words, told in wrong:
        with pytest.raises(RequestError, match=told):
            jobs.create(LOCAL, JobRequest(**{"request": REQUEST, **words}))


def test_a_pull_names_a_published_model(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="huge"):
        jobs.create(LOCAL, JobRequest(kind="pull", model="huge"))
    monkeypatch.setattr(pulling, "plan_pull", lambda entries, folder: [])
    job = jobs.create(LOCAL, JobRequest(kind="pull", model="ltx-2.3-distilled"))
    work(jobs)
    assert jobs.get(LOCAL, job.id).state == "succeeded"
