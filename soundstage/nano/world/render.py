"""Render a scene: shaded, shadowed, anti-aliased, one or two milliseconds per frame on one core.

All colours are functions of world coordinates, so a camera only changes the sampling grid. Shapes are signed
distance fields, painted inside their bounding boxes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from soundstage.media.arrays import Frames
from soundstage.nano.world.motion import Array, Motion, Track, simulate
from soundstage.nano.world.scene import COLORS, Scene


def render(scene: Scene, motion: Motion | None = None, window: range | None = None) -> Frames:
    """Return the frames (F, H, W, 3) of a scene, in uint8. window: only these frames."""
    motion = motion or simulate(scene)
    window = window or range(scene.shape.num_frames)
    frames = np.empty((len(window), scene.shape.height, scene.shape.width, 3), dtype=np.uint8)
    still: Array | None = None
    for row, f in enumerate(window):
        if still is None or scene.camera != "static":
            x, y, pixel = grid(scene, motion.camera[f])
            still = _background(scene, x, y)
        image = still.copy()
        for track in motion.tracks:
            _paint_shadow(image, x, y, track, f, scene)
        for track in motion.tracks:
            _paint(image, x, y, pixel, track, f)
        if scene.background == "fog":
            image += 0.22 * (FOG - image)
        np.clip(image * 255 + 0.5, 0, 255, out=image)
        frames[row] = image.astype(np.uint8)
    return frames


def grid(scene: Scene, camera: Array) -> tuple[Array, Array, float]:
    """Return world x (W,) and y (H,) of pixel centres, and the size of a pixel."""
    unit = min(scene.shape.width, scene.shape.height)
    pixel = 1.0 / (unit * float(camera[2]))
    x = (np.arange(scene.shape.width) + 0.5 - scene.shape.width / 2) * pixel + camera[0]
    y = (np.arange(scene.shape.height) + 0.5 - scene.shape.height / 2) * pixel + camera[1]
    return x.astype(np.float32), y.astype(np.float32), pixel


def _rgb(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


FOG = _rgb(0.80, 0.82, 0.84)
LIGHT = np.array([-0.5, -0.7, 0.5], dtype=np.float32) / np.float32(np.sqrt(0.99))


def _mix(a: Array, b: Array, share: Array) -> Array:
    """Return a + (b - a) * share for colours (3,) or images. share: (H, W) or (H, 1)."""
    mixed: Array = a + (b - a) * share[..., None]
    return mixed


def _step(value: Array, softness: float) -> Array:
    """Return 0 below zero and 1 above, linear over `softness`."""
    ramp: Array = np.clip(value / softness + 0.5, 0, 1)
    return ramp


def _background(scene: Scene, x: Array, y: Array) -> Array:
    return _BACKGROUNDS[scene.background](scene, x, y)


def _ramp(y: Array, top: float, bottom: float) -> Array:
    share: Array = np.clip((y - top) / (bottom - top), 0, 1)[:, None]
    return share


def _two_zones(scene: Scene, x: Array, y: Array, zones: tuple[Array, Array, Array, Array]) -> Array:
    """Return (H, W, 3): one gradient over the back, another over the ground."""
    top, low, far, near = zones
    horizon, edge = scene.horizon_y, scene.half_height * 1.3
    wall = _mix(top, low, _ramp(y, -edge, horizon))
    ground = _mix(far, near, _ramp(y, horizon, edge))
    rows = wall + (ground - wall) * _step(y - horizon, 0.012)[:, None, None]
    return np.broadcast_to(rows, (len(y), len(x), 3)).copy()


def _blob(x: Array, y: Array, cx: float, cy: float, rx: float, ry: float) -> Array:
    """Return a soft ellipse (H, W), 1 inside to 0 outside."""
    d = ((x - cx) / rx)[None, :] ** 2 + ((y - cy) / ry)[:, None] ** 2
    return np.clip(1.6 - 1.6 * d, 0, 1)


def lamp(scene: Scene, x: Array, y: Array) -> Array:
    """Return what the sun by day, or the moon by night, covers (H, W), from 0 to 1; elsewhere nothing."""
    top = -scene.half_height
    if scene.background == "day":
        return _blob(x, y, 0.62 * scene.half_width, top + 0.2, 0.12, 0.12)
    if scene.background == "night":
        return _blob(x, y, -0.6 * scene.half_width, top + 0.2, 0.1, 0.1)
    return np.zeros((len(y), len(x)), np.float32)


def _day(scene: Scene, x: Array, y: Array) -> Array:
    zones = (_rgb(0.36, 0.62, 0.92), _rgb(0.74, 0.88, 0.98), _rgb(0.48, 0.72, 0.36), _rgb(0.34, 0.58, 0.26))
    image = _two_zones(scene, x, y, zones)
    top = -scene.half_height
    image = _mix(image, _rgb(1.0, 0.95, 0.7), lamp(scene, x, y))
    for cx, cy, size in ((-0.45, 0.22, 0.2), (0.1, 0.14, 0.14), (-0.95, 0.34, 0.16), (1.1, 0.4, 0.18)):
        cloud = _blob(x, y, cx, top + cy, size, 0.4 * size)
        image = _mix(image, _rgb(0.97, 0.98, 1.0), 0.85 * cloud)
    return image


@lru_cache(maxsize=1)
def _stars() -> Array:
    """Return the stars of all nights, evenly scattered: (stars, 3) of x, y and brightness."""
    rng = np.random.default_rng(2303)
    k = np.arange(44)
    x = (k * 0.618034) % 1 * 3.2 - 1.6
    y = -1.25 + 1.5 * ((k * 0.754878) % 1) + 0.02 * rng.standard_normal(44)
    return np.stack([x, y, 0.6 + 0.4 * rng.random(44)], axis=1).astype(np.float32)


def _night(scene: Scene, x: Array, y: Array) -> Array:
    zones = (_rgb(0.03, 0.04, 0.13), _rgb(0.12, 0.15, 0.33), _rgb(0.10, 0.13, 0.20), _rgb(0.06, 0.08, 0.13))
    image = _two_zones(scene, x, y, zones)
    radius = 0.013
    for sx, sy, bright in _stars():
        if sy > scene.horizon_y - 0.04:
            continue
        cols = slice(*np.searchsorted(x, (sx - 2 * radius, sx + 2 * radius)))
        rows = slice(*np.searchsorted(y, (sy - 2 * radius, sy + 2 * radius)))
        if cols.start == cols.stop or rows.start == rows.stop:
            continue
        d2 = (x[cols] - sx)[None, :] ** 2 + (y[rows] - sy)[:, None] ** 2
        image[rows, cols] += bright * np.exp(-d2 / (0.5 * radius) ** 2 / 2)[..., None]
    return _mix(image, _rgb(0.94, 0.93, 0.82), lamp(scene, x, y))


def _fog(scene: Scene, x: Array, y: Array) -> Array:
    zones = (_rgb(0.86, 0.88, 0.90), _rgb(0.78, 0.80, 0.82), _rgb(0.70, 0.72, 0.74), _rgb(0.62, 0.64, 0.66))
    image = _two_zones(scene, x, y, zones)
    for cx, height in ((-0.85, 0.34), (-0.3, 0.22), (0.45, 0.3), (1.0, 0.26)):  # faint hills behind
        hill = _blob(x, y, cx, scene.horizon_y + 0.02, 0.4, height)
        hill = hill * (y < scene.horizon_y)[:, None]
        image = _mix(image, _rgb(0.70, 0.73, 0.76), 0.5 * hill)
    return image


def _wood(scene: Scene, x: Array, y: Array) -> Array:
    zones = (_rgb(0.93, 0.89, 0.80), _rgb(0.84, 0.78, 0.68), _rgb(0.62, 0.42, 0.25), _rgb(0.72, 0.50, 0.30))
    image = _two_zones(scene, x, y, zones)
    below = y > scene.horizon_y
    depth = (y[below] - scene.horizon_y) / 0.13
    row = np.floor(depth)
    seam = _step(0.07 - np.abs(depth - np.round(depth)), 0.08)[:, None]
    along = x[None, :] / 0.62 + (0.37 * row)[:, None]
    joint = _step(0.016 - np.abs(along - np.round(along)), 0.016)
    tone = 1 + 0.07 * np.sin(2.4 * np.floor(along + 0.5) + 1.7 * row[:, None])
    shade = tone * (1 - 0.4 * np.maximum(seam, joint))
    image[below] *= shade[..., None]
    skirting = (y > scene.horizon_y - 0.05) & ~below
    image[skirting] *= 0.86
    return image


def _room(scene: Scene, x: Array, y: Array) -> Array:
    zones = (_rgb(0.90, 0.92, 0.95), _rgb(0.82, 0.85, 0.90), _rgb(0.66, 0.70, 0.78), _rgb(0.74, 0.78, 0.85))
    image = _two_zones(scene, x, y, zones)
    cell = 0.2
    columns = _step(0.05 - np.abs(x / cell - np.round(x / cell)), 0.05)[None, :]
    lines = np.abs((y - scene.horizon_y) / cell - np.round((y - scene.horizon_y) / cell))
    rows = _step(0.05 - lines, 0.05)[:, None]
    return _mix(image, _rgb(0.50, 0.58, 0.72), 0.55 * np.maximum(columns, rows))


def _gradient(scene: Scene, x: Array, y: Array) -> Array:
    zones = (_rgb(0.30, 0.26, 0.42), _rgb(0.78, 0.62, 0.62), _rgb(0.42, 0.34, 0.44), _rgb(0.30, 0.24, 0.34))
    image = _two_zones(scene, x, y, zones)
    glow = _blob(x, y, 0.0, scene.horizon_y - 0.2, 1.1, 0.55)
    return _mix(image, _rgb(0.98, 0.84, 0.70), 0.45 * glow * (y < scene.horizon_y)[:, None])


_BACKGROUNDS = {
    "day": _day,
    "night": _night,
    "fog": _fog,
    "wood": _wood,
    "grid": _room,
    "gradient": _gradient,
}


def _box(x: Array, y: Array, cx: float, cy: float, rx: float, ry: float) -> tuple[slice, slice]:
    """Return rows and columns of the pixels within (rx, ry) of a point."""
    rows = slice(*np.searchsorted(y, (cy - ry, cy + ry)))
    cols = slice(*np.searchsorted(x, (cx - rx, cx + rx)))
    return rows, cols


def _paint_shadow(image: Array, x: Array, y: Array, track: Track, f: int, scene: Scene) -> None:
    """Paint a soft dark ellipse on the ground, wider and fainter the higher its subject is."""
    cx, cy = (float(v) for v in track.position[f])
    radius = float(track.radius[f])
    height = max(scene.floor_y - radius - cy, 0.0)
    rx, ry = radius * (1.1 + 0.5 * height), radius * 0.28
    rows, cols = _box(x, y, cx, scene.floor_y, rx, ry)
    d = ((x[cols] - cx) / rx)[None, :] ** 2 + ((y[rows] - scene.floor_y) / ry)[:, None] ** 2
    dark = 0.5 * np.exp(-2.2 * height) * np.clip(1 - d, 0, 1)
    image[rows, cols] *= (1 - dark)[..., None]


def _paint(image: Array, x: Array, y: Array, pixel: float, track: Track, f: int) -> None:
    cx, cy = (float(v) for v in track.position[f])
    radius = float(track.radius[f])
    if track.anchor is not None:
        top = np.array(track.anchor) - track.position[f]
        top = track.position[f] + top * (0.85 * float(track.radius[f]) / float(np.hypot(*top)))
        _paint_string(image, x, y, pixel, track.anchor, (float(top[0]), float(top[1])))
    glow = float(track.glow[f])
    if glow:
        rows, cols = _box(x, y, cx, cy, 2 * radius, 2 * radius)
        halo = _blob(x[cols], y[rows], cx, cy, 2 * radius, 2 * radius)
        image[rows, cols] = _mix(image[rows, cols], _rgb(1.0, 0.98, 0.85), 0.55 * glow * halo)
    found = outline(x, y, pixel, track, f)
    if found is None:
        return
    window, cover, _, shade = found
    color = np.array(COLORS[track.color], dtype=np.float32) / 255
    body = color * np.minimum(shade, 1)[..., None] + np.maximum(shade - 1, 0)[..., None]
    if glow:
        body = body + 0.75 * glow * (_rgb(1.0, 1.0, 0.94) - body)
    image[window] = _mix(image[window], body, cover)


def outline(
    x: Array, y: Array, pixel: float, track: Track, f: int
) -> tuple[tuple[slice, slice], Array, Array, Array] | None:
    """Return rows and columns around a subject and what it covers there; None out of the picture.

    x (W,), y (H,) and pixel come from `grid`. What follows is (h, w): cover from 0 to 1, the distance to the
    outline in radii, negative inside, and the shade of the surface.
    """
    cx, cy = (float(v) for v in track.position[f])
    radius = float(track.radius[f])
    reach = 1.12 * radius + 2 * pixel
    rows, cols = window = _box(x, y, cx, cy, reach, reach)
    if rows.start == rows.stop or cols.start == cols.stop:
        return None
    dx = (x[cols] - cx)[None, :] / radius
    dy = (y[rows] - cy)[:, None] / radius
    c, s = np.cos(track.angle[f]), np.sin(track.angle[f])
    u, v = dx * c + dy * s, dy * c - dx * s  # the subject's own axes
    distance, shade = _SHAPES[track.shape](dx, dy, u, v)
    return window, np.clip(0.5 - distance * radius / pixel, 0, 1), distance, shade


def _paint_string(
    image: Array, x: Array, y: Array, pixel: float, start: tuple[float, float], end: tuple[float, float]
) -> None:
    (ax, ay), (bx, by) = start, end
    rows = slice(0, int(np.searchsorted(y, by)))
    share = np.clip((y[rows] - ay) / (by - ay), 0, 1)
    centre = ax + (bx - ax) * share
    away = np.abs(x[None, :] - centre[:, None])
    cover = np.clip(0.5 - (away - 0.006) / pixel, 0, 1)
    image[rows] = _mix(image[rows], _rgb(0.25, 0.22, 0.2), cover)


# Each shape: (distance in radii, negative inside; shade: up to 1 scales the colour, above 1 adds white).


def _ball(dx: Array, dy: Array, u: Array, v: Array) -> tuple[Array, Array]:
    r2 = dx**2 + dy**2
    nz = np.sqrt(np.clip(1 - r2, 0, 1))
    light = np.clip(dx * LIGHT[0] + dy * LIGHT[1] + nz * LIGHT[2], 0, 1)
    shade = 0.5 + 0.55 * light + 0.75 * light**24
    stripe = _step(0.16 - np.abs(v), 0.08)  # turns with the ball, so that rolling shows
    return np.sqrt(r2) - 1, shade * (1 - 0.38 * stripe)


def _cube(dx: Array, dy: Array, u: Array, v: Array) -> tuple[Array, Array]:
    side = 0.86
    distance = np.maximum(np.abs(u), np.abs(v)) - side
    bevel = np.maximum(np.abs(u), np.abs(v)) / side
    upper = (-v > np.abs(u) - 1e-6) & (bevel > 0.74)
    lower = (v > np.abs(u)) & (bevel > 0.74)
    shade = 0.86 + 0.22 * upper - 0.3 * lower - 0.12 * ((bevel > 0.74) & ~upper & ~lower)
    return distance, shade.astype(np.float32)


def _pyramid(dx: Array, dy: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """Return an upright triangle with a lit and a shaded face."""
    slope = np.float32(0.52)
    edge = (np.abs(u) - (v + 1) * slope) * np.float32(1 / np.sqrt(1 + 0.52**2))
    distance = np.maximum(edge, v - 1)
    face = _step(u - 0.18 * (v + 1) * 0.5, 0.06)
    return distance, (1.05 - 0.42 * face + 0.06 * v).astype(np.float32)


def _star(dx: Array, dy: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """Return a star of five points, folded into one wedge; its ridges are lit on one side."""
    turn = np.arctan2(u, -v)
    wedge = np.float32(2 * np.pi / 5)
    local = turn - wedge * np.round(turn / wedge)
    r = np.sqrt(u**2 + v**2)
    px, py = r * np.cos(local), r * np.abs(np.sin(local))
    inner = np.float32(0.46)
    ix, iy = inner * np.cos(wedge / 2), inner * np.sin(wedge / 2)
    ex, ey = ix - 1, iy  # edge from the tip (1, 0) to the inner corner
    norm = np.sqrt(ex**2 + ey**2)
    distance = ((px - 1) * -ey + py * ex) / -norm
    shade = 0.92 + 0.16 * np.sign(local) + 0.1 * (1 - r)
    return distance.astype(np.float32), shade.astype(np.float32)


def _ring(dx: Array, dy: Array, u: Array, v: Array) -> tuple[Array, Array]:
    r = np.sqrt(dx**2 + dy**2)
    middle, half = np.float32(0.72), np.float32(0.28)
    across = np.clip((r - middle) / half, -1, 1)
    nz = np.sqrt(1 - across**2)
    nx, ny = dx / np.maximum(r, 1e-3) * across, dy / np.maximum(r, 1e-3) * across
    light = np.clip(nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2], 0, 1)
    shade = 0.5 + 0.6 * light + 0.5 * light**16
    notch = _step(0.14 - np.abs(v), 0.06) * (u > 0)
    return np.abs(r - middle) - half, (shade * (1 - 0.4 * notch)).astype(np.float32)


_SHAPES = {"ball": _ball, "cube": _cube, "pyramid": _pyramid, "star": _star, "ring": _ring}
