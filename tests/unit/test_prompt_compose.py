"""Prompts are composed of their parts, in the order of a template, or what is missing is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import soundstage as ss
from soundstage.cli.program import app
from soundstage.errors import RequestError
from soundstage.prompts.beats import small
from soundstage.prompts.channels import channels
from soundstage.prompts.compose import NEEDED, compose, heading_words, ordered
from soundstage.prompts.timeline import parse_timeline

FOX = {
    "subject": "a fox",
    "action": "crosses the snow",
    "environment": "a white field",
    "lighting": "pale morning light",
    "camera": "the camera pans slowly",
}


def test_layers_follow_in_their_order() -> None:
    told = "A fox crosses the snow. A white field. Pale morning light. The camera pans slowly."
    assert compose("layered", **FOX) == ss.compose_prompt(**FOX) == told


def test_the_camera_may_come_first() -> None:
    parts = {**FOX, "style": "Style: nature documentary", "sounds": "snow crunches"}
    assert compose("camera-subject-lighting", **parts) == (
        "Style: nature documentary. The camera pans slowly. A fox crosses the snow. A white field. "
        "Pale morning light. Snow crunches."
    )


def test_a_scene_keeps_the_order_of_its_actions_and_lines() -> None:
    text = compose(
        "scene",
        heading="INT. KITCHEN - NIGHT",
        description="steam hangs in the air",
        anchors=["left: Mara stands at the stove", "behind the counter: a boy watches"],
        blocking=["Mara lifts a lid", "The camera pushes in", "as it boils, she steps back"],
        handoffs=["Mara > a spoon > the boy > tastes the soup"],
        dialogue=["Mara (low): It is ready.", {"who": "the boy", "says": '"Good."', "how": "whispers"}],
    )
    assert text == (
        "Interior, kitchen, night. Steam hangs in the air. On the left side of the frame, Mara stands at the "
        "stove. Behind the counter, a boy watches. Mara lifts a lid. Then the camera pushes in. As it boils, "
        "she steps back. Mara hands a spoon to the boy. Then the boy takes it, then tastes the soup. Mara "
        'says in a low voice: "It is ready." A beat passes. Then the boy whispers: "Good."'
    )


def test_a_base_is_built_up() -> None:
    parts = {"base": "The subject turns to the camera.", "motion": "Camera pushes in"}
    assert compose("progressive", atmosphere="in a dim room", **parts) == (
        "The subject turns to the camera, in a dim room. Camera pushes in."
    )
    assert "camera. Dust glints. Camera" in compose("progressive", atmosphere="Dust glints", **parts)


def test_channels_are_tagged_and_the_voice_is_a_sound() -> None:
    text = compose(
        **FOX, tagged=True, dialogue="Ann (calm): Good morning.", sounds="wind", cues="she breathes out"
    )
    visual, speech = text.split(" [SPEECH]: ")
    assert visual.startswith("[VISUAL]: A fox crosses")
    assert visual.endswith("Ann speaks.")
    assert speech == "Good morning. [SOUNDS]: Ann speaks in a calm voice. She breathes out. Wind."
    assert channels("A door.", sounds="It creaks.") == "[VISUAL]: A door. [SOUNDS]: It creaks."


def test_a_composed_prompt_is_one_part_whatever_its_words_are() -> None:
    text = compose(**{**FOX, "action": "reads [0-2s] a | b [3]"})
    (segment,) = parse_timeline(text, num_frames=49, fps=24).segments
    assert segment.text.startswith("A fox reads [0-2s] a | b [3]. A white field.")


def test_a_manner_that_is_a_verb_is_one_behind_tags_too() -> None:
    text = compose("shot", action="She sits.", dialogue=["She (whispers): Hi."], tagged=True)
    assert text.endswith("[SPEECH]: Hi. [SOUNDS]: She whispers.")


@pytest.mark.parametrize("template", [name for name, parts in NEEDED.items() if len(parts) > 1])
def test_every_part_that_is_missing_is_named(template: str) -> None:
    needed = NEEDED[template]
    with pytest.raises(RequestError) as refused:
        compose(template, **{needed[0]: "a fox"})
    assert refused.value.field == needed[1]
    assert all(part in str(refused.value).partition(";")[2] for part in needed[1:])


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"heading": "a pier"}, "layered has no place for heading; it takes subject, action"),
        ({"anchors": ["left a girl"]}, r"anchors\[0\].*'left a girl' names no place; write PLACE: SUBJECT"),
        ({"handoffs": ["a > b"]}, r"handoffs\[0\].*is no handoff; write GIVER > THING > TAKER"),
        ({"dialogue": ["Hello."]}, r"dialogue\[0\].*names no speaker; write WHO \(HOW\): WORDS"),
        ({"template": "laired"}, "template is 'laired'; the templates are layered"),
        ({"sound": "wind"}, "sound"),
    ],
)
def test_what_does_not_fit_is_told(parts: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        compose(**{**FOX, **parts})


def test_channels_need_words_without_tags() -> None:
    with pytest.raises(RequestError, match="no channel has words"):
        channels()
    with pytest.raises(RequestError, match=r"visual holds the tag \[SPEECH\]"):
        channels("A man. [SPEECH]: Hello.")


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("EXT. PIER - DAWN", "exterior, pier, dawn"),
        ("INT./EXT. CAR, Main Street - DAY", "interior and exterior, car, Main Street, day"),
        ("A quiet pier at dawn", "A quiet pier at dawn"),
    ],
)
def test_headings_of_screenplays_are_put_in_words(heading: str, words: str) -> None:
    assert heading_words(heading) == words


def test_names_keep_their_capital_letter() -> None:
    assert (small("The man"), small("Mara")) == ("the man", "Mara")
    assert ordered(["a door opens", "Mara enters", "when it closes she sits"]) == [
        "A door opens.",
        "Then Mara enters.",
        "When it closes she sits.",
    ]


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["prompt", "compose", *words])


def test_the_command_reads_options_and_files(tmp_path: Path) -> None:
    typed = [word for part, value in FOX.items() for word in (f"--{part}", value)]
    assert run(*typed).stdout.strip() == compose(**FOX)
    file = tmp_path / "shot.yaml"
    lines = "".join(f"{part}: {value}\n" for part, value in FOX.items())
    file.write_text(f"template: layered\n{lines}anchors:\n  - left: a hare sits\n")
    told = json.loads(run(str(file), "--camera", "a static shot", "--json").stdout)
    expected = compose(**{**FOX, "camera": "a static shot", "anchors": ["left: a hare sits"]})
    assert told == {"prompt": expected, "template": "layered", "findings": []}
    assert run(str(file), "--template", "scene").exit_code == 2
    assert "there is no file" in run(str(tmp_path / "none.yaml")).stderr
    file.write_text("templat: layered\n")
    assert "line 1" in run(str(file)).stderr
