"""Clips in a style to learn: python examples/style_clips.py clips [COUNT]

Shots of nano's world as a line drawing: dark outlines on white, with the sound that they have. Beside each
clip stands its caption, which says what is shown and not the style: the trigger of dataset.yaml does that.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import soundstage as ss
from soundstage.nano.world.sample import sample

FIRST_SEED = 1000
COUNT = 30
FAINT, STRONG = 36, 110  # differences of neighbours, of 255, that leave no ink, and all of it


def line_drawing(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames (F, H, W, 3) as dark outlines on white."""
    light = np.pad(frames.astype(np.int16), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    down = np.abs(light[:, 2:, 1:-1] - light[:, :-2, 1:-1])
    across = np.abs(light[:, 1:-1, 2:] - light[:, 1:-1, :-2])
    step = np.maximum(down, across).max(axis=-1)
    ink = np.clip((step - FAINT) / (STRONG - FAINT), 0, 1)
    paper = (255 - 235 * ink).round().astype(np.uint8)
    return np.repeat(paper[..., None], 3, axis=-1)


def main(folder: Path, count: int = COUNT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        shot = sample(seed)
        assert shot.frames is not None
        path = folder / f"{seed}.mp4"
        ss.Clip(line_drawing(shot.frames), shot.waveform, shot.fps).save(path)
        path.with_suffix(".txt").write_text(shot.provenance["caption"])
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
