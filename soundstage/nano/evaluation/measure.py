"""Compare what was seen and heard with what was asked, row by row.

A row counts samples: one per clip, subject, sound or event. A fact that a caption does not state is no
sample. A subject is compared with the most similar one that was asked for: where the two sides are swapped,
the row "left or right" is wrong, and the others are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from soundstage.media.arrays import Frames
from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.evaluation.picture import Seen, look
from soundstage.nano.evaluation.sound import SILENT_DBFS, Heard, listen, rms_dbfs
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.scene import Scene, Subject

# Row -> what one sample is and when it counts as right.
ROWS: dict[str, str] = {
    "color": "subjects and gifts of the asked colour",
    "shape": "subjects of the asked shape",
    "size": "subjects of the asked size",
    "action": "subjects, or pairs that meet, doing what was asked",
    "direction": "the asked way: rolling, sliding, circling, first swing, giver of a handover",
    "left or right": "subjects on the asked side",
    "both subjects": "pairs with shape, colour, side and action of both as asked",
    "time words": "delayed actions that start within 0.25 s of the asked time",
    "count words": "bounces and flashes, counted as asked",
    "camera": "clips with the asked camera move",
    "background": "clips in the asked place",
    "sound class": "asked sounds and voices that are heard, and no other",
    "onset": "asked events seen, and heard within one frame of where they are seen",
    "silence": "clips below -50 dBFS wherever nothing sounds",
}
TIME_SLACK_S = 0.25
ACROSS = ("roll", "slide")
TURNING = (*ACROSS, "orbit", "swing")
RING_S = {"thud": 0.55, "click": 0.2, "chime": 1.0}  # how long an event may be heard
LEAD_S = 0.06  # and how long before it is seen
MIN_SILENCE_S = 0.15


@dataclass(frozen=True)
class Outcome:
    """Right samples and all samples of a row."""

    hits: int
    total: int

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.hits + other.hits, self.total + other.total)


def measure_clip(frames: Frames, waveform: Floats | None, scene: Scene) -> dict[str, Outcome]:
    """Return the rows of ROWS that apply to a scene.

    frames: (F, H, W, 3) uint8 at scene.fps. waveform: (2, samples) float32 at 48 kHz; None counts as silence.
    """
    if waveform is None:
        waveform = np.zeros((2, round(scene.duration_s * 48_000)), dtype=np.float32)
    seen, heard = look(frames, scene.fps), listen(waveform)
    pairs = _matched(scene, seen)
    rows = {
        "color": [a.color == b.color for a, b in pairs] + _gift(scene, seen),
        "shape": [a.shape == b.shape for a, b in pairs],
        "size": [a.size == b.size for a, b in pairs],
        "action": _action(scene, seen, pairs),
        "direction": _direction(scene, seen, pairs),
        "left or right": [_same_side(a, b) for a, b in pairs if a.side != "center"],
        "both subjects": _both(scene, seen, pairs),
        "time words": [_on_time(a, b) for a, b in pairs if a.delay_s],
        "count words": [a.count == b.count and a.action == b.action for a, b in pairs if a.count],
        "camera": [seen.camera == scene.camera],
        "background": [seen.background == scene.background],
        "sound class": _sound_class(scene, heard),
        "onset": _onset(scene, seen, heard),
        "silence": _silence(scene, seen, waveform),
    }
    return {row: Outcome(sum(tests), len(tests)) for row, tests in rows.items() if tests}


NOTHING = Subject("nothing", "nothing", "nothing", "nothing", "nowhere", 0, 0, -1.0)


def _matched(scene: Scene, seen: Seen) -> list[tuple[Subject, Subject]]:
    """Return pairs of asked subjects and the most similar found ones; NOTHING where one is missing."""
    found = list(seen.subjects) + [NOTHING] * max(0, len(scene.subjects) - len(seen.subjects))

    def alike(order: tuple[Subject, ...]) -> int:
        return sum(
            2 * (a.color == b.color) + 2 * (a.shape == b.shape) + (a.side == b.side)
            for a, b in zip(scene.subjects, order, strict=True)
        )

    best = max(permutations(found, len(scene.subjects)), key=alike)
    return list(zip(scene.subjects, best, strict=True))


def _gift(scene: Scene, seen: Seen) -> list[bool]:
    return [seen.gift_color == scene.gift_color] if scene.gift_color else []


def _action(scene: Scene, seen: Seen, pairs: list[tuple[Subject, Subject]]) -> list[bool]:
    """Return a sample for an interaction, else one per subject, wrong if more are seen than asked for."""
    if scene.interaction:
        return [seen.interaction == scene.interaction]
    alone = seen.interaction is None and len(seen.subjects) == len(scene.subjects)
    return [alone and a.action == b.action for a, b in pairs]


def _direction(scene: Scene, seen: Seen, pairs: list[tuple[Subject, Subject]]) -> list[bool]:
    if scene.interaction == "handover":
        return [seen.interaction == "handover" and seen.subjects[0].side == scene.subjects[0].side]
    turning = [(a, b) for a, b in pairs if a.action in TURNING and not scene.interaction]
    return [a.action == b.action and a.direction == b.direction for a, b in turning]


def _same_side(asked: Subject, found: Subject) -> bool:
    return asked.side == found.side


def _both(scene: Scene, seen: Seen, pairs: list[tuple[Subject, Subject]]) -> list[bool]:
    if len(scene.subjects) < 2:
        return []
    looks = all((a.shape, a.color, a.side) == (b.shape, b.color, b.side) for a, b in pairs)
    return [looks and all(_action(scene, seen, pairs))]


def _on_time(asked: Subject, found: Subject) -> bool:
    return asked.action == found.action and abs(asked.delay_s - found.delay_s) <= TIME_SLACK_S


def _asked_sounds(scene: Scene) -> set[str]:
    sounds = {event.kind for event in simulate(scene).events} | {scene.ambience, scene.voice or "silence"}
    return sounds - {"silence"}


def _sound_class(scene: Scene, heard: Heard) -> list[bool]:
    """Return a sample per asked sound and one per sound not asked for; silence is one sample."""
    asked = _asked_sounds(scene)
    if not asked:
        return [not heard.classes]
    return [True] * len(asked & heard.classes) + [False] * len(asked ^ heard.classes)


def _onset(scene: Scene, seen: Seen, heard: Heard) -> list[bool]:
    """Return a sample per asked event: right where one is seen and heard at the same time."""
    slack = 1 / scene.fps + 1e-3
    asked = [event for event in simulate(scene).events if event.kind != "rumble"]
    tests = []
    for kind in {event.kind for event in asked}:
        shown = [event.time_s for event in seen.events if event.kind == kind]
        sounding = [at for other, at in heard.onsets if other == kind]
        synced = [any(abs(at - t) <= slack for at in sounding) for t in shown]
        number = sum(event.kind == kind for event in asked)
        tests += (synced + [False] * number)[:number]
    return tests


def _silence(scene: Scene, seen: Seen, waveform: Floats) -> list[bool]:
    """Return a sample for the time in which nothing sounds; none for clips with ambience or voice."""
    if scene.ambience != "silence" or scene.voice:
        return []
    spans = _quiet_spans(scene, seen)
    if sum(b - a for a, b in spans) < MIN_SILENCE_S:
        return []
    return [rms_dbfs(waveform, spans) < SILENT_DBFS]


def _quiet_spans(scene: Scene, seen: Seen) -> list[tuple[float, float]]:
    sounding = [(e.time_s - LEAD_S, e.time_s + RING_S[e.kind]) for e in seen.events]
    sounding += [(s.delay_s - 2 * LEAD_S, scene.duration_s) for s in seen.subjects if s.action == "roll"]
    spans, clock = [], 0.0
    for start, end in sorted(sounding):
        if start > clock:
            spans.append((clock, start))
        clock = max(clock, end)
    if clock < scene.duration_s:
        spans.append((clock, scene.duration_s))
    return spans
