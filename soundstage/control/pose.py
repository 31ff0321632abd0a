"""Poses of a clip as coloured sticks on black: by a model of key points, or the silhouette of what moves."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from soundstage.control.camera import motion
from soundstage.control.frames import grey, opencv
from soundstage.control.onnx import PictureModel, check_given, picture_model, resized, values_setting
from soundstage.control.people import (
    BODY,
    USUAL,
    WHOLE_BODY,
    Joints,
    ModelValues,
    OutputForm,
    around,
    checked_form,
    form_of,
    kept,
    unknown_form,
)
from soundstage.control.regions import check_box
from soundstage.control.settings import Setting, check_unused, numbers, refused
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels

NECK = 17  # between the shoulders, put behind the body's 17
LIMBS = (
    (NECK, 6), (NECK, 5), (6, 8), (8, 10), (5, 7), (7, 9), (NECK, 12), (12, 14), (14, 16), (NECK, 11),
    (11, 13), (13, 15), (NECK, 0), (0, 2), (2, 4), (0, 1), (1, 3),
)  # fmt: skip
OPENPOSE = (0, NECK, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # joints in order of their hues
LIMB_LIGHT = 0.6  # of a limb's colour, so that joints stand out
THICKNESS = 128  # shorter side of a picture whose sticks are one pixel thick
FACE, HANDS = slice(23, 91), ((91, 112), (112, 133))
FINGERS = tuple((0 if k % 4 == 1 else k - 1, k) for k in range(1, 21))
WHITE, BLUE = (255, 255, 255), (0, 0, 255)
PERSON = (192, 256)  # width and height for a model of one person that takes any
ROOM = 1.25  # around a person, as models of one person were trained
FILLED = 114  # grey beside a picture that is not as wide or high as the model's

POSE = {
    "confidence": Setting(0.3, "least confidence of a point that is drawn", 0, 1),
    "box": Setting("", "where the person is, as x, y, width and height; left out, anywhere", numbers=(4,)),
    "people": Setting(10, "most people that are drawn", 1, 100),
    "values": values_setting("the model"),
    "detector_values": values_setting("the detector"),
}


def pose(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield the sticks of the people whom a model of key points finds."""
    model = picture_model(given["model"])
    detector = None if given["detector"] is None else picture_model(given["detector"])
    for frame in frames:
        yield sticks(_people(model, detector, frame, given), frame.shape[:2], given["confidence"])


def check_options(given: Mapping[str, Any]) -> None:
    """Raise RequestError for options that do not go together."""
    if given["box"] and given["detector"] is not None:
        raise refused("both box and detector say where people are; keep one")
    if given["detector"] is None:
        check_unused(POSE, given, "detector_values", "is for a detector, and none is given")
    check_box(given)


def check_pose(given: Mapping[str, Any]) -> None:
    """Raise where no model is given, or one that finds no key points or no people."""
    check_given("pose", "pose-classical", given["model"])
    model = picture_model(given["model"])
    form = checked_form(model, "model")
    if given["detector"] is None:
        return
    checked_form(picture_model(given["detector"]), "detector")
    if not form.alone:
        raise MediaError(
            f"detector is {given['detector']}, and model {model.path} finds people by itself; leave it out"
        )


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


def sticks(people: Sequence[Joints], size: tuple[int, ...], confidence: float) -> Pixels:
    """Return a picture (H, W, 3) of people's joints and limbs, in the colours of OpenPose and DWPose."""
    cv2 = opencv()
    drawn = np.zeros((size[0], size[1], 3), np.uint8)
    width = max(1, round(min(size[:2]) / THICKNESS))
    bodies = [_with_neck(joints) for joints in people]
    for body in bodies:
        for i, (a, b) in enumerate(LIMBS):
            if min(body[a, 2], body[b, 2]) >= confidence:
                cv2.line(drawn, _place(body[a]), _place(body[b]), _hue(i, 18, LIMB_LIGHT), width)
    for body in bodies:
        for i, joint in enumerate(body[list(OPENPOSE)]):
            if joint[2] >= confidence:
                cv2.circle(drawn, _place(joint), width, _hue(i, 18), -1)
    for joints in people:
        if len(joints) == WHOLE_BODY:
            _draw_details(drawn, joints, width, confidence)
    return drawn


def _with_neck(joints: Joints) -> Joints:
    """Return the body's 17 joints and the neck."""
    neck = np.concatenate([(joints[5, :2] + joints[6, :2]) / 2, joints[5:7, 2].min(keepdims=True)])
    return np.concatenate([joints[:BODY], neck[None]])


def _draw_details(drawn: Pixels, joints: Joints, width: int, confidence: float) -> None:
    """Draw hands and face."""
    cv2 = opencv()
    for first, end in HANDS:
        hand = joints[first:end]
        for i, (a, b) in enumerate(FINGERS):
            if min(hand[a, 2], hand[b, 2]) >= confidence:
                cv2.line(drawn, _place(hand[a]), _place(hand[b]), _hue(i, len(FINGERS)), max(1, width // 2))
        for joint in hand[hand[:, 2] >= confidence]:
            cv2.circle(drawn, _place(joint), width, BLUE, -1)
    for joint in joints[FACE][joints[FACE][:, 2] >= confidence]:
        cv2.circle(drawn, _place(joint), max(1, width * 3 // 4), WHITE, -1)


# --- Where people and their joints are --------------------------------------------------------------


def _people(
    model: PictureModel, detector: PictureModel | None, frame: Pixels, given: Mapping[str, Any]
) -> list[Joints]:
    """Return the joints of each person, in pixels of the frame."""
    least, most = given["confidence"], given["people"]
    if not checked_form(model, "model").alone:
        left, top, cut = _within(given["box"], frame)
        found = _whole(model, cut, given["values"], "model")
        chosen = found[kept(around(found, least), 1e-6, most)]
        chosen[..., :2] += (left, top)
        return list(chosen)
    if detector is None:
        boxes, room = [_box(given["box"], frame)], ROOM if given["box"] else 1.0
    else:
        seen = _whole(detector, frame, given["detector_values"], "detector")
        boxes, room = [tuple(box[:4]) for box in seen[kept(seen, least, most)]], ROOM
    width, height = model.size(*PERSON)
    places = [_cut(box, width / height, room) for box in boxes]
    return [_person(model, frame, place, (width, height), given["values"]) for place in places]


def _whole(model: PictureModel, frame: Pixels, values: str, field: str) -> ModelValues:
    """Return what a model finds in a whole frame, in pixels of it."""
    width, height = model.size(*USUAL)
    share = min(width / frame.shape[1], height / frame.shape[0])
    inside = (max(1, round(frame.shape[1] * share)), max(1, round(frame.shape[0] * share)))
    filled = np.full((height, width, 3), FILLED, np.uint8)
    filled[: inside[1], : inside[0]] = resized(frame, *inside)
    form, outputs = _run(model, filled, values, field)
    found = np.array(form.read(outputs, (width, height)), np.float32)
    found[..., : 2 if field == "model" else 4] /= share
    return found


def _person(
    model: PictureModel,
    frame: Pixels,
    place: tuple[int, int, int, int],
    size: tuple[int, int],
    values: str,
) -> Joints:
    """Return the joints of the one person at a place: left, top, width, height in pixels of the frame."""
    left, top, width, height = place
    cut = np.zeros((height, width, 3), np.uint8)
    across, down = max(0, left), max(0, top)
    inner = frame[down : max(0, top + height), across : max(0, left + width)]
    cut[down - top : down - top + inner.shape[0], across - left : across - left + inner.shape[1]] = inner
    form, outputs = _run(model, resized(cut, *size), values, "model")
    joints = np.array(form.read(outputs, size)[0], np.float32)
    joints[:, :2] = joints[:, :2] * (width / size[0], height / size[1]) + (left, top)
    return joints


def _run(
    model: PictureModel, picture: Pixels, values: str, field: str
) -> tuple[OutputForm, list[tuple[str, ModelValues]]]:
    """Return a model's outputs for a picture of its size, and their form."""
    likely = form_of(field, model.outputs)
    usual = "imagenet" if likely is None else likely.values
    height, width = picture.shape[:2]
    outputs = model.run(model.picture(picture, width, height, model.values(values, usual))[None])
    shapes = [(name, one.shape) for name, one in outputs]
    form = form_of(field, shapes)
    if form is None:
        raise unknown_form(model, field, shapes)
    if not all(np.isfinite(one).all() for _, one in outputs):
        raise MediaError(f"model {model.path} gives values that are not numbers; give it other values")
    return form, outputs


def _within(text: str, frame: Pixels) -> tuple[int, int, Pixels]:
    """Return left, top and the part of a frame within a box; all of it where none is given."""
    left, top, right, bottom = (round(side) for side in _box(text, frame))
    return left, top, frame[top : max(top + 1, bottom), left : max(left + 1, right)]


def _box(text: str, frame: Pixels) -> tuple[float, float, float, float]:
    """Return the part of the frame that is looked at: left, top, right, bottom."""
    height, width = frame.shape[:2]
    if not text:
        return 0.0, 0.0, float(width), float(height)
    x, y, across, down = numbers(text, "box")
    left, top = min(max(0.0, x), width - 1.0), min(max(0.0, y), height - 1.0)
    return left, top, max(left + 1, min(x + across, width)), max(top + 1, min(y + down, height))


def _cut(box: Sequence[float], aspect: float, room: float) -> tuple[int, int, int, int]:
    """Return the left, top, width and height around a box that have a model's aspect, with room."""
    left, top, right, bottom = (float(side) for side in box)
    width, height = max(1.0, right - left), max(1.0, bottom - top)
    width, height = room * max(width, height * aspect), room * max(height, width / aspect)
    across, down = max(1, round(width)), max(1, round(height))
    return round((left + right - across) / 2), round((top + bottom - down) / 2), across, down


def _hue(index: int, count: int, light: float = 1.0) -> tuple[int, int, int]:
    red, green, blue = (round(255 * light * part) for part in colorsys.hsv_to_rgb(index / count, 1, 1))
    return red, green, blue


def _place(joint: Any) -> tuple[int, int]:
    return round(float(joint[0])), round(float(joint[1]))
