"""Measure the server on nano: what a job costs over the engine alone, lists, many clients, uploads, the page.

    python -m benchmarks.serving                  # all, some minutes on two cores
    python -m benchmarks.serving --only list upload
    python -m benchmarks.serving --quick          # small numbers, to see that it runs

Each measurement starts a `soundstage serve` of its own on a free port, with its data in a temporary folder.
Memory is read from /proc, so it needs Linux; the page needs Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

MIB = 2**20
RATE_HZ = 48_000
START_S = 120.0  # longest wait for a server to listen
LARGEST_PAGE = 1000
LAST_EVENTS_S = 60.0  # longest wait for streams to show what has happened
TINY: dict[str, Any] = {"prompt": "A red ball.", "size": "64x64", "num_frames": 9, "steps": 4}


@dataclass(frozen=True)
class Figure:
    """A measured figure and the most that issue 12 allows, in the same unit."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    def __str__(self) -> str:
        most = "" if self.limit is None else f"{self.limit:>8g}"
        return f"{self.name:<44}{self.value:>10.1f} {self.unit:<6}{most:>8}  {self.note}".rstrip()


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    renders: int = 9
    jobs: int = 1000
    clients: int = 200
    streams: int = 50
    seconds: float = 30.0
    upload_mib: int = 512
    pages: int = 3


QUICK = Sizes(renders=1, jobs=5, clients=4, streams=2, seconds=1.0, upload_mib=2, pages=1)


@dataclass(frozen=True)
class Running:
    """A server process and a connection to it."""

    url: str
    pid: int
    http: httpx.Client

    def submit(self, **fields: Any) -> str:
        answer = self.http.post("/v1/jobs", json={"request": {**TINY, **fields}})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def wait(self, job: str) -> dict[str, Any]:
        """Follow a job's events to its end, and return it."""
        with self.http.stream("GET", f"/v1/jobs/{job}/events", timeout=None) as events:
            for _ in events.iter_lines():
                pass
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{job}").json()
        if found["state"] != "succeeded":
            raise SystemExit(f"a job ended as {found['state']}: {found['error']}")
        return found


@contextmanager
def server(*, workers: int, module: str = "soundstage") -> Iterator[Running]:
    """Run `soundstage serve` while the block lasts. module: what is run, such as one with another engine."""
    with tempfile.TemporaryDirectory() as data:
        words = ["serve", "--port", "0", "--data", data, "--workers", str(workers), "--logs", "off"]
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        try:
            url = _address(process)
            with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
                yield Running(url, process.pid, http)
        finally:
            process.terminate()
            process.wait(60)


def _address(process: subprocess.Popen[str]) -> str:
    """Return the address in what a server prints once it listens."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://[\d.]+:\d+", line)
        if found:
            return found[0]
    raise SystemExit("the server ended before it listened")


# --- a job over the plain engine -----------------------------------------------------------------------


def overhead(sizes: Sizes) -> Iterator[Figure]:
    """Make clips with the engine and as jobs by turns; the medians are compared."""
    import soundstage as ss

    stage = ss.load("nano")
    with server(workers=1) as running, tempfile.TemporaryDirectory() as folder:
        plain, jobs = [], []
        for seed in range(sizes.renders + 1):  # the first loads
            start = time.perf_counter()
            stage.generate(**TINY, seed=seed).save(Path(folder) / "clip.mp4")
            middle = time.perf_counter()
            running.wait(running.submit(seed=seed))
            plain.append(middle - start)
            jobs.append(time.perf_counter() - middle)
        extra = _memory(running.pid) + sum(map(_memory, _children(running.pid))) - _memory(os.getpid())
    plain_s, job_s = statistics.median(plain[1:]), statistics.median(jobs[1:])
    note = f"{plain_s * 1000:.0f} ms alone, {job_s * 1000:.0f} ms as a job"
    yield Figure("a job over the plain engine", (job_s - plain_s) * 1000, "ms", 50, note)
    yield Figure("memory of server and worker over the engine", extra / MIB, "MiB", 100)


# --- lists ---------------------------------------------------------------------------------------------


def listing(sizes: Sizes) -> Iterator[Figure]:
    """Queue jobs that nobody makes, and list them all, page by page."""
    with server(workers=0) as running:
        start = time.perf_counter()
        for seed in range(sizes.jobs):
            running.submit(seed=seed)
        queued = time.perf_counter() - start
        yield Figure("to queue a job", queued / sizes.jobs * 1000, "ms")
        times = [_listed(running, sizes.jobs) for _ in range(5)]
        yield Figure(f"{sizes.jobs} queued jobs listed", statistics.median(times) * 1000, "ms", 100)


def _listed(running: Running, wanted: int) -> float:
    """Return the seconds that all pages of a list take."""
    start, seen, after = time.perf_counter(), 0, None
    while True:
        query: dict[str, Any] = {"state": "queued", "limit": LARGEST_PAGE}
        query.update({"after": after} if after else {})
        page = running.http.get("/v1/jobs", params=query).raise_for_status().json()
        seen += len(page["data"])
        after = page["last_id"]
        if not page["has_more"]:
            break
    if seen != wanted:
        raise SystemExit(f"{seen} of {wanted} jobs were listed")
    return time.perf_counter() - start


# --- many clients --------------------------------------------------------------------------------------


def clients(sizes: Sizes) -> Iterator[Figure]:
    """Poll and stream while jobs are made; each stream must have every event, in order, once."""
    with server(workers=1) as running:
        running.wait(running.submit(seed=0))  # the model is loaded
        waits, streams, known = asyncio.run(_crowd(running, sizes))
    missed = sum(len(known - set(ids)) for ids in streams)
    doubled = sum(len(ids) - len(set(ids)) for ids in streams)
    unsorted = sum(ids != sorted(ids) for ids in streams)
    told = f"{len(streams)} streams of {len(known)} events; {doubled} twice, {unsorted} streams out of order"
    yield Figure("events missed by streams", missed, "", 0, told)
    note = f"{len(waits)} answers to {sizes.clients} clients that ask again after a second"
    yield Figure("median answer to a poll", statistics.median(waits) * 1000, "ms", None, note)
    yield Figure("slowest of a hundred", sorted(waits)[len(waits) * 99 // 100] * 1000, "ms")


async def _crowd(running: Running, sizes: Sizes) -> tuple[list[float], list[list[int]], set[int]]:
    """Return the seconds of all polls, the event ids that each stream saw, and those of the store."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=running.url, timeout=60, limits=limits, trust_env=False) as http:
        first = await _submit(http, 1)
        seen: list[list[int]] = [[] for _ in range(sizes.streams)]
        following = [asyncio.create_task(_follow(http, ids)) for ids in seen]
        waits: list[float] = []
        end = time.perf_counter() + sizes.seconds
        polling = [asyncio.create_task(_poll(http, first, end, waits)) for _ in range(sizes.clients)]
        made = [first]
        while time.perf_counter() < end:
            made.append(await _submit(http, len(made) + 1))
            await asyncio.sleep(1)
        await asyncio.gather(*polling)
        known = {id for job in made for id in await _ids_of(http, job)}
        late = time.perf_counter() + LAST_EVENTS_S
        while any(known - set(ids) for ids in seen) and time.perf_counter() < late:
            await asyncio.sleep(0.2)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        return waits, seen, known


async def _submit(http: httpx.AsyncClient, seed: int) -> str:
    answer = await http.post("/v1/jobs", json={"request": {**TINY, "seed": seed}})
    return str(answer.raise_for_status().json()["id"])


async def _poll(http: httpx.AsyncClient, job: str, end: float, waits: list[float]) -> None:
    while time.perf_counter() < end:
        start = time.perf_counter()
        (await http.get(f"/v1/jobs/{job}")).raise_for_status()
        waits.append(time.perf_counter() - start)
        await asyncio.sleep(1)


async def _follow(http: httpx.AsyncClient, ids: list[int]) -> None:
    """Collect the ids of all events from the first on."""
    async with http.stream("GET", "/v1/events", params={"after": 0}, timeout=None) as events:
        async for line in events.aiter_lines():
            if line.startswith("id:"):
                ids.append(int(line[3:]))


async def _ids_of(http: httpx.AsyncClient, job: str) -> list[int]:
    """Follow a job to its end, and return the ids of its events."""
    ids = []
    async with http.stream("GET", f"/v1/jobs/{job}/events", timeout=None) as events:
        async for line in events.aiter_lines():
            if line.startswith("id:"):
                ids.append(int(line[3:]))
    return ids


# --- uploads -------------------------------------------------------------------------------------------


def upload(sizes: Sizes) -> Iterator[Figure]:
    """Send a WAV file, and see how far the server's memory rises above what it was."""
    with server(workers=0) as running:
        small = running.http.post("/v1/uploads", params={"name": "a.wav"}, content=_wav(MIB))
        small.raise_for_status()  # what the first upload loads is loaded
        before = _memory(running.pid)
        Path(f"/proc/{running.pid}/clear_refs").write_text("5")  # the highest mark begins anew
        start = time.perf_counter()
        sent = running.http.post(
            "/v1/uploads", params={"name": "b.wav"}, content=_wav(sizes.upload_mib * MIB), timeout=600
        )
        sent.raise_for_status()
        seconds = time.perf_counter() - start
        rise = _status(running.pid, "VmHWM") - _status(running.pid, "VmRSS")
        risen = max(rise, _memory(running.pid) - before)
    name = f"memory of a {sizes.upload_mib} MiB upload"
    yield Figure(name, risen / MIB, "MiB", 16, f"{sizes.upload_mib / seconds:.0f} MiB/s")


def _wav(num_bytes: int) -> Iterator[bytes]:
    """Yield a silent WAV file of 16-bit stereo piece by piece."""
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", num_bytes + 36, b"WAVE", b"fmt ", 16, 1, 2, RATE_HZ,
                       RATE_HZ * 4, 4, 16, b"data", num_bytes)  # fmt: skip
    yield head
    for _ in range(num_bytes // MIB):
        yield bytes(MIB)


# --- the page ------------------------------------------------------------------------------------------


def page(sizes: Sizes) -> Iterator[Figure]:
    """Open the studio in a fresh browser, until its prompt can be typed in."""
    from playwright.sync_api import sync_playwright

    found = chromium()
    with server(workers=0) as running, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        times = []
        for _ in range(sizes.pages):
            context = browser.new_context()
            tab = context.new_page()
            start = time.perf_counter()
            tab.goto(f"{running.url}/studio/")
            tab.get_by_label("Prompt", exact=True).fill("A red ball.")
            times.append(time.perf_counter() - start)
            context.close()
        browser.close()
    note = "median of fresh contexts of one browser"
    yield Figure("page opened until its prompt is typed", statistics.median(times), "s", 2, note)


def chromium() -> str | None:
    """Return the path of a browser for the page, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


# --- memory --------------------------------------------------------------------------------------------


def _memory(pid: int) -> int:
    """Return the bytes of a process, its part of shared pages counted in."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0]) * 1024


def _status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"^{name}:\s+(\d+)", text, re.MULTILINE)[0]) * 1024


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_children(child)]
    return found


PARTS: dict[str, Callable[[Sizes], Iterator[Figure]]] = {
    "overhead": overhead,
    "list": listing,
    "clients": clients,
    "upload": upload,
    "page": page,
}


def measured(names: Sequence[str], sizes: Sizes) -> Iterator[Figure]:
    """Yield the figures of some measurements as they are made."""
    for name in names:
        yield from PARTS[name](sizes)


def main(words: Sequence[str] | None = None) -> list[Figure]:
    """Print the figures as they are measured, and return them."""
    parser = argparse.ArgumentParser(description="Figures of the server on nano.")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(words)
    if "page" in args.only and chromium() is None:
        parser.error("page needs a Chromium; install one, or name the other measurements by --only")
    print(f"{'figure':<44}{'measured':>10} {'':<6}{'limit':>8}")
    found = []
    for figure in measured(args.only, QUICK if args.quick else Sizes()):
        print(figure, flush=True)
        found.append(figure)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(figure) for figure in found], indent=2) + "\n")
    return found


if __name__ == "__main__":
    main()
