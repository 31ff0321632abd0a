"""Match the colours of a shot to those of another: means and spreads in CIE Lab, within limits.

Source: Reinhard et al., "Color Transfer between Images" (2001), here in Lab. Both shots are looked at in a
few frames; the change is one table of colours for the whole shot, so that it does not flicker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstage.editing.grid import FilmGrid, PlacedShot
from soundstage.editing.picture import Change, shot_times_s
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels
from soundstage.media.light import from_srgb, to_srgb
from soundstage.media.load import frames_shown

LOOKS = 8  # frames of a shot that are looked at
LOOK_SIDE = 96  # pixels of their longer side
TABLE = 33  # points of the table of colours on each side
MAX_SPREAD = 1.4  # by which a spread is multiplied or divided
MAX_SHIFT = np.array([15.0, 12.0, 12.0])  # of L, a and b
LEAST_SPREAD = 0.5  # below it a channel is flat, and its spread is left
# Linear light of BT.709 to CIE XYZ over the white D65, which Lab divides by.
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
TO_XYZ = TO_XYZ / TO_XYZ.sum(axis=1, keepdims=True)
BEND = 6 / 29

Lab = NDArray[np.float64]  # (..., 3)


@dataclass(frozen=True)
class Colours:
    """Mean and spread (standard deviation) of L, a and b of a shot, (3,) each."""

    mean: Lab
    spread: Lab


def changes_of(grid: FilmGrid) -> dict[int, Change]:
    """Return what brings the colours of shots to those of others, by their numbers.

    Raises MediaError for a cut that is not there, has no picture, or is matched itself.
    """
    known: dict[int, Colours] = {}

    def colours(placed: PlacedShot) -> Colours:
        if placed.number not in known:
            known[placed.number] = colours_of(grid, placed)
        return known[placed.number]

    found: dict[int, Change] = {}
    for placed in grid.placed:
        if placed.cut.match_to is not None:
            target = _target(grid, placed)
            found[placed.number] = change(colours(placed), colours(target), grid.timeline.match_strength)
    return found


def _target(grid: FilmGrid, placed: PlacedShot) -> PlacedShot:
    """Return the shot that another is matched to."""
    number, name = placed.cut.match_to, f"cuts[{placed.number - 1}].match_to"
    assert number is not None
    if number > len(grid.placed) or number == placed.number:
        raise MediaError(f"{name} is {number}; give the number of another cut, from 1 to {len(grid.placed)}")
    target = grid.placed[number - 1]
    if target.cut.match_to is not None:
        raise MediaError(f"{name} is {number}, a cut that is matched itself; give the one it is matched to")
    for one in (placed, target):
        if one.info is None or not one.info.num_frames:
            raise MediaError(f"{name} is {number}, and {one.cut.source} has no picture; leave it out")
    return target


def colours_of(grid: FilmGrid, placed: PlacedShot) -> Colours:
    """Return the colours of a shot's frames in the film."""
    from PIL import Image

    times_s = shot_times_s(grid, placed)
    shown = sorted({round(i * (len(times_s) - 1) / (LOOKS - 1)) for i in range(LOOKS)})
    looks = []
    for frame in frames_shown(str(placed.cut.source), [times_s[i] for i in shown]):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        picture.thumbnail((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BOX)
        looks.append(to_lab(np.asarray(picture)).reshape(-1, 3))
    values = np.concatenate(looks)
    return Colours(values.mean(axis=0), values.std(axis=0))


def change(own: Colours, wanted: Colours, strength: float) -> Change:
    """Return what brings pixels of one shot's colours to another's. strength: 0 to 1."""
    from PIL import Image, ImageFilter

    ratio = wanted.spread / np.maximum(own.spread, LEAST_SPREAD)
    ratio = np.where(np.minimum(own.spread, wanted.spread) < LEAST_SPREAD, 1.0, ratio)
    ratio = np.clip(ratio, 1 / MAX_SPREAD, MAX_SPREAD)
    shift = np.clip(wanted.mean - own.mean, -MAX_SHIFT, MAX_SHIFT)
    axis = np.linspace(0, 1, TABLE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")  # red runs first in Pillow's table
    points = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    lab = _lab_of(points)
    moved = (lab - own.mean) * ratio + own.mean + shift
    table = _rgb_of(lab + (moved - lab) * strength)
    lut = ImageFilter.Color3DLUT(TABLE, table.astype(np.float32).reshape(-1).tolist())

    def changed(frame: Pixels) -> Pixels:
        return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).filter(lut))

    return changed


def to_lab(frame: Pixels) -> Lab:
    """Return a frame (H, W, 3) in CIE Lab: L from 0 to 100."""
    return _lab_of(frame / 255.0)


def _lab_of(coded: NDArray[np.float64]) -> Lab:
    """Return coded sRGB (..., 3), from 0 to 1, in Lab."""
    xyz = np.asarray(from_srgb(coded.astype(np.float32)), np.float64) @ TO_XYZ.T
    bent = np.where(xyz > BEND**3, np.cbrt(xyz), xyz / (3 * BEND**2) + 4 / 29)
    x, y, z = np.moveaxis(bent, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _rgb_of(lab: Lab) -> NDArray[np.float64]:
    """Return Lab as coded sRGB, cut to 0 to 1."""
    y = (lab[..., 0] + 16) / 116
    bent = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(bent > BEND, bent**3, 3 * BEND**2 * (bent - 4 / 29))
    light = np.clip(xyz @ np.linalg.inv(TO_XYZ).T, 0, 1)
    return np.clip(np.asarray(to_srgb(light.astype(np.float32)), np.float64), 0, 1)
