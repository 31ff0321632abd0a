"""Curves between linear light and the codes that stand for it, and matrices between colour spaces.

Light is linear, of BT.709 primaries; 1 is diffuse white, and what is brighter lies above. Codes lie in 0 to
1. All take and return arrays of float32 of any shape; matrices want RGB on the last axis.

Source of LogC3 and ACEScct: docs/model/video-vae.md, "High dynamic range". HLG: ITU-R BT.2100. sRGB: IEC
61966-2-1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundstage.media.arrays import Light

CurveName = Literal["logc3", "acescct"]

# LogC3 of exposure index 800: a line below the cut, a logarithm from it on.
_A, _B, _C, _D, _E, _F, _CUT = 5.555556, 0.052272, 0.247190, 0.385537, 5.367655, 0.092809, 0.010591
LOGC3_STOP = _C * float(np.log10(2))  # of code, far above the cut
_ACES_A, _ACES_B, _ACES_CUT, _ACES_BREAK = 10.5402377416545, 0.0729055341958355, 0.0078125, 0.155251141552511
_ACES_OFFSET, _ACES_STOPS = 9.72, 17.52
HLG_A, HLG_B, HLG_C = 0.17883277, 0.28466892, 0.55991073
HLG_WHITE = 0.75  # the code of diffuse white. Source: ITU-R BT.2408
# Linear ACEScg (AP1, white of ACES) to BT.709 (D65).
_AP1_TO_BT709 = (
    (1.70505, -0.62179, -0.08326),
    (-0.13026, 1.14080, -0.01055),
    (-0.02400, -0.12897, 1.15297),
)
# x and y of red, green and blue. The model's LogC3 pixels have BT.709's, not the camera's.
CHROMATICITIES = {
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "p3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    "ap1": ((0.713, 0.293), (0.165, 0.830), (0.128, 0.044)),
}
D65, ACES_WHITE = (0.3127, 0.3290), (0.32168, 0.33767)


@dataclass(frozen=True)
class Curve:
    """A curve by which a model codes light. decode gives light of BT.709 from codes, encode the reverse."""

    decode: Callable[[ArrayLike], Light]
    encode: Callable[[ArrayLike], Light]


def from_logc3(code: ArrayLike) -> Light:
    """Return the light of LogC3 codes, cut to 0 upwards. Codes are cut to 0 to 1, so light ends at 55.08."""
    y = np.clip(_float(code), 0, 1)
    bright = (np.power(np.float32(10), (y - _float(_D)) / _float(_C)) - _float(_B)) / _float(_A)
    dark = (y - _float(_F)) / _float(_E)
    return np.maximum(np.where(y >= _float(_E * _CUT + _F), bright, dark), 0)


def to_logc3(light: ArrayLike) -> Light:
    """Return the LogC3 codes of light, cut to 0 to 1."""
    x = _float(light)
    bright = _float(_C) * np.log10(np.maximum(_float(_A) * x + _float(_B), 1e-10)) + _float(_D)
    return np.clip(np.where(x >= _float(_CUT), bright, _float(_E) * x + _float(_F)), 0, 1)


def from_acescct(code: ArrayLike) -> Light:
    """Return the ACEScg light of ACEScct codes, cut to 0 upwards."""
    y = _float(code)
    bright = np.exp2(np.minimum(y, 1.468) * _float(_ACES_STOPS) - _float(_ACES_OFFSET))
    dark = (y - _float(_ACES_B)) / _float(_ACES_A)
    return np.maximum(np.where(y > _float(_ACES_BREAK), bright, dark), 0)


def to_acescct(light: ArrayLike) -> Light:
    """Return the ACEScct codes of ACEScg light."""
    x = _float(light)
    bright = (np.log2(np.maximum(x, 1e-10)) + _float(_ACES_OFFSET)) / _float(_ACES_STOPS)
    return np.where(x <= _float(_ACES_CUT), _float(_ACES_A) * x + _float(_ACES_B), bright)


CURVES: dict[CurveName, Curve] = {
    "logc3": Curve(from_logc3, to_logc3),
    "acescct": Curve(
        lambda code: from_acescg(from_acescct(code)),
        lambda light: np.clip(to_acescct(to_acescg(_float(light))), 0, 1),
    ),
}


def to_hlg(light: ArrayLike) -> Light:
    """Return the HLG codes of light, BT.2020; diffuse white is at 0.75, and light from 3.77 on at 1."""
    scene = np.clip(_float(light) * _float(_hlg_scene_white()), 0, 1)
    root = np.sqrt(3 * scene)
    high = _float(HLG_A) * np.log(np.maximum(12 * scene - _float(HLG_B), 1e-6)) + _float(HLG_C)
    codes: Light = np.minimum(np.where(scene <= 1 / 12, root, high), 1)
    return codes


def hlg_scene(code: ArrayLike) -> NDArray[np.float64]:
    """Return the scene's light of HLG codes, 0 to 1."""
    y = np.asarray(code, np.float64)
    return np.where(y <= 0.5, y**2 / 3, (np.exp((y - HLG_C) / HLG_A) + HLG_B) / 12)


def _hlg_scene_white() -> float:
    return float(hlg_scene(HLG_WHITE))


def to_srgb(light: ArrayLike) -> Light:
    """Return the sRGB codes of light; what is beyond 0 to 1 is cut."""
    x = np.clip(_float(light), 0, 1)
    bright = _float(1.055) * np.power(x, _float(1 / 2.4)) - _float(0.055)
    return np.where(x <= _float(0.0031308), _float(12.92) * x, bright)


def from_srgb(code: ArrayLike) -> Light:
    """Return the light of sRGB codes."""
    y = np.clip(_float(code), 0, 1)
    bright = np.power((y + _float(0.055)) / _float(1.055), _float(2.4))
    return np.where(y <= _float(0.04045), y / _float(12.92), bright)


def to_acescg(light: Light) -> Light:
    """Return BT.709 light (..., 3) as ACEScg."""
    moved: Light = light @ np.linalg.inv(np.array(_AP1_TO_BT709)).astype(np.float32).T
    return moved


def from_acescg(light: Light) -> Light:
    """Return ACEScg light (..., 3) as BT.709; colours outside of it are cut at 0."""
    moved: Light = np.maximum(light @ np.array(_AP1_TO_BT709, np.float32).T, 0)
    return moved


@functools.cache
def matrix_between(source: str, target: str) -> Light:
    """Return the (3, 3) matrix that takes linear RGB columns from primaries to others, both of white D65."""
    found: Light = (np.linalg.inv(_to_xyz(target)) @ _to_xyz(source)).astype(np.float32)
    return found


def _to_xyz(name: str) -> NDArray[np.float64]:
    """Return the matrix from linear RGB columns to CIE XYZ. Source: SMPTE RP 177."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in CHROMATICITIES[name]]).T
    white = np.array([D65[0] / D65[1], 1, (1 - D65[0] - D65[1]) / D65[1]])
    return columns * np.linalg.solve(columns, white)


def _float(value: ArrayLike) -> Light:
    return np.asarray(value, np.float32)
