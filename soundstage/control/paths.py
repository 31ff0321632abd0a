"""Paths of points over time, as motion adapters follow them: through given points, or tracked in a clip.

The look is the adapter's: on a canvas of 1080 pixels, 51 circles a path, the newest largest, from blue over
green and yellow to red, then red and blue exchanged, so that heads are blue.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.frames import grey, opencv
from soundstage.control.settings import Setting, check_unused, numbers, refused
from soundstage.errors import MediaError, shown
from soundstage.media.arrays import Pixels

Point = tuple[float, float]  # x, y in pixels
CANVAS = 1080  # pixels of the shorter side
AGES = 50  # frames that a trail lasts
RADIUS, GROWTH = 2, 6
DEFAULT_FRAMES = 121
MAX_POINTS, MAX_PATHS, MAX_BYTES = 10_000, 500, 10_000_000
STOPS = np.array([[0, 0, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]], np.float64)

TRACKS = {
    "points": Setting("", "paths through points as x y x y ..., with | between paths, in pixels of the clip"),
    "length": Setting(
        0, "frames that a path lasts; 0 is as long as the film, 121 where none is known", 0, 100_000
    ),
    "width": Setting(1.0, "how many times as thick as published trails are drawn", 0.1, 50),
    "count": Setting(16, "paths that are tracked where none are given", 1, MAX_PATHS),
}


def tracks(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield the trails of paths that are given, or else of points that are tracked through the clip."""
    paths = _given_paths(given)
    length = given["length"] or given["num_frames"] or DEFAULT_FRAMES
    seen: Iterator[tuple[tuple[int, int], Sequence[Point | None]]]
    seen = _tracked(frames, given["count"]) if paths is None else _run_through(frames, paths, length)
    past: deque[Sequence[Point | None]] = deque(maxlen=AGES + 1)
    for size, points in seen:
        past.append(points)
        yield trails(list(past), size, given["width"])


def check_points(given: Mapping[str, Any]) -> None:
    """Raise RequestError for points that cannot be drawn."""
    if given["points"] and given["paths"] is not None:
        raise refused("both points and paths are given; keep one")
    if given["points"]:
        _given_paths(given)
    if given["points"] or given["paths"] is not None:
        check_unused(TRACKS, given, "count", "is of paths that are tracked, and paths are given")
    else:
        check_unused(TRACKS, given, "length", "is of paths that are given, and they are tracked")


def check_place(size: tuple[int, int], given: Mapping[str, Any]) -> None:
    """Raise RequestError for paths of which nothing lies in a clip of a width and height."""
    paths = _given_paths(given)
    if paths is None:
        return
    width, height = paths[0] or size
    spans = [np.array([np.min(path, axis=0), np.max(path, axis=0)]) for path in paths[1]]
    if all(last[0] < 0 or last[1] < 0 or first[0] >= width or first[1] >= height for first, last in spans):
        raise refused(
            f"no path touches the picture of {width}x{height}, whose pixels points are given in; give points "
            "within it"
        )


def check_file(given: Mapping[str, Any]) -> None:
    """Raise MediaError for a file of paths that cannot be read."""
    if given["paths"] is not None:
        read_paths(given["paths"])


def trails(past: Sequence[Sequence[Point | None]], size: tuple[int, int], width: float = 1.0) -> Pixels:
    """Return a frame of trails, (H, W, 3). past: points of the last frames in pixels, newest last.

    width: how many times as thick as published.
    """
    cv2 = opencv()
    share = CANVAS / min(size)
    canvas = np.zeros((round(size[1] * share), round(size[0] * share), 3), np.uint8)
    for points, age in zip(past, range(len(past) - 1, -1, -1), strict=True):
        newness = 1 - age / AGES
        radius, colour = int(width * (RADIUS + GROWTH * newness)), ramp(newness)
        for point in points:
            if point is not None:
                centre = (round(round(point[0]) * share), round(round(point[1]) * share))
                cv2.circle(canvas, centre, radius, colour, -1)
    small = cv2.resize(canvas, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(small[..., ::-1])


def ramp(newness: float) -> tuple[int, int, int]:
    """Return the colour of a share of the way from the oldest, blue, to the newest, red."""
    at = [0, 1 / 3, 2 / 3, 1]
    red, green, blue = (round(float(np.interp(newness, at, STOPS[:, channel]))) for channel in range(3))
    return red, green, blue


def spline(points: Sequence[Point], count: int) -> list[Point]:
    """Return `count` points along a Catmull-Rom curve through control points, its ends doubled.

    Two points are a straight line, one stands still.
    """
    if len(points) == 1:
        return [points[0]] * count
    knots = np.array(points, np.float64)
    along = np.linspace(0, len(points) - 1, count) if count > 1 else np.zeros(1)
    first = np.minimum(along.astype(int), len(points) - 2)
    t = (along - first)[:, None]
    if len(points) == 2:
        curve = knots[0] + (knots[1] - knots[0]) * t
    else:
        ends = np.concatenate([knots[:1], knots, knots[-1:]])
        a, b, c, d = (ends[first + i] for i in range(4))
        curve = 0.5 * (
            2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
        )
    return [(float(x), float(y)) for x, y in np.rint(curve)]


def _run_through(
    frames: Iterator[Pixels], paths: tuple[tuple[int, int] | None, list[list[Point]]], length: int
) -> Iterator[tuple[tuple[int, int], Sequence[Point | None]]]:
    """Yield the size of each frame and where the paths are then; at their end they stay."""
    own, controls = paths
    curves: list[list[Point]] | None = None
    for index, frame in enumerate(frames):
        size = (frame.shape[1], frame.shape[0])
        if curves is None:
            across, down = (1.0, 1.0) if own is None else (size[0] / own[0], size[1] / own[1])
            curves = [spline([(x * across, y * down) for x, y in path], length) for path in controls]
        yield size, [curve[min(index, length - 1)] for curve in curves]


def _tracked(
    frames: Iterator[Pixels], count: int
) -> Iterator[tuple[tuple[int, int], Sequence[Point | None]]]:
    """Yield the size of each frame and where points of the first one are then; None for one that is lost."""
    cv2 = opencv()
    before: Any = None
    points: NDArray[np.float32] = np.zeros((0, 1, 2), np.float32)
    lost = np.zeros(0, bool)
    for frame in frames:
        luma, size = grey(frame), (frame.shape[1], frame.shape[0])
        if before is None:
            found = cv2.goodFeaturesToTrack(luma, count, 0.01, max(2, min(size) // 12))
            points = points if found is None else found
            lost = np.zeros(len(points), bool)
        elif len(points):
            ends, there, _ = cv2.calcOpticalFlowPyrLK(before, luma, points, None)
            back, _, _ = cv2.calcOpticalFlowPyrLK(luma, before, ends, None)
            astray = np.abs(back - points).reshape(-1, 2).max(axis=1) > 2  # the way back leads elsewhere
            lost |= (there.ravel() == 0) | astray
            points = np.where(lost[:, None, None], points, ends)
        before = luma
        places = [(float(x), float(y)) for x, y in points.reshape(-1, 2)]
        yield size, [None if gone else place for place, gone in zip(places, lost, strict=True)]


# --- Reading paths ----------------------------------------------------------------------------------


def _given_paths(given: Mapping[str, Any]) -> tuple[tuple[int, int] | None, list[list[Point]]] | None:
    """Return the size that points are in, if the file says it, and the points of each path."""
    if given["paths"] is not None:
        return read_paths(given["paths"])
    if not given["points"]:
        return None
    paths = []
    for text in given["points"].split("|"):
        values = numbers(text, "points")
        if len(values) % 2 or not values or not all(map(math.isfinite, values)):
            raise refused(f"points has {shown(text)}; give x and y of each point, such as 10 20 60 40")
        paths.append(list(zip(values[::2], values[1::2], strict=True)))
    return None, _bounded(paths, "points")


def read_paths(file: str) -> tuple[tuple[int, int] | None, list[list[Point]]]:
    """Read paths from JSON or YAML: a list of paths, or such a list as "tracks" beside a "size".

    A path is a list of points, {"x": 1, "y": 2} or [1, 2]. Raises MediaError for anything else.
    """
    import yaml

    path = Path(file)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MediaError(f"paths is {file}, of {path.stat().st_size / 1e6:.4g} MB; give at most 10 MB")
        text = path.read_text("utf-8-sig")
        data = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:100]
        raise MediaError(f"paths is {file}, which cannot be read ({reason}); give JSON or YAML") from None
    size = None
    if isinstance(data, Mapping):
        odd = next((key for key in data if key not in ("size", "tracks")), None)
        if odd is not None:
            raise MediaError(f"{file} has {shown(odd)}; give tracks, and size for the pixels they are in")
        size = _size(data.get("size"), file)
        data = data.get("tracks")
    if isinstance(data, list) and data and _point(data[0]) is not None:
        data = [data]  # one path alone
    if not isinstance(data, list) or not all(isinstance(one, list) and one for one in data) or not data:
        raise MediaError(
            f"{file} holds no paths; give a list of lists of points, such as [[[10, 20], [60, 40]]]"
        )
    paths = [[_checked_point(point, file) for point in one] for one in data]
    return size, _bounded(paths, file)


def _size(value: Any, file: str) -> tuple[int, int] | None:
    if value is None:
        return None
    right = isinstance(value, list) and len(value) == 2 and all(isinstance(s, int) and s > 0 for s in value)
    if not right:
        raise MediaError(f"size in {file} is {shown(value)}; give width and height, such as [960, 544]")
    return value[0], value[1]


def _point(value: Any) -> Point | None:
    if isinstance(value, Mapping):
        value = [value.get("x"), value.get("y")] if set(value) == {"x", "y"} else None
    if not isinstance(value, list) or len(value) != 2:
        return None
    plain = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e6]
    return (float(plain[0]), float(plain[1])) if len(plain) == 2 else None


def _checked_point(value: Any, file: str) -> Point:
    point = _point(value)
    if point is None:
        raise MediaError(f"{file} has {shown(value)} for a point; give {{x: 10, y: 20}} or [10, 20]")
    return point


def _bounded(paths: list[list[Point]], where: str) -> list[list[Point]]:
    if len(paths) > MAX_PATHS or max(map(len, paths)) > MAX_POINTS:
        raise refused(f"{where} has more than {MAX_PATHS} paths or {MAX_POINTS} points in one; give fewer")
    return paths
