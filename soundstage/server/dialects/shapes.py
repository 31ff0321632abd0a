"""Sizes in the words of services: resolutions, aspect ratios, names of shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from soundstage.errors import RequestError
from soundstage.server.dialects.draft import Draft, bad

# Shapes that have a name in a request; others are worked out at the model's own area.
NAMED = {"16:9": "landscape", "9:16": "portrait", "1:1": "square"}
RATIO = re.compile(r"(\d{1,3}):(\d{1,3})")
PIXELS = re.compile(r"(\d{1,5})\s*[xX*]\s*(\d{1,5})")
LINES = re.compile(r"\d{3,4}p|4k", re.IGNORECASE)


def set_pixels(draft: Draft, name: str) -> bool:
    """Read a size such as 1280x720; return whether one was given."""
    value = draft.take(name, "size")
    if value is None:
        return False
    found = PIXELS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise bad(name, value, "width and height, such as 1280x704")
    draft.request["size"] = [int(found[1]), int(found[2])]
    return True


def set_shape(draft: Draft, resolution: str | None, aspect: str | None, own: tuple[int, int]) -> None:
    """Set the size for a resolution such as 720p and an aspect ratio such as 16:9, of which either may lack.

    own: the model's own size.
    """
    if resolution is not None:
        draft.decided("size", "resolution")
        if LINES.fullmatch(resolution) is None:
            raise bad("resolution", resolution, "lines of the picture, such as 720p or 1080p")
    elif aspect is not None:
        draft.decided("size", "aspect_ratio")
    if aspect is None:
        if resolution is not None:
            draft.request["size"] = resolution.lower()
        return
    shape = NAMED.get(aspect)
    if shape is not None:
        draft.request["size"] = shape if resolution is None else f"{resolution.lower()}-{shape}"
        return
    if resolution is not None:
        raise RequestError(
            f"aspect_ratio is {aspect}, and resolution is given; with a resolution give 16:9, 9:16 or 1:1, "
            "or give the size in pixels",
            field="aspect_ratio",
        )
    draft.request["size"] = of_ratio(aspect, own)


def of_ratio(aspect: str, own: tuple[int, int]) -> list[int]:
    """Return a size of a shape at the area of the model's own size."""
    found = RATIO.fullmatch(aspect)
    if found is None or not 1 / 4 <= int(found[1]) / max(1, int(found[2])) <= 4:
        raise bad("aspect_ratio", aspect, "a shape from 1:4 to 4:1, such as 16:9")
    ratio, area = int(found[1]) / int(found[2]), own[0] * own[1]
    return [max(32, round(math.sqrt(area * ratio))), max(32, round(math.sqrt(area / ratio)))]


def own_size(model: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size that a model has by itself. model: as `Jobs.models` lists it."""
    width, height = model.get("defaults", {}).get("size", (1280, 704))
    return int(width), int(height)
