"""Poses of a clip as coloured sticks on black: by a model of key points, or the silhouette of what moves."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.camera import motion
from soundstage.control.frames import grey, opencv
from soundstage.control.onnx import PictureModel, as_input, picture_model
from soundstage.control.settings import Setting, numbers
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels

Joints = NDArray[np.float32]  # (K, 3): x, y in pixels of the frame, confidence
BODY = 17  # key points of COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles
WHOLE_BODY = 133  # with 6 of the feet, 68 of the face and 21 of each hand
NECK = 17  # between the shoulders, put behind the body's 17
LIMBS = (
    (NECK, 6), (NECK, 5), (6, 8), (8, 10), (5, 7), (7, 9), (NECK, 12), (12, 14), (14, 16), (NECK, 11),
    (11, 13), (13, 15), (NECK, 0), (0, 2), (2, 4), (0, 1), (1, 3),
)  # fmt: skip
FACE, HANDS = slice(23, 91), ((91, 112), (112, 133))
FINGERS = tuple((0 if k % 4 == 1 else k - 1, k) for k in range(1, 21))

POSE = {
    "confidence": Setting(0.3, "least confidence of a point that is drawn", 0, 1),
    "box": Setting("", "where the person is, as x, y, width and height; left out, anywhere", numbers=(4,)),
}


def pose(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield the sticks of one person as a model of key points finds them."""
    model = picture_model(given["model"])
    for frame in frames:
        yield sticks(_joints(model, frame, given["box"]), frame.shape[:2], given["confidence"])


def pose_classical(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield the silhouette of what moves, with the ridge along its middle; nothing where nothing moves."""
    cv2 = opencv()
    background = before = None
    for frame in frames:
        plain = grey(frame)
        luma = cv2.GaussianBlur(plain, (0, 0), 1.5).astype(np.float32)
        if before is None:
            background = luma
        else:  # the camera's own motion is no motion
            matrix, size = motion(before, plain)[:2], plain.shape[::-1]
            background = cv2.warpAffine(background, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        held = np.zeros_like(plain) if before is None else cv2.absdiff(before, plain)
        before = plain
        moved = (np.abs(luma - background) > 18).astype(np.uint8)
        background = background + np.where(held > 6, 0.02, 0.15) * (luma - background)
        whole = cv2.morphologyEx(moved, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
        whole = cv2.morphologyEx(whole, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        depth = cv2.distanceTransform(whole, cv2.DIST_L2, 5)
        ridge = (depth > 1.5) & (depth >= cv2.dilate(depth, np.ones((5, 5), np.uint8)) - 0.5)
        drawn = np.zeros_like(frame)
        drawn[whole > 0] = (96, 96, 96)
        drawn[ridge] = (255, 255, 255)
        yield drawn


def sticks(joints: Joints, size: tuple[int, ...], confidence: float) -> Pixels:
    """Return a picture (H, W, 3) of a person's joints and limbs, each limb in a colour of its own."""
    cv2 = opencv()
    drawn = np.zeros((size[0], size[1], 3), np.uint8)
    neck = np.concatenate([(joints[5, :2] + joints[6, :2]) / 2, joints[5:7, 2].min(keepdims=True)])
    body = np.concatenate([joints[:BODY], neck[None]])
    width = max(1, min(size[:2]) // 100)
    pairs = [(body[a], body[b], _hue(i, len(LIMBS))) for i, (a, b) in enumerate(LIMBS)]
    if len(joints) == WHOLE_BODY:
        for first, end in HANDS:
            hand = joints[first:end]
            pairs += [(hand[a], hand[b], _hue(i, len(FINGERS))) for i, (a, b) in enumerate(FINGERS)]
    for start, end, colour in pairs:
        if min(start[2], end[2]) >= confidence:
            cv2.line(drawn, _place(start), _place(end), colour, width)
    points = list(body) + (list(joints[FACE]) if len(joints) == WHOLE_BODY else [])
    for joint in points:
        if joint[2] >= confidence:
            cv2.circle(drawn, _place(joint), width, (255, 255, 255), -1)
    return drawn


def _joints(model: PictureModel, frame: Pixels, box: str) -> Joints:
    left, top, width, height = _box(box, frame)
    across, down = model.shape[-1] or 192, model.shape[-2] or 256
    share = min(across / width, down / height)
    inside = (max(1, round(width * share)), max(1, round(height * share)))
    cut = frame[round(top) : round(top + height), round(left) : round(left + width)]
    picture = np.zeros((3, down, across), np.float32)
    picture[:, : inside[1], : inside[0]] = as_input(cut, *inside)
    found = key_points(model.run(picture[None]), (across, down), model.path)
    found[:, :2] = found[:, :2] / share + (left, top)
    return found


def _box(text: str, frame: Pixels) -> tuple[float, float, float, float]:
    """Return the part of the frame that is looked at: left, top, width, height."""
    height, width = frame.shape[:2]
    if not text:
        return 0.0, 0.0, float(width), float(height)
    x, y, across, down = numbers(text, "box")
    left, top = min(max(0.0, x), width - 1.0), min(max(0.0, y), height - 1.0)
    return left, top, max(1.0, min(across, width - left)), max(1.0, min(down, height - top))


def key_points(outputs: list[NDArray[Any]], size: tuple[int, int], path: str) -> Joints:
    """Return a model's key points in pixels of its input.

    Known are heat maps (1, K, h, w), and one line for each axis, (1, K, W) and (1, K, H), each the place's
    pixels times a whole number. K is 17 of a body or 133 with face and hands.
    """
    shapes = [one.shape for one in outputs]
    count = shapes[0][1] if len(shapes[0]) in (3, 4) else 0
    if count not in (BODY, WHOLE_BODY):
        raise MediaError(
            f"model {path} gives {', '.join(map(str, shapes))}; a pose is heat maps (1, K, h, w), or two "
            f"lines (1, K, n) of each point, with K {BODY} or {WHOLE_BODY}"
        )
    if len(shapes[0]) == 4:
        maps = outputs[0][0].reshape(count, -1)
        rows, columns = np.divmod(maps.argmax(axis=1), shapes[0][3])
        scale = (size[0] / shapes[0][3], size[1] / shapes[0][2])
        places = [(columns + 0.5) * scale[0], (rows + 0.5) * scale[1], maps.max(axis=1)]
    else:
        lines = [one[0] for one in outputs[:2]]
        places = [line.argmax(axis=1) * side / line.shape[1] for line, side in zip(lines, size, strict=True)]
        places.append(np.minimum(*(line.max(axis=1) for line in lines)))
    return np.stack(places, axis=1).astype(np.float32)


def _hue(index: int, count: int) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(index / count, 1, 1))
    return red, green, blue


def _place(joint: Any) -> tuple[int, int]:
    return round(float(joint[0])), round(float(joint[1]))
