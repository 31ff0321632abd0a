"""The parts of nano in the order in which they are trained, and where their state lives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs


def state_folder(part: str) -> Path:
    """Where a part's training state lives: $SOUNDSTAGE_TRAINING, or the user's cache folder."""
    root = os.environ.get("SOUNDSTAGE_TRAINING") or platformdirs.user_cache_dir("soundstage")
    return Path(root) / "nano-training" / part


def weights_folder() -> Path:
    """Where finished parts are written."""
    return state_folder("weights")


def train(part: str) -> bool:
    """Train one part to the end of its schedule, resuming its state. True when it is complete."""
    return _TRAIN[part]()


def _train_video_vae() -> bool:
    from soundstage.nano.training import video_vae
    from soundstage.nano.training.loop import Trainer

    vae = video_vae.build()
    trainer = Trainer("video-vae", vae, video_vae.SCHEDULE, state_folder("video-vae"))
    return trainer.fit(video_vae.VideoVaeLoss(vae))


def _train_text() -> bool:
    from soundstage.nano.training import text
    from soundstage.nano.training.loop import Trainer

    folder = state_folder("text")
    tokenizer = text.stored_tokenizer(folder)
    model = text.build(tokenizer.get_vocab_size())
    trainer = Trainer("text", model, text.SCHEDULE, folder)
    complete = trainer.fit(text.TextLoss(model, tokenizer))
    if complete:
        text.export(trainer.averaged_weights(), tokenizer, weights_folder() / "text")
    return complete


_TRAIN: dict[str, Callable[[], bool]] = {
    "video-vae": _train_video_vae,
    "text": _train_text,
}
PARTS = tuple(_TRAIN)
