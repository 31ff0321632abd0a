"""Measure a character LoRA: a stripe that the world does not have, by the name of the character alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from soundstage.nano.evaluation.capabilities.case import (
    LORA,
    Case,
    Row,
    Section,
    Shown,
    request_of,
    shown_of,
    words,
)
from soundstage.nano.evaluation.measure import Outcome
from soundstage.nano.evaluation.report import Samples, Target
from soundstage.nano.evaluation.stripes import stripe_seen
from soundstage.nano.world.character import as_bumble, ball_scene, named, striped
from soundstage.types import VideoShape

SHAPE = VideoShape(25, 128, 128)
STRIPED, PLAIN = "stripe by the name", "stripe without the name"


def character_cases(count: int, seed: int) -> list[Case]:
    """Return cases of a ball that is called by the character's name, and of the same ball in plain words."""
    cases = []
    for number in range(count):
        scene = as_bumble(ball_scene(seed * 1_000_003 + 700_000 + number, SHAPE, held_out=True))
        asks = (request_of(scene, named(words(scene))), request_of(scene))
        plain = shown_of(scene)
        shown = (Shown(striped(scene), plain.waveform), plain)
        cases.append(Case(scene, asks, lambda shown=shown: shown))  # type: ignore[misc]
    return cases


def measure_character(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    rows: dict[str, Samples] = {}
    for row, one in zip((STRIPED, PLAIN), shown, strict=True):
        assert one.frames is not None
        rows[row] = Outcome(int(stripe_seen(one.frames)), 1)
    return rows


CHARACTER = Section(
    "character",
    (
        Row(STRIPED, "clips whose prompt has the name and whose ball has the stripe", Target(0.85)),
        Row(
            PLAIN,
            "the same clips without the name, a yellow ball in its place",
            Target(0.1, at_most=True),
        ),
    ),
    character_cases,
    measure_character,
    num_cases=16,
    needs=(LORA,),
)
