"""A server and its worker as processes of their own: clips, a training, a drain, a worker that is killed."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dataset_clips import clip
from tests.limits import SLOW_S, ended
from tests.quick_engine import STEP_VARIABLE
from tests.serving import ROOT

pytestmark = pytest.mark.slow
ASKED = {"prompt": "A red ball bounces.", "num_frames": 9, "size": [64, 64], "steps": 20, "seed": 1}
ENDED = ("succeeded", "failed", "cancelled")


@contextmanager
def served(data: Path, step_s: float) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Run `soundstage serve` with the quick engine in its worker."""
    command = [sys.executable, "-m", "tests.quick_engine", "serve", "--port", "0", "--data", str(data)]
    environment = {**os.environ, STEP_VARIABLE: str(step_s)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            yield process, client
    finally:
        process.kill()
        ended(process)


def until(client: httpx.Client, id: str, *states: str) -> dict[str, Any]:
    end = time.monotonic() + SLOW_S
    while True:
        assert time.monotonic() < end
        job: dict[str, Any] = client.get(f"/v1/jobs/{id}").json()
        if job["state"] in states:
            return job
        assert job["state"] not in ENDED, job
        time.sleep(0.05)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that one has started."""
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True, timeout=SLOW_S
    )
    return [int(word) for word in found.stdout.split()]


def create(client: httpx.Client) -> str:
    return str(client.post("/v1/jobs", json={"request": ASKED}).json()["id"])


def test_a_drained_server_gives_its_job_back_and_the_next_one_goes_on_with_it(tmp_path: Path) -> None:
    with served(tmp_path, step_s=0.5) as (process, client):
        id = create(client)
        until(client, id, "running")
        time.sleep(1.5)  # for a step and its checkpoint
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert any(line.startswith("stopping: ") for line in process.stdout)
        assert process.wait(60) == 0
    with served(tmp_path, step_s=0.01) as (process, client):
        job = until(client, id, "succeeded")
        assert job["attempt"] == 2
        assert client.get(f"/v1/jobs/{id}/content").content[4:8] == b"ftyp"
        events = client.get(f"/v1/jobs/{id}/events").text
        assert '"resume"' in events


def test_a_worker_that_is_killed_is_replaced_and_its_job_is_made(tmp_path: Path) -> None:
    with served(tmp_path, step_s=0.2) as (process, client):
        id = create(client)
        until(client, id, "running")
        os.kill(children(process)[0], signal.SIGKILL)
        job = until(client, id, "succeeded")
        assert job["attempt"] == 2
        assert len([w for w in client.get("/v1/workers").json()["data"] if w["state"] != "gone"]) == 1


def train(client: httpx.Client, folder: Path) -> str:
    """Queue a training of forty steps on two clips."""
    for shade in (40, 90):
        clip(folder / f"{shade}.mp4", shade=shade, frames=9, tone_hz=None, caption=f"A square on {shade}.")
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for file in sorted(folder.glob("*.*4")):
            archive.write(file, file.name)
    sent = {"file": ("data.zip", (folder / "data.zip").read_bytes())}
    data = client.post("/v1/uploads", files=sent, params={"purpose": "data"}).json()["id"]
    training = {"mode": "silent", "steps": 40, "seed": 4, "lora": {"rank": 2}, "save_every": 2}
    job = {"kind": "train", "data": data, "training": training, "dataset": {"num_frames": 9}}
    return str(client.post("/v1/jobs", json=job).raise_for_status().json()["id"])


def trained(client: httpx.Client, id: str) -> list[tuple[str, str]]:
    """Wait for a training, and return the losses of its steps."""
    job = until(client, id, "succeeded")
    text = client.get(job["result"]["losses"]["url"]).text
    return [(row["step"], row["loss"]) for row in csv.DictReader(io.StringIO(text))]


def until_step(client: httpx.Client, id: str, step: int) -> None:
    while client.get(f"/v1/jobs/{id}").json()["progress"]["step"] < step:
        time.sleep(0.05)


def test_a_training_whose_worker_is_killed_or_drained_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    with served(tmp_path / "data", step_s=0.01) as (process, client):
        wanted = trained(client, train(client, tmp_path))
        assert [step for step, _ in wanted] == [str(step) for step in range(1, 41)]
        id = train(client, tmp_path)
        until_step(client, id, 4)
        for child in children(process):  # the worker is among them
            told = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"worker" in told:
                os.kill(child, signal.SIGKILL)
        until(client, id, "queued", "loading")
        until_step(client, id, 10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    with served(tmp_path / "data", step_s=0.01) as (process, client):
        assert trained(client, id) == wanted
        assert client.get(f"/v1/jobs/{id}").json()["attempt"] == 3
        assert client.get(f"/v1/jobs/{id}/events").text.count("going on from step") == 2
