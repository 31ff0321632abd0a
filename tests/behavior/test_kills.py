"""Servers and workers killed at random moments: no job is lost, none has two results, no half file is served.

KILLS=20 python -m pytest tests/behavior/test_kills.py    # fewer than the 200 of make test-full
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from soundstage.clip import Clip
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import LOCAL
from soundstage.server.serving import listen
from tests.limits import ended
from tests.quick_engine import LEASE_VARIABLE, STEP_VARIABLE
from tests.serving import ROOT

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "200"))
LONGEST_S = 2.5  # between two kills
NUM_WORKERS, STEPS, STEP_S = 2, 12, 0.03
JOB_S = 2.0  # between two jobs that are submitted


class Havoc:
    """A server and its workers as processes, killed and started again, and a client that never gives up."""

    def __init__(self, data: Path) -> None:
        listening = listen("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        listening.close()
        self.data = data
        self.url = f"http://127.0.0.1:{self.port}"
        data.mkdir()
        self.processes = [self.start(number) for number in range(1 + NUM_WORKERS)]
        self.submitted: dict[int, str] = {}
        self.seen: set[str] = set()
        self.problems: list[str] = []
        self.ended = threading.Event()

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Start the server, which is number 0, or a worker."""
        server = ["serve", "--port", str(self.port), "--workers", "0", "--logs", "off"]
        worker = ["worker", "--server", self.url, "--checkpoint-every", "0", "--device", "cpu"]
        words = [*(worker if number else server), "--data", str(self.data)]
        told = {STEP_VARIABLE: str(STEP_S), LEASE_VARIABLE: "3", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.quick_engine", *words],
            cwd=ROOT, env={**os.environ, **told}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self, number: int) -> None:
        """Kill a process with no warning, and start it again."""
        self.processes[number].send_signal(signal.SIGKILL)
        ended(self.processes[number])
        self.processes[number] = self.start(number)

    def submit_on(self) -> None:
        """Submit jobs, each until the server has said that it has it."""
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            number = 0
            while not self.ended.wait(JOB_S):
                number += 1
                asked = {"prompt": f"Ball {number}.", "num_frames": 9, "size": [64, 64]}
                body = {"request": {**asked, "steps": STEPS, "seed": number}, "preview_every": 4}
                answer = insisted(
                    lambda: client.post("/v1/jobs", json=body, headers={"Idempotency-Key": str(number)})  # noqa: B023
                )
                self.submitted[number] = answer.json()["id"]

    def look_on(self) -> None:
        """Look at every clip as soon as there is one."""
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            while not self.ended.wait(0.3):
                for seed, job_id in list(self.submitted.items()):
                    if job_id not in self.seen:
                        self.look(client, seed, job_id)

    def look(self, client: httpx.Client, seed: int, job_id: str) -> None:
        try:
            job = client.get(f"/v1/jobs/{job_id}").json()
            if job["state"] != "succeeded":
                return
            content = client.get(f"/v1/jobs/{job_id}/content")
        except httpx.TransportError:
            return
        self.seen.add(job_id)
        path = self.data.parent / f"{seed}.mp4"
        path.write_bytes(content.content)
        if content.status_code != 200 or not is_clip_of(path, seed):
            self.problems.append(f"job {job_id}: {content.status_code}, {len(content.content)} bytes")


def insisted(call: Callable[[], httpx.Response]) -> httpx.Response:
    """Call until the server answers."""
    while True:
        try:
            answer = call()
        except httpx.TransportError:
            time.sleep(0.2)
            continue
        if answer.status_code < 500:
            assert answer.status_code in (200, 202), answer.text
            return answer
        assert answer.status_code == 503, answer.text
        time.sleep(0.2)


def is_clip_of(path: Path, seed: int) -> bool:
    """Return whether a file holds the whole clip that the quick engine makes for a seed."""
    clip = Clip.open(path)
    shades = np.random.default_rng(seed).integers(0, 256, 9, dtype=np.uint8)
    if clip.frames is None or clip.waveform is None or len(clip.frames) != 9:
        return False
    close = np.abs(clip.frames.mean(axis=(1, 2, 3)) - shades) < 12
    return bool(close.all()) and clip.provenance["request"]["seed"] == seed


def test_kills_at_random_moments_lose_no_job_and_make_no_half_file(tmp_path: Path) -> None:
    chance = random.Random(7)
    havoc = Havoc(tmp_path / "data")
    threads = [threading.Thread(target=work, daemon=True) for work in (havoc.submit_on, havoc.look_on)]
    try:
        insisted(lambda: httpx.get(f"{havoc.url}/healthz"))
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            insisted(lambda: httpx.get(f"{havoc.url}/healthz"))
            time.sleep(chance.uniform(0, LONGEST_S))
            havoc.kill(chance.randrange(1 + NUM_WORKERS))
        wait_for_all(havoc)
    finally:
        havoc.ended.set()
        for process in havoc.processes:
            process.kill()
            ended(process)
    assert havoc.problems == []
    assert havoc.submitted
    check_store(havoc)


def wait_for_all(havoc: Havoc) -> None:
    """Wait until every job has been seen with its clip."""
    with httpx.Client(base_url=havoc.url, timeout=30, trust_env=False) as client:
        last = max(havoc.submitted, default=0)
        while not set(dict(list(havoc.submitted.items())[:last]).values()) <= havoc.seen:
            states = insisted(lambda: client.get("/v1/jobs?limit=1000")).json()["data"]
            failed = [(job["id"], job["error"]) for job in states if job["state"] in ("failed", "cancelled")]
            assert not failed, failed
            assert not havoc.problems, havoc.problems
            time.sleep(0.5)


def check_store(havoc: Havoc) -> None:
    """Check that each job has one result, and that the folder holds the files of the store and no others."""
    jobs = Jobs.open(havoc.data)
    try:
        found: list[Any] = list(jobs.list(LOCAL, limit=1000).data)
        assert {job.id for job in found} >= set(havoc.submitted.values())
        assert len({job.request["prompt"] for job in found}) == len(found)
        for job in found:
            events = jobs.events(LOCAL, job.id, 0)
            assert [event.type for event in events].count("result") == (job.state == "succeeded")
        with jobs.store.reading() as db:
            made = jobs.files_of(db, [job.id for job in found])
        for files in made.values():
            kinds = [file.kind for file in files]
            assert len(kinds) == len(set(kinds))
            for file in files:
                assert jobs.asset_path(LOCAL, file.id).stat().st_size == file.bytes
    finally:
        jobs.close()
