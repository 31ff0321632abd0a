"""Measure how often the checks of a review are right: on clips spoilt on purpose, and on labelled sounds.

    python -m benchmarks.review picture --count 12    # clips of nano's world, each spoilt in every way
    python -m benchmarks.review sound --count 12      # speech, music, tones and noises, alone and mixed
    python -m benchmarks.review policy --count 6      # nano's sound with and without a sound policy

The clips are written as MP4 and read again, so that the codecs' own errors are in. Prints Markdown.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.review_sounds import labelled_sounds
from soundstage.clip import Clip
from soundstage.engine import load
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import Scene, draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.request.request import Request
from soundstage.review.contents import KINDS, THERE, Ear
from soundstage.review.policy import SoundPolicy
from soundstage.review.record import Asked
from soundstage.review.reviewing import review_clip
from soundstage.types import OUTPUT_RATE_HZ as RATE
from soundstage.types import VideoShape

FRAMES = 73
LASTING = ("orbit", "swing", "roll")  # actions that go on to the end
SHIFT_S = 0.3
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Shot:
    """A clip of the world with its scene, and the frames of twice the length, which go on."""

    scene: Scene
    clip: Clip
    beats: int


def shots(count: int, seed: int, fits: Callable[[Scene], bool]) -> Iterator[Shot]:
    """Yield clips of scenes that fit, in which something moves and sounds from the start."""
    found = 0
    while found < count:
        scene = draw_scene(seed, VideoShape(FRAMES, 128, 192))
        seed += 1
        actions = {subject.action for subject in scene.subjects}
        if (not scene.interaction and actions == {"rest"}) or any(s.delay_s for s in scene.subjects):
            continue
        if not fits(scene):
            continue
        motion = simulate(scene)
        sound = synthesize(scene, motion)
        beats = [event for event in motion.events if event.kind in ("thud", "click", "chime")]
        if np.abs(sound).max() < 0.01:
            continue
        found += 1
        yield Shot(scene, Clip(render(scene, motion), sound, scene.fps), len(beats))


def _zoomed(frames: Frames, zoom: float = 1.2) -> Frames:
    picture = Image.fromarray(frames[0])
    width, height = picture.size
    out = []
    for index in range(len(frames)):
        share = 1 / (1 + (zoom - 1) * index / (len(frames) - 1))
        left, top = width * (1 - share) / 2, height * (1 - share) / 2
        box = (left, top, width - left, height - top)
        out.append(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box)))
    return np.stack(out)


def _grainy(frames: Frames) -> Frames:
    noise = np.random.default_rng(0).normal(0, 2, frames.shape)
    grainy: Frames = np.clip(frames + noise, 0, 255).astype(np.uint8)
    return grainy


def _gained(frames: Frames, last: tuple[float, float, float]) -> Frames:
    gains = 1 + np.linspace(0, 1, len(frames))[:, None, None, None] * (np.array(last) - 1)
    gained: Frames = np.clip(frames * gains, 0, 255).astype(np.uint8)
    return gained


def _shifted(sound: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
    count = round(seconds * RATE)
    moved = np.roll(sound, count, axis=1)
    moved[:, : max(0, count)] = 0
    moved[:, moved.shape[1] + min(0, count) :] = 0
    return moved


def _slowed(frames: Frames) -> Frames:
    half = len(frames) // 2
    later = np.minimum(half + (np.arange(len(frames) - half) * 0.25), len(frames) - 1)
    first = frames[np.floor(later).astype(int)].astype(np.float32)
    second = frames[np.minimum(np.floor(later).astype(int) + 1, len(frames) - 1)].astype(np.float32)
    mixed = first + (later % 1)[:, None, None, None] * (second - first)
    return np.concatenate([frames[:half], mixed.round().astype(np.uint8)])


def spoilt(kind: str, shot: Shot, other: Shot) -> Clip:
    """Return a clip with one fault."""
    clip = shot.clip
    frames, sound = clip.frames, clip.waveform
    assert frames is not None
    assert sound is not None
    frames, sound, count = frames.copy(), sound.copy(), len(frames)
    if kind == "still":
        frames = _grainy(np.repeat(frames[:1], count, axis=0))
    elif kind == "zoom-only":
        frames = _zoomed(frames)
    elif kind == "frozen-start":
        frames[:24] = frames[24]
    elif kind == "slowdown":
        frames = _slowed(frames)
    elif kind == "duplicates":
        frames[1::2] = frames[:-1:2]
    elif kind == "black":
        frames[30:32] = 0
    elif kind == "burnt":
        frames[30:36] = np.clip(frames[30:36].astype(int) * 4 + 120, 0, 255)
    elif kind == "jump":
        assert other.clip.frames is not None
        frames[36:] = other.clip.frames[36:]
    elif kind == "colour-drift":
        frames = _gained(frames, (1.15, 0.95, 0.7))
    elif kind == "silence":
        sound[:] = 0
    elif kind == "clipping":
        sound = np.clip(sound * (4 / np.abs(sound).max()), -1, 1)
    elif kind == "loudness":
        sound = sound * np.float32(0.1)
    elif kind.startswith("av-offset"):
        sound = _shifted(sound, SHIFT_S if kind.endswith("late") else -SHIFT_S)
    return replace(clip, frames=frames, waveform=sound)


SPECIAL = ("slowdown", "av-offset late", "av-offset early")  # which only some scenes can show
KINDS_OF_SPOILING = (
    *("still", "zoom-only", "frozen-start", "slowdown", "duplicates", "black", "burnt", "jump"),
    *("colour-drift", "silence", "clipping", "loudness", "av-offset late", "av-offset early"),
)


def _fits(kind: str, scene: Scene) -> bool:
    if kind == "slowdown":
        return all(s.action in LASTING for s in scene.subjects) and not scene.interaction
    if kind.startswith("av-offset"):
        quiet = scene.voice is None and scene.ambience != "rain"
        return quiet and not scene.interaction and all(s.action == "bounce" for s in scene.subjects)
    return True


def picture_table(count: int, seed: int) -> None:
    """Print how many spoilt clips each check finds, and the false alarms on sound ones."""
    print(f"| spoilt on purpose | found, of {count} |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        known: dict[str, list[Shot]] = {}
        for kind in KINDS_OF_SPOILING:
            found = 0
            fits = kind if kind in SPECIAL else ""
            if fits not in known:
                known[fits] = list(_taken(fits, count, seed))
            taken = known[fits]
            for shot, other in zip(taken, [*taken[1:], taken[0]], strict=True):
                spoilt(kind, shot, other).save(path)
                asked = Asked(loudness_lufs=(-30, -10)) if kind == "loudness" else Asked()
                found += kind.split()[0] in {fault.check for fault in review_clip(path, asked).faults}
            print(f"| `{kind}` | {found} |", flush=True)
        alarms: collections.Counter[str] = collections.Counter()
        total = 2 * count
        for shot in shots(total, seed + 500_000, lambda scene: True):
            shot.clip.save(path)
            alarms.update({fault.check for fault in review_clip(path).faults})
    told = ", ".join(f"`{check}` {number}" for check, number in alarms.most_common()) or "none"
    print(f"\nFalse alarms on {total} sound clips: {told}.")


def _taken(kind: str, count: int, seed: int) -> Iterator[Shot]:
    least = 2 if kind.startswith("av-offset") else 0
    number = 0
    for shot in shots(40 * count, seed, lambda scene: _fits(kind, scene)):
        if shot.beats >= least:
            yield shot
            number += 1
        if number == count:
            return


def sound_table(count: int, seed: int, seconds: float) -> None:
    """Print how often each kind is heard in labelled sounds."""
    rows: dict[tuple[str, frozenset[str]], list[int]] = {}
    for one in labelled_sounds(count, seed, seconds):
        ear = Ear(RATE)
        ear.add(np.stack([one.sound, one.sound]).astype(np.float32))
        facts = ear.result()
        row = rows.setdefault((one.name, one.holds), [0] * (1 + len(KINDS)))
        row[0] += 1
        for index, kind in enumerate(KINDS, 1):
            row[index] += facts.best(kind) >= THERE
    print("| sound | clips | heard as speech | as music | as a tone |\n|---|---|---|---|---|")
    for (name, _), row in rows.items():
        print(f"| {name} | {' | '.join(map(str, row))} |")
    print("\n| | right where it is | wrong where it is not |\n|---|---|---|")
    for index, kind in enumerate(KINDS, 1):
        hits = [(row[index], row[0]) for (_, holds), row in rows.items() if kind in holds]
        alarms = [(row[index], row[0]) for (_, holds), row in rows.items() if kind not in holds]
        told = (f"{sum(a for a, _ in pair)} of {sum(b for _, b in pair)}" for pair in (hits, alarms))
        print(f"| {kind} | {' | '.join(told)} |")


SHOWN = (
    "A red ball rolls to the right on a wooden floor. The camera is static.",
    "A blue cube rests on the ground at night. The camera is static.",
    "A green star swings on a string in thick fog.",
)
SPOKEN = ("warm", "deep", "bright")
POLICIES = (
    ("says nothing of sound", False, SoundPolicy()),
    ("says nothing of sound", False, SoundPolicy(speech="only")),
    ("says nothing of sound", False, SoundPolicy(ambience="rain")),
    ("has a voice speak", True, SoundPolicy()),
    ("has a voice speak", True, SoundPolicy(speech="none")),
)


def policy_table(count: int) -> None:
    """Print what nano's sound holds with and without a policy."""
    stage = load("nano")
    print("| the prompt | policy | clips | speech heard | tone heard | silent |\n|---|---|---|---|---|---|")
    for told, speaks, policy in POLICIES:
        found = collections.Counter[str]()
        for number in range(count):
            prompt = SHOWN[number % 3]
            prompt += f" [SPEECH]: A {SPOKEN[number % 3]} voice speaks." if speaks else ""
            request = Request(
                prompt=prompt, seed=100 + number, modalities={"audio"}, duration_s=2.05, steps=12
            )
            measures = review_clip(stage.generate(policy.applied(request))).measures["sound"]
            found.update(kind for kind in KINDS if measures[kind] >= THERE)
            found["silent"] += measures["silent_share"] == 1
        words = ", ".join(f"{k}={v}" for k, v in policy.to_dict().items()) or "none"
        row = (count, found["speech"], found["tone"], found["silent"])
        print(f"| {told} | {words} | {' | '.join(map(str, row))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("picture", "sound", "policy"))
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0)
    words = parser.parse_args()
    if words.what == "picture":
        picture_table(words.count, words.seed)
    elif words.what == "policy":
        policy_table(words.count)
    else:
        sound_table(words.count, words.seed, words.seconds)


if __name__ == "__main__":
    main()
