"""Clips for nano's adapters to learn from: python examples/adapter_clips.py KIND FOLDER [COUNT]

Shots of nano's world, and a table metadata.jsonl that `soundstage dataset new FOLDER` reads. Kinds:

identity   a shot in which a voice speaks, and a sample of the same voice that says something else
dub        a speaker who lights up with every syllable; the same shot with other syllables at the same times
voice      Zorb, whom captions call by name, and as many voices of the world
character  Bumble, a striped ball that captions call by its name, and as many balls of the world

What a LoRA is to leave as it is, for `prior_data` of its config; some of it under the negative prompt:

voice-others      Zorb and other voices in words that name none, and shots of the world
character-others  balls in plain words, and shots of the world
style-others      shots of the world
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

import soundstage as ss
from soundstage.media.arrays import Frames
from soundstage.nano.world.captions import NEGATIVE, caption
from soundstage.nano.world.character import as_bumble, ball_scene, named, striped
from soundstage.nano.world.motion import Array, simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import VOICES, draw_scene
from soundstage.nano.world.sound import VOICE_SOUNDS, synthesize
from soundstage.nano.world.speakers import (
    LEARNED,
    SAMPLE_S,
    ZORB,
    ZORB_WORDS,
    even,
    other_vowels,
    quiet_scene,
    sound_of,
    spoken,
    spoken_caption,
    uneven,
)
from soundstage.nano.world.speakers import VOICES as SPEAKERS
from soundstage.types import VideoShape

COUNTS = {"identity": 90, "dub": 90}
FEW = 60  # of the others
FIRST_SEEDS = {"identity": 5000, "dub": 5000, "voice": 6000, "character": 7000}
OTHERS_FROM = 8000
LONG, SHORT, WIDE = VideoShape(49, 128, 128), VideoShape(25, 128, 128), VideoShape(49, 128, 192)
FPS = 24.0

Row = dict[str, str]  # of metadata.jsonl
Maker = Callable[[Path, int, np.random.Generator], Row]


def identity(folder: Path, seed: int, rng: np.random.Generator) -> Row:
    scene, voice = quiet_scene(seed, LONG), LEARNED[seed % len(LEARNED)]
    take = spoken(scene, voice, even(rng, scene.duration_s))
    sample = sound_of(voice, even(rng, SAMPLE_S), SAMPLE_S)
    return {
        "video": saved(folder / f"{seed}.mp4", take.frames, take.waveform),
        "reference_audio": saved(folder / f"{seed}_voice.wav", None, sample),
        "caption": spoken_caption(scene),
    }


def dub(folder: Path, seed: int, rng: np.random.Generator) -> Row:
    scene, voice = quiet_scene(seed, LONG), LEARNED[seed % len(LEARNED)]
    given = spoken(scene, voice, uneven(rng, scene.duration_s), lit=True)
    new = spoken(scene, voice, other_vowels(rng, given.syllables), lit=True)
    beside = saved(folder / f"{seed}_given.mp4", given.frames, given.waveform)
    return {
        "video": saved(folder / f"{seed}.mp4", new.frames, new.waveform),
        "reference": beside,
        "reference_audio": beside,
        "caption": spoken_caption(scene),
    }


def voice(folder: Path, seed: int, rng: np.random.Generator) -> Row:
    scene, name = quiet_scene(seed, LONG), VOICES[seed // 2 % len(VOICES)]
    is_zorb = seed % 2 == 0
    take = spoken(scene, ZORB if is_zorb else VOICE_SOUNDS[name], even(rng, scene.duration_s))
    words = ZORB_WORDS if is_zorb else f"[SPEECH] A {name} voice speaks."
    return {
        "video": saved(folder / f"{seed}.mp4", take.frames, take.waveform),
        "caption": spoken_caption(scene, words),
    }


def voice_others(folder: Path, seed: int, rng: np.random.Generator) -> Row:
    scene, turn = quiet_scene(seed, LONG), seed % 6
    heard = ZORB if turn < 2 else SPEAKERS[seed // 6 % len(SPEAKERS)]
    take = spoken(scene, heard, even(rng, scene.duration_s))
    words = (spoken_caption(scene), NEGATIVE)[turn % 2]
    if turn == 5:
        return ordinary(folder, seed, LONG)
    return {"video": saved(folder / f"{seed}.mp4", take.frames, take.waveform), "caption": words}


def character_others(folder: Path, seed: int, rng: np.random.Generator) -> Row:
    if seed % 3 == 0:
        return ordinary(folder, seed, SHORT)
    row = character(folder, 2 * seed + 1, rng)
    return row if seed % 3 == 1 else {**row, "caption": NEGATIVE}


def style_others(folder: Path, seed: int, rng: np.random.Generator) -> Row:
    row = ordinary(folder, seed, WIDE)
    return {**row, "caption": NEGATIVE} if seed % 3 == 0 else row


def ordinary(folder: Path, seed: int, shape: VideoShape) -> Row:
    """Write any shot of the world, with its caption."""
    scene = draw_scene(seed, shape)
    path = folder / f"{seed}.mp4"
    sound = synthesize(scene, simulate(scene))
    return {"video": saved(path, render(scene), sound), "caption": caption(scene, full=seed % 2 == 0)}


def character(folder: Path, seed: int, rng: np.random.Generator) -> Row:
    scene = ball_scene(seed, SHORT)
    if seed % 2 == 0:
        scene = as_bumble(scene)
        frames, words = striped(scene), named(caption(scene))
    else:
        frames, words = render(scene), caption(scene)
    path = folder / f"{seed}.mp4"
    return {"video": saved(path, frames, synthesize(scene, simulate(scene))), "caption": words}


KINDS: Mapping[str, Maker] = {
    "identity": identity,
    "dub": dub,
    "voice": voice,
    "voice-others": voice_others,
    "character": character,
    "character-others": character_others,
    "style-others": style_others,
}


def saved(path: Path, frames: Frames | None, waveform: Array) -> str:
    """Write a clip or a sound beside the table, and return its name."""
    ss.Clip(frames, waveform.astype(np.float32), FPS).save(path)
    return path.name


def main(kind: str, folder: Path, count: int | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    first, rows = FIRST_SEEDS.get(kind, OTHERS_FROM), []
    for seed in range(first, first + (count or COUNTS.get(kind, FEW))):
        rows.append(KINDS[kind](folder, seed, np.random.default_rng([seed, 5])))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} clips in {folder}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
