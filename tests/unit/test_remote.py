"""`soundstage remote` against a true server in this process: the making commands, and those about jobs."""

from __future__ import annotations

import json
import shlex
import zipfile
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import soundstage as ss
from soundstage.cli.program import app
from soundstage.client.bars import RemoteBars
from soundstage.client.training_data import zip_of
from soundstage.jobs.views import JobEvent
from tests.dataset_clips import clips_of_pages
from tests.examples import ROOT
from tests.serving import Server, serving

PROMPT = "A red ball bounces."
SMALL = ("--size", "64x64", "--frames", "9", "--steps", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("served"), work=True) as running:
        yield running


@pytest.fixture
def remote(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDSTAGE_SERVER", server.url)
    monkeypatch.setenv("SOUNDSTAGE_CONFIG", "off")
    return lambda *words: CliRunner().invoke(app, ["remote", *words])


def succeeded(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_generate_makes_clips_on_the_server_and_saves_its_files(remote: Any, server: Server) -> None:
    Image.new("RGB", (64, 64)).save("door.png")
    told = remote("generate", PROMPT, "--image", "door.png:0.5", "--seed", "3", "-o", "ball.mp4", *SMALL)
    assert succeeded(told) == "ball.mp4\n"
    assert "9 frames of 64x64" in told.stderr
    assert told.stderr.splitlines().count("encode ...") == 1
    assert "info:" not in told.stderr  # phases are told once, as phases
    with ss.Client(server.url) as client:
        job = client.jobs(limit=1).data[0]
        assert job.request["seed"] == 3
        assert job.request["guides"][0]["strength"] == 0.5
        assert job.result is not None
        assert job.result.clip is not None
        assert Path("ball.mp4").stat().st_size == job.result.clip.bytes
    again = remote("generate", PROMPT, "-o", "ball.mp4", *SMALL)
    assert again.exit_code == 2
    assert "add --force" in again.stderr
    lines = succeeded(
        remote("generate", PROMPT, "--seeds", "1-2", "--json", "-o", "out/", *SMALL)
    ).splitlines()
    assert [json.loads(line).get("index") for line in lines] == [1, 2, None]
    assert len(list(Path("out").iterdir())) == 2


def test_options_of_all_making_commands_reach_the_server(remote: Any, server: Server) -> None:
    ss.Clip.open(saved(remote, "ball.mp4")).save("copy.mp4")
    succeeded(remote("retake", "ball.mp4", "0.1-0.2", PROMPT, "--steps", "2", "-o", "retake.mp4"))
    with ss.Client(server.url) as client:
        source = client.jobs(limit=1).data[0].request["source"]
        assert source["regenerate"] == [{"start_s": 0.1, "end_s": 0.2}]
        assert source["video"].startswith("asset:")
        Image.new("RGB", (64, 64)).save("a.png")
        succeeded(remote("keyframe", PROMPT, "a.png", "a.png", "--detach", "--label", "keys", *SMALL))
        guides = client.jobs(label="keys").data[0].request["guides"]
        assert [guide["frame"] for guide in guides] == [0, 8]
    assert "64x64" in succeeded(remote("plan", PROMPT, *SMALL))
    assert json.loads(succeeded(remote("generate", PROMPT, "--plan", "--json", *SMALL)))["num_frames"] == 9


def saved(remote: Any, name: str) -> str:
    return succeeded(remote("generate", PROMPT, "-o", name, *SMALL)).strip()


def test_jobs_are_listed_shown_fetched_watched_and_cancelled(remote: Any) -> None:
    id = succeeded(remote("generate", PROMPT, "--detach", *SMALL)).strip()
    assert id.startswith("job_")
    assert succeeded(remote("get", id, "-o", "got.mp4")) == "got.mp4\n"
    assert Path("got.mp4").stat().st_size > 0
    again = remote("get", id, "-o", "got.mp4")
    assert again.exit_code == 2
    assert "there already; choose another name, or add --force" in again.stderr
    assert id in succeeded(remote("jobs"))
    assert json.loads(succeeded(remote("jobs", "--json", "--limit", "1")))[0]["id"] == id
    shown = succeeded(remote("show", id)).splitlines()
    assert shown[0] == id
    assert shown[1].startswith("  state     succeeded in ")
    assert "  made      64x64, 9 frames at 24 fps, 0.375 s" in shown
    assert "  steps     2" in shown
    assert shown[-1] == f"get it: soundstage remote get {id}"
    assert "succeeded" in succeeded(remote("watch", id))
    for verb in ("pause", "resume"):
        refused = remote(verb, id)
        assert refused.exit_code != 0
        assert "has ended already: succeeded" in refused.stderr
    late = remote("cancel", id)
    assert late.exit_code == 1
    assert late.stdout == f"{id} succeeded before; it stays as it is\n"
    models = succeeded(remote("models"))
    assert "nano (default)" in models
    assert "192x128, 49 frames at 24 fps" in models
    recipes = succeeded(remote("recipes"))
    assert "single" in recipes
    assert "best for" in recipes
    assert succeeded(remote("loras")) == ""


def test_what_a_server_changes_of_a_request_is_told(remote: Any) -> None:
    told = remote("generate", PROMPT, "--size", "64x64", "--duration", "0.5", "--steps", "2", "--detach")
    assert succeeded(told).startswith("job_")
    assert "notice: duration: 0.5 s -> 0.375 s (9 frames at 24 fps, 8k+1)" in told.stderr


def test_an_interruption_cancels_the_jobs_of_a_command_and_says_so(
    remote: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(bars: RemoteBars, event: JobEvent) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RemoteBars, "show", interrupted)
        many = remote(
            "generate", PROMPT, "--seeds", "1-2", "--label", "stopped", *SMALL[:4], "--steps", "400"
        )
        id = succeeded(remote("generate", f"SLOW {PROMPT}", "--detach", *SMALL)).strip()
        waiting = remote("get", id, "-o", "late.mp4")
    assert (many.exit_code, waiting.exit_code) == (130, 130)
    assert "are cancelled; with --detach a job goes on" in many.stderr
    with ss.Client(server.url) as client:
        jobs = client.jobs(label="stopped").data
        assert len(jobs) == 2
        assert all(isinstance(client.job(job.id).exception(), CancelledError) for job in jobs)
    assert f"{id} goes on; the same command gets its clip" in waiting.stderr
    assert succeeded(remote("get", id, "-o", "late.mp4")) == "late.mp4\n"


def test_a_job_that_someone_else_cancels_is_told_in_one_sentence(
    remote: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(bars: RemoteBars, event: JobEvent) -> None:
        with ss.Client(server.url) as client:
            client.job(event.job_id).cancel()

    monkeypatch.setattr(RemoteBars, "show", cancelled)
    told = remote("generate", f"SLOW {PROMPT}", *SMALL[:4], "--steps", "400")
    assert told.exit_code == 2
    assert told.stderr.splitlines()[-1].endswith("was cancelled; nothing was made")


def test_refusals_name_options_and_the_server(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = remote("generate", PROMPT, "--steps", "0")
    assert wrong.exit_code == 2
    assert "--steps" in wrong.stderr
    wrong = remote("generate", PROMPT, "--recipe", "none-such")
    assert wrong.exit_code == 2
    assert "none-such" in wrong.stderr
    away = remote("jobs", "--server", "http://127.0.0.1:9")
    assert away.exit_code == 2
    assert "http://127.0.0.1:9 cannot be reached" in away.stderr
    monkeypatch.delenv("SOUNDSTAGE_SERVER")
    assert "set $SOUNDSTAGE_SERVER" in remote("jobs").stderr


def test_the_server_may_stand_in_a_config_file(
    remote: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOUNDSTAGE_SERVER")
    file = tmp_path / "config.toml"
    file.write_text(f'[remote]\nserver = "{server.url}"\n')
    monkeypatch.setenv("SOUNDSTAGE_CONFIG", str(file))
    assert "nano" in succeeded(remote("models"))
    file.write_text('[remote]\nfoo = "x"\n')
    assert "several commands" in remote("models").stderr


def test_the_commands_of_the_page_run(remote: Any) -> None:
    Image.new("RGB", (64, 64)).save("door.png")
    clips_of_pages(Path())
    page = (ROOT / "docs" / "client.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("soundstage remote")]
    assert len(commands) == 6
    for command in commands:
        words = shlex.split(command)[2:]
        succeeded(remote(*words))


def test_a_training_is_queued_watched_told_and_fetched(remote: Any, server: Server) -> None:
    clips_of_pages(Path())
    words = ("--data", "clips", "--set", "dataset.num_frames=9", "--set", "lora.rank=4", "--label", "zorb")
    told = remote("train", "style", *words, "-o", "zorb.safetensors")
    assert succeeded(told) == "zorb.safetensors\n"
    assert "step 2 of 2: loss 0.5000" in told.stderr
    again = remote("train", "style", *words, "-o", "zorb.safetensors")
    assert "add --force" in again.stderr
    id = succeeded(remote("train", "style", *words, "--detach")).strip()
    assert succeeded(remote("get", id)) == f"{id}.safetensors\n"
    listed = succeeded(remote("jobs", "--label", "zorb"))
    assert f"{id}  succeeded   100%  a LoRA of mode t2v, rank 4" in listed
    shown = succeeded(remote("show", id))
    for part in ("2 samples of 64x64x9", "--lora asset:as_", "loss 0.5000", '"recipe": "style"'):
        assert part in shown
    assert "100% training 2/2: loss 0.5000" in succeeded(remote("watch", id))
    files = remote("train", "style", "--data", "clips.zip", "--steps", "2", "-o", "run")
    assert succeeded(files).splitlines() == ["run/lora.safetensors", "run/config.json"]
    succeeded(remote("train", "run/config.json", "-o", "again.safetensors"))
    request = {"training_data_url": "clips.zip", "rank": 8, "number_of_frames": 25, "number_of_steps": 2}
    Path("request.json").write_text(json.dumps(request))
    succeeded(remote("train", "request.json", "-o", "fal.safetensors"))
    Path("own.yaml").write_text("data: my-data\noutput: runs/a\nmode: silent\nlora: {rank: 3}\n")
    over = "lora.over=[again.safetensors]"
    succeeded(remote("train", "own.yaml", "--data", "clips", "--set", over, "-o", "own.safetensors"))
    with ss.Client(server.url) as client:
        training = client.jobs(limit=1).data[0].request["training"]
    assert training.keys() == {"mode", "lora"}
    assert training["lora"]["over"][0]["path"].startswith("asset:as_")


def test_what_a_dataset_says_is_sent_with_its_clips(remote: Any, server: Server, tmp_path: Path) -> None:
    clips_of_pages(Path())
    Path("clips/dataset.yaml").write_text("sources: .\nbuckets: 64x64x17\ntrigger: zorb\nsound: none\n")
    Path("clips/captions.jsonl").write_text('{"id": "40.mp4", "caption": "A dark square."}\n')
    for data, words, length in (
        ("clips", (), 17),
        ("clips/dataset.yaml", ("--set", "dataset.num_frames=9"), 9),
    ):
        id = succeeded(remote("train", "style", "--data", data, "--detach", *words)).strip()
        with ss.Client(server.url) as client:
            job = client.job(id).job
        assert f"64x64x{length} " in f"{job.plan.summary} "
        assert {"trigger": "zorb", "sound": "none"}.items() <= job.request["dataset"].items()
    with zipfile.ZipFile(zip_of(Path("clips"), tmp_path)) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".txt")}
    assert texts == {"40.txt": "A dark square.", "90.txt": "A square on 90."}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("dataset.yaml", "sources: ../other", "'../other', which is no folder within clips"),
        ("dataset.yaml", "sources: .\nreferences: {kind: canny}", "dataset.yaml sets references"),
        ("dataset.yaml", "triger: zorb", "triger"),
        ("metadata.csv", "video,caption\n40.mp4,A square.", "metadata.csv is a table"),
        ("captions.jsonl", '{"id": "40.mp4@0.00-0.50", "caption": "A square."}', "a caption of a part"),
        ("captions.jsonl", "A square.", "captions.jsonl"),
    ],
)
def test_what_cannot_be_sent_with_clips_is_refused(remote: Any, name: str, content: str, told: str) -> None:
    clips_of_pages(Path())
    Path("clips", name).write_text(content)
    found = remote("train", "style", "--data", "clips")
    assert (found.exit_code, told in found.stderr) == (2, True), found.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("style",), "data is missing"),
        (("style", "--data", "nowhere"), "there is no such folder or zip"),
        (("style", "--data", "empty"), "holds no clip, picture or sound"),
        (("stile", "--data", "clips"), "one of the recipes style"),
        (("style", "--data", "clips", "--set", "stepz=3"), "'stepz', which does not exist; the fields"),
        (("style", "--data", "clips", "--set", "lora.over=[nowhere.safetensors]"), "there is no such file"),
        (("style", "--data", "clips", "-o", "clips.zip"), "end it in .safetensors"),
    ],
)
def test_a_training_that_cannot_be_asked_for_is_told_in_one_sentence(
    remote: Any, words: tuple[str, ...], told: str
) -> None:
    clips_of_pages(Path())
    Path("empty").mkdir()
    found = remote("train", *words)
    assert (found.exit_code, told in found.stderr) == (2, True), found.stderr
