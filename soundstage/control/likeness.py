"""The face of a person and the sample of a voice, for adapters that keep who is seen and heard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from soundstage.control.frames import even, opencv, scaled
from soundstage.control.settings import Setting, numbers, refused
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels, Waveform

FACE = {
    "box": Setting("", "where the face is, as x, y, width and height, instead of a model", numbers=(4,)),
    "margin": Setting(0.4, "room around the face as a share of its size", 0, 3),
    "size": Setting(512, "sides of the picture that comes out", 32, 2048),
}
VOICE = {"seconds": Setting(5.0, "length of the sample", 0.5, 30)}
STEP_S = 0.1


def face(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield the square around the face of the first frame that shows one, out of every frame."""
    box: tuple[float, float, float, float] | None = None
    if given["box"]:
        x, y, width, height = numbers(given["box"], "box")
        box = (x, y, width, height)
    for frame in frames:
        box = box or largest_face(frame, given["model"])
        if box is not None:
            yield _square(frame, box, given["margin"], given["size"])
    if box is None:
        raise MediaError("no face is found in the clip; give box, its place in pixels, or another clip")


def face_size(size: tuple[int, int], given: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size of a face's picture."""
    side = even(given["size"])
    return side, side


def check_face(given: Mapping[str, Any]) -> None:
    """Raise where neither a box nor a detector is given, or the detector cannot be read."""
    if bool(given["box"]) == (given["model"] is not None):
        raise refused(
            "control 'face' needs either box, the face's place, or model, a YuNet detector as .onnx; give one"
        )
    if given["model"] is not None:
        _detector(given["model"], (64, 64))


def largest_face(frame: Pixels, model: str) -> tuple[float, float, float, float] | None:
    """Return the largest face of a frame, as x, y, width and height; None where there is none."""
    detector = _detector(model, (frame.shape[1], frame.shape[0]))
    _, found = detector.detect(np.ascontiguousarray(frame[..., ::-1]))
    if found is None or not len(found):
        return None
    x, y, width, height = (float(v) for v in found[np.argmax(found[:, 2] * found[:, 3])][:4])
    return x, y, width, height


def _detector(model: str, size: tuple[int, int]) -> Any:
    cv2 = opencv()
    if not Path(model).is_file():
        raise MediaError(
            f"model is {model}, and there is no such file; give a YuNet detector as .onnx, or box"
        )
    try:
        return cv2.FaceDetectorYN.create(model, "", size)
    except cv2.error as error:
        reason = " ".join(str(error).split())[:100]
        raise MediaError(f"model is {model}, which OpenCV cannot use as a face detector ({reason})") from None


def _square(frame: Pixels, box: tuple[float, float, float, float], margin: float, side: int) -> Pixels:
    x, y, width, height = box
    reach = max(width, height) * (1 + margin) / 2
    left, top = round(x + width / 2 - reach), round(y + height / 2 - reach)
    length = max(2, round(2 * reach))
    rows = np.clip(np.arange(top, top + length), 0, frame.shape[0] - 1)
    columns = np.clip(np.arange(left, left + length), 0, frame.shape[1] - 1)
    return scaled(frame[rows][:, columns], even(side), even(side))


def voice(samples: Waveform, rate_hz: int, given: Mapping[str, Any]) -> Waveform:
    """Return the loudest stretch of a sound, (2, n): the one with the most energy; a shorter sound whole."""
    length = round(given["seconds"] * rate_hz)
    if samples.shape[1] <= length:
        return samples
    energy = np.concatenate([[0.0], np.cumsum((samples.astype(np.float64) ** 2).sum(axis=0))])
    starts = np.arange(0, samples.shape[1] - length + 1, max(1, round(STEP_S * rate_hz)))
    first = int(starts[np.argmax(energy[starts + length] - energy[starts])])
    return samples[:, first : first + length]
