"""Other services' own clients against this server, in this process."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fal_client
import httpx
import numpy as np
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from soundstage.clip import Clip
from soundstage.intake.fetch import post
from soundstage.intake.rules import FetchRule
from soundstage.jobs.views import LOCAL
from soundstage.server.dialect import letters_of
from soundstage.server.dialects import DIALECTS
from soundstage.server.settings import ServerSettings
from soundstage.server.webhooks import Sender, secret_of
from tests.dataset_clips import clips_of_pages
from tests.examples import examples
from tests.serving import Server, serving

SMALL: Mapping[str, Any] = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2}
FAL_SMALL: Mapping[str, Any] = {
    "prompt": "A red ball bounces.",
    "video_size": {"width": 64, "height": 64},
    "num_frames": 9,
    "num_inference_steps": 2,
}
TEXT, IMAGE = "fal-ai/ltx-2.3-22b/text-to-video", "fal-ai/ltx-2.3-22b/image-to-video"
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("dialects"), work=True) as running:
        yield running


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that makes nothing, so that jobs stay in the queue."""
    with serving(tmp_path_factory.mktemp("idle")) as running:
        yield running


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("picture") / "ball.png"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames, wave = np.full((25, 64, 64, 3), 90, np.uint8), np.zeros((2, 50_000), np.float32)
    return Clip(frames, wave, 24.0, {}).save(tmp_path_factory.mktemp("film") / "ball.mp4")


def openai_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def fal(server: Server, monkeypatch: pytest.MonkeyPatch) -> fal_client.SyncClient:
    return fal_of(server, monkeypatch)


def fal_of(server: Server, monkeypatch: pytest.MonkeyPatch) -> fal_client.SyncClient:
    """Return fal's client pointed at a server as docs/dialects.md says."""
    monkeypatch.setenv("FAL_KEY", "none")
    monkeypatch.setattr("fal_client.client.QUEUE_URL_FORMAT", f"{server.url}/fal/")
    monkeypatch.setattr("fal_client.client.RUN_URL_FORMAT", f"{server.url}/fal/run/")
    monkeypatch.setattr("fal_client.client.REST_URL", f"{server.url}/fal")
    monkeypatch.setattr("fal_client.client.CDN_URL", f"{server.url}/fal")
    return fal_client.SyncClient(key="none")


def until_ended(server: Server, id: str) -> str:
    for _ in range(400):
        job = server.jobs.get(LOCAL, id)
        if job.finished_at is not None:
            return job.state
        server.jobs.news.wait(server.jobs.news.version, 0.05)
    raise AssertionError("the job did not end")


# --- OpenAI -------------------------------------------------------------------------------------------------


def test_openais_client_makes_lists_downloads_and_deletes_a_video(server: Server, tmp_path: Path) -> None:
    client = openai_of(server)
    video = client.videos.create_and_poll(
        model="sora-2", prompt="A red ball bounces.", poll_interval_ms=50, extra_body={**SMALL, "user": "me"}
    )
    assert (video.status, video.progress, video.size, video.object) == ("completed", 100, "64x64", "video")
    told = video.model_dump()
    assert any("sora-2 is not here" in text for text in told["warnings"])
    assert any(text.startswith("user is not a field") for text in told["warnings"])
    assert httpx.get(told["url"]).content[4:8] == b"ftyp"
    client.videos.download_content(video.id).write_to_file(tmp_path / "ball.mp4")
    assert (tmp_path / "ball.mp4").read_bytes()[4:8] == b"ftyp"
    for variant in ("thumbnail", "spritesheet"):
        assert client.videos.download_content(video.id, variant=variant).content[:2] == b"\xff\xd8"
    assert video.id in [one.id for one in client.videos.list(limit=5)]
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.APIStatusError) as gone:
        client.videos.retrieve(video.id)
    assert gone.value.status_code in (404, 410)


def test_a_picture_comes_as_a_file_an_address_or_an_id(server: Server, picture: Path) -> None:
    client = openai_of(server)
    sent = server.client.post("/v1/uploads", files={"file": ("ball.png", picture.read_bytes())}).json()
    at = {"image_url": f"{server.url}/v1/assets/{sent['id']}/content"}
    videos = [
        client.videos.create(prompt="A red ball.", input_reference=picture, extra_body=dict(SMALL)),
        # Its method takes no objects in place of the file, which its types allow.
        client.videos.create(prompt="A red ball.", extra_body={**SMALL, "input_reference": at}),
        client.videos.create(
            prompt="A red ball.", extra_body={**SMALL, "input_reference": {"file_id": sent["id"]}}
        ),
    ]
    for video in videos:
        guides = server.jobs.get(LOCAL, video.id).request["guides"]
        assert [guide["image"] for guide in guides] == [f"asset:{sent['id']}"]


def test_a_video_is_remixed_edited_and_extended(server: Server, film: Path) -> None:
    client = openai_of(server)
    first = client.videos.create(prompt="A red ball.", extra_body=dict(SMALL))
    assert until_ended(server, first.id) == "succeeded"
    remixed = client.videos.remix(first.id, prompt="A blue ball.")
    assert remixed.remixed_from_video_id == first.id
    source = server.jobs.get(LOCAL, remixed.id).request["source"]
    assert source["denoise"] == 0.7
    edited = client.videos.edit(prompt="A blue ball.", video=film)
    assert server.jobs.get(LOCAL, edited.id).request["source"]["video"].startswith("asset:")
    longer = client.videos.extend(prompt="It rolls away.", seconds="4", video=film)
    assert server.jobs.get(LOCAL, longer.id).request["source"]["extend_after_s"] == 4.0
    assert float(longer.seconds) > 4
    body = {"prompt": "It rolls away.", "seconds": "4", "video": {"id": first.id}}
    again = server.client.post("/v1/videos/extensions", json=body).json()
    assert again["remixed_from_video_id"] == first.id


def test_openais_errors_have_its_classes_and_fields(server: Server, idle: Server) -> None:
    client = openai_of(server)
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.videos.create(prompt="A ball.", size="large")  # type: ignore[arg-type]
    assert wrong.value.body == {
        "message": "size is 'large'; give width and height, such as 1280x704",
        "type": "invalid_request_error", "param": "size", "code": "invalid_request",
    }  # fmt: skip
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve("job_none")
    with pytest.raises(openai.UnprocessableEntityError, match="model is 'other'"):
        client.videos.create(prompt="A ball.", model="other")
    waiting = openai_of(idle).videos.create(prompt="A ball.", extra_body=dict(SMALL))
    assert waiting.status == "queued"
    with pytest.raises(openai.ConflictError):
        openai_of(idle).videos.download_content(waiting.id)
    with pytest.raises(openai.NotFoundError, match="characters"):
        client.videos.get_character("one")


def test_a_synchronous_video_is_its_bytes(server: Server) -> None:
    answer = server.client.post("/v1/videos/sync", json={"prompt": "A red ball.", **SMALL})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "video/mp4"


def test_openais_webhook_is_checked_by_its_own_client(server: Server) -> None:
    sent: list[tuple[str, bytes, Mapping[str, str]]] = []
    body = {"prompt": "A red ball.", **SMALL, "webhook_url": "https://example.com/hook"}
    id = server.client.post("/v1/videos", json=body).json()["id"]
    until_ended(server, id)
    _send(server, sent)
    url, text, headers = next(found for found in sent if id.encode() in found[1])
    assert url == "https://example.com/hook"
    client = openai.OpenAI(api_key="none", webhook_secret=secret_of(server.jobs, LOCAL.id))
    event = client.webhooks.unwrap(text, headers)
    assert (event.type, json.loads(text)["data"]["id"]) == ("video.completed", id)


def _send(server: Server, sent: list[tuple[str, bytes, Mapping[str, str]]]) -> None:
    def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
        sent.append((url, body, headers))
        return 200

    Sender(server.jobs, post, letters_of(DIALECTS)).send_due()


def test_a_webhook_or_a_file_that_the_server_may_not_call_is_refused(server: Server) -> None:
    for path, name in (("/v1/videos", "webhook_url"), ("/api/v1/videos", "callback_url")):
        for wrong in (5, "http://example.com/hook", "https://127.0.0.1/hook", "x" * 5000):
            answer = server.client.post(path, json={"prompt": "A red ball.", name: wrong})
            assert answer.status_code == 422, answer.text
    plain = {"prompt": "A red ball.", "input_reference": {"image_url": "http://example.com/a.png"}}
    answer = server.client.post("/v1/videos", json=plain)
    assert answer.status_code == 422
    assert "https" in answer.json()["error"]["message"]


# --- OpenRouter ---------------------------------------------------------------------------------------------


def test_openrouters_example_works(server: Server) -> None:
    body = {"model": "nano", "prompt": "A red ball bounces.", "aspect_ratio": "16:9", "resolution": "480p"}
    made = server.client.post("/api/v1/videos", json={**body, "duration": 1, "seed": 3, "provider": {}})
    assert made.status_code == 202, made.text
    told = made.json()
    assert told["warnings"] == ["provider is not a field here, and has no effect"]
    until_ended(server, told["id"])
    done = httpx.get(told["polling_url"]).json()
    assert done["status"] == "completed"
    assert httpx.get(done["unsigned_urls"][0]).content[4:8] == b"ftyp"
    assert server.client.get(f"/api/v1/videos/{told['id']}/content?index=0").status_code == 200
    assert server.client.get(f"/api/v1/videos/{told['id']}/content?index=1").status_code == 404
    models = server.client.get("/api/v1/videos/models").json()["data"]
    assert (models[0]["id"], models[0]["max_duration"]) == ("nano", 20.0)


def test_openrouters_errors_have_its_shape(server: Server) -> None:
    answer = server.client.post("/api/v1/videos", json={"prompt": "A ball.", "duration": "long"})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["metadata"]["field"]) == (422, "duration")


@contextmanager
def receiver() -> Iterator[tuple[str, queue.Queue[tuple[str, Mapping[str, str], bytes]]]]:
    """Run a receiver of webhooks on this machine; give its address, and what came."""
    came: queue.Queue[tuple[str, Mapping[str, str], bytes]] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.put((self.path, self.headers, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", came
        running.shutdown()


def test_openrouters_callback_reaches_a_receiver_with_what_a_poll_gives(tmp_path: Path) -> None:
    """Sent as `soundstage serve` does, where its rule of webhooks names the receiver."""
    with receiver() as (place, came):
        rule = FetchRule.parse(f"private:{place}")
        with serving(tmp_path, settings=ServerSettings(webhooks=rule), work=True) as server:
            asked = {"prompt": "A red ball.", "duration": 0.4, "callback_url": f"{place}/done?of=me"}
            made = server.client.post("/api/v1/videos", json=asked).json()
            until_ended(server, made["id"])
            Sender(server.jobs, partial(post, rule=rule), letters_of(DIALECTS)).send_due()
            path, headers, body = came.get(timeout=60)
            told = json.loads(body)
            polled = server.client.get(made["polling_url"]).json()
            clip = server.client.get(told["unsigned_urls"][0]).content
            [tried] = server.client.get(f"/v1/webhooks/deliveries?job={made['id']}").json()["data"]
            secret = secret_of(server.jobs, LOCAL.id)
    assert path == "/done?of=me"
    assert told["status"] == "completed"
    assert told == {**polled, "unsigned_urls": told["unsigned_urls"]}
    assert clip[4:8] == b"ftyp"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, "sha256")
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
    assert tried["status"] == 204


# --- fal ----------------------------------------------------------------------------------------------------


def test_fals_client_submits_watches_and_gets_a_result(fal: fal_client.SyncClient) -> None:
    handle = fal.submit(TEXT, arguments={**FAL_SMALL, "seed": 7, "made_up": 1})
    seen = list(handle.iter_events(with_logs=True, interval=0.05))
    assert isinstance(seen[-1], fal_client.Completed)
    assert seen[-1].logs
    result = handle.get()
    assert (result["seed"], result["video"]["content_type"]) == (7, "video/mp4")
    assert result["warnings"] == ["made_up is not a field here, and has no effect"]
    assert httpx.get(result["video"]["url"]).content[4:8] == b"ftyp"


def test_fals_client_subscribes_and_runs(fal: fal_client.SyncClient) -> None:
    updates: list[Any] = []
    result = fal.subscribe(
        "fal-ai/ltx-2.3-22b/distilled/text-to-video",
        arguments={"prompt": "A red ball.", "num_frames": 9, "video_size": "square", "sync_mode": True},
        with_logs=True,
        on_queue_update=updates.append,
    )
    assert updates
    assert result["video"]["url"].startswith("data:video/mp4;base64,")
    assert fal.run(TEXT, arguments=dict(FAL_SMALL))["prompt"] == "A red ball bounces."


def test_what_fals_client_uploads_is_used(fal: fal_client.SyncClient, server: Server, picture: Path) -> None:
    for repository in ("cdn", "fal"):
        url = fal.upload_file(str(picture), repository=repository)  # type: ignore[arg-type]
        handle = fal.submit(IMAGE, arguments={**FAL_SMALL, "image_url": url, "image_strength": 0.7})
        guide = server.jobs.get(LOCAL, handle.request_id).request["guides"][0]
        assert (guide["image"][:9], guide["strength"]) == ("asset:as_", 0.7)


def test_fals_client_cancels(idle: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fal = fal_of(idle, monkeypatch)
    handle = fal.submit(TEXT, arguments=dict(FAL_SMALL), priority="low")
    status = handle.status()
    assert isinstance(status, fal_client.Queued)
    early = idle.client.get(f"/fal/fal-ai/ltx-2.3-22b/requests/{handle.request_id}")
    assert (early.status_code, early.json()["detail"]) == (400, "Request is still in progress")
    assert idle.jobs.get(LOCAL, handle.request_id).priority == "low"
    handle.cancel()
    done = handle.status()
    assert isinstance(done, fal_client.Completed)
    assert done.error_type == "cancelled"
    with pytest.raises(fal_client.FalClientHTTPError) as error:
        handle.get()
    assert error.value.status_code == 422
    again = idle.client.put(f"/fal/fal-ai/ltx-2.3-22b/requests/{handle.request_id}/cancel")
    assert (again.status_code, again.json()["status"]) == (400, "ALREADY_COMPLETED")
    none = idle.client.put("/fal/fal-ai/ltx-2.3-22b/requests/job_none/cancel")
    assert (none.status_code, none.json()["status"]) == (404, "NOT_FOUND")


def test_fals_stream_of_status_ends_with_completed(server: Server) -> None:
    told = server.client.post(f"/fal/{TEXT}", json=dict(FAL_SMALL)).json()
    with server.client.stream("GET", f"{told['status_url']}/stream?logs=1") as answer:
        seen = [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    assert seen[-1]["status"] == "COMPLETED"
    assert {one["status"] for one in seen} <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}


def test_fals_errors_are_findings_with_its_own_names(fal: fal_client.SyncClient) -> None:
    with pytest.raises(fal_client.FalClientHTTPError) as error:
        fal.submit(TEXT, arguments={"prompt": "A ball.", "video_size": "large"})
    found = error.value.response.json()["detail"][0]
    assert (error.value.status_code, found["loc"]) == (422, ["body", "video_size"])
    with pytest.raises(fal_client.FalClientHTTPError, match="no endpoint"):
        fal.submit("fal-ai/flux/dev", arguments={"prompt": "A ball."})


def test_fals_webhook_is_signed_by_the_published_key(server: Server) -> None:
    sent: list[tuple[str, bytes, Mapping[str, str]]] = []
    path = f"/fal/{TEXT}?fal_webhook=https%3A%2F%2Fexample.com%2Ffal"
    told = server.client.post(path, json=dict(FAL_SMALL)).json()
    until_ended(server, told["request_id"])
    _send(server, sent)
    _, body, headers = next(found for found in sent if told["request_id"].encode() in found[1])
    assert json.loads(body)["payload"]["video"]["url"].startswith(server.url)
    key = server.client.get("/.well-known/jwks.json").json()["keys"][0]
    names = ("request-id", "user-id", "timestamp")
    parts = [headers[f"x-fal-webhook-{name}"] for name in names]
    message = "\n".join([*parts, hashlib.sha256(body).hexdigest()]).encode()
    public = Ed25519PublicKey.from_public_bytes(_decoded(key["x"]))
    public.verify(bytes.fromhex(headers["x-fal-webhook-signature"]), message)


def _decoded(text: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- Lightricks -------------------------------------------------------------------------------------------


def test_lightricks_answers_at_once_in_v1_and_later_in_v2(server: Server, picture: Path) -> None:
    slot = server.client.post("/ltx/v1/upload").json()
    sent = httpx.put(slot["upload_url"], content=picture.read_bytes(), headers=slot["required_headers"])
    assert sent.status_code == 200, sent.text
    assert httpx.put(slot["upload_url"], content=b"again").status_code == 410
    body = {"prompt": "A red ball.", "model": "ltx-2-3-fast", "duration": 1, "resolution": "64x64"}
    answer = server.client.post("/ltx/v1/image-to-video", json={**body, "image_uri": slot["storage_uri"]})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["x-request-id"].startswith("job_")
    made = server.client.post("/ltx/v2/text-to-video", json=body)
    assert made.status_code == 202, made.text
    until_ended(server, made.json()["id"])
    done = server.client.get(f"/ltx/v2/text-to-video/{made.json()['id']}").json()
    assert done["status"] == "completed"
    assert httpx.get(done["result"]["video_url"]).content[4:8] == b"ftyp"


def test_lightricks_errors_have_its_shape(server: Server) -> None:
    wrong = server.client.post("/ltx/v2/text-to-video", json={"prompt": "A ball.", "resolution": "big"})
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")
    absent = server.client.post("/ltx/v1/video-to-video-hdr", json={"prompt": "A ball."})
    assert (absent.status_code, absent.json()["error"]["type"]) == (403, "permission_error")
    none = server.client.get("/ltx/v2/text-to-video/job_none")
    assert (none.status_code, none.json()["type"]) == (404, "error")


# --- all --------------------------------------------------------------------------------------------------


def test_without_a_key_every_dialect_refuses_in_its_own_words(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.jobs.create_key(LOCAL, ["read", "submit"], "one")
        client = server.client
        openai_told = client.post("/v1/videos", json={}).json()
        assert openai_told["error"]["type"] == "authentication_error"
        assert client.post(f"/fal/{TEXT}", json={}).status_code == 401
        assert client.post("/ltx/v2/retake", json={}).json()["error"]["type"] == "authentication_error"
        assert client.post("/api/v1/videos", json={}).json()["error"]["code"] == 401
        assert client.post("/fal/files/upload", content=b"x").status_code == 401
        assert client.put(f"/fal/files/{'0' * 32}", content=b"x").status_code == 404


def test_the_examples_of_the_page_work(
    server: Server, fal: fal_client.SyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python in this process, and curl where it is installed, with the server's own address in both."""
    monkeypatch.chdir(tmp_path)
    clips_of_pages(tmp_path)
    names: dict[str, Any] = {}
    ran = 0
    for example in examples():
        if example.page != "docs/dialects.md" or example.kind not in ("python", "command"):
            continue
        text = re.sub(r"(http://)?(127\.0\.0\.1|localhost):8765", server.url, example.text)
        if example.kind == "python":
            exec(compile(text, example.page, "exec"), names)
        elif shutil.which("curl"):
            done = subprocess.run(["bash", "-c", text], capture_output=True, check=True, timeout=60)
            assert b"error" not in done.stdout
        ran += 1
    assert ran == 5
    assert (tmp_path / "ball.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.slow
def test_fals_client_for_javascript_works(server: Server, picture: Path, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "@fal-ai/client@1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("npm could not install @fal-ai/client")
    (tmp_path / "try.mjs").write_text(SCRIPT)
    environment = {**os.environ, "SERVER": server.url, "PICTURE": str(picture)}
    ran = subprocess.run(
        [node, "try.mjs"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["video"]["content_type"] == "video/mp4"
    assert told["states"][-1] == "COMPLETED"


SCRIPT = """
import { readFile } from "node:fs/promises";
import { createFalClient } from "@fal-ai/client";
const server = process.env.SERVER;
const fal = createFalClient({
  credentials: "none",
  requestMiddleware: async (request) => ({
    ...request,
    url: request.url.replace("https://queue.fal.run", `${server}/fal`)
      .replace("https://rest.fal.ai", `${server}/fal`).replace("https://fal.run", `${server}/fal/run`),
  }),
});
const picture = new Blob([await readFile(process.env.PICTURE)], { type: "image/png" });
const url = await fal.storage.upload(picture);
const states = [];
const input = { prompt: "A red ball.", image_url: url, num_frames: 9, video_size: { width: 64, height: 64 } };
const found = await fal.subscribe("fal-ai/ltx-2.3-22b/image-to-video", {
  input, pollInterval: 50, onQueueUpdate: (update) => states.push(update.status),
});
console.log(JSON.stringify({ video: found.data.video, states }));
"""
