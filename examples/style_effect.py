"""What a style LoRA does: python examples/style_effect.py LORA PICTURE.png [COUNT]

Makes held-out prompts without the LoRA, with it, and with it but without the trigger, from the same noise.
Prints for each the share of pixels that are nearly white, the mean colour, and the share of sounds that are
as asked; draws all side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import soundstage as ss
from soundstage.nano.evaluation.measure import Outcome, measure_clip
from soundstage.nano.evaluation.report import held_out_scenes
from soundstage.nano.world.captions import caption
from soundstage.nano.world.scene import Scene

WORDS = "Line drawing."
SEED, FRAMES, STEPS = 3, 25, 8
PAPER = 200  # of 255: nearly white has all channels at least so light; the VAE makes white a little cream
COUNT = 8


def prompts(count: int = COUNT) -> list[Scene]:
    """Scenes that neither nano nor the LoRA has seen."""
    return held_out_scenes(count, SEED, FRAMES)


def made(
    stage: ss.Engine, scenes: Sequence[Scene], loras: Sequence[str] = (), words: str = WORDS
) -> list[ss.Clip]:
    """A clip for each scene; the k-th has the noise of seed k."""
    clips = []
    for seed, scene in enumerate(scenes):
        size = (scene.shape.width, scene.shape.height)
        prompt = f"{words} {caption(scene, full=True)}".strip()
        clips.append(
            stage.generate(prompt, seed=seed, size=size, num_frames=FRAMES, steps=STEPS, loras=loras)
        )
    return clips


def frames_of(clip: ss.Clip) -> NDArray[np.uint8]:
    assert clip.frames is not None
    return clip.frames


def told(name: str, scenes: Sequence[Scene], clips: Sequence[ss.Clip]) -> str:
    """A line of means over the clips."""
    frames = [frames_of(clip) for clip in clips]
    white = np.mean([(f.min(axis=-1) >= PAPER).mean() for f in frames])
    light = np.mean([f.mean() / 255 for f in frames])
    color = np.mean([np.ptp(f.astype(float), axis=-1).mean() / 255 for f in frames])
    sounds = Outcome(0, 0)
    for scene, clip in zip(scenes, clips, strict=True):
        sounds += measure_clip(frames_of(clip), clip.waveform, scene)["sound class"]
    return (
        f"{name}: {white:.0%} nearly white, light {light:.2f}, colour {color:.3f}, "
        f"{sounds.hits} of {sounds.total} sounds as asked"
    )


def page(ways: Sequence[Sequence[ss.Clip]]) -> Image.Image:
    """Two frames of each clip, its ways in a row; clips of one size alone."""
    rows = []
    for same in zip(*ways, strict=True):
        cells = [frames_of(clip)[at] for clip in same for at in (0, -1)]
        if cells[0].shape == frames_of(ways[0][0])[0].shape:
            rows.append(np.concatenate([np.pad(cell, ((0, 4), (0, 4), (0, 0))) for cell in cells], axis=1))
    return Image.fromarray(np.concatenate(rows))


def main(lora: str, picture: Path, count: int = COUNT) -> None:
    stage, scenes = ss.load("nano"), prompts(count)
    ways = {
        "without": made(stage, scenes),
        "with": made(stage, scenes, [lora]),
        "with, without the trigger": made(stage, scenes, [lora], words=""),
    }
    for name, clips in ways.items():
        print(told(name, scenes, clips))
    page(list(ways.values())).quantize(256, kmeans=1).save(picture, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
