"""Colour spaces of OpenColorIO: from linear BT.709 to one that a config names."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from soundstage.errors import MediaError, MissingExtraError, listed
from soundstage.media.arrays import Light
from soundstage.media.light import to_acescg

ACESCG = "acescg"
OWN_NAMES = (  # of linear BT.709, in the configs of several years
    "lin_rec709_scene",
    "lin_rec709",
    "Linear Rec.709 (sRGB)",
    "Utility - Linear - Rec.709",
    "Utility - Linear - sRGB",
    "lin_srgb",
)


def in_space(light: Light, space: str | None, config: str | None) -> Light:
    """Return linear BT.709 light (H, W, 3) in a colour space.

    space: None is light as it is. config: None knows acescg only.
    """
    if space is None:
        return light
    if config is None:
        return to_acescg(light)
    moved = np.ascontiguousarray(light, np.float32).copy()
    _processor(config, space).applyRGB(moved)
    return moved


def check_space(space: str | None, config: str | None) -> None:
    """Raise MediaError for a space that is not known, and for a config that cannot be read."""
    if space is None:
        return
    if config is not None:
        _processor(config, space)
    elif space != ACESCG:
        raise MediaError(
            f"output.space is {space!r}; give {ACESCG}, or a space of an OpenColorIO config by output.ocio"
        )


@functools.lru_cache(maxsize=16)
def _processor(config: str, space: str) -> Any:
    """Return what moves pixels from linear BT.709 to a space of a config."""
    found = _config(config)
    names = list(found.getColorSpaceNames())
    if found.getColorSpace(space) is None:
        raise MediaError(
            f"output.space is {space!r}; the colour spaces of {config} are {listed(space, names)}"
        )
    own = next((name for name in OWN_NAMES if found.getColorSpace(name) is not None), None)
    if own is None:
        raise MediaError(
            f"{config} has no linear space of BT.709 by a usual name ({', '.join(OWN_NAMES[:2])}); give "
            "another config"
        )
    import PyOpenColorIO

    try:
        return found.getProcessor(own, space).getDefaultCPUProcessor()
    except PyOpenColorIO.Exception as error:
        raise MediaError(
            f"{config} cannot bring {own} to {space} ({_line(error)}); give another space"
        ) from error


def _config(config: str) -> Any:
    try:
        import PyOpenColorIO
    except ImportError as error:
        raise MissingExtraError("hdr", "a colour space of OpenColorIO") from error
    path = Path(config)
    names = [name for name, *_ in PyOpenColorIO.BuiltinConfigRegistry().getBuiltinConfigs()]
    names += [f"{kind}-config-latest" for kind in ("cg", "studio")]
    try:
        if path.is_file():
            return PyOpenColorIO.Config.CreateFromFile(str(path))
        if config in names:
            return PyOpenColorIO.Config.CreateFromFile(f"ocio://{config}")
    except PyOpenColorIO.Exception as error:
        raise MediaError(f"{config} cannot be read as an OpenColorIO config ({_line(error)})") from error
    raise MediaError(
        f"output.ocio is {config!r}; give a .ocio file that is there, or {listed(config, names)}"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
