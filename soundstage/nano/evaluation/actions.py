"""Find the motion of a track and its times, by comparison with simulated tracks.

The world is simulated for every action, side, direction, count and a grid of start times. The motion whose
centre, radius and light differ least from the measured track is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.world.motion import Motion, SoundEvent, Track, simulate
from soundstage.nano.world.scene import SIZES, SOLO_ACTIONS, Scene, Subject

START_STEP_S = 1 / 12
LAST_START_S = 1.5
MEETINGS = 40  # seeds tried for the instant of a collision or handover
FAR = 0.12  # world units; larger errors of a place count as this
PLACE_UNIT, SIZE_UNIT = 0.03, 0.10  # a typical error of a centre; of a radius, as a ratio
ALIGN_S, ALIGN_STEP_S = 0.125, 1 / 192  # how far and how finely an instant is moved to fit its picture
ALIGN_FRAMES = 4  # on each side of an instant


@dataclass(frozen=True)
class Path:
    """A measured track in world units: x, y, radius (F,), NaN where not seen; glow (F,)."""

    x: Floats
    y: Floats
    radius: Floats
    glow: Floats

    @property
    def stack(self) -> Floats:
        """Return (F, 4) of x, y, radius, glow."""
        return np.stack([self.x, self.y, self.radius, self.glow], axis=1)


@dataclass(frozen=True)
class Fit:
    """A motion that was found. subjects: with fitted values. cost: misfit per frame and subject."""

    cost: float
    subjects: tuple[Subject, ...]
    motion: Motion
    interaction: str | None = None


def fit_solo(path: Path, stage: Scene) -> Fit:
    """Return the solo action that fits a path best."""
    subjects, tracks = _solo_table(replace(stage, background="fog", camera="static"))
    costs = _costs(path, tracks)
    best = subjects[int(costs.argmin())]
    starts = best.delay_s + np.arange(-8, 9) * START_STEP_S / 8
    finer = [replace(best, delay_s=float(s)) for s in starts if s >= 0] if best.action != "rest" else [best]
    motions = [simulate(replace(stage, subjects=(s,))) for s in finer]
    costs = _costs(path, np.stack([_stack(m.tracks[0]) for m in motions]))
    at = int(costs.argmin())
    return Fit(float(costs[at]), (finer[at],), motions[at])


def fit_collision(left: Path, right: Path, stage: Scene) -> Fit:
    """Return the best collision: both subjects come in, meet and are thrown back."""
    pair = (_still(left, "left"), _still(right, "right"))
    return _fit_meeting([left, right], replace(stage, subjects=pair, interaction="collide"))


def fit_handover(left: Path, right: Path, gift: Path, stage: Scene) -> Fit:
    """Return the best handover: a small ball flies from one subject to the other, either way."""
    pair = (_still(left, "left"), _still(right, "right"))
    there = replace(stage, subjects=pair, interaction="handover", gift_color="red")
    back = replace(there, subjects=pair[::-1])
    fits = [_fit_meeting([left, right, gift], there), _fit_meeting([right, left, gift], back)]
    return min(fits, key=lambda fit: fit.cost)


def event_times(fit: Fit, paths: list[Path], fps: float) -> list[SoundEvent]:
    """Return the fit's thuds, clicks and chimes, each at the time at which the pixels show it."""
    return [
        replace(event, time_s=_seen_time(event, fit, paths, fps))
        for event in fit.motion.events
        if event.kind != "rumble"
    ]


def _still(path: Path, side: str) -> Subject:
    return Subject("ball", "red", nearest_size(path), "rest", side)


def nearest_size(path: Path) -> str:
    """Return the size class that is nearest to a path's median radius."""
    radius = float(np.nanmedian(path.radius))
    return min(SIZES, key=lambda size: abs(np.log(SIZES[size] / max(radius, 1e-3))))


def _stack(track: Track) -> Floats:
    """Return a simulated track as (F, 4) of x, y, radius, glow."""
    columns = [track.position[:, 0], track.position[:, 1], track.radius, track.glow]
    return np.stack(columns, axis=1).astype(np.float32)


def _costs(path: Path, tracks: Floats) -> Floats:
    """Return the misfit (K,) of K motions (K, F, 4) to a path, per frame."""
    seen = np.isfinite(path.x + path.y + path.radius)
    if not seen.any():
        return np.full(len(tracks), np.inf, dtype=np.float32)
    want = path.stack[seen]
    have = tracks[:, seen]
    away = np.hypot(have[..., 0] - want[:, 0], have[..., 1] - want[:, 1])
    size = np.abs(np.log(have[..., 2] / np.maximum(want[:, 2], 1e-3)))
    place = np.minimum(away, FAR) / PLACE_UNIT + np.minimum(size, 0.4) / SIZE_UNIT
    light = np.abs(tracks[..., 3] - path.glow) * 4
    return (place.mean(axis=1) + light.mean(axis=1)).astype(np.float32)  # type: ignore[no-any-return]


@lru_cache(maxsize=8)
def _solo_table(stage: Scene) -> tuple[list[Subject], Floats]:
    """Return every solo motion as a subject, and the tracks (K, F, 4)."""
    subjects = list(_solo_motions(stage.duration_s))
    tracks = [_stack(simulate(replace(stage, subjects=(s,))).tracks[0]) for s in subjects]
    return subjects, np.stack(tracks)


def _solo_motions(duration_s: float) -> Iterator[Subject]:
    starts = np.arange(0, min(LAST_START_S, duration_s - 0.4) + 1e-6, START_STEP_S)
    for size in SIZES:
        for action in SOLO_ACTIONS:
            across = action in ("roll", "slide")
            for side in ("center",) if across else ("left", "center", "right"):
                for direction in (-1, 1) if across or action in ("orbit", "swing") else (1,):
                    for count in (1, 2, 3) if action in ("bounce", "blink") else (0,):
                        for start in starts if action != "rest" else (0.0,):
                            yield Subject("ball", "red", size, action, side, direction, count, float(start))


def _fit_meeting(paths: list[Path], scene: Scene) -> Fit:
    """Return the best interaction over many seeds: the seed of a scene decides when its subjects meet."""
    best: Fit | None = None
    for seed in range(MEETINGS):
        motion = simulate(replace(scene, seed=seed))
        costs = [_costs(p, _stack(t)[None])[0] for p, t in zip(paths, motion.tracks, strict=True)]
        cost = float(np.mean(costs))
        if best is None or cost < best.cost:
            best = Fit(cost, scene.subjects, motion, scene.interaction)
    assert best is not None
    return best


def _seen_time(event: SoundEvent, fit: Fit, paths: list[Path], fps: float) -> float:
    path = paths[event.subject]
    if event.kind == "chime":
        return _flash_time(event, path, fps)
    tracks = [fit.motion.tracks[event.subject]]
    measured = [path]
    if fit.interaction == "collide":
        tracks, measured = fit.motion.tracks, paths
    shifts = np.arange(-ALIGN_S, ALIGN_S + 1e-6, ALIGN_STEP_S)
    misfit = sum(
        _shifted(event.time_s, t, p, fit.motion.times, shifts) for t, p in zip(tracks, measured, strict=True)
    )
    return event.time_s + float(shifts[int(np.argmin(misfit))])


def _shifted(time_s: float, track: Track, path: Path, times: Floats, shifts: NDArray[np.float64]) -> Floats:
    """Return the misfit (shifts,) around an instant of a motion that is so many seconds later."""
    near = np.abs(times - time_s) <= (ALIGN_FRAMES + 0.5) * (times[1] - times[0])
    near &= np.isfinite(path.x + path.y)
    if not near.any():
        return np.abs(shifts).astype(np.float32)
    clock = times[near][None, :] - shifts[:, None]
    x = np.interp(clock, times, track.position[:, 0]) - path.x[near]
    y = np.interp(clock, times, track.position[:, 1]) - path.y[near]
    # the whole measured outline may be shifted; only its course around the event counts
    away = np.hypot(x - np.median(x, axis=1)[:, None], y - np.median(y, axis=1)[:, None])
    return away.mean(axis=1) + 1e-3 * np.abs(shifts)  # type: ignore[no-any-return]


def _flash_time(event: SoundEvent, path: Path, fps: float) -> float:
    """Return the time of the first frame of the flash nearest to an event."""
    lit = path.glow > 0.5
    starts = np.flatnonzero(lit & ~np.concatenate([[False], lit[:-1]])) / fps
    return float(starts[np.abs(starts - event.time_s).argmin()]) if len(starts) else event.time_s
