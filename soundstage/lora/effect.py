"""Measure what a LoRA changes: how much by group and by layer, and how many ranks of it matter.

    effect = measure(lora)                  # the change alone
    effect = measure(lora, stored)          # against a model's weights, read one at a time

A report for every run measures a few layers, see report.py; this is all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from soundstage.errors import WeightsError
from soundstage.lora.asked import OnShare, RankLimit
from soundstage.lora.dora import change_of
from soundstage.lora.factoring import singular_values
from soundstage.lora.files import LoraFile
from soundstage.lora.layers import Layer, group_of
from soundstage.types import GROUPS, Group
from soundstage.weights.layouts import Part, PartTensors, listing
from soundstage.weights.read import TensorReader

NEARLY_ALL = RankLimit(energy=0.9)  # of the change: how many ranks hold it
CPU = torch.device("cpu")


@dataclass(frozen=True)
class LayerEffect:
    """The change of one layer at strength 1. weight: the norm of its weight, None where no model is given.

    holds: how many ranks hold nine tenths of the low-rank change's energy, the sum of its squares.
    """

    layer: Layer
    rank: int
    holds: int
    change: float
    weight: float | None

    @property
    def name(self) -> str:
        return ".".join(self.layer) if self.layer.part != "transformer" else self.layer.key

    @property
    def share(self) -> float | None:
        """Return the norm of the change over that of the weight."""
        return None if self.weight is None else self.change / max(self.weight, 1e-30)


@dataclass(frozen=True)
class GroupEffect:
    """The change of a group's layers.

    share: its norm over that of the weights. part: its energy over that of the whole LoRA.
    """

    layers: int
    ranks: tuple[int, int]
    holds: float
    change: float
    share: float | None
    part: float


@dataclass(frozen=True)
class LoraEffect:
    """The changes of a LoRA. unmatched: layers that the model does not have."""

    layers: tuple[LayerEffect, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[Group, GroupEffect]:
        """Return the effect by group, those that it changes."""
        total = sum(layer.change**2 for layer in self.layers)
        found = {}
        for group in GROUPS:
            own = [layer for layer in self.layers if group_of(layer.layer) == group]
            if not own:
                continue
            energy = sum(layer.change**2 for layer in own)
            weights = [layer.weight for layer in own if layer.weight is not None]
            share = math.sqrt(energy / max(sum(w**2 for w in weights), 1e-30)) if weights else None
            ranks = [layer.rank for layer in own]
            found[group] = GroupEffect(
                layers=len(own),
                ranks=(min(ranks), max(ranks)),
                holds=sum(layer.holds for layer in own) / len(own),
                change=math.sqrt(energy),
                share=share,
                part=energy / total if total else 0.0,
            )
        return found

    def most(self, count: int) -> list[LayerEffect]:
        """Return the layers that change most, against their weights where those are known."""
        return sorted(self.layers, key=lambda one: -(one.change if one.share is None else one.share))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        groups = {
            name: {
                "layers": group.layers,
                "rank": list(group.ranks),
                "holds_90_percent": round(group.holds, 2),
                "change": group.change,
                "share": group.share,
                "part": group.part,
            }
            for name, group in self.groups.items()
        }
        layers = [
            {"layer": one.name, "rank": one.rank, "change": one.change, "share": one.share}
            for one in self.most(len(self.layers))
        ]
        return {"groups": groups, "layers": layers, "unmatched": list(self.unmatched)}


def measure(
    lora: LoraFile,
    stored: Mapping[Part, PartTensors] | None = None,
    *,
    on_progress: OnShare | None = None,
) -> LoraEffect:
    """Measure every layer of a LoRA. stored: a model's tensors, from `weights.layouts.find_parts`.

    Raises WeightsError for a LoRA that matches no layer of the model, or does not fit one.
    """
    found, unmatched = [], list(lora.unknown)
    for number, layer in enumerate(lora.layers):
        tensor = None if stored is None else stored.get(layer.part, {}).get(f"{layer.key}.weight")
        if stored is not None and tensor is None:
            unmatched.append(".".join(layer))
            continue
        if tensor is not None:
            lora.check_shape(layer, tensor.entry.shape)
        lora.check_values([layer], training=True)
        pair = lora.layers[layer]
        values = singular_values(pair)
        holds = NEARLY_ALL.of(values, float(values.double().square().sum()))
        change, weight = float(values.double().norm()), None
        if tensor is not None:
            with TensorReader() as files:
                wide = files.value(tensor, torch.float32, CPU)
            weight = float(torch.linalg.vector_norm(wide))
            if pair.magnitude is not None:
                change = float(torch.linalg.vector_norm(change_of(wide, pair)))
        found.append(LayerEffect(layer, pair.rank, holds, change, weight))
        if on_progress is not None:
            on_progress((number + 1) / len(lora.layers))
    if not found:
        raise WeightsError(
            f"{lora.source} matches no layer of this model (it is for {listing(unmatched)}); "
            "pass a LoRA of LTX-2.3"
        )
    return LoraEffect(tuple(found), tuple(sorted(unmatched)))
