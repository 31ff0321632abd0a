"""Measure a clip's picture frame after frame: only the last frames are held, and small.

All that the checks need of a frame is a few numbers, so that memory hardly grows with the clip's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from soundstage.media.arrays import Pixels
from soundstage.review.flow import Luma, Similarity, box_mean, grid_of, motion

Numbers = NDArray[np.float64]

LONG_SIDE = 96  # pixels of the small pictures
BLOCKS = (6, 8)  # rows and columns, whose means tell how far a change spreads
GAP_S = 0.25  # between the two frames that are compared for motion
LOOKS_PER_S = 8.0  # times a second at which they are
BLACK_LEVEL, BURNT_LEVEL = 20, 250  # of 255
CHANGED = 5.0  # grey levels by which a place changes, over a window
SAME = 1e-3
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # BT.709


@dataclass
class PictureFacts:
    """fps, num_frames: those of the clip. For each frame, from the second on where it is about two:

    steps: mean change of grey levels to the frame before. spread: share of blocks that changed.
    own: share of places that the camera's motion does not explain, over GAP_S; NaN where it is not known yet.
    camera: motion of the whole picture over a frame, in parts of its long side, at the picture's edge.
    pushes: how suddenly things change their motion or brightness. black, burnt: shares of such pixels.
    drifts: (3,) change of L*a*b* of most of the picture within each GAP_S, along the camera's motion.
    """

    fps: float
    num_frames: int = 0
    steps: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    camera: list[float] = field(default_factory=list)
    pushes: list[float] = field(default_factory=list)
    black: list[float] = field(default_factory=list)
    burnt: list[float] = field(default_factory=list)
    drifts: list[Numbers] = field(default_factory=list)


def look(frames: Iterable[Pixels], fps: float) -> PictureFacts:
    """Return what is measured of frames (H, W, 3), which are taken one by one."""
    facts = PictureFacts(fps)
    eye = _Eye(facts)
    for frame in frames:
        small = _small(frame)
        facts.num_frames += 1
        facts.black.append(float((small.max(axis=2) <= BLACK_LEVEL).mean()))
        facts.burnt.append(float((small.min(axis=2) >= BURNT_LEVEL).mean()))
        eye.see(small.astype(np.float32))
    return facts


@dataclass(frozen=True)
class _Seen:
    """A small picture (H, W, 3), its grey levels, and the camera's motion from the one before."""

    colour: NDArray[np.float32]
    grey: Luma
    moved: Similarity


class _Eye:
    """Compares each small picture with the one before, and with the one GAP_S before."""

    def __init__(self, facts: PictureFacts) -> None:
        self._facts = facts
        self._gap = max(1, round(GAP_S * facts.fps))
        self._stride = max(1, round(facts.fps / LOOKS_PER_S))
        self._seen: deque[_Seen] = deque(maxlen=self._gap + 1)
        self._velocity = np.zeros(2)

    def see(self, colour: NDArray[np.float32]) -> None:
        facts, grey = self._facts, box_mean(colour @ LUMA, 1)  # softer, for interpolation hurts what is sharp
        if not self._seen:
            self._seen.append(_Seen(colour, grey, Similarity()))
            return
        before = self._seen[-1].grey
        facts.steps.append(float(np.abs(grey - before).mean()))
        blocks = np.abs(_block_means(grey) - _block_means(before))
        facts.spread.append(float((blocks > CHANGED).mean()))
        self._seen.append(_Seen(colour, grey, self._moved(before, grey)))
        index = len(facts.steps)
        facts.own.append(np.nan)
        if index >= self._gap and (index % self._stride == 0 or index % self._gap == 0):
            self._compare(drift=index % self._gap == 0)

    def _moved(self, before: Luma, grey: Luma) -> Similarity:
        """Return the camera's motion to the next frame; note it, and how suddenly things change theirs."""
        if self._facts.steps[-1] < SAME:
            self._note(0.0, np.zeros(2))
            return Similarity()
        found = motion(before, grey)
        whole = found.whole or Similarity()
        grid = grid_of(*grey.shape)
        across = whole.flow(*grid.from_centre)
        edge = float(np.hypot(*across).mean()) / max(grey.shape)
        moved, inside = grid.warped(grey, across)
        rest = np.where(inside, box_mean(moved - before), 0)
        own = (np.abs(rest) > CHANGED / 2) & found.trusted
        velocity = np.zeros(2)
        if own.any():
            velocity = np.array([float((f - w)[own].mean()) for f, w in zip(found.flow, across, strict=True)])
        self._note(edge, velocity * np.sqrt(own.mean()))
        return whole

    def _note(self, edge: float, velocity: Numbers) -> None:
        self._facts.camera.append(edge)
        self._facts.pushes.append(float(np.hypot(*(velocity - self._velocity))))
        self._velocity = velocity

    def _compare(self, *, drift: bool) -> None:
        """Note what changed over the gap besides the camera. drift: its colours too."""
        first, last = self._seen[0], self._seen[-1]
        whole = Similarity()
        for seen in list(self._seen)[1:]:
            whole = whole.then(seen.moved)
        grid = grid_of(*last.grey.shape)
        moved, _ = grid.warped(last.grey, whole.flow(*grid.from_centre))
        whole = (motion(first.grey, moved).whole or Similarity()).then(whole)  # errors of the steps add up
        across = whole.flow(*grid.from_centre)
        moved, inside = grid.warped(last.grey, across)
        rest = np.abs(box_mean(moved - first.grey)) > CHANGED
        still = np.abs(box_mean(last.grey - first.grey)) > CHANGED
        whole_windows = box_mean(inside.astype(np.float32)) > 1 - SAME
        self._facts.own[-1] = float((rest & still & whole_windows).mean())
        if drift and inside.any():
            after = np.stack([grid.warped(last.colour[..., i], across)[0] for i in range(3)], axis=-1)
            change = lab(after[inside]) - lab(first.colour[inside])
            self._facts.drifts.append(np.median(change, axis=0).astype(np.float64))


def _small(frame: Pixels) -> Pixels:
    """Return a picture with a long side of at most LONG_SIDE, each pixel the mean of those it stands for."""
    from PIL import Image

    height, width = frame.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return frame
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BOX))


def _block_means(grey: Luma) -> Luma:
    """Return the means (rows, columns) of the blocks of a grey picture."""
    for axis, most in enumerate(BLOCKS):
        count = min(most, grey.shape[axis])
        edges = np.linspace(0, grey.shape[axis], count, endpoint=False).astype(int)
        sizes = np.diff([*edges, grey.shape[axis]]).astype(np.float32)
        means = np.add.reduceat(grey, edges, axis=axis) / (sizes[:, None] if axis == 0 else sizes)
        grey = means.astype(np.float32)
    return grey


def lab(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return L*a*b* (D65) of colours (n, 3) in sRGB from 0 to 255."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _WHITE
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1).astype(np.float32)


# IEC 61966-2-1: linear sRGB to CIE XYZ, and the white of D65.
_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=np.float32
)
_WHITE = np.array([0.9505, 1.0, 1.089], dtype=np.float32)
