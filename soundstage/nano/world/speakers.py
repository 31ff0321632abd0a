"""Make shots in which somebody speaks: by the voices of the captions or others, in words that name no voice.

    take = spoken(quiet_scene(7, VideoShape(49, 128, 128)), VOICES[1], even(rng, 2.0))

Nine voices: each pitch that nano's vocoder makes, with each mouth of the captions' voices. Three of them are
those of the captions. Adapters of examples/ learn from LEARNED, and are measured on HELD_OUT too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from soundstage.media.arrays import Frames
from soundstage.nano.world.captions import caption
from soundstage.nano.world.motion import Array, Motion, simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import Scene, draw_scene
from soundstage.nano.world.sound import FIRST_SYLLABLE_S, SYLLABLE_GAP_S, SYLLABLE_S, VOWELS, Voice, speech
from soundstage.types import OUTPUT_RATE_HZ, VideoShape

PITCHES_HZ = (100.0, 200.0, 300.0)
MOUTHS = (0.85, 1.0, 1.2)
VOICES = tuple(Voice(pitch, mouth) for pitch in PITCHES_HZ for mouth in MOUTHS)
HELD_OUT = (Voice(100.0, 1.2), Voice(200.0, 0.85), Voice(300.0, 0.85))
LEARNED = tuple(voice for voice in VOICES if voice not in HELD_OUT)
QUIET = ("rest", "orbit", "swing", "grow")  # what makes no sound of its own
WORDS = "[SPEECH] A voice speaks."
ZORB = Voice(100.0, 1.2)  # a voice that captions know by its name alone; nano's own unnamed voice has 300 Hz
ZORB_WORDS = "[SPEECH] Zorb speaks."
SAMPLE_S = 2.0  # length of a voice sample
NEXT = 100_003  # seeds of the scenes that are drawn in place of one that does not fit
PAUSES_S = (0.1, 0.75)

Syllables = list[tuple[float, str]]  # times in seconds and vowels


@dataclass(frozen=True)
class SpokenShot:
    """A shot with speech. frames: (F, H, W, 3) uint8. waveform: (2, n) at 48 kHz."""

    scene: Scene
    voice: Voice
    syllables: Syllables
    frames: Frames
    waveform: Array

    @property
    def starts(self) -> list[float]:
        """Return the times in seconds at which syllables begin."""
        return [start for start, _ in self.syllables]


def quiet_scene(seed: int, shape: VideoShape, *, held_out: bool = False) -> Scene:
    """Return a scene in which nothing sounds: the first from a seed on."""
    while True:
        scene = draw_scene(seed, shape, held_out=held_out)
        if scene.interaction is None and all(subject.action in QUIET for subject in scene.subjects):
            return replace(scene, ambience="silence", voice=None)
        seed += NEXT


def spoken_caption(scene: Scene, words: str = WORDS, *, full: bool = False) -> str:
    """Return a caption in which somebody speaks. words: what it says of that."""
    before, _, after = caption(replace(scene, voice="deep"), full=full).partition("[SPEECH]")
    rest = after.partition(" voice ")[2].partition(".")[2].strip()
    return " ".join(part for part in (before.strip(), words, rest) if part)


def even(rng: np.random.Generator, length_s: float) -> Syllables:
    """Return four syllables a second, as the world's voices speak."""
    starts = np.arange(FIRST_SYLLABLE_S, length_s - 0.1, SYLLABLE_S + SYLLABLE_GAP_S)
    return [(float(start), drawn_vowel(rng)) for start in starts]


def uneven(rng: np.random.Generator, length_s: float) -> Syllables:
    """Return syllables with pauses of PAUSES_S between them."""
    syllables: Syllables = []
    start = float(rng.uniform(0.1, 0.6))
    while start < length_s - SYLLABLE_S - 0.05:
        syllables.append((start, drawn_vowel(rng)))
        start += SYLLABLE_S + float(rng.uniform(*PAUSES_S))
    return syllables


def other_vowels(rng: np.random.Generator, syllables: Syllables) -> Syllables:
    """Return syllables at the same times, each with another vowel."""
    found: Syllables = []
    for start, vowel in syllables:
        others = [other for other in VOWELS if other != vowel]
        found.append((start, others[int(rng.integers(len(others)))]))
    return found


def drawn_vowel(rng: np.random.Generator) -> str:
    return list(VOWELS)[int(rng.integers(len(VOWELS)))]


def sound_of(voice: Voice, syllables: Syllables, length_s: float) -> Array:
    """Return the sound of syllables, (2, n) at 48 kHz."""
    return speech(voice, syllables, round(length_s * OUTPUT_RATE_HZ))


def spoken(scene: Scene, voice: Voice, syllables: Syllables, *, lit: bool = False) -> SpokenShot:
    """Return a shot with speech. lit: its first subject glows while the voice sounds, as a mouth moves."""
    motion = simulate(scene)
    if lit:
        motion.tracks[0] = replace(motion.tracks[0], glow=_sounding(motion, syllables))
    frames = render(scene, motion)
    return SpokenShot(scene, voice, syllables, frames, sound_of(voice, syllables, scene.duration_s))


def _sounding(motion: Motion, syllables: Syllables) -> Array:
    """Return 1 for the frames (F,) within a syllable, 0 for others."""
    since = motion.times[:, None] - np.array([start for start, _ in syllables])[None]
    within: Array = ((since >= 0) & (since < SYLLABLE_S)).any(axis=1).astype(np.float32)
    return within
