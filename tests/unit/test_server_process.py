"""A server and its worker as processes of their own: made clips, a drain, a worker that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

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
        process.wait()


def until(client: httpx.Client, id: str, *states: str) -> dict[str, Any]:
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{id}").json()
        if job["state"] in states:
            return job
        assert job["state"] not in ENDED, job
        time.sleep(0.05)


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
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
        job = until(client, id, "succeeded")
        assert job["attempt"] == 2
        assert len([w for w in client.get("/v1/workers").json()["data"] if w["state"] != "gone"]) == 1
