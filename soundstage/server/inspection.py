"""Find out by its content what an uploaded file is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError

WEIGHTS = "application/vnd.safetensors"


@dataclass(frozen=True)
class Inspected:
    """The media type of a file, and facts of it under the names of an asset's fields."""

    media_type: str
    info: dict[str, Any] = field(default_factory=dict)


def inspect(path: Path, purpose: str) -> Inspected:
    """Return what a file is. Raises MediaError for what is neither a picture, a clip, a sound nor a LoRA."""
    from soundstage.media.probe import probe

    if purpose == "lora":
        return Inspected(WEIGHTS)
    found = probe(str(path))
    info = {
        "width": found.width or None,
        "height": found.height or None,
        "num_frames": found.num_frames or None,
        "fps": found.fps,
        "has_sound": found.sound_s is not None,
    }
    if not found.num_frames and found.sound_s is None:
        raise MediaError("the file holds neither a picture nor a sound")
    kind = "audio/wav" if not found.num_frames else "image/png" if found.fps is None else "video/mp4"
    return Inspected(kind, info)
