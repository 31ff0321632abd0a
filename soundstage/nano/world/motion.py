"""Compute the places of all subjects at each frame, and the times of all sounds.

Motion has a closed form in time, so that every frame, and every event between frames, is exact. Units and
axes are those of the package docstring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.nano.world.scene import SIZES, Scene, Subject

Array = NDArray[np.floating[Any]]

FALL_S = 0.5  # from rest to the first impact
REBOUND = (0.62, 0.5, 0.4)  # share of the impact speed kept by each bounce but the last
BLINK_PERIOD_S = 0.5
BLINK_S = 0.17
BLINK_LEAD_S = 0.25
ORBIT_PERIOD_S = 2.0
SWING_PERIOD_S = 1.6
HANDOVER_S = 0.6
GIFT_RADIUS = 0.065


@dataclass(frozen=True)
class SoundEvent:
    """A sound of a subject."""

    time_s: float
    kind: str  # thud, click, chime: instants; rumble: from time_s for length_s
    subject: int
    x: float  # on screen, -1 left to 1 right
    weight: float  # 0 small to 1 large, sets pitch
    length_s: float = 0.0


@dataclass
class Track:
    """One subject over F frames."""

    shape: str
    color: str
    position: Array  # (F, 2)
    radius: Array  # (F,)
    angle: Array  # (F,) radians
    glow: Array  # (F,) 0 to 1
    anchor: tuple[float, float] | None = None  # the place from which the string of a swing hangs


@dataclass
class Motion:
    """Ground truth of a scene over F frames."""

    times: Array  # (F,) seconds
    tracks: list[Track]  # of the subjects; a handover has the gift as a third
    camera: Array  # (F, 3) centre x, centre y and zoom
    events: list[SoundEvent] = field(default_factory=list)

    def screen_positions(self, scene: Scene) -> Array:
        """Return the centres (F, tracks, 2) in pixels as the camera sees them, x then y."""
        unit = min(scene.shape.width, scene.shape.height)
        centre = np.array([scene.shape.width / 2, scene.shape.height / 2], dtype=np.float32)
        positions = np.stack([t.position for t in self.tracks], axis=1)
        seen = (positions - self.camera[:, None, :2]) * self.camera[:, None, 2:]
        return (seen * unit + centre).astype(np.float32)


def simulate(scene: Scene) -> Motion:
    """Return tracks, camera and events of a scene; the same on every call."""
    times = (np.arange(scene.shape.num_frames) / scene.fps).astype(np.float32)
    motion = Motion(times, [], _camera(scene, times))
    if scene.interaction == "collide":
        _collide(scene, motion)
    elif scene.interaction == "handover":
        _handover(scene, motion)
    else:
        for index, subject in enumerate(scene.subjects):
            motion.tracks.append(_ACTIONS[subject.action](scene, motion, index, subject))
    motion.events.sort(key=lambda e: e.time_s)
    motion.events = [e for e in motion.events if e.time_s < scene.duration_s - 1 / scene.fps]
    return motion


def _camera(scene: Scene, times: Array) -> Array:
    """Return the camera's path. A move takes the whole shot; short shots move less, at a natural speed."""
    share = times / max(scene.duration_s, 1e-6)
    reach = min(1.0, scene.duration_s / 1.5)
    path = np.zeros((len(times), 3), dtype=np.float32)
    path[:, 2] = 1.0
    middle = share - 0.5
    if scene.camera == "push in":
        path[:, 2] = 1.0 + 0.4 * reach * share
    elif scene.camera == "pull out":
        path[:, 2] = 1.0 + 0.4 * reach * (1 - share)
    elif scene.camera.startswith("pan"):
        path[:, 0] = (1 if scene.camera == "pan right" else -1) * 0.44 * reach * middle
    elif scene.camera.startswith("tilt"):
        path[:, 1] = (-1 if scene.camera == "tilt up" else 1) * 0.36 * reach * middle
    return path


def _side_x(scene: Scene, subject: Subject) -> float:
    return {"left": -0.5, "center": 0.0, "right": 0.5}[subject.side] * scene.half_width


def _radius(subject: Subject) -> float:
    return SIZES[subject.size]


def _weight(subject: Subject) -> float:
    low, high = min(SIZES.values()), max(SIZES.values())
    return (_radius(subject) - low) / (high - low)


def _pan(scene: Scene, x: float) -> float:
    return float(np.clip(x / scene.half_width, -1, 1))


def _rest_y(scene: Scene, radius: float) -> float:
    return scene.floor_y - radius


def _track(subject: Subject, times: Array, x: float | Array, y: float | Array) -> Track:
    ones = np.ones_like(times)
    position = np.stack([ones * x, ones * y], axis=1).astype(np.float32)
    return Track(
        subject.shape, subject.color, position, ones * np.float32(_radius(subject)), ones * 0, ones * 0
    )


def _rest(scene: Scene, motion: Motion, index: int, subject: Subject) -> Track:
    return _track(subject, motion.times, _side_x(scene, subject), _rest_y(scene, _radius(subject)))


def _bounce(scene: Scene, motion: Motion, index: int, subject: Subject) -> Track:
    """Drop a subject from near the top; it has `count` impacts and does not rebound from the last."""
    x, radius = _side_x(scene, subject), _radius(subject)
    floor = _rest_y(scene, radius)
    height = floor + 0.72 * scene.half_height
    gravity = 2 * height / FALL_S**2
    clock = motion.times - subject.delay_s
    above = np.where(clock < FALL_S, height - 0.5 * gravity * np.maximum(clock, 0) ** 2, 0.0)
    start, speed = FALL_S, gravity * FALL_S
    for hit in range(subject.count):
        motion.events.append(
            SoundEvent(subject.delay_s + start, "thud", index, _pan(scene, x), _weight(subject))
        )
        if hit == subject.count - 1:
            break
        speed *= REBOUND[hit]
        flight = 2 * speed / gravity
        inside = (clock >= start) & (clock < start + flight)
        local = clock - start
        above = np.where(inside, speed * local - 0.5 * gravity * local**2, above)
        start += flight
    return _track(subject, motion.times, x, floor - np.maximum(above, 0))


def _travel(scene: Scene, subject: Subject, share: Array) -> Array:
    """Return x along the floor as `share` goes from 0 to 1, in the subject's direction."""
    reach = scene.half_width - 0.9 * _radius(subject)
    return (subject.direction * reach * (2 * share - 1)).astype(np.float32)


def _roll(scene: Scene, motion: Motion, index: int, subject: Subject) -> Track:
    active_s = max(scene.duration_s - subject.delay_s, 0.3)
    share = np.clip((motion.times - subject.delay_s) / active_s, 0, 1)
    x = _travel(scene, subject, share)
    track = _track(subject, motion.times, x, _rest_y(scene, _radius(subject)))
    track.angle = ((x - x[0]) / _radius(subject)).astype(np.float32)
    motion.events.append(SoundEvent(subject.delay_s, "rumble", index, 0.0, _weight(subject), active_s))
    return track


def _slide(scene: Scene, motion: Motion, index: int, subject: Subject) -> Track:
    """Slide a subject that starts fast and comes to rest, without sound."""
    active_s = max(0.85 * (scene.duration_s - subject.delay_s), 0.3)
    share = np.clip((motion.times - subject.delay_s) / active_s, 0, 1)
    eased = 1 - (1 - share) ** 2
    return _track(subject, motion.times, _travel(scene, subject, eased), _rest_y(scene, _radius(subject)))


def _orbit(scene: Scene, motion: Motion, index: int, subject: Subject) -> Track:
    """Move a subject in a circle around its place, from the top, clockwise for direction +1."""
    reach = 0.2 if subject.side != "center" else 0.27
    clock = np.maximum(motion.times - subject.delay_s, 0)
    turn = subject.direction * 2 * np.pi * clock / ORBIT_PERIOD_S
    x = _side_x(scene, subject) + reach * np.sin(turn)
    y = -0.06 - reach * np.cos(turn)
    return _track(subject, motion.times, x, y)


def _swing(scene: Scene, motion: Motion, index: int, subject: Subject) -> Track:
    """Swing a subject on a string from above the frame."""
    x0 = _side_x(scene, subject)
    anchor_y = -1.15 * scene.half_height
    length = scene.half_height * 1.15 + 0.06
    clock = np.maximum(motion.times - subject.delay_s, 0)
    swing = 0.42 if subject.side == "center" else 0.3
    angle = swing * subject.direction * np.cos(2 * np.pi * clock / SWING_PERIOD_S)
    x, y = x0 + length * np.sin(angle), anchor_y + length * np.cos(angle)
    track = _track(subject, motion.times, x, y)
    track.angle = (-angle).astype(np.float32)
    track.anchor = (x0, anchor_y)
    return track


def _grow(scene: Scene, motion: Motion, index: int, subject: Subject) -> Track:
    active_s = max(scene.duration_s - subject.delay_s, 0.3)
    share = np.clip((motion.times - subject.delay_s) / active_s, 0, 1)
    track = _rest(scene, motion, index, subject)
    track.radius = (track.radius * (0.5 + 0.9 * share)).astype(np.float32)
    track.position[:, 1] = scene.floor_y - track.radius
    return track


def _blink(scene: Scene, motion: Motion, index: int, subject: Subject) -> Track:
    """Light a subject up `count` times, each with a chime."""
    track = _rest(scene, motion, index, subject)
    x = float(track.position[0, 0])
    for k in range(subject.count):
        start = subject.delay_s + BLINK_LEAD_S + k * BLINK_PERIOD_S
        lit = (motion.times >= start - 1e-4) & (motion.times < start + BLINK_S)
        track.glow = np.where(lit, 1.0, track.glow).astype(np.float32)
        motion.events.append(SoundEvent(start, "chime", index, _pan(scene, x), _weight(subject)))
    return track


def _collide(scene: Scene, motion: Motion) -> None:
    """Move both subjects in along the floor; they meet and are thrown back."""
    left, right = scene.subjects
    rng = np.random.default_rng([scene.seed, 1])
    meet_s = scene.duration_s * (0.35 + 0.25 * float(rng.random()))
    gap = (_radius(left) + _radius(right)) * 0.98
    centre = 0.5 * (_radius(left) - _radius(right))
    for subject, sign in ((left, -1), (right, 1)):
        touch = centre + sign * gap / 2
        start = sign * (scene.half_width - 0.9 * _radius(subject))
        speed = abs(start - touch) / meet_s
        after = motion.times - meet_s
        back = 0.55 * speed * after * np.exp(-0.8 * np.maximum(after, 0))
        x = np.where(after < 0, touch + sign * speed * -after, touch + sign * back)
        track = _track(subject, motion.times, x.astype(np.float32), _rest_y(scene, _radius(subject)))
        if subject.shape in ROLLING:
            track.angle = ((x - x[0]) / _radius(subject)).astype(np.float32)
        motion.tracks.append(track)
    weight = 0.5 * (_weight(left) + _weight(right))
    motion.events.append(SoundEvent(meet_s, "click", 0, _pan(scene, centre), weight))


ROLLING = ("ball",)


def _handover(scene: Scene, motion: Motion) -> None:
    """Throw a small ball in an arc from the first subject onto the second; it lands with a click."""
    giver, taker = scene.subjects
    for index, subject in enumerate(scene.subjects):
        motion.tracks.append(_rest(scene, motion, index, subject))
    rng = np.random.default_rng([scene.seed, 2])
    start_s = scene.duration_s * (0.25 + 0.2 * float(rng.random()))
    flight_s = min(HANDOVER_S, 0.4 * scene.duration_s)
    share = np.clip((motion.times - start_s) / flight_s, 0, 1)
    x0, x1 = _side_x(scene, giver), _side_x(scene, taker)
    top = scene.floor_y - 2 * _radius(giver) - GIFT_RADIUS
    x = x0 + (x1 - x0) * share
    y = top - 4 * 0.22 * share * (1 - share)
    gift = _track(giver, motion.times, x.astype(np.float32), y.astype(np.float32))
    gift.shape, gift.color = "ball", scene.gift_color or "red"
    gift.radius = np.full_like(motion.times, GIFT_RADIUS)
    motion.tracks.append(gift)
    motion.events.append(SoundEvent(start_s + flight_s, "click", 2, _pan(scene, x1), 0.0))


_ACTIONS = {
    "rest": _rest,
    "bounce": _bounce,
    "roll": _roll,
    "slide": _slide,
    "orbit": _orbit,
    "swing": _swing,
    "grow": _grow,
    "blink": _blink,
}
