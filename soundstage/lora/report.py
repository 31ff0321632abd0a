"""The report on a LoRA: layers, ranks, base model, and by how much it changes the weights of each group."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from soundstage.lora.dora import change_of, wide_weight
from soundstage.lora.files import LoraFile
from soundstage.lora.forms import LayerChange
from soundstage.lora.layers import Layer, group_of
from soundstage.lora.metadata import LoraReferences
from soundstage.types import GROUPS, Group
from soundstage.weights.layouts import Part, PartTensors, listing
from soundstage.weights.quantize import QuantizedLinear

Number = TypeVar("Number", int, float)

# Weights of so many layers of each group, evenly spaced, are measured for the report: all of them are 38 GB.
LAYERS_MEASURED = 12


@dataclass(frozen=True)
class AdapterReport:
    """The effect of an adapter on a model."""

    source: str
    matched: int  # layers it changes
    unmatched: tuple[str, ...]  # names of layers that the model does not have
    ranks: tuple[int, int]  # the smallest and the largest
    base_version: str | None
    # By group: norm of the change at strength 1 over the norm of the weights, on at most LAYERS_MEASURED
    # layers. None where the weights are neither in memory nor on disk.
    change: Mapping[Group, float | None]
    references: LoraReferences = field(default_factory=LoraReferences)
    companions: tuple[str, ...] = ()
    # The smallest and the largest alpha / rank. Where they are not 1, the LoRA is stronger or weaker than its
    # factors alone would be.
    scales: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, lora: LoraFile) -> AdapterReport:
        """Report on a LoRA without a model: all its layers that LTX-2.3 has count as matched.

        Raises WeightsError if it has none.
        """
        lora.check_matches(lora.layers)
        return cls._on_layers(lora, lora.layers, lora.unknown, {})

    @classmethod
    def on_model(
        cls,
        lora: LoraFile,
        targets: Mapping[Layer, nn.Linear | QuantizedLinear],
        stored: Mapping[Part, PartTensors],
    ) -> AdapterReport:
        """Report on a LoRA and a model. targets: the model's modules by the layers that the LoRA changes.

        stored: places of weights on disk, for those that are in no memory.
        """
        left_out = (f"{part}: {key}" for part, key in lora.layers.keys() - targets.keys())
        return cls._on_layers(lora, targets, (*lora.unknown, *left_out), _changes(lora, targets, stored))

    @classmethod
    def _on_layers(
        cls,
        lora: LoraFile,
        layers: Collection[Layer],
        unmatched: Iterable[str],
        change: Mapping[Group, float | None],
    ) -> AdapterReport:
        pairs = [lora.layers[layer] for layer in layers]
        return cls(
            source=lora.source,
            matched=len(pairs),
            unmatched=tuple(sorted(unmatched)),
            ranks=_range(pair.rank for pair in pairs),
            base_version=lora.base_version,
            change=change,
            references=lora.references,
            companions=tuple(sorted(lora.companions)),
            scales=_range(pair.scale for pair in pairs),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-ready. Readers know the references as "facts"."""
        fields = asdict(self)
        return {**fields, "facts": fields.pop("references")}

    def summary(self) -> dict[str, Any]:
        """Return what a clip's provenance keeps, JSON-ready: layers, ranks, scales, change by group."""
        change = {group: None if x is None else round(x, 6) for group, x in self.change.items()}
        rank, scale = (low if low == high else [low, high] for low, high in (self.ranks, self.scales))
        return {"layers": self.matched, "rank": rank, "scale": scale, "change": change}

    @property
    def line(self) -> str:
        """Return the most important figures in one line."""
        unmet = f", {len(self.unmatched)} not in this model" if self.unmatched else ""
        return f"{self._head}, changes {self._changed}{unmet}"

    @property
    def _head(self) -> str:
        low, high = self.ranks
        rank = f"rank {low if low == high else f'{low} to {high}'}"
        base = f"base model {self.base_version or 'not stated'}"
        return f"{self.source}: {self.matched} layers, {rank}{self._scaled}, {base}"

    @property
    def _scaled(self) -> str:
        """Return the effective scale as text; empty where it is 1."""
        low, high = self.scales
        if (low, high) == (1.0, 1.0):
            return ""
        return f", scale {f'{low:.4g}' if low == high else f'{low:.4g} to {high:.4g}'} (alpha / rank)"

    @property
    def _changed(self) -> str:
        return ", ".join(f"{group} {'?' if x is None else f'{x:.2%}'}" for group, x in self.change.items())

    def __str__(self) -> str:
        lines = [self._head]
        if self.change:
            lines.append(f"changes the weights by: {self._changed}")
        if self.references.in_context:
            lines.append(
                f"needs a reference video: {self.references.downscale} times smaller, "
                f"one frame of {self.references.temporal}"
            )
        if self.references.hdr:
            lines.append(f"HDR: {self.references.hdr}")
        if self.companions:
            lines.append(f"tensors beside the pairs, not applied: {listing(self.companions)}")
        if self.unmatched:
            lines.append(f"{len(self.unmatched)} not in this model: {listing(self.unmatched)}")
        return "\n".join(lines)


def _changes(
    lora: LoraFile,
    targets: Mapping[Layer, nn.Linear | QuantizedLinear],
    stored: Mapping[Part, PartTensors],
) -> dict[Group, float | None]:
    """Return the norm of the change over the norm of the weights by group, see AdapterReport."""
    changes: dict[Group, float | None] = {}
    for group in GROUPS:
        layers = [layer for layer in targets if group_of(layer) == group]
        if not layers:
            continue
        layers = layers[:: math.ceil(len(layers) / LAYERS_MEASURED)]
        squares = [
            _squares(lora.layers[layer], wide_weight(layer, targets[layer], stored)) for layer in layers
        ]
        known = [both for both in squares if both is not None]
        if len(known) < len(squares):
            changes[group] = None
            continue
        change, weight = (math.sqrt(sum(square)) for square in zip(*known, strict=True))
        changes[group] = change / max(weight, 1e-30)
    return changes


def _squares(pair: LayerChange, weight: Tensor | None) -> tuple[float, float] | None:
    """Return the squared norms of a change and of its weight; None for a weight that is not known."""
    if weight is None:
        return None
    norm: Tensor = torch.linalg.vector_norm(weight, dtype=torch.float32)
    change = pair.norm() if pair.magnitude is None else change_of(weight, pair).norm().item()
    return change**2, norm.item() ** 2


def _range(values: Iterable[Number]) -> tuple[Number, Number]:
    found = list(values)
    return min(found), max(found)
