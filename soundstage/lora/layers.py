"""Linear layers that a LoRA changes, and the low-rank change of one.

Every layer belongs to a group, which has a multiplier of its own: `video` and `audio` are the two streams,
`a2v` and `v2a` the attention between them (into video, into audio), `text` the connectors and projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

from soundstage.types import Group, Modality
from soundstage.weights.layouts import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A layer's own product: x (..., in) and a matrix (out, in) -> (..., out).
Multiply = Callable[["Tensor", "Tensor"], "Tensor"]


class Layer(NamedTuple):
    """A linear layer of the model: `key` is its module's name inside the part."""

    part: Part
    key: str


@dataclass(frozen=True)
class LowRank:
    """The change of one layer's weight, scale * up @ down, with factors in the file's dtype.

    With magnitudes it is DoRA: each row of the changed weight is then brought to its magnitude; see dora.py.
    """

    down: Tensor  # (rank, in)
    up: Tensor  # (out, rank)
    scale: float = 1.0
    magnitude: Tensor | None = None  # (out,)

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """Return the tensors whose product the change is."""
        return self.down, self.up

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the weight it changes, (out, in)."""
        return self.up.shape[0], self.down.shape[1]

    def apply(self, x: Tensor, multiply: Multiply, tokens: Tensor | None = None) -> Tensor:
        """Return the change of a layer's result for x (..., in), without scale and magnitudes: (..., out).

        tokens: a weight for each row, (..., 1), None for 1. Factors in training, kept wider, are multiplied
        in the dtype of x.
        """
        down, up = self.down, self.up
        if down.requires_grad or up.requires_grad:
            down, up = down.to(x.dtype), up.to(x.dtype)
        inner = multiply(x.to(down.dtype), down)
        return multiply(inner if tokens is None else inner * tokens.to(inner.dtype), up)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Return the same change on a device, in a dtype; magnitudes stay where they are."""
        return replace(self, down=moved(self.down, device, dtype), up=moved(self.up, device, dtype))

    def delta(self, strength: float = 1.0) -> Tensor:
        """Return the low-rank change of the weight, (out, in) float32; of DoRA before the magnitudes."""
        return (self.up.float() @ self.down.float()).mul_(self.scale * strength)

    def norm(self) -> float:
        """Return the Frobenius norm of `delta()`, from rank x rank products only."""
        up, down = self.up.double(), self.down.double()
        square = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0)
        return abs(self.scale) * math.sqrt(square.item())


def moved(factor: Tensor, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    """Return a tensor on a device, in a dtype, None for its own; itself where nothing is to be changed."""
    return factor.to(device, dtype or factor.dtype)


class Rows(NamedTuple):
    """The rows of a layer's input: tokens of the modality (per_token), or its text or noise levels."""

    modality: Modality
    per_token: bool


def group_of(layer: Layer) -> Group:
    """Return the group whose multiplier applies to a layer."""
    if layer.part != "transformer":
        return "text"
    if "audio_to_video_attn" in layer.key or "a2v_gate" in layer.key:
        return "a2v"
    if "video_to_audio_attn" in layer.key or "v2a_gate" in layer.key:
        return "v2a"
    return "audio" if "audio" in layer.key else "video"


def rows_of(layer: Layer) -> Rows | None:
    """Return what a layer's rows are; None outside the transformer, where there are no tokens of a clip."""
    if layer.part != "transformer":
        return None
    names = layer.key.split(".")
    if names[0] != "transformer_blocks":
        modality: Modality = "audio" if "audio" in names[0] or "v2a" in names[0] else "video"
        return Rows(modality, per_token="adaln" not in names[0])
    module, from_other = names[2], names[3] in ("to_k", "to_v")
    if module == "audio_to_video_attn":
        return Rows("audio" if from_other else "video", per_token=True)
    if module == "video_to_audio_attn":
        return Rows("video" if from_other else "audio", per_token=True)
    is_text = from_other and module.endswith("attn2")
    return Rows("audio" if module.startswith("audio_") else "video", per_token=not is_text)
