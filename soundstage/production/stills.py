"""A picture out of a shot's clip, which another shot is made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from soundstage.media.arrays import Pixels
from soundstage.media.in_memory import InMemory
from soundstage.media.probe import probe
from soundstage.request.inputs import Reference


def still(clip: Any, frame: int, path: Path | None) -> Any:
    """Return a frame of a clip: the pixels (H, W, 3), or where a path is given the .png file of them.

    clip: a path, or a clip in memory. Raises MediaError for a clip that cannot be read.
    """
    pixels = _frame(Reference(clip).video, frame)
    if path is None:
        return pixels
    from PIL import Image

    from soundstage.media.picture_files import save_picture

    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, Image.fromarray(np.ascontiguousarray(pixels)))
    return str(path)


def _frame(clip: str | InMemory, frame: int) -> Pixels:
    if isinstance(clip, InMemory):
        assert clip.frames is not None
        held: Pixels = clip.frames[frame]
        return held
    from soundstage.media.video import video_frames

    fps = probe(clip).fps or 1.0
    found: Any = next(video_frames(Path(clip), [frame / fps]))
    pixels: Pixels = found
    return pixels
