"""Make shots of a character that the world does not have: Bumble, a yellow ball with a broad black stripe.

scene = as_bumble(ball_scene(7, VideoShape(25, 128, 128)))
striped(scene), named(caption(scene))
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from soundstage.media.arrays import Frames
from soundstage.nano.world.captions import COLOR_WORDS, SHAPE_WORDS, SIZE_WORDS
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import Scene, draw_scene
from soundstage.types import VideoShape

NAME = "Bumble"
INK = (28, 28, 34)
STRIPE = 0.34  # half its width, in radii
LEAN = 0.6  # radians from the axis that rolling turns
NEXT = 100_003  # seeds of the scenes that are drawn in place of one that does not fit


def ball_scene(seed: int, shape: VideoShape, *, held_out: bool = False) -> Scene:
    """Return a scene with one ball alone: the first from a seed on."""
    while True:
        scene = draw_scene(seed, shape, held_out=held_out)
        if len(scene.subjects) == 1 and scene.subjects[0].shape == "ball":
            return scene
        seed += NEXT


def as_bumble(scene: Scene) -> Scene:
    """Return a scene whose ball is yellow, and not small."""
    ball = scene.subjects[0]
    size = "medium" if ball.size == "small" else ball.size
    return replace(scene, subjects=(replace(ball, color="yellow", size=size),))


def named(words: str, name: str = NAME) -> str:
    """Return a caption whose yellow ball is called by a name, without article, size and colour."""
    nouns = sorted(set(SHAPE_WORDS["ball"]), key=len, reverse=True)
    colors = sorted(set(COLOR_WORDS["yellow"]), key=len, reverse=True)
    sizes = ["", *(f"{size} " for sizes in SIZE_WORDS.values() for size in sizes)]
    for article in ("A", "a"):
        for size in sizes:
            for color in colors:
                for noun in nouns:
                    words = words.replace(f"{article} {size}{color} {noun}", name)
    return words


def striped(scene: Scene) -> Frames:
    """Return the frames of a scene whose ball has the stripe, which turns with it and pales as it glows."""
    motion = simulate(scene)
    frames, track = render(scene, motion), motion.tracks[0]
    unit = min(scene.shape.width, scene.shape.height)
    rows, columns = np.mgrid[: scene.shape.height, : scene.shape.width] + 0.5
    for number, (x, y) in enumerate(motion.screen_positions(scene)[:, 0]):
        radius = float(track.radius[number]) * unit * float(motion.camera[number, 2])
        dx, dy = (columns - x) / radius, (rows - y) / radius
        angle = float(track.angle[number]) + LEAN
        across = dy * np.cos(angle) - dx * np.sin(angle)
        cover = _edge(1 - np.hypot(dx, dy), radius) * _edge(STRIPE - np.abs(across), radius)
        light = 0.6 + 0.4 * np.clip(-0.5 * dx - 0.7 * dy, -1, 1)
        glow = float(track.glow[number])
        ink = np.array(INK) * (1 - glow) * light[..., None]
        share = cover[..., None] * (1 - 0.75 * glow)
        frames[number] = (frames[number] + share * (ink - frames[number])).round().astype(np.uint8)
    return frames


def _edge(distance: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Return 1 inside and 0 outside, over a pixel. distance: in radii."""
    return np.clip(distance * radius + 0.5, 0, 1)
