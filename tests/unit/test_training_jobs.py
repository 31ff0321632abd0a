"""Jobs of kind train: what is refused before they wait, and a LoRA that is trained and used by one server."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import httpx
import pytest

import soundstage as ss
from soundstage.assistants.makers import RemoteJob
from soundstage.errors import RequestError
from soundstage.jobs import checkpoint_files
from soundstage.jobs.limits import Limits
from soundstage.jobs.service import Jobs
from soundstage.jobs.states import FINAL
from soundstage.jobs.training import checked_training
from soundstage.jobs.transport import ReportRefused
from soundstage.jobs.views import LOCAL, Asset, Job, JobRequest, Lease, WorkerInfo
from soundstage.jobs.worker import JobWorker
from soundstage.lora.files import read_lora
from soundstage.server.dialects import fal_fields
from tests.dataset_clips import clip, picture, zipped
from tests.in_process import InProcess
from tests.serving import Server, serving

V2 = "fal-ai/ltx23-trainer-v2"
TRAINING: dict[str, Any] = {"mode": "silent", "steps": 3, "seed": 4, "lora": {"rank": 2}, "save_every": 1}
DATASET: dict[str, Any] = {"num_frames": 9, "trigger": "zorb"}
SMALL: dict[str, Any] = {"num_frames": 9, "size": [64, 64], "steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three clips of nine frames, with captions."""
    folder = tmp_path_factory.mktemp("clips")
    for shade in (40, 90, 140):
        clip(folder / f"{shade}.mp4", shade=shade, frames=9, tone_hz=None, caption=f"A square on {shade}.")
    return folder


@pytest.fixture(scope="module")
def data(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zipped(tmp_path_factory.mktemp("zip") / "data.zip", clips)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a worker."""
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def asset(server: Server, data: Path) -> str:
    return str(upload(server, data).json()["id"])


def upload(server: Server, path: Path, purpose: str = "data") -> Any:
    with path.open("rb") as file:
        return server.client.post(
            "/v1/uploads", files={"file": (path.name, file)}, params={"purpose": purpose}
        )


def asked(server: Server, **job: Any) -> Any:
    return server.client.post("/v1/jobs", json={"kind": "train", **job})


@pytest.mark.parametrize(
    ("training", "field", "words"),
    [
        ({"stepz": 3}, "training", "'stepz', which does not exist; the fields are steps"),
        ({"steps": 0}, "training.steps", "steps is 0; give a whole number of steps from 1"),
        ({"lora": {"rnk": 3}}, "training.lora", "lora.rnk is not a field; the fields of lora are rank"),
        ({"optimizer.rate": -1}, "training.optimizer", "rate is -1"),
        ({"output": "/etc"}, "training.output", "the server keeps the run"),
        ({"device": "cuda"}, "training.device", "workers have their devices"),
        ({"kind": "full"}, "training.kind", "a server trains LoRAs"),
        ({"recipe": "../style"}, "training.recipe", "give one of style"),
        ({"mode": "inpaint"}, "data", "mode 'inpaint' needs a mask for every sample"),
        ({"lora": {"over": ["/etc/passwd"]}}, "training.lora", 'give "lora:NAME" of a registered LoRA'),
        ({"lora": {"over": [{"path": "lora:none"}]}}, "training.lora", "no LoRA of that name is registered"),
        ({"lora": {"rank": 2}, "lora.over": ["/etc/passwd"]}, "training.lora", 'give "lora:NAME"'),
        ({"lora": {"over": "x"}}, "training.lora.over", "no list of LoRAs"),
        ({"lora.start": "/etc/passwd"}, "training.lora.start", "a server takes none"),
        (
            {"regularisers": {"prior": 1, "prior_data": "/x"}},
            "training.regularisers.prior_data",
            "takes none",
        ),
        ({"validation": {"requests": "x"}}, "training.validation.requests", "no list of requests"),
        (
            {"validation": {"every": 1, "requests": [{"prompt": "a", "steps": 0}]}},
            "training.validation.requests[0]",
            "steps is 0",
        ),
        (
            {"validation": {"every": 1, "requests": [{"prompt": "a", "guides": ["/etc/x.png"]}]}},
            "training.validation",
            "guides[0].image is '/etc/x.png'; give \"asset:ID\"",
        ),
    ],
)
def test_a_training_that_cannot_be_made_is_refused_before_it_waits(
    server: Server, asset: str, training: dict[str, Any], field: str, words: str
) -> None:
    answer = asked(server, data=f"asset:{asset}", training={**TRAINING, **training}, dataset=DATASET)
    told = answer.json()
    assert answer.status_code == 422, told
    assert told["error"]["field"] == field
    assert words in told["error"]["message"]
    assert told["detail"][0]["loc"][:2] == ["body", field.split(".")[0]]
    assert str(server.jobs.data) not in answer.text
    assert not list(server.jobs.tmp.iterdir())


@pytest.mark.parametrize(
    ("job", "field", "words"),
    [
        ({"data": None}, "data", "data is missing"),
        ({"data": "asset:as_none"}, "data", "there is no such file"),
        ({"data": "/etc/passwd"}, "data", "of a zip that was uploaded"),
        ({"data": "http://127.0.0.1/x.zip"}, "data", "https"),
        ({"model": "big"}, "model", "this server has nano"),
        ({"request": {"prompt": "a"}}, "request", "for jobs of kind generate"),
        ({"kind": "generate", "request": {"prompt": "a"}}, "data", "for jobs of kind train, not generate"),
        ({"format": "mp4"}, "format", "leave it out"),
        ({"dataset": {"num_frames": 49}}, "data", "2 are the fewest to learn from: 140.mp4"),
        ({"dataset": {"num_frames": 10}}, "dataset", "give 8k + 1 frames"),
        ({"dataset": {"captions": {"url": "http://x"}}}, "dataset", "which a zip's sender cannot set"),
        ({"dataset": {"sources": ["/etc"]}}, "dataset", "which a zip's sender cannot set"),
        ({"dataset": {"fps": 0}}, "dataset", "fps is 0"),
        ({"dataset": {"buckets": ["9x9x9"]}}, "dataset", "buckets has 9x9x9, which is off the grid"),
    ],
)
def test_a_job_of_wrong_words_is_refused(
    server: Server, asset: str, job: dict[str, Any], field: str, words: str
) -> None:
    given = {"data": f"asset:{asset}", "training": TRAINING, "dataset": DATASET, **job}
    answer = asked(server, **{name: value for name, value in given.items() if value is not None})
    assert answer.status_code == 422, answer.json()
    assert (answer.json()["error"]["field"], words in answer.json()["error"]["message"]) == (field, True), (
        answer.text
    )


def test_a_zip_is_looked_into_when_it_is_sent(server: Server, clips: Path, tmp_path: Path) -> None:
    for name in ("../out.txt", "/etc/out.txt"):
        answer = upload(server, zipped(tmp_path / "out.zip", clips, **{name: "x"}))
        assert (answer.status_code, "leads out of the folder" in answer.text) == (422, True), answer.text
        assert str(server.jobs.data) not in answer.text
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", bytes(30 * 2**20))
    assert "would grow" in upload(server, tmp_path / "bomb.zip").text
    assert "no zip file" in upload(server, clips / "40.mp4").text
    assert upload(server, clips / "40.mp4", purpose="input").status_code == 201
    assert not list(server.jobs.tmp.iterdir())


def test_clips_that_are_mixed_with_pictures_or_too_few_are_refused(server: Server, tmp_path: Path) -> None:
    clip(tmp_path / "mixed" / "a.mp4", frames=9, tone_hz=None)
    picture(tmp_path / "mixed" / "b.png")
    clip(tmp_path / "one" / "a.mp4", frames=9, tone_hz=None)
    (tmp_path / "broken").mkdir()
    for name in "ab":
        (tmp_path / "broken" / f"{name}.mp4").write_bytes(b"no clip")
    wanted = {"mixed": "1 clips and 1 pictures", "one": "gives 1 samples", "broken": "a.mp4"}
    for name, words in wanted.items():
        sent = upload(server, zipped(tmp_path / f"{name}.zip", tmp_path / name)).json()
        answer = asked(server, data=sent["id"], training=TRAINING, dataset=DATASET)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "data")
        assert words in answer.text
        assert str(server.jobs.data) not in answer.text
    other = upload(server, tmp_path / "one" / "a.mp4", purpose="input").json()
    answer = asked(server, data=other["id"], training=TRAINING)
    assert "upload a zip of clips with the purpose data" in answer.text


def test_a_training_is_planned_priced_and_described(server: Server, asset: str) -> None:
    job = {"kind": "train", "data": asset, "training": {**TRAINING, "recipe": "style"}, "dataset": DATASET}
    plan = server.client.post("/v1/plan", json=job).json()
    assert plan["summary"] == "a LoRA of mode silent, rank 2: 3 steps on 3 samples of 64x64x9 at most"
    assert plan["passes"] == [{"name": "train", "size": [64, 64], "steps": 3}]
    assert plan["notes"] == ["the zip gives 3 samples; 10 or more are usual"]
    assert plan["seconds"] > 0
    assert plan["memory_gb"] > 0
    schema = server.client.get("/v1/schema", params={"of": "training"}).json()["properties"]
    assert {"recipe", "steps", "lora"} < schema["training"]["properties"].keys()
    assert "output" not in schema["training"]["properties"]
    assert "sources" not in schema["dataset"]["properties"]
    fields = server.client.get("/openapi.json").json()["components"]["schemas"]["JobRequest"]["properties"]
    assert "optimizer" in fields["training"]["properties"]


def test_limits_hold_for_trainings(tmp_path: Path, data: Path) -> None:
    for limits, words in (
        (Limits(max_train_steps=0), "this server trains nothing"),
        (Limits(max_train_steps=2), "this server trains up to 2 steps"),
        (Limits(max_duration_s=0.3), "makes clips of up to 0.3 s"),
        (Limits(quota_s=1e-6), "are used or spoken for"),
    ):
        jobs = Jobs.open(tmp_path / words[-3:], limits=limits)
        training = {**TRAINING, "validation": {"every": 3, "requests": [{"prompt": "a", **SMALL}]}}
        request = JobRequest(kind="train", data=f"asset:{kept(jobs, data).id}", training=training)
        with pytest.raises(Exception, match=words):
            jobs.create(LOCAL, request)
        jobs.close()


def kept(jobs: Jobs, path: Path) -> Asset:
    copy = jobs.tmp / path.name
    copy.write_bytes(path.read_bytes())
    return jobs.add_asset(LOCAL, path=copy, kind="data", name=path.name, media_type="application/zip")


def fal_of(server: Server, monkeypatch: pytest.MonkeyPatch) -> fal_client.SyncClient:
    """Return fal's client pointed at a server as docs/dialects.md says."""
    monkeypatch.setenv("FAL_KEY", "none")
    monkeypatch.setattr("fal_client.client.QUEUE_URL_FORMAT", f"{server.url}/fal/")
    monkeypatch.setattr("fal_client.client.REST_URL", f"{server.url}/fal")
    monkeypatch.setattr("fal_client.client.CDN_URL", f"{server.url}/fal")
    return fal_client.SyncClient(key="none")


# --- at work ------------------------------------------------------------------------------------------


def work(jobs: Jobs) -> None:
    """Make one job."""
    info = WorkerInfo(id="w", name="here")
    lease = jobs.claim(info)
    assert lease is not None
    JobWorker(InProcess(jobs), info, device="cpu", wait_s=0.05).work_on(lease)


def losses(jobs: Jobs, job: Job) -> list[tuple[str, str]]:
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert job.result.losses is not None
    text = jobs.asset_path(LOCAL, job.result.losses.id).read_text()
    return [(row["step"], row["loss"]) for row in csv.DictReader(io.StringIO(text))]


def test_a_checkpoint_for_a_worker_elsewhere_has_the_run_and_not_its_data(tmp_path: Path) -> None:
    sent = ("run/state.pt", "run/loss.csv", "run/training.json", "run/lora-000250.safetensors")
    sent += ("run/validation/step-000250-1.mp4",)
    for name in (*sent, "data/a.mp4", "data/encoded/a.safetensors", "run/contexts/a.safetensors", "lock"):
        (tmp_path / "job" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "job" / name).write_text(name)
    checkpoint_files.pack(tmp_path / "job", tmp_path / "job.tar")
    checkpoint_files.unpack(tmp_path / "job.tar", tmp_path / "other")
    other = tmp_path / "other"
    files = {path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file()}
    assert files == set(sent)


class TooLargeThere(InProcess):
    """A server that takes no checkpoint."""

    def keep_checkpoint(self, lease: Lease) -> None:
        raise ReportRefused("the server refused a report (413): the body is too large")


def test_a_checkpoint_that_is_refused_costs_the_training_nothing(tmp_path: Path) -> None:
    jobs = Jobs.open(tmp_path / "d")
    info = WorkerInfo(id="w", name="here")
    job = jobs.create(LOCAL, JobRequest(request={"prompt": "a", **SMALL}))
    lease = jobs.claim(info)
    assert lease is not None
    worker = JobWorker(TooLargeThere(jobs), info, device="cpu", wait_s=0.05, checkpoint_s=0)
    worker.drain()
    worker.work_on(lease)
    assert jobs.get(LOCAL, job.id).state == "queued"  # given back, without one
    jobs.close()


def test_a_training_is_cancelled_between_two_steps(tmp_path: Path, data: Path) -> None:
    jobs = Jobs.open(tmp_path / "d", limits=Limits(renew_s=0.05))
    training = {**TRAINING, "steps": 100_000}
    job = jobs.create(
        LOCAL,
        JobRequest(kind="train", data=f"asset:{kept(jobs, data).id}", training=training, dataset=DATASET),
    )
    thread = threading.Thread(target=work, args=(jobs,), daemon=True)
    thread.start()
    while jobs.get(LOCAL, job.id).progress.step < 1:
        assert jobs.get(LOCAL, job.id).state not in FINAL, jobs.get(LOCAL, job.id).error
        jobs.news.wait(jobs.news.version, 0.1)
    jobs.cancel(LOCAL, job.id)
    thread.join(60)
    assert jobs.get(LOCAL, job.id).state == "cancelled"
    assert not jobs.checkpoint_folder(job.id).exists()
    assert not list(jobs.tmp.iterdir())
    jobs.close()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a worker whose engine is the true one."""
    with serving(tmp_path_factory.mktemp("trainer")) as running:
        info = WorkerInfo(id="w", name="here")
        worker = JobWorker(InProcess(running.jobs), info, device="cpu", wait_s=1.0)
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        yield running
        worker.drain()
        running.jobs.news.tell()
        thread.join(60)


def test_a_client_trains_a_lora_from_a_folder_and_makes_a_clip_with_it(
    trainer: Server, clips: Path, tmp_path: Path
) -> None:
    jobs = trainer.jobs
    with ss.Client(trainer.url) as client:
        validation = {"every": 3, "requests": [{"prompt": "zorb", **SMALL}]}
        handle = client.train(clips, TRAINING, validation=validation, dataset=DATASET, label="zorb")
        progress = [event.progress for event in handle if event.progress is not None]
        assert [now.phase for now in progress if now.step == 0][-1] in ("preparing", "encoding")
        last = progress[-1]
        assert (last.phase, last.step, last.num_steps) == ("training", 3, 3)
        assert sorted(handle.losses) == ["loss", "video"]
        names = {path.name for path in handle.save_all(tmp_path / "run")}
        validated = {"step-000000-1.mp4", "step-000003-1.mp4"}
        assert names == {"lora.safetensors", "config.json", "loss.csv", "report.html"} | validated
        assert (tmp_path / "run" / "validation" / "step-000003-1.mp4").is_file()
        told = {event.message for event in handle}
        assert {"reading 3 captions", "step 3: lora.safetensors"} < told
        job = handle.refresh()
        assert [step for step, _ in losses(jobs, job)] == ["1", "2", "3"]
        assert job.preview is not None
        assert job.result is not None
        assert job.result.lora is not None
        lora = f"asset:{job.result.lora.id}"
        for path in (tmp_path / "run").glob("*.*"):
            assert str(jobs.data).encode() not in path.read_bytes(), path
        content = trainer.client.get(f"/v1/jobs/{job.id}/content")
        assert content.content == (tmp_path / "run" / "lora.safetensors").read_bytes()
        clip = client.generate("zorb", **SMALL, loras=[lora])
        assert clip.provenance["request"]["loras"][0]["path"] == lora

        trainer.client.post("/v1/loras", json={"name": "zorb", "asset": job.result.lora.id})
        trainer.client.delete(f"/v1/jobs/{job.id}")
        assert client.plan("zorb", **SMALL, loras=["lora:zorb"]).model == "nano"  # a LoRA with a name stays
        again = client.train(None, tmp_path / "run" / "config.json")
        assert again.job.plan is not None
        assert again.job.plan.summary.startswith("a LoRA of mode silent, rank 2: 3 steps on 3 samples")
        assert again.cancel()


def test_fals_own_client_trains_on_an_upload(
    trainer: Server, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = fal_of(trainer, monkeypatch)
    asked = {"training_data_url": client.upload_file(str(data)), "number_of_steps": 2, "rank": 2}
    asked |= {"number_of_frames": 9, "trigger_phrase": "zorb", "with_audio": False}
    heard: list[Any] = []
    result = client.subscribe(f"{V2}/i2v", arguments=asked, with_logs=True, on_queue_update=heard.append)
    assert result["lora_file"]["file_name"] == "lora.safetensors"
    assert httpx.get(result["config_file"]["url"]).json()["training"]["steps"] == 2
    path = tmp_path / "lora.safetensors"
    path.write_bytes(httpx.get(result["lora_file"]["url"]).content)
    assert read_lora(path).metadata["trigger_phrase"] == "zorb"
    logs = [log["message"] for update in heard for log in getattr(update, "logs", None) or ()]
    assert any(message.startswith("training") for message in logs)
    made = client.submit(
        "fal-ai/ltx-2.3-22b/text-to-video",
        arguments={"prompt": "zorb", "num_frames": 9, "loras": [{"path": result["lora_file"]["url"]}]},
    )
    asset = trainer.jobs.get(LOCAL, made.request_id).request["loras"][0]["path"]
    assert trainer.jobs.asset(LOCAL, asset.removeprefix("asset:")).kind == "lora"
    made.cancel()


def test_an_assistant_and_a_client_that_waits_are_told_of_a_training(server: Server, asset: str) -> None:
    async def told() -> dict[str, Any]:
        async with ss.AsyncClient(server.url) as client:
            with pytest.raises(RequestError, match="priority is 'soon'"):
                await client.train(f"asset:{asset}", TRAINING, priority="soon")
            handle = await client.train(f"asset:{asset}", TRAINING, dataset=DATASET)
            found = await RemoteJob(handle).status()
            assert await handle.cancel()
            return dict(found)

    found = asyncio.run(told())
    assert (found["kind"], found["state"], found["lora"]) == ("train", "queued", None)
    assert "3 steps on 3 samples" in found["trains"]


# --- fal's trainers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "given", "training", "dataset"),
    [
        (f"{V2}/t2v", {"rank": 16, "steps": 300}, {"mode": "t2v", "steps": 300, "lora": {"rank": 16}}, {}),
        (f"{V2}/i2v", {"first_frame_conditioning_p": 0.3}, {"video": {"first_frame": 0.3}}, {}),
        (f"{V2}/a2v", {"trigger_phrase": "zorb"}, {"video": {"first_frame": 1.0}}, {"trigger": "zorb"}),
        (f"{V2}/t2v", {"with_audio": True}, {"mode": "t2v"}, {"sound": "all"}),
        (f"{V2}/t2v", {"with_audio": False}, {"audio": {"stream": "absent"}}, {"sound": "none"}),
        (f"{V2}/extend-prefix", {"number_of_frames": 97}, {"mode": "extend"}, {"num_frames": 97}),
        (f"{V2}/extend-suffix", {"frame_rate": 25}, {"mode": "suffix"}, {"fps": 25.0}),
        (f"{V2}/interpolate", {}, {"video": {"first_frame": 1.0, "suffix": {"latents": 1}}}, {}),
        (f"{V2}/ic-lora/v2v-masked", {}, {"mode": "reference", "video": {"mask": 1.0}}, {}),
        (
            f"{V2}/audio-extend-prefix",
            {"audio_duration_seconds": 4, "conditioning_seconds": 1},
            {"mode": "audio-extend", "audio": {"prefix": {"latents": 25}}},
            {"audio_buckets": [4.0]},
        ),
        ("fal-ai/ltx23-video-trainer", {}, {"mode": "i2v", "steps": 2000}, {"num_frames": 89}),
        ("fal-ai/ltx23-v2v-trainer", {}, {"mode": "reference", "video": {"first_frame": 0.1}}, {}),
    ],
)
def test_fals_trainers_are_trainings_here(
    server: Server, app: str, given: dict[str, Any], training: dict[str, Any], dataset: dict[str, Any]
) -> None:
    draft, _ = fal_fields.read(app, {"training_data_url": "asset:as_a", **given}, server.jobs, None, (64, 64))
    job = draft.asked(priority="normal")
    assert (job.kind, job.data) == ("train", "asset:as_a")
    assert draft.warnings == []
    assert {name: job.training[name] for name in training} == training
    assert {name: job.dataset[name] for name in dataset} == dataset
    checked_training(job)


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"training_data_url": None}, "training_data_url", "is missing"),
        ({"training_data_url": "/etc/passwd"}, "training_data_url", "an https address"),
        ({"training_data_url": "http://10.0.0.1/x.zip"}, "training_data_url", "https"),
        ({"rank": 0}, "rank", "give a whole number from 1 to 1024"),
        ({"number_of_frames": 88}, "number_of_frames", "8k \\+ 1 frames"),
        ({"validation": [{}]}, "validation", "has no prompt"),
        ({"number_of_frames": 89}, "training_data_url", "2 are the fewest"),
        ({"mode": "inpaint"}, "training_data_url", "needs a mask"),
    ],
)
def test_a_request_of_a_trainer_that_cannot_be_made_is_refused_in_fals_form(
    server: Server, asset: str, given: dict[str, Any], field: str, words: str
) -> None:
    asked = {"training_data_url": f"asset:{asset}", "number_of_frames": 9, "number_of_steps": 3, **given}
    app = f"{V2}/{asked.pop('mode', 'i2v')}"
    answer = server.client.post(f"/fal/{app}", json=asked)
    assert answer.status_code == 422, answer.text
    [found] = answer.json()["detail"]
    assert found["loc"] == ["body", field]
    assert re.search(words, found["msg"])


def test_other_trainers_are_not_there(server: Server) -> None:
    for app in ("fal-ai/flux-lora-fast-training/trainer", f"{V2}/outpaint", f"{V2}", "fal-ai/ltx2-trainer"):
        answer = server.client.post(f"/fal/{app}", json={})
        assert (answer.status_code, "ltx23-trainer-v2/t2v" in answer.text) == (404, True)
