"""Defaults of options: config files and variables, their order, their rivals, what is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from soundstage.cli.config_files import parsed, with_key
from soundstage.cli.program import app
from soundstage.cli.rivals import GIVES_WAY
from soundstage.cli.variables import OTHERS, OWN
from soundstage.errors import ConfigError
from tests.examples import write_inputs
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]
PROMPT = "A red ball bounces."


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a project in a home folder of its own; the user's file is config/config.toml."""
    monkeypatch.delenv("SOUNDSTAGE_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_config_dir", lambda name: str(tmp_path / "config"))
    (tmp_path / "config").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def user(text: str) -> None:
    Path("../config/config.toml").write_text(text)


def project(text: str) -> None:
    Path("soundstage.toml").write_text(text)


def request(*words: object) -> dict[str, Any]:
    """Return the request that a command plans."""
    result = call(
        *(words or ("plan", PROMPT)), *(("--plan",) if words and words[0] != "plan" else ()), "--json"
    )
    assert result.exit_code == 0, result.stderr + result.stdout
    found: dict[str, Any] = json.loads(result.stdout)["request"]
    return found


def refusal(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 2, result.stdout
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("soundstage: ")


# --- order ----------------------------------------------------------------------------------------------


def test_what_is_nearer_to_the_command_line_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    user("steps = 1\n[generate]\nsteps = 2\n")
    assert request()["steps"] == 1
    assert request("generate", PROMPT)["steps"] == 2
    project("steps = 3\n")
    assert request("generate", PROMPT)["steps"] == 3
    project("steps = 3\n[generate]\nsteps = 4\n")
    assert request()["steps"] == 3
    assert request("generate", PROMPT)["steps"] == 4
    monkeypatch.setenv("SOUNDSTAGE_STEPS", "5")
    assert request("generate", PROMPT)["steps"] == 5
    monkeypatch.setenv("SOUNDSTAGE_GENERATE_STEPS", "6")
    assert request("generate", PROMPT)["steps"] == 6
    assert request()["steps"] == 5
    assert request("generate", PROMPT, "--steps", 7)["steps"] == 7


def test_a_default_makes_the_same_request_as_the_option(home: Path, tiny: Path) -> None:
    write_inputs(Path())
    options = {
        "model": [str(tiny)],
        "size": "64x96",
        "frames": 9,
        "fps": 12.5,
        "seed": 5,
        "image": ["ball.png@0.2:0.5", "left.png@last"],
        "image-mode": "guide",
        "guidance": 2.5,
        "video-scale": ["rescale=0.5"],
        "negative-prompt": "fog",
        "sampler": "res2s",
        "steps": 2,
        "allow-unfit": True,
    }
    words = [
        word
        for name, value in options.items()
        for item in (value if isinstance(value, list) else [value])
        for word in ((f"--{name}",) if item is True else (f"--{name}", item))
    ]
    typed = request("generate", PROMPT, *words)
    project("".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items()))
    assert request("generate", PROMPT) == typed
    project("".join(f"{name.replace('-', '_')} = {json.dumps(value)}\n" for name, value in options.items()))
    assert request("generate", PROMPT) == typed


def test_variables_take_lists_flags_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(Path())
    monkeypatch.setenv("SOUNDSTAGE_IMAGE", "ball.png@0.1")
    assert len(request()["guides"]) == 1
    monkeypatch.setenv("SOUNDSTAGE_IMAGE", '["ball.png@0.1", "end.png@last"]')
    assert [Path(guide["image"]).name for guide in request()["guides"]] == ["ball.png", "end.png"]
    monkeypatch.setenv("SOUNDSTAGE_ALLOW_UNFIT", "yes")
    assert request()["allow_unfit"] is True
    project("allow-unfit = true\n")
    monkeypatch.setenv("SOUNDSTAGE_ALLOW_UNFIT", "0")
    assert request()["allow_unfit"] is False


def test_names_that_had_a_meaning_before_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_CACHE", "off")  # of the encodings, not --cache
    monkeypatch.setenv("SOUNDSTAGE_TAKES", "off")  # of long takes, not --takes
    assert request("generate", PROMPT)["cache"] is None
    monkeypatch.setenv("SOUNDSTAGE_GENERATE_CACHE", "first-block:0.1")
    assert request("generate", PROMPT)["cache"]["threshold"] == 0.1


def test_other_commands_read_their_own_section_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    project(
        "model = 'elsewhere'\nsize = '64x64'\nseed = 3\n"
        "[nano.sample]\nseed = 4\nframes = 9\noutput = 'w.mp4'\n"
    )
    result = call("nano", "sample")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "w.mp4"
    project("json = true\n")
    assert isinstance(json.loads(call("recipes").stdout), list)
    monkeypatch.setenv("SOUNDSTAGE_JSON", "no")
    assert "fast" in call("recipes").stdout.split()


def test_errors_are_json_where_a_default_asks_for_it() -> None:
    project("json = true\n")
    told = json.loads(call("generate", PROMPT, "--steps", 5000).stdout)
    assert told["error"]["option"] == "--steps"


# --- files ----------------------------------------------------------------------------------------------


def test_a_project_is_found_from_a_folder_within_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project("steps = 3\n")
    (home / "project/a/b").mkdir(parents=True)
    monkeypatch.chdir(home / "project/a/b")
    assert request()["steps"] == 3
    Path("../soundstage.toml").write_text("steps = 4\n")
    assert request()["steps"] == 4
    Path("../soundstage.toml").unlink()
    Path(".git").mkdir()  # a repository of its own
    assert request()["steps"] is None


def test_a_folder_outside_of_the_home_counts_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home / "elsewhere"))
    project("steps = 3\n")
    assert request()["steps"] == 3
    (home / "project/a").mkdir()
    monkeypatch.chdir("a")
    assert request()["steps"] is None


def test_relative_paths_are_as_seen_from_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(Path())
    project('image = "ball.png@0.1"\naudio = "~/project/beat.wav"\nrecipe = "./mine.yaml"\n')
    Path("mine.yaml").write_text((ROOT / "soundstage/request/recipes/single.yaml").read_text())
    (home / "project/a").mkdir()
    monkeypatch.chdir("a")
    made = request()
    assert made["guides"][0]["image"] == str(home / "project/ball.png")
    assert made["audio"]["file"] == str(home / "project/beat.wav")
    assert made["recipe"] == str(home / "project/mine.yaml")


def test_another_file_or_none_can_be_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user("steps = 1\n")
    (home / "other.toml").write_text("steps = 2\n")
    monkeypatch.setenv("SOUNDSTAGE_CONFIG", str(home / "other.toml"))
    assert request()["steps"] == 2
    monkeypatch.setenv("SOUNDSTAGE_CONFIG", "off")
    assert request()["steps"] is None
    monkeypatch.setenv("SOUNDSTAGE_CONFIG", "missing.toml")
    assert refusal("plan", PROMPT) == (
        "SOUNDSTAGE_CONFIG is missing.toml, which is no file; name a config file, or off to read none"
    )


# --- rivals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "words", "expected"),
    [
        ("duration = 4.0", ("--frames", 9), {"num_frames": 9, "duration_s": None}),
        ("frames = 9", ("--duration", 2), {"num_frames": None, "duration_s": 2.0}),
        ("steps = 3\nschedule = 'linear'", ("--sigmas", "1,0.5,0"), {"steps": None, "schedule": None}),
        ("sigmas = '1,0.5,0'", ("--steps", 3), {"sigmas": None, "steps": 3}),
        ("video-guidance = 3", ("--guidance", 2), {"guidance": 2.0, "video_guidance": None}),
        ("video-scale = ['cfg=3', 'rescale=0.5']", ("--guidance", 2), {"video_scales": {"rescale": 0.5}}),
        ("audio-scale = 'cfg=3'", ("--video-guidance", 2), {"audio_scales": {"cfg": 3.0}}),
        ("video-negative-prompt = 'fog'", ("--negative", "rain"), {"video_negative_prompt": None}),
        ("lora = 'missing.safetensors'", ("--lora", "style.safetensors"), {}),
        ("steps = 3\nschedule = 'linear'", ("--recipe", "fast"), {"steps": None, "recipe": "fast"}),
        ("crf = 20\nimage-mode = 'guide'\ncrop = 'pad'\naudio-mode = 'identity'\ndenoise = 0.5", (), {}),
        ("crf = 20\ncrop = 'pad'", ("--image", "ball.png"), {}),
    ],
)
def test_an_option_that_is_typed_wins_over_a_default_for_its_rival(
    written: str, words: tuple[object, ...], expected: dict[str, Any]
) -> None:
    write_inputs(Path())
    project(f"{written}\n")
    made = request("generate", PROMPT, *words)
    assert {key: made[key] for key in expected} == expected
    assert ("style" in str(made["loras"])) is ("style.safetensors" in words)


def test_seeds_win_over_a_default_seed_and_a_default_of_takes() -> None:
    project("seed = 5\ntakes = 2\n")
    made = call("generate", PROMPT, "--seeds", "1-3", "--plan", "--json").stdout.splitlines()
    assert [json.loads(line)["request"]["seed"] for line in made] == [1, 2, 3]
    project("seeds = '1-3'\n")
    assert request("generate", PROMPT, "--seed", 7)["seed"] == 7


def test_rivals_of_one_file_are_refused_by_their_places() -> None:
    project("duration = 2\nframes = 9\n")
    assert refusal("plan", PROMPT).startswith(
        "both duration in soundstage.toml line 1 (2) and frames in soundstage.toml line 2 (9) are given"
    )


def test_every_rival_is_an_option() -> None:
    command = app.get_command(None, "generate")  # type: ignore[attr-defined]
    names = {param.name for param in command.params}
    assert {*GIVES_WAY, *(name for rivals in GIVES_WAY.values() for name in rivals)} <= names


@pytest.mark.parametrize(
    "words",
    [
        ("retake", "ball.mp4", "1-2", PROMPT),
        ("extend", "ball.mp4", PROMPT, "--after", 0.5),
        ("keyframe", PROMPT, "left.png", "right.png"),
        ("a2v", "beat.wav", PROMPT),
        ("v2a", "silent.mp4", PROMPT),
        ("t2a", PROMPT),
        ("upscale", "ball.mp4", PROMPT),
        ("dub", "talk.mp4", PROMPT, "--lora", "style.safetensors"),
    ],
    ids=lambda words: words[0],
)
def test_defaults_made_for_generate_disturb_no_other_command(words: tuple[object, ...]) -> None:
    write_inputs(Path())
    project(
        "duration = 0.5\nsize = 'square'\nfps = 12\nsteps = 4\nschedule = 'linear'\nvideo-guidance = 2\n"
        "audio-guidance = 2\nimage-mode = 'guide'\nnegative-prompt = 'fog'\nquality = 50\noutput = 'out/'\n"
    )
    result = call(*words, "--plan")
    assert result.exit_code == 0, result.stderr


def test_what_nothing_would_read_is_left_out_and_said() -> None:
    project("steps = 4\n")
    told = call("plan", PROMPT, "--recipe", "fast").stderr
    assert told.startswith(
        "notice: left out, steps in soundstage.toml line 1: --steps is 4, but recipe 'fast' has"
    )
    told = call("plan", PROMPT, "--recipe", "fast", "--steps", 4).stderr
    assert told.startswith("soundstage: --steps is 4, but recipe 'fast' has")


# --- what is wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("stesp = 3", r"stesp in FILE line 1 is no option of `soundstage generate`; near it: steps,"),
        ("\nlayers = 3", r"layers in FILE line 2 is no option of `soundstage generate`; write .* \[bench\]"),
        ("[genrate]\nsteps = 3", r"\[genrate\] in FILE line 2 is no command; near it: generate"),
        ("[plan]\nquality = 3", r"quality in FILE line 2 is no option of `soundstage plan`; "),
        ("[plan.a]\nsteps = 3", r"\[plan\.a\] in FILE line 2 is no command"),
        ("steps = 'many'", r"steps in FILE line 1 is 'many'; it should be a whole number"),
        ("steps = 2.5", r"steps in FILE line 1 is 2\.5; it should be a whole number"),
        ("steps = true", r"steps in FILE line 1 is true; it should be a whole number"),
        ("steps = {a = 1}", r"steps in FILE line 1 is a table; it should be a whole number"),
        ("[generate.lora]\nx = 1", r"lora in FILE line 2 is a table; it should be a text"),
        ("[[generate]]\nsteps = 1", r"generate in FILE .*; the section of a command is written once,"),
        ("#" * 2**20, r"FILE is larger than 1 MB, so it is no config file"),
        ("steps = [1, 2]", r"steps in FILE line 1 is \[1, 2\]; it should be a single value"),
        ("image = [[1]]", r"image in FILE line 1 is \[1\]; it should be a text"),
        ("guidance = 'x'", r"guidance in FILE line 1 is 'x'; it should be a number"),
        ("json = 'yes'", r"json in FILE line 1 is 'yes'; it should be true or false"),
        ("takes = 0", r"takes in FILE line 1 is 0; it should be a whole number, 1 or more"),
        ("seed = 1979-05-27", r"seed in FILE line 1 is 1979-05-27; it should be a whole number, or random"),
        ("steps = ", r"FILE is not TOML that can be read \(.*line 1.*\); correct it"),
        ("steps = 1\nsteps = 2", r"FILE is not TOML that can be read \(.*\); correct it"),
        ("a = " + 3000 * "[", r"FILE is not TOML that can be read \(.*\); correct it"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_sentence(written: str, told: str) -> None:
    project(f"{written}\n")
    assert re.match(told.replace("FILE", r"soundstage\.toml"), refusal("generate", PROMPT))
    assert re.match(told.replace("FILE", r"soundstage\.toml"), refusal("config"))
    assert call("generate", "--help").exit_code == 0
    assert call("config", "path").exit_code == 0


@pytest.mark.parametrize(
    ("written", "words", "told"),
    [
        ("steps = 5000", (), "steps in FILE line 1 is 5000; give a whole number of steps from 1 to 1000"),
        ("recipe = 'fats'", (), "recipe in FILE line 1 is 'fats'; the recipes are fast,"),
        ("sampler = 'eular'", (), "sampler in FILE line 1 is 'eular'; the samplers are euler,"),
        ("image = 'a.png:1.5'", (), "STRENGTH of image in FILE line 1 is 1.5;"),
        ("only = 'picture'", (), "only in FILE line 1 is 'picture'; give one of"),
        ("seeds = 'x'", (), "seeds in FILE line 1 is 'x'; give numbers"),
        ("quality = 500", (), "quality in FILE line 1 is 500; "),
        ("log = 'no/where.log'", (), "log in FILE line 1 is no/where.log, which cannot be written"),
        ("prompts = 'none.txt'", (), "prompts in FILE line 1 is none.txt, which cannot be read"),
        ("output = '{promt}.mp4'", (), "output in FILE line 1 has the field {promt};"),
        ("size = 'square'", ("--only", "picture"), "--only is 'picture'; give one of"),
    ],
)
def test_a_value_that_the_command_line_would_refuse_is_refused_by_its_place(
    written: str, words: tuple[str, ...], told: str
) -> None:
    project(f"{written}\n")
    prompt = () if written.startswith("prompts") else (PROMPT,)
    assert refusal("generate", *prompt, *words).startswith(told.replace("FILE", "soundstage.toml"))


def test_a_variable_that_does_not_fit_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, told in (
        ("many", "is 'many'; it should be a whole"),
        ("5000", "is 5000; give a whole number"),
    ):
        monkeypatch.setenv("SOUNDSTAGE_GENERATE_STEPS", value)
        assert refusal("generate", PROMPT).startswith(f"SOUNDSTAGE_GENERATE_STEPS {told}")


def test_a_file_that_cannot_be_read_is_one_sentence() -> None:
    Path("soundstage.toml").write_bytes(b"\xff\xfe")
    assert refusal("plan", PROMPT) == (
        "soundstage.toml cannot be read (it is no text in UTF-8); correct it or take it away"
    )


# --- soundstage config ----------------------------------------------------------------------------------


def test_config_shows_each_default_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    user("steps = 9\nmodel = 'nano'\n")
    project("steps = 3\n[nano.sample]\nseed = 4\n")
    monkeypatch.setenv("SOUNDSTAGE_SEED", "random")
    monkeypatch.setenv("SOUNDSTAGE_STESP", "3")
    result = call("config")
    assert "SOUNDSTAGE_STESP is set, and nothing reads it" in result.stderr
    lines = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines()]
    assert ["steps = 3", "soundstage.toml line 1"] in lines
    assert ['seed = "random"', "SOUNDSTAGE_SEED"] in lines
    assert ["nano.sample.seed = 4", "soundstage.toml line 3"] in lines
    assert any(
        line[0] == "steps = 9" and line[1].endswith("hidden by soundstage.toml line 1") for line in lines
    )
    facts = json.loads(call("config", "--json").stdout)
    assert {"key": "steps", "value": 3, "source": "soundstage.toml", "line": 1, "counts": True} in facts[
        "defaults"
    ]
    assert facts["unknown_variables"] == ["SOUNDSTAGE_STESP"]
    assert [file["is_read"] for file in facts["files"]] == [True, True]


def test_set_and_unset_keep_the_rest_of_a_file(home: Path) -> None:
    project(
        '# mine\nsteps = 3  # few\n\nlora = [\n  "a.safetensors",  # one\n]\n\n[generate]\nquality = 50\n'
    )
    assert call("config", "set", "steps", 12, "--project").exit_code == 0
    assert call("config", "set", "lora", "b.safetensors:0.5", "c.safetensors", "--project").exit_code == 0
    assert call("config", "set", "generate.output", "out/", "--project").exit_code == 0
    assert call("config", "set", "negative_prompt", 'fog "and" rain', "--project").exit_code == 0
    assert call("config", "set", "nano.sample.seed", 3, "--project").exit_code == 0
    assert Path("soundstage.toml").read_text() == (
        '# mine\nsteps = 12  # few\n\nlora = ["b.safetensors:0.5", "c.safetensors"]\n'
        'negative-prompt = "fog \\"and\\" rain"\n\n[generate]\nquality = 50\noutput = "out/"\n'
        "\n[nano.sample]\nseed = 3\n"
    )
    for key in ("lora", "negative-prompt", "generate.quality", "nano.sample.seed"):
        assert call("config", "unset", key, "--project").exit_code == 0
    assert Path("soundstage.toml").read_text() == (
        '# mine\nsteps = 12  # few\n\n\n[generate]\noutput = "out/"\n\n[nano.sample]\n'
    )
    assert request("generate", PROMPT)["steps"] == 12


def test_a_first_default_makes_the_users_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_config_dir", lambda name: str(home / "new/config"))
    assert call("config", "set", "model", "nano").exit_code == 0
    place = call("config", "path").stdout.strip()
    assert Path(place).read_text() == 'model = ["nano"]\n'
    assert call("config", "unset", "model").exit_code == 0
    assert "model is not set in" in refusal("config", "unset", "model")


def test_a_path_of_the_users_file_is_told_as_it_will_be_seen(home: Path) -> None:
    told = call("config", "set", "output", "clips/").stderr
    assert 'notice: seen from there it is "' in told
    assert 'config/clips/"; give a whole path, or add --project' in told
    for words in (("output", "clips/", "--project"), ("output", "/all/"), ("output", "~/all/"), ("steps", 3)):
        assert "notice" not in call("config", "set", *words).stderr


def test_a_default_that_does_not_fit_is_not_written() -> None:
    for words, told in (
        (("stesp", "3"), "stesp in soundstage.toml is no option"),
        (("steps", "few"), "steps in soundstage.toml is 'few'; it should be a whole number"),
        (("quiet", "maybe"), "quiet in soundstage.toml is 'maybe'; it should be true or false"),
        (("steps", "1", "2"), "steps in soundstage.toml is '1 2'; it should be a whole number"),
    ):
        assert refusal("config", "set", *words, "--project").startswith(told)
    assert not Path("soundstage.toml").exists()


def test_a_section_that_is_no_table_is_left_to_its_author() -> None:
    with pytest.raises(ConfigError, match=r"writes generate\.steps in a way of its own; change it there"):
        with_key("[[generate]]\nfps = 3\n", ("generate", "steps"), 4, Path("c.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "generate.steps = 3\n",
        "generate.quality = 3 # of the film\n",
        "[generate]\n'steps' = [\n1,\n]\nquality = 3",
        "[plan]",
        "generate = {steps = 3}\n",
        '[generate]\nnegative = """\nsteps = 3\n"""\n',
        "# mine\r\n[generate] # here\r\nsteps = 3 # few\r\n",
    ],
)
def test_a_key_is_set_where_it_stands_or_belongs(text: str) -> None:
    written = with_key(text, ("generate", "steps"), 4, Path("c.toml"))
    before, made = parsed(text, Path("c.toml")).values, parsed(written, Path("c.toml")).values
    assert made == before | {"generate": {**before.get("generate", {}), "steps": 4}}
    assert re.findall("#.*", written) == re.findall("#.*", text)
    again = with_key(written, ("generate", "steps"), None, Path("c.toml"))
    assert "steps" not in parsed(again, Path("c.toml")).values.get("generate", {})


def test_a_section_of_several_commands_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    project("[models]\nhere = true\n")
    told = (
        "here in soundstage.toml line 2 is in [models], which has several commands; write the section of "
        "one, such as [models.list]"
    )
    assert refusal("config") == refusal("models", "list") == told
    project("[models.list]\nhere = true\n")
    assert "Whole models" not in call("models", "list").stdout
    monkeypatch.setenv("SOUNDSTAGE_CONFIG", "off")
    assert refusal("config", "set", "steps", "3") == (
        "SOUNDSTAGE_CONFIG is off, so no file would be read; unset it first"
    )


def test_the_log_says_which_defaults_counted() -> None:
    project("steps = 3\nseed = 4\n")
    told = call("plan", PROMPT, "--seed", 5, "-v").stderr
    assert "soundstage.cli: steps in soundstage.toml line 1 is 3" in told
    assert "seed in soundstage.toml" not in told


# --- without a default, and what is wrong -----------------------------------------------------------------


def test_no_before_an_option_leaves_its_default_out(monkeypatch: pytest.MonkeyPatch) -> None:
    project("steps = 3\nfps = 12\nallow-unfit = true\nvideo-scale = ['rescale=0.5']\njson = true\n")
    assert call("plan", PROMPT, "--no-json").stdout.startswith("model ")
    assert request("plan", PROMPT, "--no-steps", "--no-fps")["steps"] is None
    without = request("generate", PROMPT, "--no-allow-unfit", "--no-video-scale", "--no-steps")
    assert (without["allow_unfit"], without["video_scales"], without["steps"]) == (False, {}, None)
    assert without["fps"] == 12
    assert request("generate", PROMPT, "--no-steps", "--steps", 4)["steps"] == 4
    assert request("generate", PROMPT, "--no-seed")["seed"] is not None  # there is none to leave out
    assert call("generate", "--plan", "--", "--no-steps").exit_code == 0  # a prompt
    monkeypatch.setenv("SOUNDSTAGE_JSON", "0")
    told = refusal("generate", PROMPT, "--no-stesp")
    assert told.startswith("soundstage generate has no option --no-stesp")
    assert refusal("plan", PROMPT, "--no-fps", "--size", "x").startswith("--size is 'x';")


def test_a_default_of_another_format_is_left_out() -> None:
    project("quality = 50\ncodec = 'h265'\n")
    found = call("t2a", PROMPT, "--plan", "-o", "a.wav")
    assert found.exit_code == 0
    assert (
        "left out, quality in soundstage.toml line 1: --quality is 50, and .wav with pcm has one"
        in found.stderr
    )
    assert "left out, codec in soundstage.toml line 2: --codec is 'h265', and .wav takes" in found.stderr
    assert refusal("t2a", PROMPT, "--plan", "-o", "a.wav", "--quality", 50, "--no-codec").endswith(
        "--quality is 50, and .wav with pcm has one quality only; leave it out"
    )
    project("codec = 'h266'\n")
    assert refusal("t2a", PROMPT, "--plan").startswith("codec in soundstage.toml line 1 is 'h266', and .wav")


def test_a_refusal_says_where_the_recipe_is_set() -> None:
    project("recipe = 'fast'\n")
    told = refusal("plan", PROMPT, "--steps", 3)
    assert told.startswith("--steps is 3, but recipe 'fast' (recipe in soundstage.toml line 1) has a fixed")
    assert request("plan", PROMPT, "--steps", 3, "--no-recipe")["steps"] == 3


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("steps", "5000", "steps is 5000; give a whole number of steps from 1 to 1000"),
        ("fps", "-1", "fps is -1; give a number of frames per second from 1 to 240"),
        ("size", "huge", "size is 'huge'; give WIDTHxHEIGHT"),
        ("recipe", "fats", "recipe is 'fats'; the recipes are fast,"),
        ("sampler", "eular", "sampler is 'eular'; the samplers are euler,"),
        ("quality", "500", "quality is 500; give a whole number from 1 to 100"),
        ("plan.crf", "99", "crf is 99; give a whole number from 0 to 51"),
        ("denoise", "2", "denoise is 2; give a number above 0 and up to 1"),
        ("image", "a.png:5", "STRENGTH of image is 5; give a number from 0 to 1"),
    ],
)
def test_setting_refuses_what_no_clip_is_made_with(key: str, value: str, told: str) -> None:
    assert refusal("config", "set", key, value).startswith(told)
    assert not Path("../config/config.toml").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crf", "10"),
        ("denoise", "0.5"),
        ("extend-after", "2"),
        ("canvas", "1,2,3,4"),
        ("span", "1-2"),
        ("audio-start", "1"),
        ("lengths", "2,1"),
    ],
)
def test_an_option_about_an_input_is_set_without_it(key: str, value: str) -> None:
    assert call("config", "set", key, value).exit_code == 0


# --- the page -------------------------------------------------------------------------------------------


def test_the_page_has_every_variable_that_is_read() -> None:
    page = (ROOT / "docs/config.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M))
    for name, variable in (OWN | OTHERS).items():
        takes = ", ".join(f"`{word}`" for word in variable.takes.split(", "))
        assert rows[name] == f"{takes} | {variable.meaning}"
    read = {
        name
        for path in (ROOT / "soundstage").rglob("*.py")
        for name in re.findall(r"\"((?:SOUNDSTAGE|HF|COMFYUI|WANGP|XDG)_[A-Z_]*[A-Z])\"", path.read_text())
    }
    assert read <= set(OWN | OTHERS)


def test_python_reads_no_config_file() -> None:
    import soundstage as ss

    project("steps = 3\nmodel = 'elsewhere'\n")
    assert ss.Request(prompt=PROMPT).steps is None
    stage = ss.load()
    assert stage.plan(ss.Request(prompt=PROMPT)).passes[0].num_steps == stage.model.defaults.steps
