"""The factors of a LoRA in training: a module of their own, beside the model that they change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from soundstage.lora.files import LoraFile
from soundstage.lora.layers import Layer, LowRank


@dataclass(frozen=True)
class FactorShape:
    """The size of one layer's factors. alpha: what their product is multiplied by, over the rank."""

    rank: int
    alpha: float
    num_in: int
    num_out: int


class Factors(nn.Module):
    """The float32 factors of the adapted layers. The layers are not part of it, nor of a training state.

    `down` is drawn as a linear layer's weight is, `up` begins at zero: fresh factors change nothing.
    """

    def __init__(
        self, shapes: Mapping[Layer, FactorShape], norms: Mapping[Layer, Tensor] | None = None
    ) -> None:
        """Draw the factors with PyTorch's own generator, in the order of the layers.

        norms: those of the rows of each layer's weight, which are trained too (DoRA); None trains none.
        """
        super().__init__()
        self.layers = list(shapes)
        self.scales = [shape.alpha / shape.rank for shape in shapes.values()]
        self.downs = nn.ParameterList(
            nn.init.kaiming_uniform_(torch.empty(shape.rank, shape.num_in), a=math.sqrt(5))
            for shape in shapes.values()
        )
        self.ups = nn.ParameterList(torch.zeros(shape.num_out, shape.rank) for shape in shapes.values())
        self.magnitudes = nn.ParameterList() if norms is None else nn.ParameterList(norms[x] for x in shapes)

    def take(self, pairs: Mapping[Layer, LowRank]) -> None:
        """Become these factors, of the same layers and sizes."""
        with torch.no_grad():
            for layer, down, up, scale in zip(self.layers, self.downs, self.ups, self.scales, strict=True):
                down.copy_(pairs[layer].down)
                up.copy_(pairs[layer].up.float() * (pairs[layer].scale / scale))

    def lora(self) -> LoraFile:
        """Return the factors as a LoRA, which shares their memory."""
        return LoraFile(self.pairs(dict(self.named_parameters())))

    def pairs(self, values: Mapping[str, Tensor]) -> dict[Layer, LowRank]:
        """Return the pairs of a state dict's values by layer."""
        return {
            layer: LowRank(values[f"downs.{i}"], values[f"ups.{i}"], scale, values.get(f"magnitudes.{i}"))
            for i, (layer, scale) in enumerate(zip(self.layers, self.scales, strict=True))
        }
