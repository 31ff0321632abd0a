"""Checks of the picture: each yields the faults that it finds in what was measured.

Limits were set on clips of nano's world and on clips spoilt on purpose: docs/review.md has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from soundstage.review.picture import GAP_S, Numbers, PictureFacts
from soundstage.review.record import Asked, Fault, severity_above

LEAST_OWN = 0.01  # mean share of places that move by themselves, over GAP_S
MOVES = 0.003  # the same, at one time
PANS = 0.0004  # of the long side per frame: less is no camera motion
STARTS = 0.002  # of the long side over GAP_S
SLOWDOWN, SLOWEST = 0.4, 0.1  # change in the second half, as a share of that in the first
MIN_SLOWDOWN_S, GOES_ON = 3.0, 0.7  # of a clip; share of the second half's time in which things move
LIVELY = 0.2  # mean grey levels per frame, below which a half is too still to be compared
DUPLICATE, LEAST_STEP = 0.1, 0.3  # share of the median change around; that median in grey levels
DUPLICATES_SHARE, LEAST_DUPLICATES = 0.04, 3
BLACK_SHARE, BURNT_SHARE = 0.98, 0.5  # of the pixels of a frame
JUMP_SPREAD, JUMP_TIMES, JUMP_LEVELS = (
    0.5,
    4.0,
    4.0,
)  # share of blocks; times the median around; grey levels more
SEAM_TIMES, SEAM_LEVELS = 2.5, 1.5
AROUND = 6  # frames to each side of a change
DRIFT, WORST_DRIFT = 6.0, 20.0  # CIE76 colour difference of most of the picture, from start to end
MIN_DRIFT_S = 1.0
STEADY = 0.35  # share of a drift that may come within one step of time; more is a cut


def picture_faults(facts: PictureFacts, asked: Asked) -> Iterator[Fault]:
    """Yield the faults of a picture, each with the check that found it."""
    if facts.num_frames < 2:
        yield from _dark_or_bright(facts)
        return
    if asked.motion:
        yield from _still(facts, asked)
        yield from _slowdown(facts)
    yield from _duplicates(facts)
    yield from _dark_or_bright(facts)
    yield from _jumps(facts, asked)
    if not asked.cuts:
        yield from _drift(facts)


def picture_measures(facts: PictureFacts) -> dict[str, float]:
    """Return what was measured of a picture, JSON-ready."""
    if facts.num_frames < 2:
        return {}
    first, second = _halves(facts)
    return {
        "own_motion": round(_mean_own(facts), 4),
        "camera_motion": round(float(np.mean(facts.camera)), 5),
        "change_per_frame": round(float(np.mean(facts.steps)), 3),
        "second_half_motion": round(second / first, 3) if first > 0 else 1.0,
        "colour_drift": round([0.0, *_drift_path(facts)][-1], 2),
    }


def _still(facts: PictureFacts, asked: Asked) -> Iterator[Fault]:
    """Find a picture in which nothing moves by itself, or begins to only late."""
    own, end_s = _mean_own(facts), facts.num_frames / facts.fps
    if np.isnan(own):
        return
    if own < LEAST_OWN:
        zooms = float(np.mean(facts.camera)) > PANS
        told = "only the camera moves, as over a photograph" if zooms else "the picture stands still"
        yield Fault(
            "zoom-only" if zooms else "still",
            severity_above(LEAST_OWN - own, 0, LEAST_OWN),
            0.0,
            end_s,
            round(own, 4),
            LEAST_OWN,
            f"{told}: {own:.1%} of it changes by itself within {GAP_S:g} s, and motion was asked",
        )
        return
    starts_s = _first_motion_s(facts)
    if starts_s > asked.still_start_s:
        yield Fault(
            "frozen-start",
            severity_above(starts_s, asked.still_start_s, end_s),
            0.0,
            starts_s,
            round(starts_s, 2),
            asked.still_start_s,
            f"nothing moves in the first {starts_s:.2f} s",
        )


def _mean_own(facts: PictureFacts) -> float:
    own = np.array(facts.own)
    known = own[~np.isnan(own)]
    return float(known.mean()) if len(known) else float("nan")


def _first_motion_s(facts: PictureFacts) -> float:
    """Return when something, or the camera, begins to move; at most GAP_S too early."""
    gap = max(1, round(GAP_S * facts.fps))
    travelled = np.cumsum(facts.camera)
    for index, own in enumerate(facts.own):
        pans = travelled[index] - (travelled[index - gap] if index >= gap else 0.0)
        if own > MOVES or pans > STARTS:
            return max(0.0, (index + 1 - gap) / facts.fps)
    return facts.num_frames / facts.fps


def _slowdown(facts: PictureFacts) -> Iterator[Fault]:
    """Find a second half that goes on more slowly; one that has come to rest is another thing."""
    end_s = facts.num_frames / facts.fps
    first, second = _halves(facts)
    later = np.array(facts.own[len(facts.own) // 2 :])
    later = later[~np.isnan(later)]
    goes_on = len(later) > 0 and float((later > MOVES).mean()) > GOES_ON
    if end_s >= MIN_SLOWDOWN_S and goes_on and first > LIVELY and second < SLOWDOWN * first:
        share = second / first
        yield Fault(
            "slowdown",
            severity_above(-share, -SLOWDOWN, -SLOWEST),
            end_s / 2,
            end_s,
            round(share, 3),
            SLOWDOWN,
            f"the second half moves {share:.0%} as much as the first",
        )


def _halves(facts: PictureFacts) -> tuple[float, float]:
    """Return the mean change per frame of both halves, above what never stops, such as grain."""
    steps = np.array(facts.steps)
    half = len(steps) // 2
    if not half:
        return 0.0, 0.0
    moving = np.maximum(0, steps - np.quantile(steps, 0.02))
    return float(moving[:half].mean()), float(moving[half:].mean())


def _duplicates(facts: PictureFacts) -> Iterator[Fault]:
    steps = np.array(facts.steps)
    around = _median_around(steps, 3)
    found = np.flatnonzero((around > LEAST_STEP) & (steps < DUPLICATE * around))
    share = len(found) / max(1, len(steps))
    if len(found) >= LEAST_DUPLICATES and share > DUPLICATES_SHARE:
        yield Fault(
            "duplicates",
            severity_above(share, DUPLICATES_SHARE, 0.5),
            float(found[0] + 1) / facts.fps,
            float(found[-1] + 1) / facts.fps,
            round(share, 3),
            DUPLICATES_SHARE,
            f"{len(found)} frames are copies of the frame before while things move",
        )


def _dark_or_bright(facts: PictureFacts) -> Iterator[Fault]:
    """Find black frames, and frames most of which are burnt to white."""
    for check, shares, limit, told in (
        ("black", facts.black, BLACK_SHARE, "black"),
        ("burnt", facts.burnt, BURNT_SHARE, "burnt to white"),
    ):
        for first, last in runs(np.array(shares) >= limit):
            count = last - first
            yield Fault(
                check,
                severity_above(count / facts.num_frames, 0.0, 0.25),
                first / facts.fps,
                last / facts.fps,
                round(float(np.mean(shares[first:last])), 3),
                limit,
                f"{count} frame{'s are' if count > 1 else ' is'} {told}",
            )


def _jumps(facts: PictureFacts, asked: Asked) -> Iterator[Fault]:
    """Find jumps of the picture at the seams that are given, and, where no cuts are meant, anywhere."""
    steps, spread = np.array(facts.steps), np.array(facts.spread)
    around = _median_around(steps, AROUND)
    seams = [round(time_s * facts.fps) for time_s in asked.seams_s]
    near = np.zeros(len(steps), bool)
    for seam in seams:
        near[max(0, seam - 2) : seam + 1] = True  # the step to the frame `seam` has the index before it
    found = near & (steps > SEAM_TIMES * around + SEAM_LEVELS)
    if not asked.cuts:
        found |= (spread > JUMP_SPREAD) & (steps > JUMP_TIMES * around + JUMP_LEVELS)
    for first, last in runs(found):
        index = first + int(np.argmax(steps[first:last]))
        usual = float(around[index])
        limit = SEAM_TIMES * usual + SEAM_LEVELS if near[index] else JUMP_TIMES * usual + JUMP_LEVELS
        where = "at a seam" if near[index] else "between two frames"
        yield Fault(
            "jump",
            severity_above(float(steps[index]), limit, limit + 30),
            (index + 1) / facts.fps,
            (index + 2) / facts.fps,
            round(float(steps[index]), 2),
            round(limit, 2),
            f"the picture jumps {where}: {steps[index]:.1f} grey levels, where {usual:.1f} are usual",
        )


def _drift(facts: PictureFacts) -> Iterator[Fault]:
    """Find colours of the whole picture that go one way from start to end."""
    path = _drift_path(facts)
    if len(path) * GAP_S < MIN_DRIFT_S:
        return
    final, largest = path[-1], float(np.abs(np.diff([0.0, *path])).max())
    if final > DRIFT and largest < max(STEADY, 2 / len(path)) * final:
        yield Fault(
            "colour-drift",
            severity_above(final, DRIFT, WORST_DRIFT),
            0.0,
            facts.num_frames / facts.fps,
            round(final, 2),
            DRIFT,
            f"most of the picture changes its colour by {final:.1f} (CIE76) from start to end",
        )


def _drift_path(facts: PictureFacts) -> list[float]:
    """Return how far the colours have gone from those at the start, after each GAP_S."""
    if not facts.drifts:
        return []
    return [float(value) for value in np.linalg.norm(np.cumsum(facts.drifts, axis=0), axis=1)]


def _median_around(values: Numbers, reach: int) -> Numbers:
    """Return the median of each value's neighbours, without itself and the two beside it."""
    padded = np.pad(values, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).copy()
    windows[:, reach] = np.nan
    if reach > 3:
        windows[:, reach - 1 : reach + 2] = np.nan
    empty = np.isnan(windows).all(axis=1)
    windows[empty] = 0
    return np.nanmedian(windows, axis=1)


def runs(flags: NDArray[np.bool_] | Sequence[bool]) -> list[tuple[int, int]]:
    """Return (first, end) of each row of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.asarray(flags, bool), [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
