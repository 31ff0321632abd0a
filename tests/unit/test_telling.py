"""Messages of the command line: options as typed, JSON with --json, near names first, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import soundstage as ss
from soundstage.cli import making
from soundstage.cli.options import TABLE
from soundstage.cli.program import app
from soundstage.cli.spelling import Spoken
from soundstage.errors import listed, near_first, nearest
from tests.media_files import grays, write_film

# Fields of a request without an option: they are given in a file or by Python.
NO_OPTION: set[str] = set()


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def spoken(**values: Any) -> Spoken:
    """`generate`'s spelling."""
    return Spoken({option.name: option.flags[0] for option in TABLE} | {"prompt": "PROMPT"}, values)


def test_every_field_of_a_request_has_an_option() -> None:
    roots = {field.partition(".")[0] for option in TABLE for field in option.fields} | {"prompt"}
    assert set(ss.Request.model_fields) - roots == NO_OPTION


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("duration_s is -1; give a length", "--duration is -1; give a length"),
        ("guides[0].image: there is no file a.png", "--image: there is no file a.png"),
        ("guides[0].strength is 2", "STRENGTH of --image is 2"),
        ("source.start_s is 5, past the source's end", "--video-start is 5, past the source's end"),
        ("audio.guidance is 30; it should be less", "--identity-guidance is 30; it should be less"),
        ("loras[0].groups has 'sound'", "GROUP of --lora has 'sound'"),
        (
            "both duration_s (1) and num_frames (9) are given",
            "both --duration (1) and --frames (9) are given",
        ),
        ("both steps and sigmas are given; keep one", "both --steps and --sigmas are given; keep one"),
        ("steps is 5, but it is fixed; leave steps out", "--steps is 5, but it is fixed; leave --steps out"),
        ("relay.foo is not a field", "foo of --relay is not a field"),
        ("recipe is 'x'; source is given", "--recipe is 'x'; --video is given"),
        ("take adain is 2; give a number", "--take adain is 2; give a number"),
        ("prompt is empty; describe what it shows", "PROMPT is empty; describe what it shows"),
        # Values and plain English stay as they are.
        ("there is no file guides/steps.png", "there is no file guides/steps.png"),
        ("there is no file 'guides.png'", "there is no file 'guides.png'"),
        ("an audio of that size has no source", "an audio of that size has no source"),
        ("audio.wav lasts 3 s", "audio.wav lasts 3 s"),
    ],
)
def test_fields_become_options(message: str, told: str) -> None:
    assert spoken().sentence(message) == told


def test_an_item_of_several_is_shown_as_it_was_typed() -> None:
    words = spoken(image=["a.png", "b.png:2"], last_image="c.png:3")
    assert words.sentence("guides[1].strength is 2") == "STRENGTH of --image 'b.png:2' is 2"
    assert words.sentence("guides[2].strength is 3") == "STRENGTH of --last-image is 3"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["retake", "none.mp4", "1-2", "A ball."], "soundstage: VIDEO: there is no file none.mp4"),
        (["dub", "none.mp4", "A voice."], "soundstage: VIDEO: there is no file none.mp4"),
        (["a2v", "none.wav", "A ball."], "soundstage: AUDIO: there is no file none.wav"),
        (["keyframe", "A ball.", "a.png:3"], "soundstage: STRENGTH of IMAGE is 3;"),
        (["extend", "ball.mp4", "A ball.", "--after", "-1"], "soundstage: --after is -1; give"),
        (["generate", " "], "soundstage: PROMPT is empty"),
    ],
)
def test_a_verb_names_its_own_arguments(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(Path("ball.mp4"), grays(range(24)))
    result = call(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith(says)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "kind", "option", "says"),
    [
        (["generate", "x", "--duration", "-1"], "RequestError", "--duration", "--duration is -1"),
        (["generate", "x", "--steps", "many"], "UsageError", "--steps", "--steps is 'many'; it should be"),
        (["generate", "x", "--colour", "red"], "UsageError", "--colour", "has no option --colour"),
        (["generate"], "UsageError", "PROMPT", "needs PROMPT"),
        (["models", "pull", "ltx-9"], "RequestError", "NAME", "NAME is 'ltx-9'"),
        (["show", "none.mp4"], "MediaError", None, "there is no file none.mp4"),
        (["models", "inspect", "none.safetensors"], "WeightsError", None, "none.safetensors"),
        (["doctor", "--weights", "fp9"], "RequestError", "--weights", "--weights is 'fp9'; give one of fp8"),
        (
            ["nano", "evaluate", "--section", "retakes"],
            "RequestError",
            "--section",
            "are retake, tracks, prompts",
        ),
        (["nano", "evaluate", "--lora", "no.safetensors"], "RequestError", "--lora", "no file no.sa"),
        (["nano", "evaluate", "--text", "--steps", "3"], "RequestError", "--steps", "leave --steps out"),
        (["genrate", "x"], "UsageError", None, "has no command 'genrate'; the commands are generate,"),
        (["recipes", "extra"], "UsageError", None, "extra"),
    ],
)
def test_errors_are_json_where_json_is_asked_for(
    words: list[str], kind: str, option: str | None, says: str
) -> None:
    result = call(*words, "--json")
    if words[0] == "models" and words[1] == "pull":  # it has no --json, which is told likewise
        assert json.loads(result.stdout)["error"]["option"] == "--json"
        result = call(*words)
        assert says in result.stderr
        return
    assert result.exit_code == 2
    told = json.loads(result.stdout)["error"]
    assert set(told) == {"kind", "field", "option", "message"}
    assert (told["kind"], told["option"]) == (kind, option)
    assert says in told["message"]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_what_nobody_foresaw_is_one_sentence(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the engine\nfell over")

    monkeypatch.setattr(making, "planned_clips", broken)
    result = call("plan", "x", *(["--json"] if as_json else []))
    assert result.exit_code == 1
    text = json.loads(result.stdout)["error"]["message"] if as_json else result.stderr
    assert "a fault of Soundstage's own (RuntimeError: the engine)" in text
    assert "SOUNDSTAGE_DEBUG=1" in text
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("SOUNDSTAGE_DEBUG", "1")
    assert "Traceback" in call("plan", "x").stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "the memory of this machine does not suffice"),
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: permission denied; see that"),
        (OSError(28, "No space left on device"), "soundstage: no space left on device; see that"),
    ],
)
def test_the_systems_errors_are_sentences(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(making, "planned_clips", broken)
    result = call("plan", "x")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert says in result.stderr


def test_an_interruption_of_any_guise_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "planned_clips", broken)
    assert call("plan", "x").exit_code == 130
    result = call("plan", "x", "--json")
    assert json.loads(result.stdout)["error"]["kind"] == "Interrupted"


def test_near_names_come_first_and_none_is_lost() -> None:
    known = ["single", "fast", "pro", "hq"]
    assert near_first("fats", known) == ["fast", "single", "pro", "hq"]
    assert near_first("zzz", known) == known
    assert nearest("FAST", known) == ["fast"]
    assert nearest("ltx", ["ltx-2.3-dev", "nano"]) == ["ltx-2.3-dev"]
    assert listed("x", []) == ""


def test_what_is_wrong_in_a_recipe_is_told_in_the_fields_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\npasses:\n- {name: draft, steps: many, guidance: 1}\n")
    result = CliRunner().invoke(app, ["plan", "A red ball.", "--recipe", str(path)])
    assert result.exit_code == 2
    assert "steps is 'many'" in result.stderr
    assert "'guidance' is not a field of Pass" in result.stderr
    assert "--" not in result.stderr


@pytest.mark.parametrize("option", ["--seed", "--frames", "--steps"])
def test_whole_numbers_may_be_typed_with_a_point(option: str) -> None:
    whole, broken = (CliRunner().invoke(app, ["plan", "A red ball.", option, n]) for n in ("9.0", "9.5"))
    assert whole.exit_code == 0, whole.stderr
    assert broken.exit_code == 2
    assert f"{option} is '9.5'; it should be a whole number" in broken.stderr


def test_a_seed_of_the_world_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(app, ["nano", "sample", "--seed", "-1", "--frames", "9"])
    assert result.exit_code == 2
    assert "seed is -1; give a whole number from 0" in result.stderr
