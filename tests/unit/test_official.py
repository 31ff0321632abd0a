"""Commands for the official LTX-2 programs: each flag is translated, or refused with a way on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import soundstage as ss
from soundstage.cli.main import app
from soundstage.cli.official import PLACES, translated
from soundstage.cli.official_flags import FLAGS, PROGRAMS, with_official

ROOT = Path(__file__).parents[2]


def test_official_commands_are_understood() -> None:
    words = (
        "--prompt", "A ball.", "--checkpoint-path", "m.safetensors", "--gemma-root", "gemma",
        "--height", "512", "--width=768", "--num-frames", "121", "--frame-rate", "25",
        "--num-inference-steps", "40", "--image", "a.png", "0", "1.0", "--image", "b.png", "120", "0.8", "33",
        "--lora", "x.safetensors", "0.6", "--video-conditioning", "r.mp4", "1.0",
        "--video-cfg-guidance-scale", "3.5", "--video-stg-blocks", "28", "29", "--a2v-guidance-scale", "3",
    )  # fmt: skip
    assert translated(words) == [
        "--size", "768x512", "A ball.", "--model", "m.safetensors", "--model", "gemma",
        "--frames", "121", "--fps", "25", "--steps", "40", "--image", "a.png@f0:1.0",
        "--image", "b.png@f120:0.8", "--crf", "33", "--lora", "x.safetensors:0.6", "--reference", "r.mp4:1.0",
        "--video-guidance", "3.5", "--video-scale", "stg_blocks=28,29", "--video-scale", "modality=3",
    ]  # fmt: skip


def test_our_own_spelling_passes_untouched() -> None:
    words = [
        "A ball 3 4",
        "--image",
        "a.png@1:0.5",
        "--lora",
        "x.safetensors",
        "--seed=7",
        "--negative-prompt",
        "-rain- and wind",
        "--",
        "--width",
        "3",
    ]
    assert translated(words) == words


@pytest.mark.parametrize("name", list(FLAGS))
def test_every_flag_is_translated_or_refused_with_a_way_on(name: str) -> None:
    """A flag becomes options of a command; one that is refused says what to give or to leave out."""
    flag = FLAGS[name]
    value = next((key for key in flag.choices if key), "1")
    count = {"0": 0, "0-1": 0, "2": 2}.get(flag.count, 1)
    numbers = {"--distilled-lora-strength-stage-1": "0.25", "--distilled-lora-strength-stage-2": "0.5"}
    words = [name, *[numbers.get(name, value)] * count]
    if name in ("--width", "--height"):
        words += ["--height" if name == "--width" else "--width", "64"]
    elif name in ("--start-time", "--end-time"):
        words += ["--end-time" if name == "--start-time" else "--start-time", "2"]
    elif name == "--image":
        words = [name, "a.png", "0", "1"]
    elif name.startswith("--conditioning-") and flag.count == "*":
        words = [
            "--conditioning-media-paths",
            "a",
            "--conditioning-strengths",
            "1",
            "--conditioning-start-frames",
            "8",
        ]
    said: list[str] = []
    if flag.way == "refused":
        with pytest.raises(ss.RequestError, match=rf"^{name}: ") as caught:
            translated(words)
        assert any(word in str(caught.value) for word in ("give ", "leave ", "ending of", "says which"))
        return
    command = {"spoken": "dub", "spoken strength": "dub"}.get(flag.to, "generate")
    made = translated(words, command, said.append)
    shown = CliRunner().invoke(app, [command, "--help"], terminal_width=200).stdout
    for word in made:
        assert not word.startswith("--") or f"{word} " in shown or f"{word}," in shown, word
    assert bool(said) == (flag.way == "idle")
    underscored = [
        word.replace("-", "_").replace("__", "--", 1) if word.startswith("--") else word for word in words
    ]
    assert translated(underscored, command) == made or name in ("--seed", "--negative-prompt", "--lora")


def test_values_that_only_they_have_are_named_as_ours() -> None:
    assert translated(["--offload", "cpu", "--quantization", "fp8-scaled-mm"]) == [
        "--residency", "stream", "--weights", "fp8",
    ]  # fmt: skip
    assert translated(["--offload_to_cpu", "False", "A."]) == ["A."]
    assert translated(["--compile", "mode=max", "A ball."]) == ["A ball."]
    assert translated(["--stg_skip_layers", "[19]"])[1::2] == ["stg_blocks=19", "stg_blocks=19"]
    with pytest.raises(ss.RequestError, match="--quantization is 'nvfp4-cast', which has no equal here"):
        translated(["--quantization", "nvfp4-cast"])


def test_arguments_go_where_the_command_has_them() -> None:
    part = [
        "--start-time",
        "1",
        "--end-time",
        "2.5",
        "--prompt",
        "A cube.",
        "--video-path",
        "a.mp4",
        "--seed",
        "3",
    ]
    assert translated(part, "retake") == ["a.mp4", "1-2.5", "A cube.", "--seed", "3"]
    assert translated(part, "generate") == ["A cube.", "--video", "a.mp4", "--span", "1-2.5", "--seed", "3"]
    sound = ["--audio-path", "a.wav", "--prompt", "A ball."]
    assert translated(sound, "a2v") == ["a.wav", "A ball."]
    assert translated(sound, "generate") == ["A ball.", "--audio", "a.wav"]
    spoken = ["--reference-video", "a.mp4", "--reference-strength", "0.9", "--prompt", "She says hello."]
    assert translated(spoken, "dub") == ["a.mp4:0.9", "She says hello."]
    frames = ["--image", "a.png", "0", "1", "--prompt", "A ball.", "--image", "b.png", "120", "0.8"]
    assert translated(frames, "keyframe") == ["A ball.", "a.png@f0:1", "b.png@f120:0.8"]
    assert translated(["--image", "a.png", "-1", "1"]) == ["--image", "a.png@before:1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--width", "768"], "--width is given without --height"),
        (["--width"], "--width is given without a value"),
        (["--start-time", "1"], "--start-time is given without --end-time"),
        (["--image", "a.png", "-3", "1"], "--image has frame -3; give one from 0 on"),
        (
            ["--image", "a.png", "0", "1", "20", "--image", "b.png", "8", "1", "30"],
            "has CRF 20 and 30; give one",
        ),
        (["--distilled-lora", "a.safetensors", "0.8"], "--distilled-lora is 0.8, and the passes' own is 1"),
        (["--distilled-lora-strength-stage-1", "0.4"], "that of --recipe hq is 0.25"),
        (
            ["--conditioning_media_paths", "a.png", "b.png", "--conditioning_start_frames", "0"],
            "give as many",
        ),
        (["--reference-video", "a.mp4"], "is the clip of `soundstage dub`"),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(words: list[str], told: str) -> None:
    with pytest.raises(ss.RequestError) as caught:
        translated(words)
    assert told in str(caught.value)


def test_a_whole_official_command_is_planned(tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), "red").save(tmp_path / "a.png")
    words = [
        "--recipe", "fast", "--prompt", "A red ball bounces.", "--height", "128", "--width", "192",
        "--num-frames", "17", "--frame-rate", "24", "--seed", "3",
        "--image", str(tmp_path / "a.png"), "0", "0.9",
        "18", "--max-batch-size", "4", "--output-path", str(tmp_path / "a.mp4"),
    ]  # fmt: skip
    shown = CliRunner().invoke(app, ["generate", *words, "--plan", "--json"])
    assert shown.exit_code == 0, shown.output
    request = json.loads(shown.stdout)["request"]
    assert (request["size"], request["num_frames"], request["seed"]) == ([192, 128], 17, 3)
    assert request["guides"][0]["strength"] == 0.9
    assert "notice: --max-batch-size changes nothing" in shown.stderr
    refused = CliRunner().invoke(app, ["generate", "--prompt", "A ball.", "--enhance-prompt"])
    assert refused.exit_code == 2
    assert "--enhance-prompt: here --enhance gemma does it" in refused.stderr


def test_every_program_has_a_command_that_is_there() -> None:
    for program in PROGRAMS.values():
        words = program.command.split()
        if words:
            shown = CliRunner().invoke(app, [words[0], "--help"], terminal_width=200)
            assert shown.exit_code == 0
            assert all(word in shown.stdout for word in words[1:] if word.startswith("--"))
        else:
            assert program.words
    assert set(PLACES) <= set(app.list_commands(None))  # type: ignore[arg-type]


def test_the_page_has_the_tables_of_flags_and_programs() -> None:
    page = (ROOT / "docs" / "official.md").read_text()
    assert with_official(page) == page, "run python -m soundstage.cli.official_flags docs/official.md"
    assert all(f"`{name}`" in page for name in (*FLAGS, *PROGRAMS))
