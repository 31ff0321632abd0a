"""Several clips of one command: prompts from words, files and standard input, seeds, names, failures."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from soundstage.cli.naming import slug
from soundstage.cli.program import app
from soundstage.cli.run_times import RunTimes
from soundstage.engine import Engine
from soundstage.errors import MediaError
from tests.tiny_model import TinyParts, write_tiny_model

BALL, RAIN = "A red ball bounces.", "Steady rain is heard."
FAST = ("--steps", 1, "--guidance", 1, "--frames", 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def generate(folder: Path) -> Any:
    def call(*words: object, input: str | None = None) -> Result:
        given = ["generate", *words, "--model", folder, *FAST]
        return CliRunner().invoke(app, [str(word) for word in given], input=input)

    return call


def failing_for(seed: int, error: BaseException) -> Any:
    """Return what stands for Engine.run: the clip of one seed fails."""
    run = Engine.run

    def failing(self: Engine, planned: Any, **choice: Any) -> Any:
        if planned.request.seed == seed:
            raise error
        return run(self, planned, **choice)

    return failing


def test_a_plan_refuses_names_that_could_not_be_written_and_makes_no_folder(
    generate: Any, tmp_path: Path
) -> None:
    def told(*words: object) -> str:
        result = generate(BALL, "--plan", *words)
        assert (words, result.exit_code, result.stdout) == (words, 2, "")
        return str(result.stderr.splitlines()[-1])

    assert "--output is a.xyz; give a name ending in .mp4" in told("-o", "a.xyz")
    assert "--quality is 500; give a whole number from 1 to 100" in told("--quality", 500)
    assert "--codec is 'h26', and .mp4 takes" in told("--codec", "h26")
    assert "there is no folder no" in told("-o", "no/a.mp4")
    assert "--output is empty; give a file" in told("-o", "")
    assert "which is no template" in told("-o", "{seed:>99999999999}.mp4")
    assert "--video: there is no file missing.mp4" in told("--video", "missing.mp4")
    Path("there.mp4").write_text("a clip")
    assert "which is there already" in told("-o", "there.mp4")
    assert generate(BALL, "--plan", "-o", "there.mp4", "--force").exit_code == 0
    assert generate(BALL, "--plan", "-o", "new/").exit_code == 0
    assert generate(BALL, "--plan", "-o", "new{seed}/%04d.png").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["there.mp4"]


def test_each_prompt_with_each_seed_and_the_model_is_loaded_once(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    load = TinyParts.__init__

    def counted(self: TinyParts, *given: Any, **options: Any) -> None:
        loads.append(1)
        load(self, *given, **options)

    monkeypatch.setattr(TinyParts, "__init__", counted)
    made = generate(BALL, RAIN, "--seeds", "1-2,7")
    assert made.exit_code == 0, made.stderr
    names = [f"{slug(prompt)}-{seed}.mp4" for prompt in (BALL, RAIN) for seed in (1, 2, 7)]
    assert made.stdout.split() == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert len(loads) == 1
    assert "clip 2 of 6: seed 2, A red ball bounces." in made.stderr
    assert "made 6 of 6 clips, in " in made.stderr


def test_what_is_snapped_in_all_clips_is_told_once(generate: Any) -> None:
    made = generate(BALL, RAIN, "--size", "70x64", "--seeds", "1-2")
    assert made.exit_code == 0, made.stderr
    assert made.stderr.count("snapped size") == 1


def test_a_name_from_a_prompt_ends_with_a_whole_word() -> None:
    assert slug("Steady rain is heard at the lake, and thunder!") == "steady-rain-is-heard-at-the-lake-and"
    assert slug("A red ball.") == "a-red-ball"
    assert (slug("x" * 60), slug("?!")) == ("x" * 40, "clip")


def test_a_plan_tells_the_time_that_a_clip_took_here(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "as clips here took" not in generate(BALL, "--plan").stdout
    monkeypatch.setattr(RunTimes, "expected", lambda times: 12.3)
    assert "about 12 s with loading and writing, as clips here took" in generate(BALL, "--plan").stdout


def test_a_clip_among_several_is_the_clip_made_alone(generate: Any) -> None:
    alone = json.loads(generate(BALL, "--seed", 8, "--json").stdout)
    *clips, summary = map(json.loads, generate(BALL, "--seed", 7, "--takes", 2, "--json").stdout.splitlines())
    assert [clip["request"]["seed"] for clip in clips] == [7, 8]
    assert [clip["index"] for clip in clips] == [1, 2]
    assert clips[1]["latents_sha256"] == alone["latents_sha256"]
    assert summary["summary"]["made"] == 2


def test_a_file_of_prompts_and_standard_input(generate: Any) -> None:
    Path("list.txt").write_text(f"# two\n\n{BALL}\n  {RAIN}  \n", encoding="utf-8")
    written = [f"{slug(BALL)}-10.mp4", f"{slug(RAIN)}-10.mp4"]
    assert generate("--prompts", "list.txt", "--seed", 10).stdout.split() == written
    for words in (("-",), ("--prompts", "-")):
        text = f"{BALL}\n{RAIN}\n"
        assert len(generate(*words, "--output", f"{len(words)}/", input=text).stdout.split()) == 2


def test_lines_of_json_win_over_options(generate: Any) -> None:
    first = generate(BALL, "--seed", 3, "--json").stdout
    lines = [
        first.strip(),
        json.dumps({"prompt": RAIN, "size": "64x64", "seed": 5}),
        json.dumps({"prompt": "Hum."}),
    ]
    Path("list.jsonl").write_text("\n".join(lines))
    made = generate("--prompts", "list.jsonl", "--seed", 9, "--json")
    assert made.exit_code == 0, made.stderr
    found = [json.loads(line)["request"] for line in made.stdout.splitlines()[:-1]]
    assert [(r["prompt"], r["seed"]) for r in found] == [(BALL, 3), (RAIN, 5), ("Hum.", 9)]
    assert found[1]["size"] == [64, 64]


def test_json_among_prompts_is_refused(generate: Any) -> None:
    Path("list.txt").write_text(f'{BALL}\n{{"prompt": "Hum.", "seed": 4}}\n')
    made = generate("--prompts", "list.txt")
    assert made.exit_code == 2
    assert "line 2 of list.txt: this is JSON in a file of prompts" in made.stderr


def test_a_name_without_ending_is_told_of_files_and_folders(generate: Any) -> None:
    made = generate(BALL, "--output", "ball")
    assert made.exit_code == 2
    assert "--output is ball, which has no ending; give ball.mp4, or ball/ for a folder" in made.stderr


def test_one_failure_does_not_stop_the_rest(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "run", failing_for(2, MediaError("a damaged input")))
    made = generate(BALL, "--seeds", "1-3", "--contact-sheet")
    assert made.exit_code == 1
    assert len(made.stdout.split()) == 2
    assert "soundstage: clip 2: a damaged input\n" in made.stderr
    assert "made 2 of 3 clips, 1 failed, in " in made.stderr
    assert len(list(tmp_path.glob("*.mp4"))) == 2
    lines = [json.loads(line) for line in generate(BALL, "--seeds", "1-3", "--json").stdout.splitlines()]
    assert (lines[1]["error"]["message"], lines[1]["index"]) == ("a damaged input", 2)
    assert (lines[3]["summary"]["made"], lines[3]["summary"]["failed"]) == (2, 1)


def test_an_interruption_keeps_what_is_made_and_says_what_is_missing(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "run", failing_for(2, KeyboardInterrupt()))
    made = generate(BALL, "--seeds", "1-3")
    assert made.exit_code == 130
    assert made.stderr.endswith("soundstage: interrupted; 1 of 3 clips made and kept, 2 missing\n")
    assert [path.name for path in tmp_path.iterdir()] == [f"{slug(BALL)}-1.mp4"]


def test_an_interruption_that_a_library_turned_into_an_error_ends_all(
    generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = MediaError("the file could not be read")
    error.__cause__ = KeyboardInterrupt()
    monkeypatch.setattr(Engine, "run", failing_for(1, error))
    made = generate(BALL, "--seeds", "1-3")
    assert (made.exit_code, made.stdout) == (2, "")


@pytest.mark.parametrize(
    ("words", "lines", "says"),
    [
        ((), '{"prompt": "Rain.", "steps": 0}', "line 1 of list: steps is 0"),
        (("--fps", 0), '{"prompt": "Rain.", "seed": 1}', "line 1 of list: --fps is 0"),
        ((), "{}", "line 1 of list: "),
        ((), '{"prompt": "Rain."}\nRain.', "line 2 of list: this is not JSON"),
        ((), '{"prompt": "Rain."}\n[1]', "line 2 of list: this is no object"),
        ((), '{"prompt": "Rain.", "colour": 1}', "line 1 of list: "),
        ((), "# nothing\n", "list holds no prompt; write one on each line"),
        (("--seeds", "4-1"), "Rain.", "--seeds is '4-1'; give numbers such as 1-4 or 1,5,9"),
        (("--seeds", "1-4", "--takes", 2), "Rain.", "both --seeds and --takes are given; keep one"),
        (("--seeds", "1-999999999999"), "Rain.", "more than 200 clips; give fewer"),
        (("--takes", 201), "Rain.", "more than 200 clips are asked for"),
        (("--seeds", "1,2", "-o", "a.mp4"), "Rain.", "--output is a.mp4 for 2 clips; give a folder"),
        (("--takes", 2, "-o", "{prompt}.mp4"), "Rain.", "names two clips rain.mp4; add {index} or {seed}"),
        (("-o", "{sed}.mp4"), "Rain.", "has the field {sed}; the fields are seed, prompt, index, recipe"),
        (("-o", "{seed.mp4"), "Rain.", "is no template"),
        (("--seed", "dice"), "Rain.", "--seed is 'dice'; it should be a whole number, or random"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(
    generate: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], lines: str, says: str
) -> None:
    monkeypatch.setattr(Engine, "run", None)
    Path("list").write_text(lines)
    made = generate("--prompts", "list", *words)
    assert (made.exit_code, made.stdout) == (2, "")
    assert made.stderr.count("\n") == 1
    assert says in made.stderr
    assert [path.name for path in Path().iterdir()] == ["list"]


def test_files_of_prompts_that_cannot_be_read(generate: Any) -> None:
    Path("list").write_bytes(b"\xff\xfe\x00")
    assert "list is no text in UTF-8" in generate("--prompts", "list").stderr
    assert "--prompts is none, which cannot be read (No such file" in generate("--prompts", "none").stderr
    assert "cannot be read" in generate("--prompts", ".").stderr


def test_a_taken_name_is_told_before_any_work(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("2.mp4").write_text("my film")
    words = (BALL, "--takes", 2, "-o", "{index}.mp4")
    assert generate(*words, "--force", "--plan").exit_code == 0
    monkeypatch.setattr(Engine, "run", None)
    made = generate(*words)
    assert made.exit_code == 2
    assert "2.mp4, which is there already; choose another name, or add --force" in made.stderr
    assert [path.name for path in Path().iterdir()] == ["2.mp4"]


def test_folders_and_templates(generate: Any) -> None:
    made = generate(BALL, "--seeds", "4,5", "-o", "out/{index:02}-{prompt}-{seed}-{recipe}.mp4")
    assert made.stdout.split() == [f"out/0{i}-{slug(BALL)}-{3 + i}-single.mp4" for i in (1, 2)]
    assert generate(BALL, "--seed", 10, "-o", "out").stdout == f"out/{slug(BALL)}-10.mp4\n"
    assert generate(BALL, "--seed", 10, "-o", "new/deep/").stdout == f"new/deep/{slug(BALL)}-10.mp4\n"


def test_folders_are_filled_in_too(generate: Any) -> None:
    made = generate(BALL, RAIN, "--seeds", "4,5", "-o", "out/{prompt}/{seed}/", "--contact-sheet")
    names = [f"out/{slug(p)}/{seed}/{slug(p)}-{seed}.mp4" for p in (BALL, RAIN) for seed in (4, 5)]
    assert made.stdout.split() == names
    assert Path("out/contact-sheet.png").is_file()  # the folder that all of them lie in
    assert generate(BALL, "--seed", 1, "-o", "{recipe}/{index:02}/").stdout.startswith("single/01/")
    assert "has the field {sed}" in generate(BALL, "-o", "{sed}/").stderr
    assert not Path("{sed}").exists()


def test_memory_is_chosen_once_for_each_clip(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    choose = Engine.choose

    def counted(self: Engine, plan: Any) -> Any:
        chosen.append(plan)
        return choose(self, plan)

    monkeypatch.setattr(Engine, "choose", counted)
    assert generate(BALL, RAIN).exit_code == 0
    assert len(chosen) == 2
    assert generate(BALL, "--plan").exit_code == 0
    assert len(chosen) == 3


def test_takes_are_compared_on_one_sheet(generate: Any) -> None:
    made = generate(BALL, "--takes", 3, "--contact-sheet", "-o", "out/")
    assert made.exit_code == 0, made.stderr
    assert "contact sheet out/contact-sheet.png" in made.stderr
    assert len(list(Path("out").iterdir())) == 4
    with Image.open("out/contact-sheet.png") as sheet:
        assert sheet.height > 3 * 100  # a row per clip
    again = generate(BALL, "--takes", 2, "--contact-sheet", "-o", "out/", "--json")
    assert json.loads(again.stdout.splitlines()[-1])["summary"]["contact_sheet"] == "out/contact-sheet-2.png"


def test_a_random_seed_is_said_and_kept(generate: Any) -> None:
    seeds = []
    for _ in range(2):
        made = generate(BALL, "--seed", "random", "--json")
        seeds.append(json.loads(made.stdout)["request"]["seed"])
        assert f"seed {seeds[-1]} was drawn" in made.stderr
    assert seeds[0] != seeds[1]


def test_quiet_says_nothing_but_errors(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generate(BALL, "--seeds", "1-2", "--size", "70x64", "-q", "--contact-sheet")
    assert (made.exit_code, made.stderr) == (0, "")
    assert len(made.stdout.split()) == 2
    monkeypatch.setattr(Engine, "run", failing_for(2, MediaError("a damaged input")))
    assert generate(BALL, "--seeds", "1-2", "-q").stderr == "soundstage: clip 2: a damaged input\n"


def test_plans_of_several_clips_are_lines_of_json(generate: Any) -> None:
    lines = generate(BALL, "--seeds", "1-3", "--plan", "--json").stdout.splitlines()
    assert [json.loads(line)["request"]["seed"] for line in lines] == [1, 2, 3]
