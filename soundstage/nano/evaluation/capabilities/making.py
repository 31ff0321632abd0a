"""Measure ways to make a clip: few steps against many, latent upsamplers against resizing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from soundstage.nano.evaluation.capabilities.case import (
    Case,
    Enlarge,
    Recode,
    Row,
    Section,
    Shown,
    request_of,
    scenes_where,
    shown_of,
)
from soundstage.nano.evaluation.capabilities.compare import between, bicubic, psnr
from soundstage.nano.evaluation.measure import measure_clip
from soundstage.nano.evaluation.report import Samples, Spread, Target, held_out_scenes
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import Scene

# --- fast and pro -----------------------------------------------------------------------------------------


def fast_cases(count: int, seed: int) -> list[Case]:
    """Return cases with the same prompt and noise by both recipes."""
    cases = []
    for scene in held_out_scenes(count, seed):
        asks = tuple(request_of(scene, recipe=recipe) for recipe in ("fast", "pro"))
        clip = shown_of(scene)
        truth = (replace(clip, seconds=0.1), replace(clip, seconds=1.0))
        cases.append(Case(scene, asks, lambda truth=truth: truth))  # type: ignore[misc]
    return cases


def measure_fast(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    fast, pro = shown
    behind = 100 * (_followed(pro, case.scene) - _followed(fast, case.scene))
    return {"behind pro": Spread((behind,)), "share of the time": Spread((fast.seconds / pro.seconds,))}


def _followed(shown: Shown, scene: Scene) -> float:
    """Return the share of a clip's samples, over all rows of the prompts' report, that are right."""
    assert shown.frames is not None
    outcomes = measure_clip(shown.frames, shown.waveform, scene).values()
    return sum(o.hits for o in outcomes) / sum(o.total for o in outcomes)


FAST = Section(
    "fast",
    (
        Row(
            "behind pro",
            "points of prompt following, over all rows of the prompts' report, that pro is ahead of fast",
            Target(5.0, "points", True),
        ),
        Row("share of the time", "seconds of fast over those of pro", Target(0.25, at_most=True)),
    ),
    fast_cases,
    measure_fast,
    num_cases=18,
    needs=("space-x2", "distilled"),
)

# --- upsamplers -------------------------------------------------------------------------------------------


def upscale_cases(count: int, seed: int) -> list[Case]:
    """Return cases in which clips at half size are upsampled to the whole size."""
    return [_upscale_case(scene) for scene in scenes_where(lambda s: True, count, seed)]


def _upscale_case(scene: Scene) -> Case:
    shape = scene.shape
    halved = replace(scene, shape=replace(shape, width=shape.width // 2, height=shape.height // 2))
    large, small = (render(s, simulate(s)) for s in (scene, halved))
    asks = (Enlarge("space-x2", small), Recode(small))
    return Case(scene, asks, lambda: (Shown(large), Shown(small)), {"true": large})


def measure_upscale(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    true, (made, coded) = case.facts["true"], (one.frames for one in shown)
    assert made is not None
    assert coded is not None
    plain = bicubic(coded, true.shape[2], true.shape[1])
    return {"ahead of bicubic": Spread((psnr(made, true) - psnr(plain, true),))}


UPSCALE = Section(
    "upscale",
    (
        Row(
            "ahead of bicubic",
            "PSNR against the clip rendered large, of latents upsampled and decoded less that of the same "
            "latents decoded and resized",
            Target(3.0, "dB"),
        ),
    ),
    upscale_cases,
    measure_upscale,
    needs=("space-x2",),
)


def smooth_cases(count: int, seed: int) -> list[Case]:
    """Return cases in which clips without every other frame are upsampled in time."""
    return [_smooth_case(scene) for scene in scenes_where(lambda s: True, count, seed)]


def _smooth_case(scene: Scene) -> Case:
    shape = scene.shape
    doubled = replace(scene, fps=2 * scene.fps, shape=replace(shape, num_frames=2 * shape.num_frames - 1))
    whole = render(doubled, simulate(doubled))
    thinned = np.ascontiguousarray(whole[::2])
    asks = (Enlarge("time-x2", thinned), Recode(thinned))
    return Case(scene, asks, lambda: (Shown(whole), Shown(thinned)), {"true": whole})


def measure_smooth(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    true, (made, coded) = case.facts["true"], (one.frames for one in shown)
    assert made is not None
    assert coded is not None
    gain = psnr(made[1::2], true[1::2]) - psnr(between(coded), true[1::2])
    return {"ahead of blending": Spread((gain,))}


SMOOTH = Section(
    "smooth",
    (
        Row(
            "ahead of blending",
            "PSNR of the frames between, of latents upsampled in time and decoded less that of the mean of "
            "their decoded neighbours",
            Target(2.0, "dB"),
        ),
    ),
    smooth_cases,
    measure_smooth,
    needs=("time-x2",),
)
