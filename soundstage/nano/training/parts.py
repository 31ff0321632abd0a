"""The parts of nano in the order in which they are trained, and where their state lives."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PARTS = ("video-vae",)


def state_folder(part: str) -> Path:
    """Where a part's training state lives: $SOUNDSTAGE_TRAINING, or the user's cache folder."""
    root = os.environ.get("SOUNDSTAGE_TRAINING") or platformdirs.user_cache_dir("soundstage")
    return Path(root) / "nano-training" / part


def train(part: str) -> bool:
    """Train one part to the end of its schedule, resuming its state. True when it is complete."""
    from soundstage.nano.training import video_vae
    from soundstage.nano.training.loop import Trainer

    vae = video_vae.build()
    trainer = Trainer(part, vae, video_vae.SCHEDULE, state_folder(part))
    return trainer.fit(video_vae.VideoVaeLoss(vae))
