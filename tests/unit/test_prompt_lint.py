"""The rules of prompts find what they are against, leave good prompts alone, and correct plain faults."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import soundstage as ss
from benchmarks.lint import SETS, alarms, counted, nano_words, read_set, report
from soundstage.cli.examples import LARGE, SMALL
from soundstage.cli.program import app
from soundstage.errors import RequestError
from soundstage.nano.world.captions import caption
from soundstage.nano.world.scene import draw_scene
from soundstage.prompts.compose import compose
from soundstage.prompts.languages import language_of
from soundstage.prompts.lint import corrected, lint, rules, warnings_of
from soundstage.types import VideoShape

GOOD = "A static wide shot at dawn: a fox lifts its paw as the wind howls. Nature film."


def names(prompt: str, **options: Any) -> list[str]:
    return [finding.rule for finding in lint(prompt, **options)]


def warned(prompt: str, **options: Any) -> list[str]:
    return [finding.rule for finding in warnings_of(lint(prompt, **options))]


# --- the labelled sets --------------------------------------------------------------------------------


def test_there_are_enough_labelled_prompts() -> None:
    prompts = [prompt for name in SETS for prompt in read_set(name)]
    assert sum(prompt.is_good for prompt in prompts) >= 60
    assert sum(not prompt.is_good for prompt in prompts) >= 60


def test_good_prompts_get_few_warnings() -> None:
    good = sum(prompt.is_good for name in SETS for prompt in read_set(name))
    wrong = sum(1 for name in SETS for _ in alarms(read_set(name)))
    assert wrong / good < 0.05


@pytest.mark.parametrize("name", SETS)
def test_every_warning_that_is_due_comes(name: str) -> None:
    severities = {rule.name: rule.severity for rule in rules()}
    counts = counted(read_set(name))
    missed = [rule for rule, count in counts.items() if count.missed and severities[rule] == "warning"]
    assert missed == []


def test_the_page_has_the_table_of_accuracy() -> None:
    table = report().partition("\n\n")[0]
    assert table in Path(__file__).parents[2].joinpath("docs", "prompts.md").read_text(), (
        "put what `python -m benchmarks.lint` prints into docs/prompts.md"
    )


def test_prompts_of_nano_get_no_warnings() -> None:
    words, shape = nano_words(), VideoShape(49, 128, 192)
    prompts = [caption(draw_scene(seed, shape)) for seed in range(150)] + list(vars(SMALL).values())
    assert {prompt: found for prompt in prompts if (found := warned(prompt, vocabulary=words))} == {}


def test_examples_of_large_models_get_no_warnings() -> None:
    prompts = {name: text for name, text in vars(LARGE).items() if name != "sound"}
    assert {name: found for name, text in prompts.items() if (found := warned(text))} == {}


# --- rules --------------------------------------------------------------------------------------------


def test_a_finding_says_where_and_what_instead() -> None:
    (finding,) = [f for f in ss.lint_prompt("A fox is running.") if f.rule == "present-tense"]
    assert (finding.start, finding.end, finding.span, finding.rewrite) == (6, 16, "is running", "runs")
    assert finding.severity == "info"
    (camera,) = warnings_of(lint("A fox runs."))
    assert (camera.rule, camera.start, camera.span, camera.rewrite) == ("camera", 11, "", None)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Three boys run.\nThe sun sets.", "one-paragraph"),
        ("* a fox * in snow", "leading-punctuation"),
        ("In this video we see a fox.", "opening"),
        ("A fox. Smash cut to a hare.", "invented-cut"),
        ("A fox runs from 0 to 2 seconds.", "timestamp"),
        ("Nobody is in the room.", "negation"),
        ("The aroma of bread.", "other-senses"),
        ("A man looks very sad.", "shown-emotion"),
        ("Her face is filled with great joy.", "shown-emotion"),
        ("A generous old woman.", "observable-character"),
        ("He opens a box. He takes a ring.", "connectors"),
        ('A roof. "Stop there!" Rain.', "speaker"),
        ('Lips pressed together, he says: "Go."', "closed-mouth"),
    ],
)
def test_warnings(text: str, rule: str) -> None:
    assert rule in warned(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[VISUAL]: A man speaks.\n[SPEECH]: Good day.\n[SOUNDS]: A calm voice.", "one-paragraph"),
        ("Scene 1: a red ball rolls\nScene 2: it stops", "one-paragraph"),
        ("A ball rolls. |\nIt stops.", "one-paragraph"),
        ("[0-2s] A ball rolls. [2-4s] It stops.", "timestamp"),
        ("The clock shows 10:30.", "timestamp"),
        ("At the 3-second mark the ball stops.", "timestamp"),
        ('She whispers: "No, never, not without you."', "negation"),
        ("He runs without stopping, no longer alone.", "negation"),
        ("A kind of mist over the road.", "observable-character"),
        ("A sign reads “CLOSED”.", "speaker"),
        ('He looks up and says: "Now." Then, after a beat: "Go."', "speaker"),
        ("He opens a box and takes a ring.", "connectors"),
        ("His mouth closed, he waits.", "closed-mouth"),
        ("The lake is calm and the sky is sad grey.", "negation"),
        ("The shot starts with a door.", "opening"),
        ("She tilts her head in the train tracks of a frying pan.", "camera-detail"),
    ],
)
def test_no_finding(text: str, rule: str) -> None:
    assert rule not in names(text)


def test_a_tilted_head_and_a_frying_pan_are_no_camera() -> None:
    assert "camera" in warned("She tilts her head over a frying pan, he tracks mud in.")


def test_a_first_picture_is_not_described_again() -> None:
    assert "still-description" in warned("The picture shows a woman. She has red hair.", kind="image")
    assert names("She turns her head, the camera pans slowly. Leaves rustle.", kind="image") == []
    assert "still-description" not in names("The picture shows a woman.")


def test_speech_fits_the_clip() -> None:
    line = 'He says in a low voice: "One two three four five six seven eight nine ten eleven twelve."'
    severities = {
        seconds: [f.severity for f in lint(line, seconds=seconds) if f.rule == "speech-length"]
        for seconds in (2.0, 4.0, 6.0)
    }
    assert severities == {2.0: ["warning"], 4.0: ["info"], 6.0: []}


def test_lengths_count_for_short_clips() -> None:
    long = "The camera pans slowly. " * 60
    assert "length" in names(long, seconds=5)
    assert "length" not in names(long, seconds=18)


def test_silent_clips_need_no_sound() -> None:
    assert "sound" in names("A static wide shot of a hill.")
    assert "sound" not in names("A static wide shot of a hill.", sounds=False)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Ein Mann geht langsam durch die Straße, und der Regen fällt.", "German"),
        ("Una mujer camina por la playa mientras el sol se pone.", "Spanish"),
        ("一只红色的狐狸在雪地里奔跑。", "Chinese"),
        ("Лиса бежит по снегу.", "Russian"),
        ("雪の中を狐が走る。", "Japanese"),
        ("A red fox in de la Cruz street.", "English"),
        ("fox snow wind", "English"),
    ],
)
def test_word_rules_read_english_only(text: str, language: str) -> None:
    assert language_of(text) == language
    found = names(text)
    assert (found == ["language"]) == (language != "English")
    assert "leading-punctuation" in names(f"- {text}")


def test_speech_may_be_in_another_language() -> None:
    text = 'A static wide shot: she says in a low voice, in French: "Je ne sais pas où est la gare."'
    assert "language" not in names(text)


def test_bad_input_is_told() -> None:
    with pytest.raises(RequestError, match="prompt is ' '; write what the clip shows"):
        lint(" ")
    with pytest.raises(RequestError, match="kind is 'film'"):
        lint("A fox.", kind="film")  # type: ignore[arg-type]


# --- corrections --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "better", "negative"),
    [
        ("The scene opens with a fox that is running.", "A fox that runs.", ""),
        ("- A fox runs\n- it stops", "A fox runs. Then it stops.", ""),
        ("... a fox", "A fox", ""),
        ("A street with no people. A dog barks. No music.", "A street. A dog barks.", "people, music"),
        ("Without clouds, the sky glows.", "The sky glows.", "clouds"),
        ("They are slowly walking, she doesn't move.", "They slowly walk, she stays still.", ""),
        ("He opened the door and walked in.", "He opens the door and walks in.", ""),
        (GOOD, GOOD, ""),
        ("A ball rolls. | In this scene, it stops.", "A ball rolls. | It stops.", ""),
    ],
)
def test_what_is_mechanical_is_corrected(text: str, better: str, negative: str) -> None:
    result = corrected(text)
    assert (result.prompt, result.negative_prompt) == (better, negative)
    assert bool(result.changes) == (text != better)
    assert not [f for f in lint(better) if f.rewrite is not None]


@pytest.mark.parametrize(
    "parts",
    [
        {"template": "layered", "subject": "a fox", "action": "crosses the snow", "environment": "a field",
         "lighting": "pale light", "camera": "the camera pans slowly"},
        {"template": "camera-subject-lighting", "camera": "slow push in", "subject": "a man in a tan coat",
         "action": "opens an umbrella", "lighting": "neon in the rain"},
        {"template": "scene", "heading": "INT. BAR - NIGHT", "description": "smoke hangs in the light",
         "blocking": ["a woman lowers her glass", "the camera pulls back", "she turns", "she leaves"],
         "dialogue": ["The woman (calm): It is late.", "The barman (quiet): It is."]},
        {"template": "progressive", "base": "A boat drifts past", "atmosphere": "in thick fog",
         "motion": "the camera tracks it slowly", "handoffs": ["a man > a rope > a boy"]},
    ],
)  # fmt: skip
def test_what_is_composed_passes(parts: dict[str, Any]) -> None:
    assert warned(compose(**parts)) == []


# --- the command --------------------------------------------------------------------------------------


def run(*words: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["prompt", "lint", *words], **options)


def test_exit_codes_are_for_scripts() -> None:
    assert (run(GOOD).exit_code, run(GOOD).stdout) == (0, "nothing to say\n")
    bad = run("The scene opens with a fox.")
    assert bad.exit_code == 1
    assert "warning: opening [0-20]" in bad.stdout
    assert run().exit_code == run("").exit_code == run("x", "--prompts", "/none.txt").exit_code == 2


def test_files_have_a_prompt_or_a_request_in_each_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"# mine\n{GOOD}\nA fox.\n")
    told = run("--prompts", str(file), "--json")
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == [GOOD, "A fox."]
    assert lines[0]["findings"] == []
    assert lines[1]["where"] == f"line 3 of {file}"
    request = {"prompt": "The image shows a door.", "guides": [{"image": "x.png"}], "duration_s": 3}
    (found,) = run("--prompts", "-", "--json", input=json.dumps(request)).stdout.splitlines()
    assert "still-description" in [finding["rule"] for finding in json.loads(found)["findings"]]


def test_fix_prints_the_prompt_alone_on_standard_output() -> None:
    told = run("--fix", "The scene opens with a static shot of a street, no cars.", "--silent")
    assert told.stdout == "A static shot of a street.\n"
    assert '--negative-prompt "cars"' in told.stderr
    assert told.exit_code == 0


def test_nano_is_judged_by_its_own_rules() -> None:
    assert run("A red ball bounces on a wooden floor.").exit_code == 0
    assert run("A red fox bounces on a wooden floor.").exit_code == 1
    assert run("A red fox bounces on a wooden floor.", "--model", "nano").exit_code == 0


def test_generate_gives_hints_unless_told_not_to() -> None:
    def hints(*words: str) -> list[str]:
        text = "A red ball is seen from 0 to 2 seconds."
        told = CliRunner().invoke(app, ["generate", text, "--plan", *words])
        assert told.exit_code == 0
        assert "hint" not in told.stdout
        return [line for line in told.stderr.splitlines() if line.startswith("hint: timestamp")]

    assert len(hints()) == len(hints("--json")) == 1
    assert hints("-q") == hints("--no-hints") == []
