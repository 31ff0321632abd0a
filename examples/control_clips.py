"""Pairs to learn in-context LoRAs from: examples/control_clips.py KIND,KIND FOLDER [COUNT [SEED [FRAMES]]]

Shots of nano's world, each beside its caption and its reference: what `soundstage control` makes of the
shot, or what the world's renderer knows of it. Kinds take turns; soundstage/nano/world/pairs.py has them.
FRAMES, fewer than a shot has, cuts a stretch of so many out of each: more pairs for the same time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import soundstage as ss
from soundstage.nano.world.captions import caption, names
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.pairs import PAIRS
from soundstage.nano.world.scene import draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.types import VideoShape

COUNT, FIRST_SEED = 240, 5000
SHAPE = VideoShape(25, 128, 192)
OUTLINES = ("edges", "depth", "tracks")  # half of their captions name subjects alone: references say the rest


def main(
    kinds: str, folder: Path, count: int = COUNT, first_seed: int = FIRST_SEED, frames: int = SHAPE.num_frames
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chosen = kinds.split(",")
    for index in range(count):
        scene = draw_scene(first_seed + index, SHAPE)
        kind = chosen[index % len(chosen)]
        pair = PAIRS[kind](scene)
        sound = synthesize(scene, simulate(scene))  # nano has learned no picture that has no sound beside it
        first = int(np.random.default_rng([scene.seed, 13]).integers(SHAPE.num_frames - frames + 1))
        start, end = first / scene.fps, (first + frames) / scene.fps
        ss.Clip(pair.clip, sound, scene.fps).trim(start, end).save(folder / f"{scene.seed}.mkv", codec="ffv1")
        beside = ss.Clip(pair.reference, None, scene.fps).trim(start, end)
        beside.save(folder / f"{scene.seed}_ref.mkv", codec="ffv1")
        bare = kind in OUTLINES and index // len(chosen) % 2 == 0
        (folder / f"{scene.seed}.txt").write_text(names(scene) if bare else caption(scene, scene.seed))
    print(f"{folder}: {count} pairs")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
