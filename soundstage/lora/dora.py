"""DoRA: a low-rank change whose rows are brought to trained magnitudes.

    W' = magnitude * (W + scale * up @ down) / norm of each row;    at strength s: W + s * (W' - W)

With gain = magnitude / norm, a layer's result y = x W^T changes by (gain - 1) * y + gain * scale * (x down^T)
up^T, so an adapter holds it without a copy of the weight. The norms follow from the weight, which is read for
them once.

Source: docs/model/checkpoints.md, "LoRA files"; arXiv 2402.09353.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from soundstage.lora.forms import LayerChange
from soundstage.lora.layers import Layer, LowRank
from soundstage.weights.layouts import Part, PartTensors
from soundstage.weights.quantize import QuantizedLinear
from soundstage.weights.read import VALUES_AT_ONCE, TensorReader


def row_norms(weight: Tensor, pair: LowRank | None = None) -> Tensor:
    """Return the norm of each row of a weight and, given a pair, its change: (out,) float32, no gradient.

    Some rows at a time, so that no second copy of the weight exists.
    """
    norms = torch.empty(weight.shape[0], device=weight.device)
    rows = max(1, VALUES_AT_ONCE // max(1, weight.shape[1]))
    with torch.no_grad():
        for start in range(0, len(norms), rows):
            part = weight[start : start + rows].float()
            if pair is not None:
                up, down = (factor.to(weight.device).float() for factor in (pair.up, pair.down))
                part = part + pair.scale * (up[start : start + rows] @ down)
            norms[start : start + rows] = part.norm(dim=1)
    return norms


def gain_of(weight: Tensor, pair: LowRank) -> Tensor:
    """Return a DoRA pair's magnitudes over the row norms of the changed weight, (out,) float32."""
    assert pair.magnitude is not None
    magnitude = pair.magnitude.to(weight.device).float()
    return magnitude / row_norms(weight, pair).clamp_(min=torch.finfo(torch.float32).tiny)


def change_of(weight: Tensor, pair: LayerChange, strength: float = 1.0) -> Tensor:
    """Return by how much a pair changes a weight, (out, in) float32. weight: as it was before any change."""
    delta = pair.delta()
    if isinstance(pair, LowRank) and pair.magnitude is not None:
        wide, gain = weight.float(), gain_of(weight, pair)[:, None]
        delta = delta.mul_(gain).add_(wide * (gain - 1))
    return delta.mul_(strength)


def wide_weight(
    layer: Layer, module: nn.Linear | QuantizedLinear, stored: Mapping[Part, PartTensors]
) -> Tensor | None:
    """Return a layer's weight in full width, from disk where it is in no memory; None if it is in neither.

    stored: places of the parts' weights on disk.
    """
    if isinstance(module, QuantizedLinear) and not module.weight.is_meta:
        return module.quantized.dequantize()
    if not module.weight.is_meta:
        return module.weight.detach()
    tensor = stored.get(layer.part, {}).get(f"{layer.key}.weight")
    if tensor is None:
        return None
    with TensorReader() as files:
        return files.value(tensor, torch.float32, torch.device("cpu"))
