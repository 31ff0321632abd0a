"""The native API: jobs, events and errors over HTTP, by a real server in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from soundstage.clip import Clip
from soundstage.jobs.views import LOCAL, WorkerInfo
from soundstage.server.machine import MachineReports
from tests.serving import Server, serving

ASKED = {"prompt": "A red ball bounces.", "num_frames": 9, "size": [64, 64], "steps": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = np.full((9, 64, 64, 3), 90, np.uint8)
    wave = np.zeros((2, 18_000), np.float32)
    made = {"request": {"prompt": "A red ball."}}
    return Clip(frames, wave, 24.0, made).save(tmp_path_factory.mktemp("clip") / "ball.mp4")


def create(server: Server, **more: Any) -> dict[str, Any]:
    answer = server.client.post("/v1/jobs", json={"request": ASKED, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()


def make(server: Server, clip_file: Path) -> dict[str, Any]:
    """Make the next job as a worker elsewhere does, over HTTP alone."""
    client = server.client
    lease = client.post("/v1/workers/claim", json={"id": "w1", "name": "one"}).json()
    at = f"/v1/workers/leases/{lease['id']}"
    progress = {"fraction": 0.5, "phase": "denoise", "pass": "denoise", "step": 1, "num_steps": 2}
    order = client.post(f"{at}/renew", json={"state": "running", "progress": progress}).json()
    assert order["cancel"] is False
    sent = client.put(f"{at}/files/clip.mp4", content=clip_file.read_bytes()).json()
    file = {"file": sent["file"], "media_type": "video/mp4", "name": "clip.mp4"}
    done = client.post(f"{at}/finish", json={"files": {"clip": file}, "seconds": {"denoise": 1.5}})
    assert done.status_code == 200, done.text
    return done.json()


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


# --- jobs ---------------------------------------------------------------------------------------------


def test_a_job_is_queued_made_by_a_worker_over_http_and_its_clip_served(
    server: Server, clip_file: Path
) -> None:
    job = create(server, label="first")
    assert job["state"] == "queued"
    assert job["seed"] is not None
    early = server.client.get(f"/v1/jobs/{job['id']}/content")
    assert early.status_code == 409
    made = make(server, clip_file)
    assert made["id"] == job["id"]
    found = server.client.get(f"/v1/jobs/{job['id']}").json()
    assert found["state"] == "succeeded"
    content = server.client.get(f"/v1/jobs/{job['id']}/content")
    assert content.content == clip_file.read_bytes()
    assert content.headers["content-type"] == "video/mp4"
    listed = server.client.get("/v1/jobs", params={"label": "first"}).json()
    assert [one["id"] for one in listed["data"]] == [job["id"]]
    assert server.client.delete(f"/v1/jobs/{job['id']}").json()["deleted"]
    assert server.client.get(f"/v1/jobs/{job['id']}").status_code == 410


def test_a_plan_says_what_would_be_made_and_queues_nothing(server: Server) -> None:
    before = len(server.client.get("/v1/jobs").json()["data"])
    plan = server.client.post("/v1/plan", json={"request": ASKED}).json()
    assert plan["num_frames"] == 9
    assert len(server.client.get("/v1/jobs").json()["data"]) == before


def test_a_second_call_with_the_same_key_makes_no_second_job(server: Server) -> None:
    first, second = (
        server.client.post("/v1/jobs", json={"request": ASKED}, headers={"Idempotency-Key": "one"}).json()
        for _ in range(2)
    )
    assert first["id"] == second["id"]
    other = server.client.post(
        "/v1/jobs", json={"request": {**ASKED, "seed": 1}}, headers={"Idempotency-Key": "one"}
    )
    assert other.status_code == 409
    server.client.post(f"/v1/jobs/{first['id']}/cancel")


def test_a_cancelled_job_can_be_retried_as_a_new_one_with_the_same_seed(server: Server) -> None:
    job = create(server)
    assert server.client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    headers = {"Idempotency-Key": "again"}
    again, twice = (
        server.client.post(f"/v1/jobs/{job['id']}/retry", headers=headers).json() for _ in range(2)
    )
    assert again["id"] == twice["id"]
    assert again["parent_id"] == job["id"]
    assert again["seed"] == job["seed"]
    assert server.client.get(f"/v1/jobs/{job['id']}/content").status_code == 410
    server.client.post(f"/v1/jobs/{again['id']}/cancel")


def test_a_job_is_paused_and_resumed(server: Server) -> None:
    job = create(server)
    assert server.client.post(f"/v1/jobs/{job['id']}/pause").json()["state"] == "paused"
    listed = server.client.get("/v1/jobs", params={"state": "paused"}).json()["data"]
    assert [one["id"] for one in listed] == [job["id"]]
    assert server.client.post(f"/v1/jobs/{job['id']}/resume").json()["state"] == "queued"
    server.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert server.client.post(f"/v1/jobs/{job['id']}/resume").status_code == 409


# --- events -------------------------------------------------------------------------------------------


def test_a_stream_replays_all_events_of_a_job_and_ends_with_it(server: Server, clip_file: Path) -> None:
    job = create(server)
    make(server, clip_file)
    answer = server.client.get(f"/v1/jobs/{job['id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    told = events_of(answer.text)
    assert [event["state"] for event in told if event["type"] == "state"] == [
        "queued", "loading", "running", "succeeded",
    ]  # fmt: skip
    assert told[-1]["type"] == "result"
    assert [event["id"] for event in told] == sorted(event["id"] for event in told)
    later = server.client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": str(told[1]["id"])})
    assert events_of(later.text) == told[2:]
    assert events_of(server.client.get(f"/v1/jobs/{job['id']}/events?after={told[-1]['id']}").text) == []


def test_fifty_streams_miss_no_event(server: Server, clip_file: Path) -> None:
    job = create(server)

    async def watch(client: httpx.AsyncClient) -> list[int]:
        answer = await client.get(f"/v1/jobs/{job['id']}/events")
        return [event["id"] for event in events_of(answer.text)]

    async def watch_all() -> list[list[int]]:
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            tasks = [asyncio.create_task(watch(client)) for _ in range(50)]
            await asyncio.to_thread(make, server, clip_file)
            return await asyncio.gather(*tasks)

    seen = asyncio.run(watch_all())
    stored = [event.id for event in server.jobs.events(LOCAL, job["id"], 0)]
    progress_dropped = {tuple(ids) for ids in seen}
    assert all(set(stored) <= set(ids) for ids in progress_dropped)


def test_the_stream_of_all_jobs_begins_at_an_event(server: Server) -> None:
    start = server.jobs.last_event()
    job = create(server)
    with server.client.stream("GET", f"/v1/events?after={start}") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                assert json.loads(line[6:])["job_id"] == job["id"]
                break
    server.client.post(f"/v1/jobs/{job['id']}/cancel")


# --- errors -------------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "words"),
    [
        ("POST", "/v1/jobs", {"json": {"request": {"prompt": "A ball.", "steps": 0}}}, 422, "steps is 0"),
        (
            "POST",
            "/v1/jobs",
            {"json": {"request": {"prompt": "A ball."}, "foo": 1}},
            422,
            "foo is not a field",
        ),
        ("POST", "/v1/jobs", {"json": {"prompt": "A ball."}}, 422, 'give it inside "request"'),
        ("POST", "/v1/jobs", {"json": []}, 422, "not a JSON object"),
        ("POST", "/v1/jobs", {"content": b"{}"}, 422, "Content-Type: application/json"),
        ("POST", "/v1/jobs", {}, 422, "body is missing"),
        ("POST", "/v1/jobs", {"content": b'{"a"', "headers": JSON}, 400, "not JSON"),
        ("POST", "/v1/jobs", {"content": b'{"a": NaN}', "headers": JSON}, 400, "NaN"),
        ("POST", "/v1/jobs", {"content": b'{"a": 1e999}', "headers": JSON}, 400, "too large"),
        ("POST", "/v1/jobs", {"content": b'{"a": "\\ud800"}', "headers": JSON}, 400, "half a character"),
        ("POST", "/v1/jobs", {"content": b'{"a": "\xff"}', "headers": JSON}, 400, "UTF-8"),
        ("POST", "/v1/jobs", {"content": b"[" * 100_000, "headers": JSON}, 400, "levels"),
        ("POST", "/v1/jobs", {"content": b"1" * 9000, "headers": JSON}, 400, "digits"),
        ("GET", "/v1/jobs/job_nothing", {}, 404, "no job"),
        ("GET", "/v1/jobs/a%00b", {}, 400, "NUL"),
        ("GET", "/v1/jobs/%2e%2e%2fetc", {}, 404, "address"),
        ("GET", "/v1/nothing", {}, 404, "openapi.json"),
        ("GET", "/v1/jobs?limit=0", {}, 422, "limit"),
        ("GET", "/v1/events", {"headers": {"Last-Event-ID": "x"}}, 400, "Last-Event-ID"),
        ("PATCH", "/v1/jobs", {}, 405, "method"),
        ("GET", "/v1/me", {"headers": {"host": "evil.example"}}, 403, "not called"),
        ("GET", "/v1/me", {"headers": {"origin": "http://evil.example"}}, 403, "pages of"),
        ("POST", "/v1/uploads", {}, 400, "empty"),
        ("POST", "/v1/uploads?name=a.png", {"content": b"no picture"}, 422, ""),
        ("POST", "/v1/uploads", {"files": {"other": b"a"}}, 400, "no file"),
    ],
)
def test_a_bad_call_is_answered_in_one_sentence(
    server: Server, method: str, path: str, options: dict[str, Any], status: int, words: str
) -> None:
    answer = server.client.request(method, path, **options)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["code"]
    if status == 422:
        assert answer.json()["detail"]


def test_a_fault_of_the_program_has_an_id_and_no_stack(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret words")

    caplog.set_level(logging.INFO, "soundstage.server")
    monkeypatch.setattr(server.jobs, "get", broken)
    answer = server.client.get("/v1/jobs/job_a")
    assert answer.status_code == 500
    assert "secret words" not in answer.text
    told = [record.told for record in caplog.records if record.message == "defect"]  # type: ignore[attr-defined]
    assert told[0]["id"] in answer.json()["error"]["message"]


# --- around it ----------------------------------------------------------------------------------------


def test_the_description_has_the_fields_of_a_request_with_their_help(server: Server) -> None:
    api = server.client.get("/openapi.json").json()
    fields = api["components"]["schemas"]["Request"]["properties"]
    assert "denoising steps" in fields["steps"]["description"]
    schema = server.client.get("/v1/schema").json()["properties"]
    assert schema["duration_s"]["x-unit"] == "seconds"
    assert "euler" in schema["sampler"]["x-choices"]
    ids = [call["operationId"] for path in api["paths"].values() for call in path.values()]
    assert len(ids) == len(set(ids))


def test_the_report_of_the_machine_is_made_once_and_kept(server: Server, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    code = (
        f"import sys; open({str(calls)!r}, 'a').write('x'); known = sys.argv[1] == 'cpu';"
        'print(\'{"kind": "cpu"}\' if known else \'{"error": {"message": "--device is wrong"}}\');'
        "sys.exit(0 if known else 2)"
    )
    server.app.state.machine = MachineReports([sys.executable, "-S", "-c", code])
    found = [server.client.get("/v1/system?device=cpu") for _ in range(3)]
    assert [answer.json() for answer in found] == [{"kind": "cpu"}] * 3
    assert int(found[-1].headers["age"]) >= 0
    assert calls.read_text() == "x"
    refused = server.client.get("/v1/system?device=cuda:7")
    assert (refused.status_code, refused.json()["error"]["message"]) == (422, "device is wrong")


def test_metrics_count_jobs_and_calls_by_pattern(server: Server) -> None:
    create(server)
    text = server.client.get("/metrics").text
    assert 'soundstage_jobs{state="queued"}' in text
    assert 'path="/v1/jobs/{id}"' in text
    assert "job_" not in text.replace("job_id", "")


def test_a_server_that_stops_takes_no_work_but_answers(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        job = create(server)
        assert server.client.get("/healthz").status_code == 200
        without = server.client.get("/readyz")
        assert (without.status_code, without.json()["error"]["code"]) == (503, "no_worker")
        server.jobs.claim(WorkerInfo(id="w", name="w"))
        assert server.client.get("/readyz").status_code == 200
        server.jobs.drain()
        refused = server.client.post("/v1/jobs", json={"request": ASKED})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert server.client.get("/readyz").json()["error"]["code"] == "draining"
        assert server.client.get(f"/v1/jobs/{job['id']}").status_code == 200
