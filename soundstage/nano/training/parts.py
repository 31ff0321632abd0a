"""Name the parts of nano in the order in which they are trained, and the folders of their training."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PARTS = (
    "text",
    "video-vae",
    "audio-vae",
    "vocoder",
    "transformer",
    "spatial-x2",
    "spatial-x1.5",
    "temporal-x2",
    "preview",
    "distilled",
)


def state_folder(part: str) -> Path:
    """Return the folder of a part's training state: in $SOUNDSTAGE_TRAINING, or in the user's cache."""
    root = os.environ.get("SOUNDSTAGE_TRAINING") or platformdirs.user_cache_dir("soundstage")
    return Path(root) / "nano-training" / part


def weights_folder() -> Path:
    """Return the folder that finished parts are exported to, beside the states."""
    return state_folder("weights")
