"""Settings of a long take: the field `take` of a request. Planning makes the windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from soundstage.fields.record import Share, record, unit
from soundstage.request.inputs import MAX_FRAMES, PathText

MANIFEST = "take.json"  # in a take's folder: what the take is
WINDOWS = "window-*.safetensors"  # finished ones
ASKED = "asked"  # the key in it of the request as it was given, with the names of its files


@record
class Take:
    """Settings of a clip longer than the model makes at once, which is split into windows and joined."""

    window_frames: Annotated[int, Field(ge=17, le=MAX_FRAMES), unit("frames")] | None = None
    """Length of a window, 8k + 1 frames. Left out, the length the model makes best."""
    overlap_frames: Annotated[int, Field(ge=16, le=MAX_FRAMES, multiple_of=8), unit("frames")] | None = None
    """Frames that each window takes over from the one before. Left out, a quarter of a window."""
    strength: Share = 1.0
    """How closely the frames taken over are kept: 1 keeps them; less lets them change and crossfades."""
    reference: Share = 1.0
    """Strength at which later windows see the first frame of the take, placed just before them; 0 is off."""
    adain: Share = 0.0
    """How far the mean and deviation of each window's latents are matched to those of the first."""
    color: Share = 0.0
    """How far the colours of the finished frames are matched to those of the first window."""
    folder: PathText | None = None
    """A folder that keeps finished windows, so that a take that was stopped continues from there."""

    def __post_init__(self) -> None:
        if self.window_frames is not None and (self.window_frames - 1) % 8:
            raise ValueError(f"window_frames is {self.window_frames}; give 8k + 1 frames, 17 or more")


def stored_take(folder: str | Path) -> dict[str, Any]:
    """Return what a take's folder says of the take; nothing where it is no such folder."""
    try:
        found = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
