"""Masks: pixels that say what of a clip is given, as the cells that training keeps clean; and drawn ones.

Latent frame 0 holds pixel frame 0, latent frame k the frames 8k - 7 to 8k: masks are grouped in the same way.
(Counting eights from the first frame instead would be up to seven frames off.) A cell of 32x32 pixels is
given where more than half of it is white in one of its frames.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from soundstage.conditioning.masks import cells_touched
from soundstage.dataset.config import MaskMaking
from soundstage.media.load import load_sound
from soundstage.types import AUDIO_LATENTS_PER_S, SPACE_SCALE

HALF = 0.5
MAX_TRIES = 64


def given_cells(pixels: Tensor, white: str) -> Tensor:
    """Return (T, h, w) uint8, 1 where a cell is given, from a mask (F, H, W) in [0, 1].

    white: "given": a cell counts by the mean of its pixels, and its most given frame. "made": a cell that is
    touched by what is made anew is made, as at inference.
    """
    if white == "made":
        return (cells_touched(pixels) <= HALF).to(torch.uint8)
    means = F.avg_pool2d(pixels[:, None], SPACE_SCALE)
    whole = F.interpolate(means, scale_factor=SPACE_SCALE, mode="nearest")[:, 0]
    return (cells_touched(whole) > HALF).to(torch.uint8)


def given_latents(path: Path, start_s: float, count: int) -> Tensor:
    """Return (count,) uint8, 1 where a sound that serves as a mask is louder than half of full scale."""
    samples, rate = load_sound(str(path), start_s, count / AUDIO_LATENTS_PER_S)
    loud = np.abs(samples).max(axis=0)
    edges = np.linspace(0, round(count / AUDIO_LATENTS_PER_S * rate), count + 1).astype(int)
    spans = (loud[first:end] for first, end in itertools.pairwise(edges))
    return torch.tensor([float(span.max(initial=0.0)) > HALF for span in spans]).to(torch.uint8)


def drawn(making: MaskMaking, name: str, size: tuple[int, int, int], white: str) -> NDArray[np.uint8]:
    """Return a drawn mask (F, H, W), 255 where it is white. F is 1 for a mask that holds all the time.

    name: the item's, which with the seed decides what is drawn. size: width, height and frames.
    """
    seed = hashlib.sha256(f"{making.seed} {name}".encode()).digest()[:8]
    random = np.random.default_rng(int.from_bytes(seed, "little"))
    width, height, num_frames = size
    low, high = sorted(making.share)
    share = random.uniform(low, high)
    if making.kind == "time":
        made = _stretch(random, share, num_frames)[:, None, None].repeat(height, 1).repeat(width, 2)
    else:
        draw = {"boxes": _boxes, "strokes": _strokes, "border": _border}[making.kind]
        made = draw(random, share, height, width)[None]
    return ((made if white == "made" else ~made) * np.uint8(255)).astype(np.uint8)


def _stretch(random: np.random.Generator, share: float, num_frames: int) -> NDArray[np.bool_]:
    length = max(1, round(share * num_frames))
    first = int(random.integers(0, num_frames - length + 1))
    made = np.zeros(num_frames, bool)
    made[first : first + length] = True
    return made


def _boxes(random: np.random.Generator, share: float, height: int, width: int) -> NDArray[np.bool_]:
    """Return boxes that together cover at least the share, up to all tries."""
    made = np.zeros((height, width), bool)
    for _ in range(MAX_TRIES):
        if made.mean() >= share:
            break
        high, wide = (
            max(1, round(side * random.uniform(0.15, 0.6) * share**0.5)) for side in (height, width)
        )
        top, left = int(random.integers(0, height - high + 1)), int(random.integers(0, width - wide + 1))
        made[top : top + high, left : left + wide] = True
    return made


def _strokes(random: np.random.Generator, share: float, height: int, width: int) -> NDArray[np.bool_]:
    """Return strokes of a round brush that wanders."""
    made = np.zeros((height, width), bool)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    brush = max(2.0, 0.08 * min(height, width))
    y, x, angle = random.uniform(0, height), random.uniform(0, width), random.uniform(0, 2 * np.pi)
    for _ in range(MAX_TRIES * 16):
        if made.mean() >= share:
            break
        made |= (rows - y) ** 2 + (columns - x) ** 2 <= brush**2
        angle += random.normal(0, 0.5)
        y, x = (y + brush * np.sin(angle)) % height, (x + brush * np.cos(angle)) % width
    return made


def _border(random: np.random.Generator, share: float, height: int, width: int) -> NDArray[np.bool_]:
    """Return a border whose inner part lies anywhere."""
    made = np.ones((height, width), bool)
    scale = (1 - share) ** 0.5
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = int(random.integers(0, height - high + 1)), int(random.integers(0, width - wide + 1))
    made[top : top + high, left : left + wide] = False
    return made


def mask_frames(mask: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield a mask (F, H, W) as frames (H, W, 3)."""
    for frame in mask:
        yield np.repeat(frame[..., None], 3, axis=2)
