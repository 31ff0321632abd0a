"""LoRAs merged into weights for good: one weight, or every weight of a conversion.

Source: docs/model/memory.md, "LoRA under low precision".
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from soundstage.errors import WeightsError
from soundstage.lora.dora import change_of
from soundstage.lora.files import LoraFile
from soundstage.lora.forms import LayerChange
from soundstage.lora.layers import Layer, group_of
from soundstage.types import Group
from soundstage.weights.layouts import Part, listing
from soundstage.weights.quantize import Quantized, quantize_weight, rounded


def merged(
    weight: Tensor | Quantized,
    changes: Sequence[tuple[LayerChange, float]],
    *,
    generator: torch.Generator | None = None,
) -> Tensor | Quantized:
    """Return a weight with changes, each at its strength, added in float32.

    weight: (out, in) in any float dtype, e4m3 by plain cast included, or quantized. The result has the same
    format; a quantized one gets new scales. generator: draws the random rounding to 8 bits, without which
    changes below half a step, 3 % of a weight in e4m3, would mostly be lost; None rounds to nearest. Always
    merge from pristine weights: repeated merges drift.
    """
    if isinstance(weight, Quantized):
        wide = _plus(weight.dequantize(), changes)
        return quantize_weight(wide, weight.format, weight.per, generator=generator)
    wide = _plus(weight.detach().to(torch.float32, copy=True), changes)
    if weight.dtype == torch.float8_e4m3fn:
        return rounded(wide, "fp8", generator)
    return wide.to(weight.dtype)


def _plus(wide: Tensor, changes: Sequence[tuple[LayerChange, float]]) -> Tensor:
    """Return a weight plus its changes, each as it is on the weight alone: a DoRA's depends on the weight."""
    alone = wide if all(pair.magnitude is None for pair, _ in changes) else wide.clone()
    for pair, strength in changes:
        wide += change_of(alone, pair.to(wide.device), strength)
    return wide


class Merge:
    """Merge LoRAs into weights one at a time, in any order: `merge(part, key, tensor)`, for a converter.

    loras: with their strengths. groups: multipliers for all of them. seed: decides the random rounding of
    8-bit weights, which does not depend on the order. After the last weight, `check` finds LoRAs that matched
    none.
    """

    def __init__(
        self,
        loras: Sequence[tuple[LoraFile, float]],
        *,
        groups: Mapping[Group, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.loras = list(loras)
        self.groups = dict(groups or {})
        self.seed = seed
        self._met: list[set[Layer]] = [set() for _ in self.loras]

    def __call__(self, part: Part, key: str, tensor: Tensor) -> Tensor:
        """Return the weight with its changes, or the tensor itself where no LoRA has any."""
        found = self.into(part, key, tensor)
        assert isinstance(found, Tensor)
        return found

    def into(self, part: Part, key: str, weight: Tensor | Quantized) -> Tensor | Quantized:
        """Return a weight, which may be quantized, with its changes, or itself where no LoRA has any."""
        values = weight.values if isinstance(weight, Quantized) else weight
        changes = self._of(part, key, tuple(values.shape))
        if not changes:
            return weight
        return merged(weight, changes, generator=_generator(self.seed, Layer(part, key), values.device))

    def check(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return for each LoRA the number of layers it changed, and the names of those it did not find.

        Raises WeightsError for one that changed none.
        """
        results = []
        for (lora, _), met in zip(self.loras, self._met, strict=True):
            left = (*lora.unknown, *(key for _, key in lora.layers.keys() - met))
            if not met:
                raise WeightsError(
                    f"{lora.source} matches no weight of this model (it is for {listing(left)}); "
                    "pass a LoRA of LTX-2.3"
                )
            results.append((len(met), tuple(sorted(left))))
        return results

    def _of(self, part: Part, key: str, shape: tuple[int, ...]) -> list[tuple[LayerChange, float]]:
        layer = Layer(part, key.removesuffix(".weight"))
        if layer.key == key:  # a bias or a table
            return []
        changes = []
        for (lora, strength), met in zip(self.loras, self._met, strict=True):
            pair = lora.layers.get(layer)
            if pair is None:
                continue
            lora.check_shape(layer, shape)
            met.add(layer)
            changes.append((pair, strength * self.groups.get(group_of(layer), 1.0)))
        return [change for change in changes if change[1] != 0]


def _generator(seed: int, layer: Layer, device: torch.device) -> torch.Generator:
    """Return a generator whose numbers depend on the layer and the kind of device, not on the order."""
    name = f"{layer.part}.{layer.key.removesuffix('.weight')}"
    return torch.Generator(device).manual_seed((seed << 32) + zlib.crc32(name.encode()))
