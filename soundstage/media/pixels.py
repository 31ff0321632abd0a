"""A Pillow picture as 8-bit RGB, the way a viewer shows it: upright, scaled to 8 bits, on black, in sRGB.

Deeper samples are scaled, not cut: 16-bit grey by 65535, TIFF by the bits that it states, floating point
from 0 to 1. Transparent parts show black. A colour profile is applied in the picture's own colour space; one
that is damaged or is for another space is left aside, and the picture is read as sRGB.
"""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("soundstage.media")

ORIENTATION = 0x0112  # the EXIF and TIFF tag
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
WHITE_IS_ZERO, UNSIGNED = 0, 1
# The colour space a profile is for, as ICC.1 writes it -> the Pillow mode of such pictures.
PROFILE_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
# Modes without a form of their own below -> one that has it.
NEAREST_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
WITH_ALPHA = {"LA": "L", "RGBA": "RGB"}
OPAQUE = 255
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")


def rgb_pixels(
    picture: Image.Image, at_most: int | None = None, notices: list[str] | None = None
) -> NDArray[np.uint8]:
    """Return the picture as (H, W, 3) uint8 RGB.

    at_most: pixels to keep; a larger picture is averaged down by a whole factor. notices: what was changed
    that its owner may not expect is added here. Raises whatever Pillow raises for a picture that cannot be
    decoded.
    """
    notices = [] if notices is None else notices
    picture.load()
    turn = orientation(picture)  # after loading: Pillow turns TIFF itself, and then says so
    profile = picture.info.get("icc_profile")
    plain = _plain(picture, notices)
    if at_most is not None and plain.width * plain.height > at_most:
        plain = plain.reduce(_factor(plain.size, at_most))
    alpha = plain.getchannel("A") if plain.mode in WITH_ALPHA else None
    colour = plain.convert(WITH_ALPHA[plain.mode]) if alpha is not None else plain
    shown = _in_srgb(colour, profile, notices)
    if alpha is not None and alpha.getextrema()[0] != OPAQUE:
        notices.append("transparent parts are shown on black")
        shown = _on_black(shown, alpha)
    return np.asarray(_turned(shown, turn))


def orientation(picture: Image.Image) -> int:
    """Return how a picture is to be turned, 1 (not at all) to 8, as EXIF numbers it; 1 for damaged EXIF."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception as error:
        log.debug("damaged EXIF left aside: %r", error)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(picture: Image.Image, turn: int) -> Image.Image:
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return picture.transpose(ways[turn]) if turn in ways else picture


def _plain(picture: Image.Image, notices: list[str]) -> Image.Image:
    """Return the picture in one of the modes L, LA, RGB, RGBA, CMYK and LAB, 8 bits each."""
    if picture.mode in DEEP_MODES:
        return _eight_bits(picture, notices)
    if picture.mode == "P":
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if "transparency" in picture.info and picture.mode in ("1", "L", "RGB"):  # one colour that is not shown
        return picture.convert("RGBA" if picture.mode == "RGB" else "LA")
    if picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB"):
        return picture
    return picture.convert(NEAREST_MODES.get(picture.mode, "RGB"))


def _eight_bits(picture: Image.Image, notices: list[str]) -> Image.Image:
    """Return a grey picture of deeper samples as L, or as LA where one value of it is not shown."""
    from PIL import Image

    values = np.asarray(picture)
    tags: Any = getattr(picture, "tag_v2", {})
    if picture.mode == "I" and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED and tags:
        values = values.view(np.uint32)
    white = _white(picture, values, tags, notices)
    if values.dtype.itemsize == 2:
        grey = _scaled(np.arange(65536), white)[values]
    else:
        strips = np.array_split(values, len(values) // 64 + 1)  # float64 of all at once would be large
        grey = np.concatenate([_scaled(strip, white) for strip in strips])
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    shown = Image.fromarray(grey)
    hidden = picture.info.get("transparency")
    if isinstance(hidden, int):
        shown.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return shown


def _scaled(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Map 0 to white onto 0 to 255; clip values beyond, and show those that are not numbers as black."""
    parts = np.nan_to_num(values.astype(np.float64) / white, nan=0.0, posinf=1.0, neginf=0.0)
    return (np.clip(parts, 0, 1) * 255 + 0.5).astype(np.uint8)


def _white(picture: Image.Image, values: NDArray[Any], tags: Any, notices: list[str]) -> float:
    """Return the value that is white: by the bits that the file states, where they say.

    Numbers of 32 bits, whole or floating, often hold a picture of fewer: of what is in use, 0 to 1 (floating
    point), 0 to 255, 0 to 65535 and all 32 bits, the narrowest range that holds the picture is taken.
    """
    if picture.mode == "F":
        finite = values[np.isfinite(values)]
        if finite.size == 0 or np.median(finite) <= 1:  # lights may lie above 1
            return 1.0
        white = 255.0 if finite.max() <= 255 else 65535.0
    else:
        bits = int(tags.get(BITS_PER_SAMPLE, (16,))[0])
        if bits <= 16 and (tags or picture.format is not None or picture.mode != "I"):
            signed = values.dtype.kind == "i" and bool(tags)
            return float(2 ** (bits - signed) - 1)
        full = float(np.iinfo(values.dtype).max)
        white = next((w for w in (255.0, 65535.0) if values.max() <= w), full)
    notices.append(f"its 32-bit numbers are read as 0 to {white:g}")
    return white


def _factor(size: tuple[int, int], at_most: int) -> int:
    factor = 2
    while -(-size[0] // factor) * -(-size[1] // factor) > at_most:
        factor += 1
    return factor


def _in_srgb(colour: Image.Image, profile: bytes | None, notices: list[str]) -> Image.Image:
    """Return a picture without alpha as RGB, by its profile where that fits."""
    from PIL import ImageCms

    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = str(own.profile.xcolor_space).strip()
            if PROFILE_MODES.get(space) == colour.mode:
                return _transformed(colour, own)
            notices.append(f"its colour profile is for {space}, not {colour.mode}, and is left aside")
        except Exception as error:
            log.debug("a colour profile is left aside: %r", error)
            notices.append("its colour profile is damaged and left aside")
    if colour.mode == "LAB":
        return _transformed(colour, ImageCms.createProfile("LAB"))
    return colour.convert("RGB")


def _transformed(colour: Image.Image, own: Any) -> Image.Image:
    from PIL import ImageCms

    moved = ImageCms.profileToProfile(colour, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert moved is not None  # only in-place work returns nothing
    return moved


def _on_black(shown: Image.Image, alpha: Image.Image) -> Image.Image:
    from PIL import Image

    page = Image.new("RGB", shown.size)
    page.paste(shown, mask=alpha)
    return page
