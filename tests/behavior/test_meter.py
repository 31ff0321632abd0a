"""The meter of nano's clips: right on the world's own clips, and able to tell when a clip is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image, ImageFilter

from soundstage.nano.evaluation.measure import ROWS, Outcome, measure_clip
from soundstage.nano.evaluation.report import Report, evaluate, ground_truth, held_out_scenes, wilson
from soundstage.nano.world.scene import Scene

NUM_CLIPS = 24


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate(ground_truth, NUM_CLIPS, seed=3)


def test_ground_truth_is_called_right(report: Report) -> None:
    """Every row applies to some of the clips, and all but at most a twentieth of its samples hold."""
    assert set(report.rows) == set(ROWS)
    assert all(report.rate(row) >= 0.95 for row in ROWS), report.misses


def test_held_out_scenes_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    first, again, other = held_out_scenes(6, 1), held_out_scenes(6, 1), held_out_scenes(6, 2)
    assert first == again
    assert not set(first) & set(other)


@lru_cache(maxsize=1)
def _pool() -> list[Scene]:
    return held_out_scenes(72, 5)


def _scenes(wanted: Callable[[Scene], bool], count: int = 2) -> list[Scene]:
    return [scene for scene in _pool() if wanted(scene)][:count]


def _hits(scenes: list[Scene], rows: tuple[str, ...], shown: list[Scene] | None = None, **spoil) -> Outcome:
    """What the meter says of clips of `shown` when `scenes` were asked for. spoil: of frames or sound."""
    total = Outcome(0, 0)
    for scene, (frames, sound) in zip(scenes, ground_truth(shown or scenes), strict=True):
        frames = spoil.get("frames", lambda f: f)(frames)
        sound = spoil.get("sound", lambda s: s)(sound)
        outcomes = measure_clip(np.ascontiguousarray(frames), sound, scene)
        for row in rows:
            total += outcomes.get(row, Outcome(0, 0))
    return total


def _is_pair_of_sides(scene: Scene) -> bool:
    return len(scene.subjects) == 2 and scene.interaction is None and scene.background != "fog"


def test_swapped_colors_are_called_wrong() -> None:
    scenes = _scenes(_is_pair_of_sides)
    swapped = []
    for scene in scenes:
        a, b = scene.subjects
        pair = (replace(a, color=b.color), replace(b, color=a.color))
        swapped.append(replace(scene, subjects=pair))
    assert _hits(scenes, ("both subjects",)).hits == len(scenes)
    assert _hits(scenes, ("both subjects",), swapped) == Outcome(0, len(scenes))


def test_another_color_is_called_wrong() -> None:
    scenes = _scenes(lambda s: len(s.subjects) == 1)
    shown = [
        replace(
            s, subjects=(replace(s.subjects[0], color="green" if s.subjects[0].color != "green" else "red"),)
        )
        for s in scenes
    ]
    assert _hits(scenes, ("color",), shown) == Outcome(0, len(scenes))
    assert _hits(scenes, ("shape",), shown) == Outcome(len(scenes), len(scenes))


def test_mirrored_frames_are_called_wrong() -> None:
    scenes = _scenes(lambda s: s.background == "grid" and all(x.side != "center" for x in s.subjects))
    seen = _hits(scenes, ("left or right",), frames=lambda f: f[:, :, ::-1])
    assert seen.total >= len(scenes)
    assert seen.hits == 0


@pytest.mark.parametrize("shift_ms", [-120, 120])
def test_sound_out_of_step_is_called_wrong(shift_ms: int) -> None:
    scenes = _scenes(lambda s: s.subjects[0].action in ("bounce", "blink") and s.ambience == "silence")
    late = _hits(scenes, ("onset",), sound=lambda s: np.roll(s, 48 * shift_ms, axis=1))
    assert late.total >= len(scenes)
    assert late.hits == 0


def test_missing_sound_is_called_wrong() -> None:
    scenes = _scenes(lambda s: s.ambience != "silence" or s.voice is not None)
    mute = _hits(scenes, ("sound class", "onset"), sound=np.zeros_like)
    assert mute.total >= len(scenes)
    assert mute.hits == 0


def test_noise_where_nothing_sounds_is_called_wrong() -> None:
    scenes = _scenes(lambda s: s.ambience == "silence" and s.voice is None)
    noise = np.random.default_rng(0).standard_normal((2, 98_000)).astype(np.float32) * 0.01
    loud = _hits(scenes, ("silence",), sound=lambda s: s + noise[:, : s.shape[1]])
    assert loud.total > 0
    assert loud.hits == 0


def test_another_camera_is_called_wrong() -> None:
    scenes = _scenes(lambda s: s.camera in ("static", "pan left", "push in"))
    other = {"static": "tilt up", "pan left": "pan right", "push in": "pull out"}
    shown = [replace(s, camera=other[s.camera]) for s in scenes]
    assert _hits(scenes, ("camera",), shown) == Outcome(0, len(scenes))
    assert _hits(scenes, ("background",), shown) == Outcome(len(scenes), len(scenes))


def test_soft_noisy_pictures_are_still_read() -> None:
    """Blur of 1.2 pixels, noise and a small colour error, as a generated clip has."""
    rng = np.random.default_rng(0)

    def soften(frames: np.ndarray) -> np.ndarray:
        soft = [np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(1.2))) for f in frames]
        noisy = np.stack(soft) + rng.normal(0, 4, frames.shape) + np.array([4, -3, -4])
        return noisy.clip(0, 255).astype(np.uint8)

    scenes = held_out_scenes(6, 4)
    seen = _hits(scenes, ("color", "shape", "action", "camera", "left or right"), frames=soften)
    assert seen.hits >= 0.9 * seen.total


def test_intervals_are_wilson_scores() -> None:
    """Against the published example of 8 of 10, and at the end of the scale."""
    assert wilson(Outcome(8, 10)) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson(Outcome(20, 20))
    assert low == pytest.approx(0.8389, abs=1e-4)
    assert high == 1.0


def test_reports_hold_every_row(report: Report) -> None:
    markdown, data = report.to_markdown(), report.to_json()
    assert all(f"| {row} |" in markdown and f'"{row}"' in data for row in ROWS)
