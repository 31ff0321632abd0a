"""Servers and workers with real nano as processes of their own, stopped in the middle of a job.

A worker that does not see the server's folder has inputs, checkpoints and results over HTTP alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from soundstage.clip import Clip
from tests.limits import SLOW_S, ended
from tests.serving import ROOT

pytestmark = pytest.mark.slow
KEY = "a-key-of-sixteen-letters-or-more"
SHORT = {"prompt": "A red ball bounces.", "num_frames": 17, "size": [128, 128], "steps": 12, "seed": 3}
LONG = {"prompt": "A red ball bounces.", "num_frames": 81, "size": [64, 64], "steps": 6, "seed": 3,
        "take": {"window_frames": 33}}  # fmt: skip
ENDED = ("succeeded", "failed", "cancelled")


@contextmanager
def running(*words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command of Soundstage while the block lasts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "soundstage", *words]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        ended(process)


@contextmanager
def served(data: Path, workers: int) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Run a server with a key, and give a client of it."""
    words = ("serve", "--port", "0", "--data", str(data), "--workers", str(workers), "--key", KEY)
    with running(*words, "--logs", "off") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        bearer = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=url, headers=bearer, timeout=60, trust_env=False) as client:
            yield process, client


@contextmanager
def far_worker(client: httpx.Client, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a worker that has a folder of its own, and a key for workers."""
    folder.mkdir(exist_ok=True)
    made = client.post("/v1/keys", json={"name": "far", "scopes": ["worker"]}).json()
    told = {"SOUNDSTAGE_WORKER_KEY": made["secret"], "SOUNDSTAGE_WORKERS": str(folder)}
    words = ("worker", "--server", str(client.base_url), "--device", "cpu", "--checkpoint-every", "0")
    with running(*words, **told) as process:
        yield process


def created(client: httpx.Client, request: dict[str, Any], **more: Any) -> str:
    answer = client.post("/v1/jobs", json={"request": request, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def until(client: httpx.Client, id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + SLOW_S
    while True:
        assert time.monotonic() < end
        job: dict[str, Any] = client.get(f"/v1/jobs/{id}").json()
        if holds(job):
            return job
        assert job["state"] not in ENDED, job
        time.sleep(0.05)


def succeeded(client: httpx.Client, id: str) -> dict[str, Any]:
    return until(client, id, lambda job: job["state"] == "succeeded")


def is_in_the_middle(job: dict[str, Any]) -> bool:
    return bool(job["state"] == "running" and job["progress"]["fraction"] > 0.4)


def clip_of(client: httpx.Client, id: str, folder: Path) -> Clip:
    path = folder / f"{id}.mp4"
    path.write_bytes(client.get(f"/v1/jobs/{id}/content").content)
    return Clip.open(path)


def have_the_same_bits(first: Clip, second: Clip) -> bool:
    frames, sounds = (first.frames, second.frames), (first.waveform, second.waveform)
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in (frames, sounds))


def inputs(client: httpx.Client, folder: Path) -> dict[str, Any]:
    """Upload a picture and a sound, and return the fields that name them."""
    rng = np.random.default_rng(1)
    picture, sound = folder / "ball.png", folder / "tone.wav"
    Clip(rng.integers(0, 256, (1, 128, 128, 3), np.uint8), None, 24.0, {}).save(picture)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)
    Clip(None, np.stack([tone, tone]).astype(np.float32), 24.0, {}).save(sound)
    ids = []
    for path in (picture, sound):
        with path.open("rb") as file:
            ids.append(client.post("/v1/uploads", files={"file": (path.name, file)}).json()["id"])
    return {"guides": [{"image": f"asset:{ids[0]}"}], "audio": f"asset:{ids[1]}"}


@pytest.mark.parametrize("asked", [SHORT, LONG], ids=["a clip", "a long take"])
def test_a_job_of_a_far_worker_that_is_killed_goes_on_at_another_one(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    with served(tmp_path / "data", workers=0) as (_, client):
        request = {**asked, **inputs(client, tmp_path)} if asked is SHORT else asked
        with far_worker(client, tmp_path / "first") as worker:
            whole = created(client, request)
            succeeded(client, whole)
            cut = created(client, request)
            sent = tmp_path / "data" / "checkpoints" / cut
            until(client, cut, lambda job: is_in_the_middle(job) and sent.is_dir())
            worker.send_signal(signal.SIGKILL)
        with far_worker(client, tmp_path / "second"):
            job = succeeded(client, cut)
        assert job["attempt"] == 2
        assert '"resume' in client.get(f"/v1/jobs/{cut}/events").text
        assert have_the_same_bits(clip_of(client, cut, tmp_path), clip_of(client, whole, tmp_path))


def test_a_server_that_is_told_to_end_in_a_job_goes_on_with_it_when_it_is_back(tmp_path: Path) -> None:
    with served(tmp_path / "data", workers=1) as (process, client):
        whole = created(client, SHORT)
        succeeded(client, whole)
        cut = created(client, SHORT)
        until(client, cut, is_in_the_middle)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    with served(tmp_path / "data", workers=1) as (process, client):
        job = succeeded(client, cut)
        assert job["attempt"] == 2
        assert '"resume' in client.get(f"/v1/jobs/{cut}/events").text
        assert have_the_same_bits(clip_of(client, cut, tmp_path), clip_of(client, whole, tmp_path))


def test_latents_that_a_job_has_kept_are_decoded_and_changed_by_others(tmp_path: Path) -> None:
    with served(tmp_path / "data", workers=1) as (_, client):
        first = created(client, SHORT, keep_latents=True, format="mkv")
        latents = f"asset:{succeeded(client, first)['result']['latents']['id']}"
        same = created(client, SHORT, latents=latents, denoise=0, format="mkv")
        other = created(client, {**SHORT, "prompt": "A blue cube."}, latents=latents, denoise=0.5)
        assert [one["steps"] for one in succeeded(client, other)["plan"]["passes"]] == [6]
        succeeded(client, same)
        assert have_the_same_bits(clip_of(client, same, tmp_path), clip_of(client, first, tmp_path))
        file = tmp_path / "latents.safetensors"
        file.write_bytes(client.get(f"/v1/assets/{latents.removeprefix('asset:')}/content").content)
        with file.open("rb") as opened:
            form = {"files": {"file": opened}, "data": {"purpose": "latents"}}
            sent = client.post("/v1/uploads", **form)  # type: ignore[arg-type]
        assert sent.status_code == 201, sent.text
        assert sent.json()["kind"] == "latents"
