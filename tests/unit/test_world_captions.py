"""A caption says what is in the scene, in many ways, and a full one lets every fact be read back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from soundstage.nano.world.captions import NEGATIVE, caption, names
from soundstage.nano.world.scene import COLORS, Scene, Subject, draw_scene
from soundstage.types import VideoShape

SHAPE = VideoShape(49, 128, 192)
SCENES = [draw_scene(seed, SHAPE) for seed in range(400)]

# The reader's own tables: what each word or phrase means, apart from the writer's lists.
NOUNS = {
    "ball": "ball", "sphere": "ball", "orb": "ball", "cube": "cube", "box": "cube", "block": "cube",
    "pyramid": "pyramid", "cone": "pyramid", "star": "star", "ring": "ring", "donut": "ring", "hoop": "ring",
}  # fmt: skip
HUES = {c: c for c in COLORS} | {"crimson": "red", "turquoise": "cyan", "violet": "purple"}
SIZES = {
    "small": "small", "tiny": "small", "little": "small", "medium": "medium", "medium-sized": "medium",
    "mid-sized": "medium", "large": "large", "big": "large", "huge": "large",
}  # fmt: skip
NOUN = re.compile(
    rf"(?:({'|'.join(sorted(SIZES, key=len, reverse=True))}) )?(?:bright |deep )?({'|'.join(HUES)}) "
    rf"(?:five-pointed )?({'|'.join(NOUNS)})\b"
)
ACTIONS = {
    "bounce": r"drops|falls|bounces",
    "roll": r"rolls",
    "slide": r"slides|glides",
    "orbit": r"circle|circles|orbits",
    "swing": r"swings",
    "grow": r"grows|gets bigger|swells|expands",
    "blink": r"blinks|lights up (once|one|tw|three)|flashes|glows",
    "rest": r"rests|sits still|stands still|stays motionless|lies still|does not move",
}
BACKGROUNDS = {
    "day": r"meadow|sunlight|daylight",
    "night": r"night|starry",
    "fog": r"fog|mist",
    "wood": r"wooden|parquet",
    "grid": r"tile|grid",
    "gradient": r"gradient|dusky",
}
CAMERAS = {
    "static": r"static|fixed|locked-off|camera (stays still|does not move|holds still)",
    "push in": r"camera (slowly )?(pushes in|moves closer|zooms in|dollies in|moves forward)",
    "pull out": r"camera (slowly )?(pulls|zooms out|moves away|moves backward)",
    "pan left": r"camera (slowly )?(pans|moves) (to the )?left",
    "pan right": r"camera (slowly )?(pans|moves) (to the )?right",
    "tilt up": r"camera (slowly )?tilts up",
    "tilt down": r"camera (slowly )?tilts down",
}
AMBIENCES = {"rain": r"\brain\b", "wind": r"\bwind\b", "hum": r"\bhum\b"}
SOUNDS = {"bounce": "thud", "roll": "rumble", "blink": "chime", "collide": "click", "handover": "click"}
COUNTS = {"once": 1, "one time": 1, "twice": 2, "two times": 2, "three times": 3}
DELAYS = {
    "half a second": 0.5, "0.5 seconds": 0.5, "one second": 1.0, "a second": 1.0, "1 second": 1.0,
    "one and a half seconds": 1.5, "1.5 seconds": 1.5,
}  # fmt: skip


def only(table: dict[str, str], text: str) -> str | None:
    """The one key whose pattern occurs; None if none does."""
    found = [key for key, pattern in table.items() if re.search(pattern, text)]
    assert len(found) <= 1, (found, text)
    return found[0] if found else None


def clauses(text: str, count: int) -> list[str]:
    """The caption cut so that each piece holds one subject, its side and its action."""
    pieces = re.split(r"\. |, while |; |, and (?=on|at|after|an? |there)", text)
    merged: list[str] = []
    for piece in pieces:
        if merged and re.match(r"it ", piece):
            merged[-1] += " " + piece
        else:
            merged.append(piece)
    found = [piece for piece in merged if NOUN.search(piece)]
    assert len(found) == count, (text, merged)
    return found


def read_subject(text: str) -> Subject:
    text = re.split(r", as the camera|\. the camera", text)[0]
    noun = NOUN.search(text)
    assert noun is not None
    action = only(ACTIONS, text)
    assert action is not None, text
    side = re.search(r"(?:in|on|at) the (left|right|middle|center)\b", text)
    where = side.group(1).replace("middle", "center") if side else "center"
    goes = re.search(
        r"(?:to|toward|starting from|starting on|first from|string from)(?: the)? (left|right)", text
    )
    forward = "right" if "counterclockwise" not in text and "anticlockwise" not in text else "left"
    count = next((n for words, n in COUNTS.items() if words in text), 0)
    waits = re.search(rf"(?:after|waits for|holds still for) ({'|'.join(DELAYS)})\b", text)
    return Subject(
        shape=NOUNS[noun.group(3)],
        color=HUES[noun.group(2)],
        size=SIZES[noun.group(1)],
        action=action,
        side="center" if action in ("roll", "slide") else where,
        direction=1 if (goes.group(1) if goes else forward) == "right" else -1,
        count=count if action in ("bounce", "blink") else 0,
        delay_s=DELAYS[waits.group(1)] if waits else 0.0,
    )


def directed(subject: Subject) -> Subject:
    """Without the direction of what goes nowhere."""
    return subject if subject.action in ("roll", "slide", "orbit", "swing") else replace(subject, direction=1)


def read_pair(text: str) -> dict[str, str]:
    """side -> 'size colour shape' of an interaction."""
    text = NOUN.sub(lambda m: f"<{SIZES.get(m[1], '')} {HUES[m[2]]} {NOUNS[m[3]]}>", text)
    text = re.sub(r"an? <(small)? (\w+) ball>(?= to an? <| from an? <)", r"GIFT", text)
    text = re.sub(r"(hands|passes|throws|tosses) it an? <(small)? (\w+) ball>", "hands it GIFT", text)
    found: dict[str, str] = {}
    for noun in re.finditer(r"<[^>]*>", text):
        after = re.match(r" (?:coming |moves in |comes )?(?:from|on) the (left|right)", text[noun.end() :])
        if after is None:
            after = re.match(r" (?:coming )?from the (left|right)", text[noun.end() :])
        before = re.search(r"(?:on|from) the (left|right)(?: comes)?,? an? $", text[: noun.start()])
        side = after or before
        assert side is not None, text
        found[side.group(1)] = noun.group(0).strip("<>")
    return found


def described(subject: Subject) -> str:
    return f"{subject.size} {subject.color} {subject.shape}"


@pytest.mark.parametrize("wording", range(4))
def test_a_full_caption_holds_every_fact_of_the_subjects(wording: int) -> None:
    for scene in SCENES:
        text = caption(scene, wording, full=True).lower()
        if scene.interaction:
            assert read_pair(text) == {s.side: described(s) for s in scene.subjects}, text
            continue
        found = {directed(read_subject(piece)) for piece in clauses(text, len(scene.subjects))}
        assert found == {directed(s) for s in scene.subjects}, text


@pytest.mark.parametrize("wording", range(4))
def test_a_full_caption_holds_background_camera_and_sound(wording: int) -> None:
    for scene in SCENES:
        text = caption(scene, wording, full=True).lower()
        assert only(BACKGROUNDS, text) == scene.background, text
        cameras = {name for name, pattern in CAMERAS.items() if re.search(pattern, text)}
        if any(s.action == "rest" for s in scene.subjects):
            assert scene.camera in cameras, text
        else:
            assert cameras == {scene.camera}, text
        assert (only(AMBIENCES, text) or "silence") == scene.ambience, text
        actions = [scene.interaction] if scene.interaction else [s.action for s in scene.subjects]
        wanted = {SOUNDS[a] for a in actions if a in SOUNDS}
        assert {w for w in SOUNDS.values() if re.search(rf"\b{w}\b", text)} == wanted, text
        voice = re.search(r"\[speech\]:? a (\w+) voice", text)
        assert (voice.group(1) if voice else None) == scene.voice, text
        silent = re.search(r"no sound|silen", text) is not None
        assert silent == (not wanted and scene.ambience == "silence" and scene.voice is None), text


def test_a_handover_tells_who_gives_what() -> None:
    handovers = [s for s in SCENES if s.interaction == "handover"]
    assert len(handovers) > 20
    for scene in handovers:
        text = caption(scene, full=True).lower()
        gives = r"(?:hands|passes|throws|tosses|gets) (?:it )?an? (?:small |little )?(?:bright |deep )?"
        gift = re.search(rf"{gives}({'|'.join(HUES)}) ball", text)
        assert gift is not None, text
        assert HUES[gift.group(1)] == scene.gift_color


def test_the_same_seed_gives_the_same_words_and_others_give_others() -> None:
    for scene in SCENES[:50]:
        texts = [caption(scene, seed) for seed in range(20)]
        assert texts == [caption(scene, seed) for seed in range(20)]
        assert len(set(texts)) >= 12
        assert caption(scene) == caption(scene, scene.seed)


def test_left_and_right_come_in_either_order() -> None:
    pairs = [s for s in SCENES if len(s.subjects) == 2 and s.interaction is None]
    first = [re.search("left|right", caption(s, full=True).lower()) for s in pairs]
    share = sum(m is not None and m[0] == "left" for m in first) / len(pairs)
    assert 0.3 < share < 0.7


def test_short_captions_leave_out_but_keep_the_camera_that_moves() -> None:
    lengths = [len(caption(s).split()) for s in SCENES]
    full = [len(caption(s, full=True).split()) for s in SCENES]
    assert min(lengths) <= 8
    assert sum(lengths) < 0.85 * sum(full)
    for scene in SCENES:
        if scene.camera != "static":
            assert re.search(CAMERAS[scene.camera], caption(scene).lower())


def test_the_prompt_of_the_manual_is_one_of_the_wordings() -> None:
    ball = Subject("ball", "red", "medium", "bounce", count=3)
    scene = Scene(seed=0, shape=SHAPE, background="wood", camera="static", subjects=(ball,))
    wordings = {caption(scene, seed) for seed in range(20000)}
    assert "A red ball drops onto a wooden floor, bouncing three times." in wordings


def test_the_negative_prompt_names_nothing_of_the_world() -> None:
    words = set(re.findall(r"\w+", NEGATIVE))
    assert words
    assert not words & (set(NOUNS) | set(HUES) | set(SIZES))


def test_names_say_what_is_there_and_nothing_of_what_it_does() -> None:
    for number in range(40):
        scene = draw_scene(number, SHAPE)
        said = names(scene)
        for subject in scene.subjects:
            assert f"a {subject.size} {subject.color} {subject.shape}" in said.lower()
        assert said.endswith("The camera is static.") == (scene.camera == "static")
        assert len(said.split()) <= 4 * len(scene.subjects) + 1 + 4
