"""Measure given pictures and clips: images, references, retakes, extensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from soundstage.clip import Clip
from soundstage.media.arrays import Frames
from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.evaluation.capabilities.case import (
    Case,
    Recode,
    Row,
    Section,
    Shown,
    cut,
    is_solo,
    request_of,
    scenes_where,
    shown_of,
    words,
)
from soundstage.nano.evaluation.capabilities.compare import (
    loudness_step,
    paths_by_color,
    psnr,
    radii_away,
    step_ratio,
)
from soundstage.nano.evaluation.measure import Outcome
from soundstage.nano.evaluation.report import Samples, Spread, Target
from soundstage.nano.evaluation.sound import rms_dbfs
from soundstage.nano.world.captions import names
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.scene import COLORS, Scene
from soundstage.request.inputs import Guide, Reference, Source, Span

# --- images -----------------------------------------------------------------------------------------------

STRENGTHS = (1.0, 0.75, 0.5, 0.25)
RISE_DB = 0.5  # by which a lower strength may keep more by chance
FALL_DB = 1.0  # by which the lowest strength must keep less than the highest
KEPT_DB = Target(28.0, "dB")


def image_cases(count: int, seed: int) -> list[Case]:
    """Return cases with a given picture as first frame or, in every other case, last, at each strength."""
    return [
        _image_case(scene, 0 if i % 2 == 0 else -1)
        for i, scene in enumerate(scenes_where(lambda s: True, count, seed))
    ]


def _image_case(scene: Scene, at: int) -> Case:
    clip = shown_of(scene)
    assert clip.frames is not None
    picture = clip.frames[at]
    requests = [
        request_of(scene, guides=[Guide(picture, frame=at, strength=strength)]) for strength in STRENGTHS
    ]

    def truth() -> tuple[Shown, ...]:
        return (Shown(picture[None]), *(_loosely_kept(clip, at, strength) for strength in STRENGTHS))

    return Case(scene, (Recode(picture[None]), *requests), truth, {"at": at, "picture": picture})


def _loosely_kept(clip: Shown, at: int, strength: float) -> Shown:
    """Return the clip with one frame mixed with gray; strength: the frame's own share."""
    assert clip.frames is not None
    frames = clip.frames.copy()
    frames[at] = (strength * frames[at] + (1 - strength) * 128).round().astype(np.uint8)
    return replace(clip, frames=frames)


def measure_image(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    coded, *clips = (_frames(one) for one in shown)
    at, picture = case.facts["at"], case.facts["picture"]
    kept = [psnr(frames[at], picture) for frames in clips]
    falls = all(b <= a + RISE_DB for a, b in pairwise(kept)) and kept[-1] <= kept[0] - FALL_DB
    which = "first image" if at == 0 else "last image"
    return {
        which: Spread((kept[0],)),
        f"{which}, coded": Spread((psnr(clips[0][at], coded[0]),)),
        "less with less strength": Outcome(int(falls), 1),
    }


_IMAGE_ROWS = tuple(
    row
    for which, where in (("first image", "first"), ("last image", "last"))
    for row in (
        Row(which, f"PSNR of the {where} frame at strength 1 against the given picture", KEPT_DB),
        Row(f"{which}, coded", "the same against what the video VAE makes of the picture", KEPT_DB),
    )
)
IMAGE = Section(
    "image",
    (
        *_IMAGE_ROWS,
        Row(
            "less with less strength",
            "cases whose PSNR falls over the strengths 1, 0.75, 0.5, 0.25",
            Target(0.9),
        ),
    ),
    image_cases,
    measure_image,
)

# --- references -------------------------------------------------------------------------------------------

MOVING = ("roll", "slide", "orbit", "swing")
NEAR_RADII = 1.0
NEAR_SHARE = 0.8  # of the frames


def reference_cases(count: int, seed: int) -> list[Case]:
    """Return cases with a clip of a moving thing as reference, and a prompt that does not tell its motion."""
    scenes = scenes_where(lambda s: is_solo(s, *MOVING) and s.camera == "static", count, seed)
    return [_reference_case(scene) for scene in scenes]


def _reference_case(scene: Scene) -> Case:
    clip = shown_of(scene)
    request = request_of(scene, names(scene), references=[Reference(_clip(clip, scene.fps))])
    return Case(scene, (request,), lambda: (clip,))


def measure_reference(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    away = _away(_frames(shown[0]), case.scene)
    return {"reference followed": Outcome(int((away < NEAR_RADII).mean() >= NEAR_SHARE), 1)}


REFERENCE = Section(
    "reference",
    (
        Row(
            "reference followed",
            "clips whose subject is within its radius of the reference's in 80 % of the frames",
            Target(0.85),
        ),
    ),
    reference_cases,
    measure_reference,
)

# --- retakes ----------------------------------------------------------------------------------------------

RETAKE_FRAMES = 73
RETAKEN = (25, 41)  # of these frames: latents 4 and 5
SLOPE_FRAMES = 8  # on either side, in which the old picture turns into the new one


def retake_cases(count: int, seed: int) -> list[Case]:
    """Return cases in which two thirds of a second of a clip are retaken with a subject of another colour."""
    scenes = scenes_where(lambda s: is_solo(s, "rest", "grow"), count, seed, RETAKE_FRAMES)
    return [_retake_case(scene) for scene in scenes]


def _retake_case(scene: Scene) -> Case:
    clip, other = shown_of(scene), recolored(scene)
    source = Source(_clip(clip, scene.fps), regenerate=(Span(*_retaken_s(scene.fps)),))
    request = request_of(scene, words(other), source=source, size=None, num_frames=None)

    def truth() -> tuple[Shown, ...]:
        frames = _frames(clip).copy()
        frames[slice(*RETAKEN)] = _frames(shown_of(other))[slice(*RETAKEN)]
        return (replace(clip, frames=frames),)

    return Case(scene, (request,), truth, {"clip": clip})


def _retaken_s(fps: float, margin: int = 0) -> tuple[float, float]:
    """Return the seconds of the retake, with `margin` more frames on either side."""
    return (RETAKEN[0] - margin) / fps, (RETAKEN[1] + margin) / fps


def measure_retake(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    made, clip = shown[0], case.facts["clip"]
    frames, own, inside = _frames(made), _frames(clip), slice(*RETAKEN)
    outside = np.r_[0 : RETAKEN[0] - SLOPE_FRAMES, RETAKEN[1] + SLOPE_FRAMES : len(own)]
    rows: dict[str, Samples] = {
        "inside changes": Spread((psnr(frames[inside], own[inside]),)),
        "outside is kept": Spread((psnr(frames[outside], own[outside]),)),
    }
    if made.waveform is not None:
        length = min(made.waveform.shape[1], clip.waveform.shape[1])
        difference = made.waveform[:, :length] - clip.waveform[:, :length]
        start_s, end_s = _retaken_s(case.scene.fps, SLOPE_FRAMES)
        spans = [(0.0, start_s), (end_s, case.scene.duration_s)]
        rows["sound outside is kept"] = Spread((rms_dbfs(difference, spans),))
    return rows


RETAKE = Section(
    "retake",
    (
        Row("inside changes", "PSNR of the retaken frames against those before", Target(30.0, "dB", True)),
        Row("outside is kept", "PSNR of the frames more than 8 frames from the retake", Target(35.0, "dB")),
        Row("sound outside is kept", "level of the difference there", Target(-60.0, "dBFS", True)),
    ),
    retake_cases,
    measure_retake,
)

# --- extensions -------------------------------------------------------------------------------------------

GIVEN_FRAMES = 25
NEW_FRAMES = 5  # after the seam, in which the motion is compared
FEATHER_S = 0.5  # at the end of the source that are made again
GOING_ON = ("slide", "orbit", "swing", "grow")  # motions without events of their own


def extend_cases(count: int, seed: int) -> list[Case]:
    """Return cases in which the first half of a clip, with rain, wind or a hum, is extended."""
    scenes = scenes_where(
        lambda s: is_solo(s, *GOING_ON) and s.camera == "static" and s.ambience != "silence", count, seed
    )
    return [_extend_case(scene) for scene in scenes]


def _extend_case(scene: Scene) -> Case:
    clip, seam_s = shown_of(scene), GIVEN_FRAMES / scene.fps
    assert clip.waveform is not None
    given = Clip(_frames(clip)[:GIVEN_FRAMES], cut(clip.waveform, 0, seam_s), scene.fps)
    source = Source(
        given,
        extend_after_s=(scene.shape.num_frames - GIVEN_FRAMES) / scene.fps,
        feather_s=FEATHER_S,
    )
    request = request_of(scene, source=source, size=None, num_frames=None)
    return Case(scene, (request,), lambda: (clip,), {"seam_s": seam_s})


def measure_extend(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    made, seam_s = shown[0], case.facts["seam_s"]
    away = _away(_frames(made), case.scene)[GIVEN_FRAMES : GIVEN_FRAMES + NEW_FRAMES]
    rows: dict[str, Samples] = {"motion goes on": Spread((float(away.mean()),))}
    if made.waveform is not None:
        start_s = seam_s - FEATHER_S
        around = (start_s - 0.2, seam_s + 0.2)
        rows["no click"] = Spread((step_ratio(made.waveform, around, (0.0, start_s - 0.2)),))
        steps = [loudness_step(made.waveform, at_s) for at_s in (start_s, seam_s)]
        rows["no step of loudness"] = Spread((max(steps),))
    return rows


EXTEND = Section(
    "extend",
    (
        Row(
            "motion goes on",
            "distance of the subject from where the world's motion has it, over five frames from the seam",
            Target(1.0, "radii", True),
        ),
        Row(
            "no click",
            "largest step between samples around the seam, over the largest in the source",
            Target(2.0, "x", True),
        ),
        Row(
            "no step of loudness",
            "between quarter seconds before and after the source's last own sample, and its last frame",
            Target(6.0, "dB", True),
        ),
    ),
    extend_cases,
    measure_extend,
)

# --- shared -----------------------------------------------------------------------------------------------


def recolored(scene: Scene) -> Scene:
    """Return the scene with its first subject in another colour, half the palette away."""
    first, *others = scene.subjects
    names = list(COLORS)
    color = names[(names.index(first.color) + len(names) // 2) % len(names)]
    return replace(scene, subjects=(replace(first, color=color), *others))


def _away(frames: Frames, scene: Scene) -> Floats:
    """Return the distances (F,) in radii between the scene's subject and where its colour is seen."""
    true = simulate(scene).tracks[0]
    return radii_away(paths_by_color(frames, scene.fps).get(true.color), true)


def _clip(shown: Shown, fps: float) -> Clip:
    return Clip(shown.frames, shown.waveform, fps)


def _frames(shown: Shown) -> Frames:
    assert shown.frames is not None
    return shown.frames
