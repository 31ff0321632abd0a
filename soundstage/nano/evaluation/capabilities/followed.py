"""Measure what in-context LoRAs make of their references: edges, depth, tracks, filled areas, grades.

Each case is made three times, with the words of its scene and the same noise: beside its own reference,
beside none, and beside that of another scene. Rows without a target say how far words alone, and the wrong
reference, lead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soundstage.clip import Clip
from soundstage.media.arrays import Frames, LightFrames
from soundstage.media.hdr import Hdr
from soundstage.media.light import from_logc3
from soundstage.nano.evaluation.backdrop import find_backdrop
from soundstage.nano.evaluation.capabilities.case import (
    LORA,
    Case,
    Row,
    Section,
    Shown,
    request_of,
    scenes_where,
)
from soundstage.nano.evaluation.capabilities.compare import psnr
from soundstage.nano.evaluation.report import Samples, Spread, Target
from soundstage.nano.evaluation.tracks import Blob, find_blobs
from soundstage.nano.world.layers import covers, light
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.pairs import PAIRS, ControlPair
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import Scene
from soundstage.request.inputs import Reference

NUM_FRAMES = 25
ASKED = ("", ", no reference", ", wrong reference")  # names of rows, in the order of a case's requests
BEYOND, DARK = 2.0, 0.02  # light that is counted as beyond white, which is 1; a floor for stops
UNSEEN_PX = 64.0  # that a subject is taken to be away where it is not seen

Amounts = tuple[float, ...]


@dataclass(frozen=True)
class Likeness:
    """One way in which a clip may be like the one that its reference was made from."""

    name: str
    about: str
    target: Target  # with the right reference
    of: Callable[[Shown, Scene, ControlPair], Amounts]


def subjects_covered(shown: Shown, scene: Scene, pair: ControlPair) -> Amounts:
    """Return how much of subjects seen and subjects asked for is both, over all frames."""
    asked = covers(scene).max(axis=1) > 0.5
    seen = np.zeros_like(asked)
    for blob in _blobs(shown, scene):
        seen |= blob.solid
    return (float((asked & seen).sum() / max(1, (asked | seen).sum())),)


def middles_away(shown: Shown, scene: Scene, pair: ControlPair) -> Amounts:
    """Return how many pixels each subject is from its track, a mean over frames in which that is visible."""
    return tuple(float(away.mean()) for away in _away(shown, scene) if len(away))


def ends_away(shown: Shown, scene: Scene, pair: ControlPair) -> Amounts:
    """Return how many pixels each subject is from the end of its track."""
    return tuple(float(away[-1]) for away in _away(shown, scene) if len(away))


def given_kept(shown: Shown, scene: Scene, pair: ControlPair) -> Amounts:
    """Return the PSNR of what the reference shows."""
    assert pair.made is not None
    return (psnr(_frames(shown)[~pair.made], pair.clip[~pair.made]),)


def filled(shown: Shown, scene: Scene, pair: ControlPair) -> Amounts:
    """Return the PSNR of what the reference does not show, against the world."""
    assert pair.made is not None
    return (psnr(_frames(shown)[pair.made], pair.clip[pair.made]),)


def colours_away(shown: Shown, scene: Scene, pair: ControlPair) -> Amounts:
    """Return the mean difference of the pixels from those of the neutral clip, in levels of 255."""
    return (float(np.abs(_frames(shown).astype(np.int16) - pair.clip).mean()),)


def light_covered(shown: Shown, scene: Scene, pair: ControlPair) -> Amounts:
    """Return how much of what is far beyond white, and of what is to be, is both, over all frames."""
    asked, seen = (values.max(axis=-1) > BEYOND for values in (_asked_light(pair), _light(shown)))
    return (float((asked & seen).sum() / max(1, (asked | seen).sum())),)


def stops_away(shown: Shown, scene: Scene, pair: ControlPair) -> Amounts:
    """Return the mean difference of light from the world's, in stops."""
    asked, seen = (
        np.log2(values.astype(np.float32) + DARK) for values in (_asked_light(pair), _light(shown))
    )
    return (float(np.abs(seen - asked).mean()),)


def _frames(shown: Shown) -> Frames:
    assert shown.frames is not None
    return shown.frames


def _asked_light(pair: ControlPair) -> LightFrames:
    return from_logc3(pair.clip / np.float32(255)).astype(np.float16)


def _light(shown: Shown) -> LightFrames:
    assert shown.linear is not None
    return shown.linear


def _blobs(shown: Shown, scene: Scene) -> list[Blob]:
    frames = _frames(shown)
    return find_blobs(frames, find_backdrop(frames, scene.fps))


def _away(shown: Shown, scene: Scene) -> list[np.ndarray]:
    """Return the distances (n,) in pixels of each subject from its place, where that is in the picture."""
    motion = simulate(scene)
    seen = {blob.color: blob for blob in _blobs(shown, scene)}
    found = []
    for track, places in zip(motion.tracks, motion.screen_positions(scene).swapaxes(0, 1), strict=True):
        blob = seen.get(track.color)
        x, y = places.T
        inside = (x > 0) & (x < scene.shape.width) & (y > 0) & (y < scene.shape.height)
        if blob is None:
            away = np.full(len(x), UNSEEN_PX)
        else:
            away = np.hypot((blob.left + blob.right) / 2 - x, (blob.top + blob.bottom) / 2 - y)
        found.append(np.minimum(np.nan_to_num(away, nan=UNSEEN_PX), UNSEEN_PX)[inside])
    return found


OVERLAP = Likeness(
    "overlap",
    "share of subjects seen and subjects asked for that is both",
    Target(0.5, "share"),
    subjects_covered,
)
PATH = Likeness("path", "distance of subjects from their tracks", Target(12.0, "px", True), middles_away)
END = Likeness(
    "end", "distance of subjects from the ends of their tracks", Target(12.0, "px", True), ends_away
)
KEPT = Likeness("given part", "PSNR of what the reference shows", Target(22.0, "dB"), given_kept)
FILLED = Likeness("new part", "PSNR of what it does not show, against the world", Target(18.0, "dB"), filled)
COLOUR = Likeness(
    "colour", "mean difference from the neutral clip", Target(12.0, "levels", True), colours_away
)


BRIGHT = Likeness(
    "beyond white",
    "share of what is twice as bright as white, or is to be, that is both",
    Target(0.3, "share"),
    light_covered,
)
STOPS = Likeness("light", "mean difference from the world's light", Target(1.0, "stops", True), stops_away)


def section_of(
    kind: str,
    measures: Sequence[Likeness],
    wanted: Callable[[Scene], bool] = lambda scene: True,
    output: Hdr | None = None,
) -> Section:
    """Return the section of a kind of PAIRS. output: what the requests ask for."""

    def cases(count: int, seed: int) -> list[Case]:
        scenes = scenes_where(wanted, count + 1, seed, NUM_FRAMES)
        pairs = [PAIRS[kind](scene) for scene in scenes]
        return [_case(scenes[i : i + 2], pairs[i : i + 2], output) for i in range(count)]

    def measure(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
        rows: dict[str, Samples] = {}
        for likeness in measures:
            for which, one in zip(ASKED, shown, strict=True):
                values = likeness.of(one, case.scene, case.facts["pair"])
                if values:
                    rows[likeness.name + which] = Spread(values)
        return rows

    rows = [
        Row(likeness.name + which, likeness.about, likeness.target if which == ASKED[0] else None)
        for likeness in measures
        for which in ASKED
    ]
    return Section(kind, tuple(rows), cases, measure, needs=(LORA,))


def _case(scenes: Sequence[Scene], pairs: Sequence[ControlPair], output: Hdr | None) -> Case:
    """Return the case of a scene, beside another whose reference is the wrong one."""
    scene, own, wrong = scenes[0], *(_reference(pair, scenes[0]) for pair in pairs)
    requests = (request_of(scene, references=beside, output=output) for beside in ([own], [], [wrong]))

    def truth() -> tuple[Shown, ...]:
        right, other = (_true(one, output) for one in scenes)
        return right, other, other

    return Case(scene, tuple(requests), truth, {"pair": pairs[0]})


def _true(scene: Scene, output: Hdr | None) -> Shown:
    return Shown(render(scene), linear=None if output is None else light(scene))


def _reference(pair: ControlPair, scene: Scene) -> Reference:
    return Reference(Clip(pair.reference, None, scene.fps))


EDGES = section_of("edges", (OVERLAP,))
DEPTH = section_of("depth", (OVERLAP,))
TRACKS = section_of("tracks", (PATH, END))
INPAINT = section_of("inpaint", (KEPT, FILLED, OVERLAP))
OUTPAINT = section_of("outpaint", (KEPT, FILLED))
UNGRADE = section_of("ungrade", (COLOUR,))
HDR = section_of("hdr", (BRIGHT, STOPS), lambda scene: scene.background in ("day", "night"), Hdr())
FOLLOWED = (EDGES, DEPTH, TRACKS, INPAINT, OUTPAINT, UNGRADE, HDR)
