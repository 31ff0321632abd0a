"""Draw shots of the procedural world from seeds, as plain data.

A scene holds all that its caption may say. Motion, picture and sound follow from it and its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from soundstage.errors import RequestError
from soundstage.types import VideoShape

SHAPES = ("ball", "cube", "pyramid", "star", "ring")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 44),
    "orange": (245, 135, 28),
    "yellow": (246, 214, 40),
    "green": (52, 168, 68),
    "cyan": (60, 200, 216),
    "blue": (44, 84, 214),
    "purple": (138, 62, 190),
    "pink": (244, 130, 184),
}
SIZES: dict[str, float] = {"small": 0.12, "medium": 0.165, "large": 0.215}  # radius
BACKGROUNDS = ("day", "night", "fog", "wood", "grid", "gradient")
CAMERAS = ("static", "push in", "pull out", "pan left", "pan right", "tilt up", "tilt down")
SOLO_ACTIONS = ("bounce", "roll", "slide", "orbit", "swing", "grow", "blink", "rest")
PAIR_ACTIONS = ("bounce", "orbit", "swing", "grow", "blink", "rest")  # those that stay on their side
ROLLERS = ("ball", "ring")  # what rolls; the others slide
AMBIENCES = ("silence", "rain", "wind", "hum")
VOICES = ("deep", "warm", "bright")
DELAYS_S = (0.0, 0.5, 1.0, 1.5)
FPS = 24.0

# (width, height) of the three orientations
BUCKETS: dict[str, tuple[int, int]] = {"landscape": (192, 128), "portrait": (128, 192), "square": (128, 128)}


@dataclass(frozen=True)
class Subject:
    """One thing in the shot."""

    shape: str
    color: str
    size: str
    action: str
    side: str = "center"  # or left, right
    direction: int = 1  # +1 moves right, -1 left; orbit: +1 is clockwise
    count: int = 0  # of bounces or flashes
    delay_s: float = 0.0  # stillness before the action


@dataclass(frozen=True)
class Scene:
    """A whole shot."""

    seed: int
    shape: VideoShape
    background: str
    camera: str
    subjects: tuple[Subject, ...]
    interaction: str | None = None  # or collide; or handover, by the first subject
    gift_color: str | None = None  # of the small ball that a handover passes
    ambience: str = "silence"
    voice: str | None = None  # or one of VOICES
    fps: float = FPS

    @property
    def duration_s(self) -> float:
        return self.shape.num_frames / self.fps

    @property
    def half_width(self) -> float:
        return self.shape.width / (2 * min(self.shape.width, self.shape.height))

    @property
    def half_height(self) -> float:
        return self.shape.height / (2 * min(self.shape.width, self.shape.height))

    @property
    def floor_y(self) -> float:
        """Return the y of the line on which things rest."""
        return 0.66 * self.half_height

    @property
    def horizon_y(self) -> float:
        """Return the y at which wall or sky meets the ground."""
        return 0.42 * self.half_height


def is_held_out(subject: Subject) -> bool:
    """Return whether training leaves a combination of colour, shape and action out: about one in eight.

    It is decided by a sum of positions in the tables, so that training has most combinations of every
    colour, shape and action.
    """
    index = list(COLORS).index(subject.color) * 3 + SHAPES.index(subject.shape) * 5
    return (index + SOLO_ACTIONS.index(subject.action) if subject.action in SOLO_ACTIONS else index) % 8 == 0


def draw_scene(seed: int, shape: VideoShape, *, held_out: bool = False) -> Scene:
    """Return a scene from a seed; the same on every machine. Raises RequestError for a seed out of range.

    held_out: with a combination that training never shows; else without any.
    """
    if not 0 <= seed < 2**63:
        raise RequestError(f"seed is {seed}; give a whole number from 0 to 2^63 - 1", field="seed")
    rng = np.random.default_rng([seed, int(held_out)])
    while True:
        scene = _draw(rng, seed, shape)
        flags = [is_held_out(s) for s in scene.subjects]
        if (held_out and any(flags)) or (not held_out and not any(flags)):
            return scene


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _draw(rng: np.random.Generator, seed: int, shape: VideoShape) -> Scene:
    duration_s = shape.num_frames / FPS
    interaction: str | None = None
    gift: str | None = None
    kind = rng.random()
    if kind < 0.6:
        subjects: tuple[Subject, ...] = (_draw_solo(rng, duration_s),)
    elif kind < 0.8 or duration_s < 1.0:
        subjects = tuple(_draw_subject(rng, PAIR_ACTIONS, side, duration_s) for side in ("left", "right"))
        subjects = _distinct(rng, subjects)
    else:
        interaction = "collide" if rng.random() < 0.5 else "handover"
        pair = tuple(_draw_subject(rng, ("rest",), side, duration_s) for side in ("left", "right"))
        subjects = _distinct(rng, pair)
        if interaction == "handover":
            subjects = tuple(_resized(s, "medium") for s in subjects)
            subjects = subjects if rng.random() < 0.5 else subjects[::-1]
            used = {s.color for s in subjects}
            gift = _pick(rng, tuple(c for c in COLORS if c not in used))
    speaks = rng.random() < 0.12 and duration_s >= 1.0
    return Scene(
        seed=seed,
        shape=shape,
        background=_pick(rng, BACKGROUNDS),
        camera=_pick(rng, CAMERAS) if rng.random() < 0.7 else "static",
        subjects=subjects,
        interaction=interaction,
        gift_color=gift,
        ambience=_pick(rng, AMBIENCES) if rng.random() < 0.6 and not speaks else "silence",
        voice=_pick(rng, VOICES) if speaks else None,
    )


def _draw_solo(rng: np.random.Generator, duration_s: float) -> Subject:
    subject = _draw_subject(rng, SOLO_ACTIONS, "center", duration_s)
    if subject.action in PAIR_ACTIONS and rng.random() < 0.35:
        side = "left" if rng.random() < 0.5 else "right"
        return Subject(**{**subject.__dict__, "side": side})
    return subject


def _draw_subject(
    rng: np.random.Generator, actions: tuple[str, ...], side: str, duration_s: float
) -> Subject:
    action = _pick(rng, actions)
    shape = _pick(rng, SHAPES)
    if action == "roll":
        shape = _pick(rng, ROLLERS)
    elif action == "slide":
        shape = _pick(rng, tuple(s for s in SHAPES if s not in ROLLERS))
    delay = 0.0
    if action != "rest" and duration_s >= 2.0 and rng.random() < 0.35:
        delay = float(DELAYS_S[1 + int(rng.integers(2 if duration_s < 3.0 else 3))])
    count = 0
    if action in ("bounce", "blink"):
        room = max(1, min(3, int((duration_s - delay - 0.35) / 0.45)))
        count = 1 + int(rng.integers(room))
    return Subject(
        shape=shape,
        color=_pick(rng, tuple(COLORS)),
        size=_pick(rng, tuple(SIZES)),
        action=action,
        side=side,
        direction=1 if rng.random() < 0.5 else -1,
        count=count,
        delay_s=delay,
    )


def _resized(subject: Subject, size: str) -> Subject:
    return Subject(**{**subject.__dict__, "size": size})


def _distinct(rng: np.random.Generator, pair: tuple[Subject, ...]) -> tuple[Subject, ...]:
    """Return two subjects of different colours, not both large, so that a caption can tell them apart."""
    first, second = pair
    if second.color == first.color:
        others = tuple(c for c in COLORS if c != first.color)
        second = Subject(**{**second.__dict__, "color": _pick(rng, others)})
    if first.size == "large" and second.size == "large":
        second = _resized(second, "medium")
    return (first, second)
