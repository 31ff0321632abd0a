"""Terms and weights of the loss beside the velocities: steady frames, the balance of sound and picture."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.training.tuning.config import Crepa
from soundstage.types import Modality

DECAY = 0.99  # of running means
SOUND_SHARE = 0.33  # of the sound's loss in the picture's, where they are balanced


class SteadyFrames(nn.Module):
    """Hold a block's frames to those of a later block and their neighbours (CREPA).

    The projector is trained beside the LoRA and written to no file. Source: Hwang et al., "Cross-frame
    representation alignment for fine-tuning video diffusion models" (2025).
    """

    def __init__(self, config: Crepa, width: int, num_blocks: int) -> None:
        super().__init__()
        self.config = config
        self.student = min(int(config.student * num_blocks), num_blocks - 1)
        self.teacher = min(int(config.teacher * num_blocks), num_blocks - 1)
        self.projector = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, seen: dict[int, Tensor], frames: int, own: int) -> Tensor | None:
        """Return the mean similarity of frames, to be raised; None for a single frame.

        seen: states (B, N, D) after blocks. own: tokens of the clip itself, in `frames` latent frames.
        """
        if frames < 2:
            return None
        student = _frames_of(self.projector(seen[self.student][:, :own].float()), frames)
        teacher = _frames_of(seen[self.teacher][:, :own].detach().float(), frames)
        similar = student @ teacher.mT  # (B, F, F)
        places = torch.arange(frames, device=similar.device)
        away = (places[:, None] - places[None, :]).abs()
        weights = torch.where(away <= self.config.neighbours, torch.exp(-away.float()), 0.0)
        return (similar * weights).sum(dim=(1, 2)).mean() / weights.sum()


def _frames_of(states: Tensor, frames: int) -> Tensor:
    """Return the direction of each frame's mean, (B, F, D), from tokens (B, N, D)."""
    return F.normalize(torch.unflatten(states, 1, (frames, -1)).mean(dim=2), dim=2)


def is_on(config: Crepa, similarity: float, notes: dict[str, Any]) -> bool:
    """Return whether frames are still held: until their running mean has passed the limit once."""
    kept = notes.setdefault("crepa", {"mean": 0.0, "steps": 0, "off": False})
    if kept["off"]:
        return False
    kept["steps"] += 1
    kept["mean"] += (1 - DECAY) * (similarity - kept["mean"])
    kept["off"] = kept["mean"] / (1 - DECAY ** kept["steps"]) > config.until
    return not kept["off"]


def balanced_weight(losses: dict[Modality, float], notes: dict[str, Any]) -> float:
    """Return the weight of the sound that makes its loss a third of the picture's, as running means."""
    kept: dict[str, float] = notes.setdefault("balance", {})
    for name, value in losses.items():
        if math.isfinite(value):
            kept[name] = DECAY * kept.get(name, value) + (1 - DECAY) * value
    if not {"video", "audio"} <= set(kept):
        return 1.0
    return SOUND_SHARE * kept["video"] / max(kept["audio"], 1e-8)
