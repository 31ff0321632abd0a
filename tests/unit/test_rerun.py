"""A clip is made again from its file, JSON or a take, with changes; `show` says how it was made."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from soundstage.cli.program import app
from soundstage.clip import read_provenance
from soundstage.engine import Engine
from soundstage.rendering.parts import ModelParts
from tests.media_read import read_media
from tests.tiny_model import TinyParts, write_tiny_model

BALL = "A red ball bounces."
QUICK = ("--steps", 1, "--guidance", 1, "--frames", 9, "--seed", 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)
    monkeypatch.chdir(tmp_path)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def ball(folder: Path) -> Any:
    """Makes ball.mp4, or another file of the same clip, and returns what --json says of it."""

    def make(*words: object, output: str = "ball.mp4", prompt: str = BALL) -> Any:
        made = call("generate", prompt, "--model", folder, *QUICK, "-o", output, "--json", *words)
        assert made.exit_code == 0, made.stderr
        return json.loads(made.stdout)

    return make


def rerun(*words: object) -> Any:
    made = call("rerun", *words, "--json")
    assert made.exit_code == 0, made.stderr
    return json.loads(made.stdout)


def planned(*words: object) -> Any:
    return rerun(*words, "--plan")["request"]


def refused(*words: object) -> str:
    made = call("rerun", *words)
    assert (made.exit_code, made.stdout) == (2, "")
    assert made.stderr.count("\n") == 1, made.stderr
    return made.stderr


def png(name: str, level: int = 90) -> str:
    Image.new("RGB", (64, 64), (level, 0, 0)).save(name)
    return name


# --- what it reads ----------------------------------------------------------------------------------------


def test_without_changes_it_is_the_same_clip(ball: Any) -> None:
    lossless = ("--codec", "ffv1")  # a lossy encoder may write other bytes of the same frames
    first = ball("--size", "70x64", *lossless, output="ball.mkv")
    again = rerun("ball.mkv", "-o", "again.mkv", *lossless)
    assert again["request"] == first["request"]
    assert again["request"]["size"] == [70, 64]  # the words that were given, not what they were snapped to
    assert again["latents_sha256"] == first["latents_sha256"]
    one, other = read_media(Path("ball.mkv")), read_media(Path("again.mkv"))
    assert one.frames is not None
    assert other.frames is not None
    np.testing.assert_array_equal(one.frames, other.frames)


def test_a_clip_of_nano_is_the_same_clip_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", ModelParts)
    words = ("--steps", 1, "--frames", 9, "--size", "64x64", "-o", "a.mkv", "--codec", "ffv1")
    assert call("generate", BALL, *words).exit_code == 0  # with a seed that is drawn
    assert call("rerun", "a.mkv", "-o", "b.mkv", "--codec", "ffv1").exit_code == 0
    one, other = read_media(Path("a.mkv")), read_media(Path("b.mkv"))
    assert one.frames is not None
    assert other.frames is not None
    np.testing.assert_array_equal(one.frames, other.frames)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.webp"])
def test_every_format_of_film_is_read(ball: Any, name: str) -> None:
    first = ball(output=name)
    assert planned(name) == first["request"]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a"])
def test_every_format_of_sound_is_read(ball: Any, name: str) -> None:
    first = ball("--only", "audio", output=name)
    assert planned(name) == first["request"]


def test_pictures_sheets_and_json_are_read(ball: Any) -> None:
    first = ball("--contact-sheet")
    Path("frames").mkdir()
    ball(output="frames/%04d.png")
    Path("clip.json").write_text(json.dumps(first))
    Path("plain.json").write_text(json.dumps({"prompt": BALL, "seed": 3}))
    for name in ("ball.png", "frames/%04d.png", "frames", "frames/0001.png", "clip.json"):
        assert planned(name) == first["request"], name
    assert (planned("plain.json")["prompt"], planned("plain.json")["seed"]) == (BALL, 3)
    Path("many.jsonl").write_text(f"{json.dumps(first)}\n" * 2)
    assert "`soundstage generate --prompts many.jsonl` makes them all" in refused("many.jsonl")


def test_what_does_not_say_how_it_was_made_is_refused() -> None:
    png("plain.png")
    Path("broken.json").write_text("{prompt")
    Path("list.json").write_text('{"request": [1]}')
    Path("empty").mkdir()
    Path("ball.mp4").write_text(
        '{"error": {"code": "conflict", "message": "job_a is running and has no clip"}}'
    )
    for told in (refused("ball.mp4"), call("show", "ball.mp4").stderr):  # as curl wrote it
        assert "it is a server's answer: job_a is running and has no clip" in told
    assert "plain.png is a picture, which does not say how it was made" in refused("plain.png")
    assert "there is no file none.mp4" in refused("none.mp4")
    assert "broken.json is not JSON" in refused("broken.json")
    assert "list.json does not say what was asked for" in refused("list.json")
    assert "empty holds neither a take nor pictures" in refused("empty")
    Path("odd.json").write_text('{"prompt": "Rain.", "colour": 1}')
    assert "odd.json: 'colour' is not a field" in refused("odd.json")


def test_the_folder_of_a_take_goes_on_or_begins_another_take(ball: Any) -> None:
    sound = {"window_frames": 25, "overlap_frames": 16}
    words = [word for item in sound.items() for word in ("--take", f"{item[0]}={item[1]}")]
    picture = png("door.png")
    first = ball("--frames", 49, "--fps", 50, "--image", picture, *words, "--take", "folder=work")
    os.remove("work/window-002.safetensors")
    stamp = os.stat("work/window-000.safetensors").st_mtime_ns
    again = rerun("work", "-o", "again.mp4")
    assert again["latents_sha256"] == first["latents_sha256"]
    assert again["request"]["guides"][0]["image"] == picture
    assert os.stat("work/window-000.safetensors").st_mtime_ns == stamp
    assert Path("work/window-002.safetensors").is_file()
    assert planned("work", "--seed", 8)["take"] == {**first["request"]["take"], "folder": None}
    assert planned("ball.mp4", "--seed", 8)["take"]["folder"] is None
    assert planned("ball.mp4")["take"]["folder"] == "work"


# --- changes ----------------------------------------------------------------------------------------------


def test_any_option_of_generate_changes_it(ball: Any) -> None:
    first = ball("--video-scale", "cfg=3", "--video-scale", "stg=1")["request"]
    changes: dict[tuple[object, ...], dict[str, Any]] = {
        ("--seed", 8): {"seed": 8},
        ("--steps", 2, "--size", "64x96"): {"steps": 2, "size": [64, 96]},
        ("--prompt", "Rain."): {"prompt": "Rain."},
        ("--duration", 0.5): {"num_frames": None, "duration_s": 0.5},
        ("--sigmas", "1,0.5,0"): {"steps": None, "sigmas": [1, 0.5, 0]},
        ("--guidance", 2): {"guidance": 2, "video_scales": {"stg": 1}},
        ("--video-scale", "stg=0"): {"video_scales": {"cfg": 3, "stg": 0}},
        ("--only", "video"): {"modalities": ["video"]},
    }
    for words, wanted in changes.items():
        assert planned("ball.mp4", *words) == {**first, **wanted}, words


def test_inputs_are_replaced_kept_and_left_out(ball: Any) -> None:
    first = ball("--image", png("a.png"), "--last-image", png("b.png", 20))["request"]
    assert planned("ball.mp4", "--image", f"{png('c.png')}:0.5")["guides"] == [
        {**first["guides"][0], "image": "c.png", "strength": 0.5}
    ]
    kept = planned("ball.mp4", "--image-mode", "guide")["guides"]
    assert kept == [{**guide, "mode": "guide"} for guide in first["guides"]]
    for name in ("guides", "image", "--image"):
        assert planned("ball.mp4", "--without", name)["guides"] == []
    assert planned("ball.mp4", "--without", "frames", "--duration", 1)["num_frames"] is None
    assert "--without is 'colour'; what can be left out is " in refused("ball.mp4", "--without", "colour")


def test_parts_of_a_source_are_changed_one_by_one(ball: Any) -> None:
    ball()
    made = call(
        "retake", "ball.mp4", "0-0.2", BALL, *QUICK[:4], "--seed", 3, "-o", "part.mp4", "--plan", "--json"
    )
    Path("part.json").write_text(made.stdout)
    source = planned("part.json", "--span", "0.1-0.3")["source"]
    assert source["regenerate"] == [{"start_s": 0.1, "end_s": 0.3}]
    assert source["video"] == "ball.mp4"
    freed = planned("part.json", "--without", "span", "--denoise", 0.5)["source"]
    assert (freed["regenerate"], freed["denoise"]) == ([], 0.5)
    assert "options of a sound are given, but no sound" in refused("ball.mp4", "--audio-start", 1)


def test_the_users_defaults_change_nothing_of_the_file(ball: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ball()
    for name, value in {"STEPS": "5", "SEED": "3", "TAKES": "2", "MODEL": "nano", "GUIDANCE": "4"}.items():
        monkeypatch.setenv(f"SOUNDSTAGE_{name}", value)
    told = call("rerun", "ball.mp4", "--plan", "--json")
    assert json.loads(told.stdout)["request"] == first["request"]
    assert json.loads(told.stdout)["model"] == "tiny"


def test_seeds_and_takes_make_several(ball: Any) -> None:
    ball()
    several = call("rerun", "ball.mp4", "--seeds", "1-2", "-o", "out/")
    assert several.stdout.split() == [f"out/a-red-ball-bounces-{seed}.mp4" for seed in (1, 2)]
    drawn = call("rerun", "ball.mp4", "--seed", "random", "--plan", "--json")
    assert f"seed {json.loads(drawn.stdout)['request']['seed']} was drawn" in drawn.stderr
    counted = call("rerun", "ball.mp4", "--takes", 2, "--plan", "--json").stdout.splitlines()
    assert [json.loads(line)["request"]["seed"] for line in counted] == [7, 8]


# --- what is not as it was --------------------------------------------------------------------------------


def test_inputs_that_are_gone_or_changed_are_named(ball: Any) -> None:
    ball("--image", png("a.png"))
    png("a.png", level=200)
    assert "ball.mp4: --image is 'a.png', which has changed since; give it again" in refused("ball.mp4")
    assert planned("ball.mp4", "--image", "a.png")["guides"][0]["image"] == "a.png"
    os.remove("a.png")
    told = refused("ball.mp4")
    assert "--image is 'a.png', which is not there; give it where it is now" in told
    assert planned("ball.mp4", "--without", "image")["guides"] == []
    error = json.loads(call("rerun", "ball.mp4", "--json").stdout)["error"]
    assert (error["field"], error["option"]) == ("guides", "--image")


def test_the_files_model_is_used_and_another_one_is_told(ball: Any, folder: Path, tmp_path: Path) -> None:
    first = ball()
    assert first["asked_model"] == [str(folder)]
    assert call("rerun", "ball.mp4", "--plan").stderr == ""
    facts = {**read_provenance(Path("ball.mp4"))}
    facts["files"] = {**facts["files"], "video_vae.safetensors": "0" * 64}
    Path("other.json").write_text(json.dumps(facts))
    told = call("rerun", "other.json", "--plan").stderr
    another = "another video_vae.safetensors of model 'tiny'"
    assert told == f"notice: other.json was made with {another}; the result may differ\n"
    Path("far.json").write_text(json.dumps({**facts, "device": "tpu:0", "dtype": "bfloat16"}))
    assert "bfloat16 on tpu:0; the result may differ" in call("rerun", "far.json", "--plan").stderr
    Path("gone.json").write_text(json.dumps({**facts, "asked_model": ["no/such"]}))
    assert "--model is 'no/such', which is neither a folder" in refused("gone.json")
    assert call("rerun", "gone.json", "--model", folder, "--plan").stderr == ""


def test_a_part_of_a_clip_is_made_whole(ball: Any) -> None:
    first = ball()
    assert call("convert", "ball.mp4", "part.mp4", "--span", "0-0.2").exit_code == 0
    told = call("rerun", "part.mp4", "--plan", "--json")
    assert json.loads(told.stdout)["request"] == first["request"]
    assert "part.mp4 was changed after it was made; the clip is made as it was before" in told.stderr
    assert "  changed   the part from 0 to " in call("show", "part.mp4").stdout
    assert call("convert", "part.mp4", "part.gif", "--size", "50%").exit_code == 0
    assert "x32; without sound\n" in call("show", "part.gif").stdout


def test_a_changed_request_is_checked_before_any_work(ball: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ball()
    monkeypatch.setattr(Engine, "run", None)
    assert "ball.mp4: --steps is 0" in refused("ball.mp4", "--steps", 0)
    assert "which is there already" in refused("ball.mp4", "-o", "ball.mp4")
    assert refused("ball.mp4", "--crf", 3).startswith("soundstage: --crf is about a picture")


# --- show -------------------------------------------------------------------------------------------------


def test_show_is_one_aligned_screen(ball: Any) -> None:
    ball("--image", png("a.png"), "--negative", "blurry", "--guidance", 2, "--contact-sheet")
    told = call("show", "ball.mp4").stdout
    assert told.splitlines()[:8] == [
        "ball.mp4",
        "  prompt    A red ball bounces.",
        "  negative  blurry",
        "  made      64x64, 9 frames at 24 fps, 0.375 s",
        "  seed      7",
        "  recipe    single: 1 euler steps, guidance 2, guidance of sound 2",
        "  inputs    a.png (guides[0].image)",
        "  model     tiny, float32 on cpu",
    ]
    assert told.endswith("again: soundstage rerun ball.mp4\n")
    assert len(told.splitlines()) < 24
    assert call("show", "ball.png").stdout.splitlines()[1:8] == told.splitlines()[1:8]


def test_show_of_several_and_in_full(ball: Any) -> None:
    first = ball()
    ball("--only", "audio", output="rain.wav", prompt="Steady rain.")
    told = call("show", "ball.mp4", "rain.wav").stdout
    assert "\n\nrain.wav\n" in told
    assert "0.375 s, sound alone" in told
    assert f'"{first["latents_sha256"]["video"]}"' in call("show", "ball.mp4", "--full").stdout
    assert first["latents_sha256"]["video"] not in told
    lines = [json.loads(line) for line in call("show", "ball.mp4", "rain.wav", "--json").stdout.splitlines()]
    assert [line["path"] for line in lines] == ["ball.mp4", "rain.wav"]
    assert lines[0]["latents_sha256"] == first["latents_sha256"]


def test_show_of_a_takes_folder(ball: Any) -> None:
    words = ("--take", "window_frames=25", "--take", "overlap_frames=16", "--take", "folder=work")
    ball("--frames", 49, "--fps", 50, *words)
    told = call("show", "work").stdout
    assert "  windows   3 of 3 finished\n" in told
    assert "again: soundstage rerun work\n" in told
