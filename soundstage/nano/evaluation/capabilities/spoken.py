"""Measure LoRAs of speech: the voice of a sample, a dub at the times of the given sound, a voice by its name.

Each case is made in several ways from the same noise. Rows without a target say what the others stand beside.
Cases are of held-out scenes; a third of the voices are ones that the LoRAs of examples/ have not heard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from soundstage.clip import Clip
from soundstage.nano.evaluation.capabilities.case import LORA, Case, Row, Section, Shown, request_of
from soundstage.nano.evaluation.measure import Outcome
from soundstage.nano.evaluation.report import Samples, Target
from soundstage.nano.evaluation.voices import syllable_starts, voice_heard
from soundstage.nano.world.scene import Scene
from soundstage.nano.world.sound import VOICE_SOUNDS, Voice
from soundstage.nano.world.speakers import (
    HELD_OUT,
    SAMPLE_S,
    VOICES,
    ZORB,
    ZORB_WORDS,
    SpokenShot,
    even,
    other_vowels,
    quiet_scene,
    sound_of,
    spoken,
    spoken_caption,
    uneven,
)
from soundstage.request.inputs import Audio, Reference
from soundstage.types import VideoShape

SHAPE = VideoShape(49, 128, 128)
GUIDANCE = 3.0  # towards the voice, where it is on
DUB_GUIDANCE = 1.0
ON_TIME_S = 2 / 24
ROUNDING_S = 1e-3
# In turn, so that a few cases have all pitches, learned and held out.
IN_TURN = (0, 3, 7, 2, 4, 6, 1, 5, 8)


def _turn(number: int) -> Voice:
    return VOICES[IN_TURN[number % len(IN_TURN)]]


def _scene(seed: int, number: int) -> Scene:
    return quiet_scene(seed * 1_000_003 + 600_000 + number, SHAPE, held_out=True)


def _rng(scene: Scene) -> np.random.Generator:
    return np.random.default_rng([scene.seed, 6])


def _shown(take: SpokenShot) -> Shown:
    return Shown(take.frames, take.waveform)


def _sample(voice: Voice, rng: np.random.Generator, fps: float) -> Clip:
    return Clip(None, sound_of(voice, even(rng, SAMPLE_S), SAMPLE_S), fps)


def _has_pitch(shown: Shown, voice: Voice) -> bool:
    heard = None if shown.waveform is None else voice_heard(shown.waveform)
    return heard is not None and heard.pitch_hz == voice.pitch_hz


def _other_pitch(voice: Voice) -> Voice:
    """Return a voice of another pitch, with the same mouth."""
    same = [other for other in VOICES if other.mouth == voice.mouth]
    return same[(same.index(voice) + 1) % len(same)]


# --- the voice of a sample ------------------------------------------------------------------------------

KEPT, NOT_LEARNED = "pitch kept", "pitch kept, voices not learned"
NO_GUIDANCE, NO_SAMPLE, WRONG = ", no guidance", ", no sample", ", another's sample"


def identity_cases(count: int, seed: int) -> list[Case]:
    """Return cases that are given a voice: with guidance, without, given none, and another's."""
    cases = []
    for number in range(count):
        scene, voice = _scene(seed, number), _turn(number)
        rng = _rng(scene)
        take = spoken(scene, voice, even(rng, scene.duration_s))
        other = spoken(scene, _other_pitch(voice), take.syllables)
        own, wrong = (_sample(v, rng, scene.fps) for v in (voice, other.voice))
        prompt = spoken_caption(scene, full=True)
        asks = tuple(
            request_of(scene, prompt, audio=audio)
            for audio in (
                Audio(own, "identity", guidance=GUIDANCE),
                Audio(own, "identity", guidance=0.0),
                None,
                Audio(wrong, "identity", guidance=GUIDANCE),
            )
        )
        shown = (_shown(take), _shown(take), _shown(other), _shown(other))
        facts = {"voice": voice, "sample": own.waveform}
        cases.append(Case(scene, asks, lambda shown=shown: shown, facts))  # type: ignore[misc]
    return cases


def measure_identity(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    voice = case.facts["voice"]
    kept = [Outcome(int(_has_pitch(one, voice)), 1) for one in shown]
    ways = ("", NO_GUIDANCE, NO_SAMPLE, WRONG)
    rows: dict[str, Samples] = {KEPT + way: outcome for way, outcome in zip(ways, kept, strict=True)}
    if voice in HELD_OUT:
        rows[NOT_LEARNED] = kept[0]
    return rows


IDENTITY = Section(
    "identity",
    (
        Row(KEPT, "clips whose voice has the pitch of the sample", Target(0.85)),
        Row(NOT_LEARNED, "those with a voice that examples/identity-nano.safetensors has not heard", None),
        Row(KEPT + NO_GUIDANCE, "the same without identity guidance", None),
        Row(KEPT + NO_SAMPLE, "the same without a sample", None),
        Row(KEPT + WRONG, "clips with the pitch, given the sample of another pitch", None),
    ),
    identity_cases,
    measure_identity,
    num_cases=18,
    needs=(LORA,),
)

# --- a dub ----------------------------------------------------------------------------------------------

ON_TIME, NO_MORE, SPOKEN = "on time", "no more", "voice kept"
ALONE = ", no clip"


def dub_cases(count: int, seed: int) -> list[Case]:
    """Return cases of a speaker who is to say other syllables, and the same words without the speaker."""
    cases = []
    for number in range(count):
        scene, voice = _scene(seed, number), _turn(number)
        rng = _rng(scene)
        given = spoken(scene, voice, uneven(rng, scene.duration_s), lit=True)
        new = spoken(scene, voice, other_vowels(rng, given.syllables), lit=True)
        other = spoken(scene, _other_pitch(voice), uneven(rng, scene.duration_s))
        prompt = spoken_caption(scene, full=True)
        clip = Clip(given.frames, given.waveform, scene.fps)
        audio = Audio(clip, "identity", guidance=DUB_GUIDANCE)
        asks = (
            request_of(scene, prompt, references=[Reference(clip)], audio=audio),
            request_of(scene, prompt),
        )
        facts = {"voice": voice, "starts": given.starts, "given": given.waveform}
        shown = (_shown(new), _shown(other))
        cases.append(Case(scene, asks, lambda shown=shown: shown, facts))  # type: ignore[misc]
    return cases


def measure_dub(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    rows: dict[str, Samples] = {}
    for way, one in zip(("", ALONE), shown, strict=True):
        assert one.waveform is not None
        starts = syllable_starts(one.waveform)
        asked = case.facts["starts"]
        rows[ON_TIME + way] = _near(asked, starts)
        if starts:
            rows[NO_MORE + way] = _near(starts, asked)
        rows[SPOKEN + way] = Outcome(int(_has_pitch(one, case.facts["voice"])), 1)
    return rows


def _near(times: Sequence[float], others: Sequence[float]) -> Outcome:
    """Return how many times have one of the others near them."""
    near = [any(abs(at - other) <= ON_TIME_S + ROUNDING_S for other in others) for at in times]
    return Outcome(sum(near), len(near))


DUB_TARGETS = {ON_TIME: Target(0.85), NO_MORE: Target(0.85), SPOKEN: Target(0.85)}
DUB_COUNTS = {
    ON_TIME: "syllables of the given clip at which a new one begins within two frames",
    NO_MORE: "syllables that begin within two frames of one of the given clip",
    SPOKEN: "clips whose voice has the pitch of the given one",
}
DUB = Section(
    "dub",
    tuple(
        Row(name + way, DUB_COUNTS[name], None if way else DUB_TARGETS[name])
        for way in ("", ALONE)
        for name in DUB_COUNTS
    ),
    dub_cases,
    measure_dub,
    num_cases=15,
    needs=(LORA,),
)

# --- a voice by its name --------------------------------------------------------------------------------

BY_NAME, UNNAMED, OTHERS = "voice by its name", "the same without the name", "other voices stay"


def voice_cases(count: int, seed: int) -> list[Case]:
    """Return cases in which Zorb speaks, somebody does, and a voice of the captions of another pitch does."""
    cases = []
    for number in range(count):
        scene, name = _scene(seed, number), ("bright", "warm")[number % 2]
        rng = _rng(scene)
        takes = [spoken(scene, v, even(rng, scene.duration_s)) for v in (ZORB, VOICE_SOUNDS["bright"])]
        takes.append(spoken(scene, VOICE_SOUNDS[name], even(rng, scene.duration_s)))
        words = (ZORB_WORDS, "[SPEECH] A voice speaks.", f"[SPEECH] A {name} voice speaks.")
        asks = tuple(request_of(scene, spoken_caption(scene, one, full=True)) for one in words)
        shown = tuple(_shown(take) for take in takes)
        cases.append(Case(scene, asks, lambda shown=shown: shown, {"voice": VOICE_SOUNDS[name]}))  # type: ignore[misc]
    return cases


def measure_voice(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    wanted = (ZORB, ZORB, case.facts["voice"])
    return {
        row: Outcome(int(_has_pitch(one, voice)), 1)
        for row, one, voice in zip((BY_NAME, UNNAMED, OTHERS), shown, wanted, strict=True)
    }


VOICE = Section(
    "voice",
    (
        Row(BY_NAME, "clips in which Zorb speaks with the pitch of Zorb", Target(0.85)),
        Row(
            UNNAMED,
            "clips with this pitch in which somebody speaks who is not named",
            Target(0.1, at_most=True),
        ),
        Row(OTHERS, "clips whose bright or warm voice has its own pitch", Target(0.85)),
    ),
    voice_cases,
    measure_voice,
    num_cases=12,
    needs=(LORA,),
)
SPOKEN_SECTIONS = (IDENTITY, DUB, VOICE)
