"""Name the parts of nano in the order in which they are trained, and the folders of their training."""

from __future__ import annotations

import os
from collections.abc import Sequence
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

# Shares of the time of a training of all parts.
SHARES = {
    "text": 0.05,
    "video-vae": 0.16,
    "audio-vae": 0.05,
    "vocoder": 0.22,
    "transformer": 0.30,
    "spatial-x2": 0.04,
    "spatial-x1.5": 0.03,
    "temporal-x2": 0.03,
    "preview": 0.03,
    "distilled": 0.09,
}
# Parts that must be exported before a part is trained on them.
CODECS = ("text", "video-vae", "audio-vae")
NEEDED = {part: () for part in ("text", "video-vae", "audio-vae")} | {
    "vocoder": ("audio-vae",),
    "transformer": CODECS,
    "spatial-x2": CODECS[1:],
    "spatial-x1.5": CODECS[1:],
    "temporal-x2": CODECS[1:],
    "preview": CODECS[1:],
    "distilled": (*CODECS, "transformer"),
}


def minutes_of(part: str, names: Sequence[str], left: float) -> float:
    """Return a part's minutes of those that are left for it and the parts behind it in `names`."""
    still = names[names.index(part) :]
    return max(0.0, left) * SHARES[part] / sum(SHARES[name] for name in still)


def state_folder(part: str) -> Path:
    """Return the folder of a part's training state: in $SOUNDSTAGE_TRAINING, or in the user's cache."""
    root = os.environ.get("SOUNDSTAGE_TRAINING") or platformdirs.user_cache_dir("soundstage")
    return Path(root) / "nano-training" / part


def weights_folder() -> Path:
    """Return the folder that finished parts are exported to, beside the states."""
    return state_folder("weights")
