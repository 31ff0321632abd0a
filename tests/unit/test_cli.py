"""The command line: results on stdout, one sentence per error on stderr, exit codes, no partial files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import soundstage as ss
from soundstage.cli.program import COMMAND_GROUPS, app
from soundstage.engine import Engine
from soundstage.errors import MediaError
from soundstage.library.model_files import AUDIO_VAE, TRANSFORMER
from soundstage.rendering.window_store import WindowStore
from tests.limits import LONG_S
from tests.media_files import grays, write_film
from tests.media_read import read_media
from tests.tiny_model import TinyParts, write_tiny_model

RUN = [sys.executable, "-c", "from soundstage.cli.main import run; run()"]
PROMPT = "A red ball bounces."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def stand_in_text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_generate_prints_the_path_and_nothing_else_on_stdout(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ball.mp4"
    result = call("generate", PROMPT, "--model", folder, "--seed", 7, "--size", "70x64", "--output", path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{path}\n"
    assert "snapped size: 70x64 -> 64x64 (multiples of 32)" in result.stderr
    for phase in ("load", "encode", "denoise", "decode video", "decode audio"):
        assert f"{phase} ..." in result.stderr
    media = read_media(path)
    assert media.frames is not None
    assert media.frames.shape == (9, 64, 64, 3)
    assert media.waveform is not None


def test_show_reads_the_request_back(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ball.mp4"
    made = call("generate", PROMPT, "--model", folder, "--frames", 9, "-o", path, "--contact-sheet", "--json")
    assert made.exit_code == 0, made.stderr
    report = json.loads(made.stdout)
    assert report["path"] == str(path)
    assert Path(report["contact_sheet"]).read_bytes().startswith(b"\x89PNG")
    assert set(report["seconds"]) >= {"encode", "denoise"}
    shown = json.loads(call("show", path, "--json").stdout)
    seed = shown["request"]["seed"]
    assert ss.Request(**shown["request"]) == ss.Request(prompt=PROMPT, num_frames=9, seed=seed)
    assert shown["latents_sha256"] == report["latents_sha256"]
    assert shown["files"][TRANSFORMER] == report["files"][TRANSFORMER]
    assert f"model: {report['model']}" in call("show", path, "--full").stdout


def test_the_default_name_comes_from_the_prompt_and_spares_old_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("generate", PROMPT, "--model", folder, "--steps", 1, "--guidance", 1, "--seed", 10)
    names = [call(*words).stdout.strip() for _ in range(2)]
    assert names == ["a-red-ball-bounces-10.mp4", "a-red-ball-bounces-10-2.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_nothing_is_overwritten_unless_forced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ball.mp4").write_text("my film")
    (tmp_path / "new.png").write_text("my picture")
    words = ("generate", PROMPT, "--model", folder, "--steps", 1, "--guidance", 1, "--contact-sheet")
    refused = call(*words, "-o", "ball.mp4")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "ball.mp4, which is there already; choose another name, or add --force" in refused.stderr
    beside = call(*words, "-o", "new.mp4")
    assert (beside.exit_code, beside.stdout) == (0, "new.mp4\n")
    assert "contact sheet new-2.png" in beside.stderr
    assert (tmp_path / "ball.mp4").read_text() == "my film"
    assert (tmp_path / "new.png").read_text() == "my picture"
    forced = call(*words, "-o", "ball.mp4", "--force")
    assert forced.exit_code == 0, forced.stderr
    assert read_media(tmp_path / "ball.mp4").frames is not None
    names = ["ball.mp4", "ball.png", "new-2.png", "new.mp4", "new.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_name_taken_during_the_work_loses_no_clip(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.run

    def slow(*given: Any, **choice: Any) -> Any:
        (tmp_path / "ball.mp4").write_text("another's film")
        return run(*given, **choice)

    monkeypatch.setattr(Engine, "run", slow)
    words = ("generate", PROMPT, "--model", folder, "--steps", 1, "--guidance", 1)
    result = call(*words, "-o", tmp_path / "ball.mp4")
    assert result.exit_code == 2
    assert (
        f"ball.mp4 was written by another program meanwhile; the clip is kept as {tmp_path}/ball-2.mp4"
        in (result.stderr)
    )
    assert (tmp_path / "ball.mp4").read_text() == "another's film"
    assert read_media(tmp_path / "ball-2.mp4").frames is not None


def test_a_failed_run_leaves_no_name_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        assert len(list(tmp_path.iterdir())) == 1  # the name is taken while it works
        raise MediaError("a damaged input")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Engine, "run", failing)
    assert call("generate", PROMPT, "--model", folder, "--contact-sheet").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_plan_makes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("plan", PROMPT), ("generate", PROMPT, "--plan")):
        text = call(*words, "--model", folder, "--size", "landscape")
        assert "96x64" in text.stdout
        data = json.loads(call(*words, "--model", folder, "--json").stdout)
        assert data["passes"][0]["video_tokens"] == 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "cinema"], "--size is 'cinema'; give WIDTHxHEIGHT"),
        (["--size", "0x0"], "--size is '0x0'; give width and height"),
        (["--duration", "-1"], "--duration is -1; give a number of seconds above 0"),
        (["--duration", "1000"], "the clip would last 1000 s; the longest take is 120 s"),
        (["--frames", "0"], "--frames is 0"),
        (["--fps", "0"], "--fps is 0"),
        (["--steps", "0"], "--steps is 0"),
        (["--guidance", "-2"], "--guidance is -2"),
        (["--seed", "-3"], "--seed is -3"),
        (["--output", "no/such/folder/a.mp4"], "there is no folder no/such/folder"),
        (["--output", "a.avi"], "ending in .mp4"),
        (["--model", "vga"], "model is 'vga', which is neither a folder, a file nor a known model"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder: Path, words: list[str], says: str) -> None:
    model = [] if "--model" in words else ["--model", folder]
    result = call("generate", PROMPT, *model, *words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("soundstage: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_empty_prompt_and_two_lengths(folder: Path) -> None:
    empty = call("generate", " ", "--model", folder)
    assert (empty.exit_code, empty.stderr.count("\n")) == (2, 1)
    assert "prompt is empty" in empty.stderr.lower()
    both = call("generate", PROMPT, "--model", folder, "--duration", 1, "--frames", 9)
    assert both.exit_code == 2
    assert "keep one" in both.stderr


@pytest.mark.parametrize("name", [TRANSFORMER, AUDIO_VAE])
def test_truncated_weights_are_named(tmp_path: Path, name: str) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    result = call("generate", PROMPT, "--model", folder, "-o", tmp_path / "a.mp4")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert str(folder / name) in result.stderr


def test_mismatched_weights_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    os.replace(folder / TRANSFORMER, folder / "spare")
    os.replace(folder / AUDIO_VAE, folder / TRANSFORMER)
    os.replace(folder / "spare", folder / AUDIO_VAE)
    wrong = folder / "video_vae.safetensors"
    wrong.write_bytes((folder / TRANSFORMER).read_bytes())
    result = call("generate", PROMPT, "--model", folder, "-o", tmp_path / "a.mp4")
    assert result.exit_code == 2
    assert "soundstage: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "a.mp4").exists()


def test_files_that_are_no_films_of_ours(tmp_path: Path) -> None:
    assert "there is no file" in call("show", tmp_path / "a.mp4").stderr
    (tmp_path / "a.mp4").write_text("no film")
    result = call("show", tmp_path / "a.mp4")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_an_interruption_leaves_no_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Engine, plan: object, **_: object) -> object:
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "run", interrupted)
    result = call("generate", PROMPT, "--model", folder, "-o", tmp_path / "a.mp4")
    assert result.exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_help_with_an_example() -> None:
    assert "Example:" in call("--help").stdout
    for command in ("generate", "plan", "show"):
        assert "Example: soundstage" in call(command, "--help").stdout
    assert call("--version").stdout.strip() == ss.__version__


def test_groups_of_commands_are_mounted_from_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMAND_GROUPS, "again", "soundstage.cli.program")
    monkeypatch.setitem(COMMAND_GROUPS, "absent", "soundstage.cli.absent")
    assert "again" in call("--help").stdout
    assert "absent" not in call("--help").stdout
    assert "Example: soundstage plan" in call("again", "plan", "--help").stdout
    refused = call("again", "plan", " ")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert call("absent").exit_code == 2


def test_unknown_options_exit_with_2() -> None:
    result = call("generate", PROMPT, "--colour", "red")
    assert result.exit_code == 2
    assert "--colour" in result.stderr


def test_help_and_completion_load_no_library_that_takes_long() -> None:
    heavy = {"torch", "numpy", "pydantic", "av", "PIL", "rich", "yaml", "transformers"}
    program = f"import sys; import soundstage.cli.program; print(*(sys.modules.keys() & {heavy!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=LONG_S
    )
    assert done.stdout.split() == []


# --- in the words of the command line -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--video", "{clip}"],
            "kept; give --span, --mask, --denoise, --extend-after, --canvas, or --remake",
        ),
        (["--recipe", "upscale"], "recipe 'upscale' starts from a clip; give --video"),
        (["--recipe", "dub"], "give --reference, the clip of the speaker, and its sound by --audio with"),
        (["--image", "{picture}@9"], "TIME of --image is 9 s, but the last frame is at"),
        (["--cache", "foo"], "--cache is 'foo'; give first-block or teacache, or with"),
        (["--cache", "teacache:99"], "threshold of --cache is '99'; give a number from 0 to below 10"),
        (["--size", "99999999x3"], "--size is '99999999x3'; give width and height in pixels"),
        (["--relay", "epsilon"], "give NAME=VALUE, such as epsilon=0.5"),
        (["--memory", "0.0001"], "of which 0.0001 may be used"),
        (["red", "ball"], "has no use for 'red ball'; put PROMPT within quotation marks"),
        (["--prompt"], "--prompt is given without a value"),
        (["--image", "{text}"], "cannot be read as a picture, video or sound (it is text)"),
        (["--audio", "{text}"], "cannot be read as a picture, video or sound (it is text)"),
        (["-o", "{text}/a.mp4"], "note.png is no folder; choose another place"),
    ],
)
def test_refusals_name_what_is_typed(tmp_path: Path, words: list[str], says: str) -> None:
    from PIL import Image

    files = {"clip": tmp_path / "clip.mp4", "picture": tmp_path / "p.png", "text": tmp_path / "note.png"}
    Image.new("RGB", (64, 64)).save(files["picture"])
    files["text"].write_text("Dear diary,\n")
    write_film(files["clip"], grays(range(0, 240, 10)))
    result = call("generate", PROMPT, *(word.format(**files) for word in words))
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert "None" not in result.stderr


def test_an_argument_is_named_where_it_stands_for_an_option(tmp_path: Path) -> None:
    missing = tmp_path / "no.mp4"
    assert "START-END is 'a'; give START-END in seconds" in call("retake", missing, "a", PROMPT).stderr
    told = call("retake", missing, "1-2", PROMPT).stderr
    assert "there is no file" in told
    assert "ends at" not in told  # which nobody knows of a clip that is not there
    assert "needs IMAGE (PATH[@TIME]" in call("keyframe", PROMPT).stderr


def test_snaps_and_notices_name_what_is_typed(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (300, 64)).save(tmp_path / "wide.png")
    told = call("plan", PROMPT, "--image", tmp_path / "wide.png").stdout
    assert "(the shape of --image, at" in told
    assert "give 'pad' for --crop to show all of it" in told
    asked = json.loads(call("plan", PROMPT, "--image", tmp_path / "wide.png", "--json").stdout)
    assert "the shape of guides[0].image" in json.dumps(asked)


def test_show_of_a_picture_asks_for_the_film(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "sheet.png")
    assert "sheet.png is a picture, which does not say" in call("show", tmp_path / "sheet.png").stderr


def test_an_interrupted_take_says_where_its_windows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = WindowStore.save

    def interrupted(self: WindowStore, index: int, latents: Any) -> None:
        if index == 1:
            raise KeyboardInterrupt
        save(self, index, latents)

    monkeypatch.setattr(WindowStore, "save", interrupted)
    tiny = write_tiny_model(tmp_path / "tiny")
    words = ["generate", PROMPT, "--model", tiny, "--frames", 49, "--size", "64x64", "--steps", 1]
    words += ["--take", "window_frames=25", "--take", "overlap_frames=16"]
    kept = call(*words, "--take", f"folder={tmp_path / 'work'}", "-o", tmp_path / "a.mp4")
    assert kept.exit_code == 130, kept.stderr
    folder = tmp_path / "work"
    assert f"interrupted; 1 finished window is kept in {folder}, and the same request goes" in kept.stderr
    lost = call(*words, "-o", tmp_path / "a.mp4")
    assert "interrupted; no partial file is left" in lost.stderr
