"""A client speaks to a true server in this process, and to one that breaks off on purpose."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import soundstage as ss
from soundstage.client.lines import ServerLine
from soundstage.client.received import ReceivedClip
from soundstage.client.sending import written
from soundstage.client.talk import ServerTalk
from soundstage.jobs.views import Asset
from soundstage.media.in_memory import in_memory
from tests.dataset_clips import clips_of_pages
from tests.examples import ROOT
from tests.limits import LONG_S
from tests.serving import Server, serving

PROMPT = "A red ball bounces."
SMALL = {"size": (64, 64), "num_frames": 9, "steps": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Any:
    with serving(tmp_path_factory.mktemp("served"), work=True) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Any:
    with ss.Client(server.url) as made:
        yield made


def test_generate_gives_the_servers_file_and_saves_it_without_coding_it_again(
    client: ss.Client, tmp_path: Path
) -> None:
    seen: list[ss.Progress] = []
    clip = client.generate(PROMPT, seed=7, progress=seen.append, **SMALL)
    assert isinstance(clip, ReceivedClip)
    path = clip.save(tmp_path / "ball.mp4")
    job = client.jobs(limit=1).data[0]
    assert job.request["seed"] == 7
    assert job.result is not None
    assert job.result.clip is not None
    assert path.stat().st_size == job.result.clip.bytes
    assert client.job(job.id).save(tmp_path / "again.mp4").read_bytes() == path.read_bytes()
    assert clip.frames is not None
    assert clip.save(tmp_path / "ball.gif").stat().st_size > 0
    assert seen[-1].fraction > 0


def test_light_comes_as_an_archive_of_exr_and_is_saved_as_asked(client: ss.Client, tmp_path: Path) -> None:
    clip = client.generate("A red ball.", seed=3, num_frames=9, size=(64, 64), output=ss.Hdr(exposure=1))
    assert clip.linear is not None
    assert clip.frames is not None
    assert clip.waveform is not None
    assert clip.linear.shape == clip.frames.shape == (9, 64, 64, 3)
    assert clip.hdr == ss.Hdr(exposure=1)
    clip.save(f"{tmp_path / 'ball'}/")
    assert np.array_equal(ss.Clip.open(tmp_path / "ball").linear, clip.linear)
    with pytest.raises(ss.RequestError, match="handed out as zip; leave format out"):
        client.submit("A red ball.", output="exr", format="mp4")


def test_a_handle_gives_the_events_from_the_first_on_and_can_be_taken_up_again(client: ss.Client) -> None:
    handle = client.submit(PROMPT, **SMALL)
    events = list(handle)
    assert [event.state for event in events if event.type == "result"] == ["succeeded"]
    assert [event.id for event in events] == sorted({event.id for event in events})
    again = client.job(handle.id)
    assert again.done()
    assert not again.cancelled()
    assert list(again) == events
    assert again.exception() is None
    assert not again.cancel()


def test_files_arrays_and_pictures_are_sent_once_and_named_by_reference(
    client: ss.Client, server: Server, tmp_path: Path
) -> None:
    picture = tmp_path / "door.png"
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(picture)
    array = np.full((64, 64, 3), 200, np.uint8)
    handle = client.submit(PROMPT, guides=[f"{picture}@last:0.5", ss.Guide(array, at=0.0)], **SMALL)
    guides = handle.refresh().request["guides"]
    assert [guide["image"].partition(":")[0] for guide in guides] == ["asset", "asset"]
    assert guides[0]["strength"] == 0.5
    before = len(client_assets(server))
    with ss.Client(server.url) as other:  # which has sent nothing itself
        sent = other.submit(PROMPT, guides=picture, **SMALL).refresh().request["guides"]
    assert sent[0]["image"] == guides[0]["image"]
    assert len(client_assets(server)) == before


def test_the_code_of_the_page_runs(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("door.png")
    clips_of_pages(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL)
    page = (
        "\n".join(blocks).replace("http://127.0.0.1:8765", server.url).replace("duration_s=2", "num_frames=9")
    )
    exec(page.replace('key="ss_..."', "key=None"), {})
    assert {path.name for path in tmp_path.iterdir()} == {
        "door.png", "ball.mp4", "cube.mp4", "clips", "clips.zip", "style.safetensors",
    }  # fmt: skip


def client_assets(server: Server) -> list[Any]:
    return server.client.get("/v1/assets", params={"kind": "input", "limit": 100}).json()["data"]


def test_arrays_are_written_without_loss(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    clip = ss.Clip.open(written(in_memory(frames), tmp_path, 24.0))
    assert clip.fps == 24
    assert clip.frames is not None
    assert np.abs(clip.frames.astype(int) - frames).max() == 0
    sound = (0.5 * np.sin(np.arange(4800) / 20)).astype(np.float32)[None]
    heard = ss.Clip.open(written(in_memory(sound), tmp_path, 24.0)).waveform
    assert heard is not None
    assert np.abs(heard - sound).max() < 1e-4


def test_errors_are_those_of_an_engine_with_the_servers_sentence(client: ss.Client) -> None:
    with pytest.raises(ss.RequestError, match="steps") as refused:
        client.submit(PROMPT, steps=0)
    assert refused.value.field == "steps"
    with pytest.raises(ss.RequestError, match="no such file"):
        client.submit(PROMPT, guides="missing.png")
    with pytest.raises(ss.RequestError, match=r"loras\[0\].path"):
        client.submit(PROMPT, loras="film:0.8")
    with pytest.raises(ss.RequestError, match="priority"):
        client.submit(PROMPT, priority="urgent")
    with pytest.raises(ss.RequestError, match="model"):
        client.submit(PROMPT, model="none-such")
    with pytest.raises(ss.ServerError, match="job_") as unknown:
        client.job("job_" + "a" * 26)
    assert unknown.value.status == 404
    with pytest.raises(ss.RequestError, match="no id of a job"):
        client.job("../assets")


def test_a_server_that_is_not_there_is_told_with_its_address() -> None:
    with (
        ss.Client("http://127.0.0.1:9") as client,
        pytest.raises(ss.ServerError, match=r"127\.0\.0\.1:9 cannot"),
    ):
        client.models()
    with pytest.raises(ss.RequestError, match="give an address"):
        ss.Client("localhost:8765")


def test_the_server_is_asked_for_plans_models_and_recipes(client: ss.Client) -> None:
    planned = client.plan(PROMPT, **SMALL)
    assert planned.size == (64, 64)
    assert planned.num_frames == 9
    assert client.models()[0]["id"] == "nano"
    assert client.loras() == []
    assert "single" in {recipe["name"] for recipe in client.recipes()}


def test_the_verbs_are_the_same_for_asyncio(server: Server, tmp_path: Path) -> None:
    async def work() -> None:
        async with ss.AsyncClient(server.url) as client:
            one, other = await asyncio.gather(
                client.submit(PROMPT, seed=1, **SMALL), client.submit(PROMPT, seed=2, **SMALL)
            )
            events = [event async for event in one]
            assert events[-1].type == "result"
            clip = await other
            assert clip.save(tmp_path / "two.mp4").stat().st_size > 0
            assert (await client.plan(PROMPT, **SMALL)).num_frames == 9
            assert (await client.generate(PROMPT, **SMALL)).frames is not None
            job = await client.job(one.id)
            assert await job.done()
            with pytest.raises(ss.RequestError, match="steps"):
                await client.submit(PROMPT, steps=0)

    asyncio.run(work())


def test_a_job_that_nobody_makes_can_be_waited_for_and_cancelled(tmp_path: Path) -> None:
    with serving(tmp_path) as idle, ss.Client(idle.url) as client:
        handle = client.submit(PROMPT, **SMALL)
        with pytest.raises(TimeoutError):
            handle.result(timeout=0.2)
        assert not handle.done()
        assert handle.pause().state == "paused"
        assert handle.resume().state == "queued"
        assert handle.cancel()
        with pytest.raises(CancelledError):
            handle.result(LONG_S)
        assert handle.cancelled()


class Broken:
    """A server that breaks off: each call fails once, streams after two events, files after ten bytes."""

    def __init__(self, job: dict[str, Any], clip: bytes) -> None:
        self.job, self.clip = job, clip
        self.keys: list[str] = []
        self.asked_after: list[str] = []
        self.failed: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST":
            self.keys.append(request.headers["idempotency-key"])
        if (once := f"{request.method} {path}") not in self.failed and path != "/v1/models":
            self.failed.add(once)
            raise httpx.ReadError("gone")
        if path == "/v1/models":
            return httpx.Response(200, json={"data": []})
        if path.endswith("/events"):
            after = int(request.headers["last-event-id"])
            self.asked_after.append(str(after))
            return httpx.Response(200, stream=Events(range(after + 1, min(after + 3, 6))))
        if path.endswith("/content"):
            done = int(request.headers.get("range", "bytes=0-")[6:-1])
            cut = Cut(self.clip[done : done + 10], len(self.clip) - done)
            return httpx.Response(206 if done else 200, stream=cut)
        state = "succeeded" if self.asked_after and int(self.asked_after[-1]) >= 4 else "running"
        return httpx.Response(200, json={**self.job, "state": state})


class Events(httpx.SyncByteStream):
    def __init__(self, ids: range) -> None:
        self.ids = ids

    def __iter__(self) -> Any:
        for id in self.ids:
            event = {"id": id, "job_id": "job_a", "type": "log", "at": 0.0, "message": str(id), "later": 1}
            text = f"id: {id}\nevent: log\ndata: {json.dumps(event)}\n\n".encode()
            yield text[:10]
            yield text[10:]
        if self.ids:
            raise httpx.ReadError("gone")


class Cut(httpx.SyncByteStream):
    def __init__(self, data: bytes, left: int) -> None:
        self.data, self.left = data, left

    def __iter__(self) -> Any:
        yield self.data
        if self.left > len(self.data):
            raise httpx.RemoteProtocolError("peer closed connection")


def test_nothing_is_lost_where_connections_break(
    client: ss.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundstage.client.talk.FIRST_PAUSE_S", 0.001)
    true = client.submit(PROMPT, **SMALL)
    true.result(LONG_S)
    job = true.refresh().model_dump(mode="json")
    data = bytes(range(35))
    job["result"]["clip"]["sha256"] = hashlib.sha256(data).hexdigest()
    broken = Broken(job, data)
    http = httpx.Client(base_url="http://broken", transport=httpx.MockTransport(broken))
    line, talk = ServerLine(http), ServerTalk("http://broken", 60.0)
    line.carry_out(talk.listed("models"))
    queued = line.carry_out(talk.create({"request": {"prompt": PROMPT}}))
    assert len(broken.keys) == 2
    assert len(set(broken.keys)) == 1  # one job, though it was said twice
    heard: list[int] = []
    ended = line.carry_out(talk.follow(queued.id), lambda event: heard.append(event.id))
    assert heard == [1, 2, 3, 4, 5]
    assert broken.asked_after[:3] == ["0", "2", "4"]
    assert ended is not None
    clip = ended.result.clip  # type: ignore[union-attr]
    assert isinstance(clip, Asset)
    path = line.carry_out(talk.download(clip.url, tmp_path / "clip.mp4", clip.sha256))
    assert path.read_bytes() == data


def test_patience_ends_and_a_damaged_file_is_not_kept(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": []})
        if request.url.path == "/file":
            return httpx.Response(200, content=b"other bytes")
        if request.url.path == "/v1/loras":
            return httpx.Response(404, text="<html>")
        raise httpx.ConnectError("connection refused")

    http = httpx.Client(base_url="http://away", transport=httpx.MockTransport(answer))
    line, talk = ServerLine(http), ServerTalk("http://away", 0.0)
    line.carry_out(talk.listed("models"))
    with pytest.raises(ss.ServerError, match="away cannot be reached"):
        line.carry_out(talk.job("job_a"))
    with pytest.raises(ss.ServerError, match="damaged"):
        line.carry_out(talk.download("/file", tmp_path / "clip.mp4", "0" * 64))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ss.ServerError, match="not as a Soundstage server does"):
        line.carry_out(ServerTalk("http://away", 0.0).listed("loras"))
