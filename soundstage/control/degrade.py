"""Degradations of a clip: what an adapter that repairs or restyles is shown in training.

Each is drawn once from a seed and then the same for every frame, so that a clip stays one clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.frames import each, grey, opencv, rgb, scaled
from soundstage.control.settings import Setting, seeded
from soundstage.media.arrays import Pixels

Table = NDArray[np.uint8]  # (256, 3): the new value of each value, by channel
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)

AMOUNT = {"amount": Setting(1.0, "how far it goes; 0 changes nothing", 0, 3)}
GRADE = {**AMOUNT, **seeded("curves and colours")}
DEFOCUS = {"radius": Setting(0.02, "radius of the blur as a share of the shorter side", 0, 0.2)}
BLUR = {
    "length": Setting(0.04, "length of the smear as a share of the shorter side", 0, 0.3),
    **seeded("direction"),
}
COMPRESS = {"crf": Setting(42, "H.264's own figure; higher is worse", 1, 51)}
LIGHT = {**AMOUNT, **seeded("direction and colour of the light")}
NIGHT = {**AMOUNT}
SOFTEN = {"factor": Setting(4, "how many times smaller the clip is made before it is enlarged", 1, 16)}
CARTOON = {
    "levels": Setting(8, "steps of brightness that are left", 2, 64),
    "lines": Setting(1.0, "darkness of the outlines", 0, 1),
}


def grade(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames with drawn contrast, curves of the three channels and saturation."""
    rng, amount = np.random.default_rng([1, given["seed"]]), given["amount"]
    table = _curves(rng, amount)
    saturation = np.float32(1 + amount * rng.uniform(-0.7, 0.5))

    def graded(frame: Pixels) -> Pixels:
        values = _mapped(frame, table).astype(np.float32)
        luma = (values @ LUMA)[..., None]
        return _bytes(luma + (values - luma) * max(np.float32(0), saturation))

    return _if(amount, frames, graded)


def defocus(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames out of focus: each point is a disc."""

    def soft(frame: Pixels) -> Pixels:
        radius = given["radius"] * min(frame.shape[:2])
        reach = int(np.ceil(radius)) or 1
        across = np.arange(-reach, reach + 1)
        distance = np.hypot(across[:, None], across)
        disc = np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
        return _filtered(frame, disc / disc.sum())

    return _if(given["radius"], frames, soft)


def blur(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames smeared along one drawn direction, as by a shaken camera."""
    angle = np.random.default_rng([2, given["seed"]]).uniform(0, np.pi)

    def smeared(frame: Pixels) -> Pixels:
        length = max(1.0, given["length"] * min(frame.shape[:2]))
        reach = int(np.ceil(length / 2))
        across = np.arange(-reach, reach + 1)
        along = across * np.cos(angle) + across[:, None] * np.sin(angle)
        beside = across[:, None] * np.cos(angle) - across * np.sin(angle)
        line = np.clip(1 - abs(beside), 0, 1) * np.clip(length / 2 + 0.5 - abs(along), 0, 1)
        return _filtered(frame, (line / line.sum()).astype(np.float32))

    return _if(given["length"], frames, smeared)


def compress(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames as they come out of H.264 at low quality, with its blocks and smears over time."""
    import av

    encoder: Any = None
    decoder = av.CodecContext.create("h264", "r")
    size = (0, 0)

    def decoded(packets: Any) -> Iterator[Pixels]:
        for packet in packets:
            for picture in decoder.decode(packet):  # type: ignore[attr-defined]
                yield picture.to_ndarray(format="rgb24")[: size[1], : size[0]]

    for index, frame in enumerate(frames):
        if encoder is None:
            size = (frame.shape[1], frame.shape[0])
            encoder = _h264(size, fps, given["crf"])
        odd = ((0, size[1] % 2), (0, size[0] % 2), (0, 0))
        picture = av.VideoFrame.from_ndarray(np.pad(frame, odd, mode="edge"), format="rgb24")
        picture.pts = index
        yield from decoded(encoder.encode(picture))
    if encoder is not None:
        yield from decoded(encoder.encode(None))
        yield from decoded([None])


def light(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames under another light: brighter from one side, in a drawn colour."""
    rng, amount = np.random.default_rng([3, given["seed"]]), given["amount"]
    angle, warmth, depth = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3), rng.uniform(0.4, 0.8)
    colour = np.array([1 + warmth, 1, 1 - warmth], np.float32)
    held: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def lit(frame: Pixels) -> Pixels:
        size = frame.shape[:2]
        if size not in held:
            down, across = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in size)
            slope = across * np.cos(angle) + down[:, None] * np.sin(angle)
            held[size] = np.exp(amount * (depth * 2 * slope[..., None] + np.log(colour))).astype(np.float32)
        return _encoded(_linear(frame) * held[size])

    return _if(amount, frames, lit)


def night(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames as at night: dark, blue and pale, with bright lights left."""
    amount = given["amount"]
    colour = np.array([0.55, 0.7, 1.1], np.float32) ** amount

    def dark(frame: Pixels) -> Pixels:
        linear = _linear(frame)
        luma = (linear @ LUMA)[..., None]
        pale = linear + (luma - linear) * min(1.0, 0.45 * amount)
        dimmed = pale * np.float32(0.16) ** amount * colour
        return _encoded(dimmed + np.clip(luma - 0.8, 0, 1) * min(1.0, amount) * linear)

    return _if(amount, frames, dark)


def colourless(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames in shades of grey."""
    return each(frames, lambda frame: rgb(grey(frame)))


def soften(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames without fine detail, at the size that they had."""

    def coarse(frame: Pixels) -> Pixels:
        height, width = frame.shape[:2]
        small = scaled(frame, max(1, width // given["factor"]), max(1, height // given["factor"]))
        return np.asarray(opencv().resize(small, (width, height), interpolation=opencv().INTER_CUBIC))

    return _if(given["factor"] - 1, frames, coarse)


def cartoon(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames as flat areas with dark outlines, as drawn animation has them."""
    cv2, levels = opencv(), given["levels"]
    steps = _bytes((np.floor(np.arange(256) * levels / 256) + 0.5) * 255 / levels)

    def drawn(frame: Pixels) -> Pixels:
        flat = np.ascontiguousarray(frame)
        for _ in range(2):
            flat = cv2.bilateralFilter(flat, 7, 40, 7)
        luma = cv2.cvtColor(flat, cv2.COLOR_RGB2YCrCb)
        luma[..., 0] = steps[luma[..., 0]]
        flat = cv2.cvtColor(luma, cv2.COLOR_YCrCb2RGB)
        outlines = cv2.dilate(cv2.Canny(grey(frame), 60, 140), np.ones((2, 2), np.uint8))
        dark = 1 - given["lines"] * (outlines[..., None] / np.float32(255))
        return _bytes(flat * dark)

    return each(frames, drawn)


# --- Values of pixels -------------------------------------------------------------------------------


def _if(amount: float, frames: Iterator[Pixels], change: Any) -> Iterator[Pixels]:
    """Yield frames changed, or as they are where the amount is 0."""
    return each(frames, change) if amount else frames


def _curves(rng: np.random.Generator, amount: float) -> Table:
    """Return rising curves of the three channels through drawn points."""
    at = np.linspace(0, 1, 5)
    shared, own = rng.uniform(-0.12, 0.12, 5), rng.uniform(-0.06, 0.06, (3, 5))
    points = np.clip(at + amount * (shared + own), 0, 1)
    values = np.arange(256) / 255
    curves = [np.interp(values, at, np.maximum.accumulate(line)) for line in points]
    return _bytes(np.stack(curves, axis=1) * 255)


def _mapped(frame: Pixels, table: Table) -> Pixels:
    return np.stack([table[:, channel][frame[..., channel]] for channel in range(3)], axis=2)


def _filtered(frame: Pixels, kernel: NDArray[np.float32]) -> Pixels:
    """Return a frame with a kernel applied to its linear light, as lenses and shutters do."""
    cv2 = opencv()
    return _encoded(cv2.filter2D(_linear(frame), -1, kernel, borderType=cv2.BORDER_REFLECT_101))


_LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)


def _linear(frame: Pixels) -> NDArray[np.float32]:
    return _LINEAR[frame]


def _encoded(light: NDArray[Any]) -> Pixels:
    return _bytes(np.clip(light, 0, 1) ** (1 / 2.2) * 255)


def _bytes(values: NDArray[Any]) -> Pixels:
    """Return values from 0 to 255 as bytes; those beyond are cut."""
    rounded: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def _h264(size: tuple[int, int], fps: float, crf: int) -> Any:
    import av

    encoder = av.CodecContext.create("libx264", "w")
    rate = Fraction(fps).limit_denominator(1001)
    options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
    for name, value in {
        "width": size[0] + size[0] % 2,
        "height": size[1] + size[1] % 2,
        "pix_fmt": "yuv420p",
        "time_base": 1 / rate,
        "framerate": rate,
        "options": options,
    }.items():
        setattr(encoder, name, value)
    return encoder
