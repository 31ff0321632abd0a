"""High dynamic range: how light is decoded, written and shown.

The field `output` of a request. A curve turns what the model decodes into light (light.py); a format says
what is written; the rest is how its preview is shown in standard range.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeGuard

import numpy as np
from pydantic import Field

from soundstage.fields.record import record, unit
from soundstage.media.arrays import Light, Pixels
from soundstage.media.light import CurveName, from_srgb, to_srgb

HdrFormat = Literal["exr", "exr-logc3", "prores4444", "hlg"]
ToneMap = Literal["reinhard", "clip"]
MAX_STOPS = 20
ARCHIVE = "zip"  # of a server's EXR files: the frames in a folder of this name, and a preview with the sound
ARCHIVE_FRAMES, ARCHIVE_PREVIEW = "light", "preview.mp4"
BRIGHTEST = 1e4  # of exposed light, where the tone map has long reached white


@record
class Hdr:
    """High dynamic range of the picture: its file, and its preview in standard range."""

    format: HdrFormat = "exr"
    """High dynamic range in this form, beside a preview in standard range: exr is linear light in OpenEXR
    files of 16-bit floating point, exr-logc3 the same files in the LogC3 curve, prores4444 a LogC3 film for
    grading, hlg an HEVC film that televisions show."""
    curve: CurveName | None = None
    """The curve in which the model makes its picture. Left out, what the LoRA's file says, else logc3."""
    exposure: Annotated[float, Field(ge=-MAX_STOPS, le=MAX_STOPS), unit("stops")] = 0.0
    """Exposure of the preview; 1 makes it twice as bright. The files keep their light."""
    tone_map: ToneMap = "reinhard"
    """How light becomes the preview: reinhard brings all of it into standard range, clip cuts off what is
    brighter than white."""
    space: str | None = None
    """Colour space of EXR files: acescg, or one that ocio has. Left out, linear BT.709."""
    ocio: str | None = None
    """OpenColorIO config for space: a .ocio file, or the name of a built-in one, such as
    studio-config-latest."""

    @property
    def codec(self) -> str:
        """Return the codec of its file: a name of `formats.CODECS`."""
        return {"exr": "linear", "exr-logc3": "logc3"}.get(self.format, self.format)

    @property
    def ending(self) -> str:
        """Return the usual ending of its file."""
        return {"prores4444": ".mov", "hlg": ".mp4"}.get(self.format, ".exr")

    @property
    def endings(self) -> tuple[str, ...]:
        """Return all endings that its file may have."""
        return (".mp4", ".mov", ".mkv") if self.format == "hlg" else (self.ending,)

    def __post_init__(self) -> None:
        if self.space is not None and self.format != "exr":
            raise ValueError(
                f"output.space is {self.space!r}, and {self.format} has a colour space of its own; leave it "
                "out, or give output.format exr"
            )
        if self.ocio is not None and self.space is None:
            raise ValueError(
                f"output.ocio is {self.ocio!r}, and nothing would be read of it; give output.space"
            )


def shown(frame: Pixels | Light, hdr: Hdr) -> Pixels:
    """Return a frame in standard range, 8-bit sRGB: light as `hdr` says, one of 8 bits as it is."""
    if is_pixels(frame):
        return frame
    exposed = np.minimum(np.asarray(frame, np.float32) * np.float32(2.0**hdr.exposure), np.float32(BRIGHTEST))
    if hdr.tone_map == "reinhard":
        exposed = exposed / (1 + exposed)
    pixels: Pixels = np.rint(to_srgb(exposed) * 255).astype(np.uint8)
    return pixels


def light_of(frame: Pixels | Light) -> Light:
    """Return the light of a frame: of 8 bits, by the sRGB curve; light as it is."""
    return from_srgb(frame / np.float32(255)) if is_pixels(frame) else np.asarray(frame, np.float32)


def is_pixels(frame: Pixels | Light) -> TypeGuard[Pixels]:
    """Return whether a frame is of 8 bits, and not light."""
    return frame.dtype == np.uint8
