"""Decoded video frames as 8-bit RGB of BT.709, by the range, matrix, primaries and transfer that they state.

Most films are BT.709 or BT.601 already: FFmpeg's conversion to RGB is all they need, and their pixels are
exactly its. High dynamic range (PQ, HLG) is tone-mapped: reference white, 203 cd/m2, comes out at 229 of 255,
and 1000 cd/m2 and more at 255. Wide primaries (BT.2020, P3) are brought to BT.709 and cut to what it has.
What is not known is refused by its name.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.media.arrays import Light, Pixels
from soundstage.media.light import HLG_WHITE, hlg_scene, matrix_between

# FFmpeg's numbers, which are those of ITU-T H.273.
PQ, HLG, LINEAR = 16, 18, 8
# BT.709, unspecified, BT.470M, BT.470BG, BT.601, SMPTE 240M, xvYCC, BT.1361, sRGB, BT.2020: all are shown by
# the display's own curve, as players do.
DISPLAY_TRANSFERS = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15})
REFUSED_TRANSFERS = {9: "logarithmic (100:1)", 10: "logarithmic (316:1)", 17: "SMPTE ST 428-1"}
BT2020, P3 = 9, (11, 12)
# BT.709, unspecified and the BT.601 family, which differ by less than a display does.
NEAR_BT709 = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 8, 22})
# Matrix -> FFmpeg's scaler's number for it.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
RGB_MATRIX = 0
REFUSED_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "SMPTE ST 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived constant luminance",
    14: "ICtCp",
    15: "IPT-PQ-C2 (Dolby Vision)",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
BT709_SCALER, BT601_SCALER = 1, 5
PRIMARIES = {1: "bt709", BT2020: "bt2020", P3[0]: "p3", P3[1]: "p3"}

# Reference white and nominal peak of high dynamic range. Source: ITU-R BT.2408.
WHITE_NITS, PEAK_NITS = 203.0, 1000.0
SCREEN_GAMMA = 2.4  # of the display that a film is made for. Source: ITU-R BT.1886
# The tone curve: straight with this slope up to the knee, then a shoulder that reaches 1 at the peak.
SLOPE, KNEE = 0.95, 0.6
TONE_MAPPED = "is tone-mapped to standard range"  # ends a notice of what is not done to light
ROWS_AT_ONCE = 64  # of a frame, so that what is worked on stays in the processor's cache


def is_standard(frame: Any) -> bool:
    """Return whether FFmpeg's conversion to RGB is all that a frame needs."""
    return frame.color_trc in DISPLAY_TRANSFERS and frame.color_primaries in NEAR_BT709


def colour_notice(frame: Any) -> str | None:
    """Return what is done to the colours of a track, for its user; None where nothing is."""
    if frame.color_trc in (PQ, HLG):
        name = "PQ" if frame.color_trc == PQ else "HLG"
        return f"high dynamic range ({name}) {TONE_MAPPED}"
    if frame.color_primaries == BT2020:
        return "the colours of BT.2020 are brought to BT.709"
    if frame.color_primaries in P3:
        return "the colours of P3 are brought to BT.709"
    return None


def check_colours(frame: Any, name: str) -> None:
    """Raise MediaError for a frame whose colours are coded in a way that is not known. name: the file's."""
    if frame.color_trc in REFUSED_TRANSFERS:
        raise MediaError(_refusal(name, "transfer", REFUSED_TRANSFERS[frame.color_trc]))
    if frame.colorspace in REFUSED_MATRICES:
        raise MediaError(_refusal(name, "colour matrix", REFUSED_MATRICES[frame.colorspace]))
    known = frame.color_trc in DISPLAY_TRANSFERS or frame.color_trc in (PQ, HLG, LINEAR)
    if not known:
        raise MediaError(_refusal(name, "transfer", f"of number {frame.color_trc}"))
    if frame.color_primaries not in NEAR_BT709 and frame.color_primaries not in (BT2020, *P3):
        raise MediaError(_refusal(name, "primaries", f"of number {frame.color_primaries}"))


def _refusal(name: str, what: str, value: str) -> str:
    return f"{name} has the {what} {value}, which is not supported; convert it to BT.709"


def scaler_matrix(frame: Any) -> int | None:
    """Return the matrix by which a frame becomes RGB, as FFmpeg's scaler counts; None for RGB.

    Where the track states none: BT.709 for high definition, else BT.601, as players do.
    """
    if frame.format.is_rgb:
        return None
    if frame.colorspace in MATRICES:
        return MATRICES[frame.colorspace]
    return BT709_SCALER if frame.width >= 1280 or frame.height > 576 else BT601_SCALER


def is_high(frame: Any) -> bool:
    """Return whether a frame has high dynamic range."""
    return frame.color_trc in (PQ, HLG)


def light_from(deep: NDArray[np.uint16], transfer: int, primaries: int) -> Light:
    """Return 16-bit RGB (H, W, 3) of PQ or HLG as light of BT.709; colours outside of it are cut at 0.

    1 is diffuse white: 203 cd/m2 in PQ, the code 0.75 in HLG, whose light is that of the scene.
    """
    light = _scene_light(transfer)[deep]
    inside: Light = np.maximum(light @ _to_bt709(_high_primaries(primaries)).T, 0)
    return inside


def _high_primaries(primaries: int) -> int:
    """Return the primaries of high dynamic range, BT.2020's where the track names none."""
    return BT2020 if primaries in NEAR_BT709 - {1} else primaries


@functools.cache
def _scene_light(transfer: int) -> Light:
    """Return the light of each of 65,536 codes of PQ or HLG; 1 is diffuse white."""
    code = np.linspace(0, 1, 65536)
    light = _pq_nits(code) / WHITE_NITS if transfer == PQ else hlg_scene(code) / hlg_scene(HLG_WHITE)
    return light.astype(np.float32)


def mapped(deep: NDArray[np.uint16], transfer: int, primaries: int) -> Pixels:
    """Bring 16-bit RGB (H, W, 3) of high range or wide primaries to 8-bit RGB of BT.709."""
    high = transfer in (PQ, HLG)
    matrix = _to_bt709(_high_primaries(primaries) if high else primaries)
    curve, screen = _to_linear(transfer), _to_screen()
    out = np.empty(deep.shape, np.uint8)
    for top in range(0, len(deep), ROWS_AT_ONCE):
        codes = [deep[top : top + ROWS_AT_ONCE, :, channel] for channel in range(3)]
        light = [curve[code] for code in codes]
        if transfer == HLG:
            light = _scaled(light, _hlg_gain(light))
        if high:
            light = _scaled(light, _tone_gain(np.maximum(np.maximum(light[0], light[1]), light[2])))
        for channel, weights in enumerate(matrix):
            shown = light[0] * weights[0] + light[1] * weights[1] + light[2] * weights[2]
            index = np.sqrt(np.clip(shown, 0, 1)) * np.float32(65535)
            out[top : top + ROWS_AT_ONCE, :, channel] = screen[index.astype(np.uint16)]
    return out


def _scaled(light: list[NDArray[np.float32]], gain: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [channel * gain for channel in light]


@functools.cache
def _to_screen() -> NDArray[np.uint8]:
    """Return the code of each of 65,536 lights, by their square root, which is fine enough near black."""
    light = np.linspace(0, 1, 65536) ** 2
    return np.rint(light ** (1 / SCREEN_GAMMA) * 255).astype(np.uint8)


@functools.cache
def _to_linear(transfer: int) -> NDArray[np.float32]:
    """Return the light of each of 65,536 codes; 1 is white. Of HLG the scene's, in 0 to 1."""
    code = np.linspace(0, 1, 65536)
    if transfer == PQ:
        light = _pq_nits(code) / WHITE_NITS
    elif transfer == HLG:
        light = hlg_scene(code)
    else:
        light = code if transfer == LINEAR else code**SCREEN_GAMMA
    return light.astype(np.float32)


def _pq_nits(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cd/m2. Source: SMPTE ST 2084."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = code ** (1 / m2)
    nits: NDArray[np.float64] = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return nits


def _hlg_gain(scene: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what takes the scene's light to a display of 1000 cd/m2. Source: BT.2100, the HLG OOTF."""
    red, green, blue = (np.float32(weight) for weight in (0.2627, 0.6780, 0.0593))
    luminance = red * scene[0] + green * scene[1] + blue * scene[2]
    gain: NDArray[np.float32] = luminance ** np.float32(0.2) * np.float32(PEAK_NITS / WHITE_NITS)
    return gain


def _tone_gain(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what brings light of any height, 1 being white, to at most 1; the hue stays."""
    slope, knee = np.float32(SLOPE), np.float32(KNEE)
    steep = np.float32(SLOPE / (1 - SLOPE * KNEE))
    peak = np.float32((PEAK_NITS / WHITE_NITS - KNEE) * steep)
    over = np.maximum(light - knee, 0) * steep
    shoulder = over * (1 + over / peak**2) / (1 + over)
    shown = slope * np.minimum(light, knee) + (1 - slope * knee) * shoulder
    gain: NDArray[np.float32] = np.minimum(shown, 1) / np.maximum(light, np.float32(1e-6))
    return gain


@functools.cache
def _to_bt709(primaries: int) -> NDArray[np.float32]:
    """Return the (3, 3) matrix that takes linear RGB columns to BT.709."""
    return matrix_between(PRIMARIES.get(primaries, "bt709"), "bt709")
