"""Make one LoRA of several, each at its strength.

    merge([Ingredient("a.safetensors", 0.8), Ingredient("b.safetensors", 0.5)], "c.safetensors")

A layer's pairs stand one after the other, so that the ranks add up and the change is their sum: in float32 to
its precision, in bfloat16 with one rounding of the strength. With a rank or an energy, each layer is then
cut, see factoring.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import torch

from soundstage.errors import RequestError, WeightsError
from soundstage.lora.asked import RankLimit, WriteOptions, check_several, check_target
from soundstage.lora.factoring import LayerFit, LoraMade, fit_of, in_dtype, joined, truncated
from soundstage.lora.files import LoraFile, open_lora
from soundstage.lora.layers import Layer, LowRank, group_of
from soundstage.lora.metadata import TRIGGER_NAMES, LoraReferences, metadata_of, strictest
from soundstage.lora.rewrite import check_known
from soundstage.lora.write import write_pairs
from soundstage.types import Group

MERGED_FROM = "merged_from"  # metadata: what a file was merged from, JSON


@dataclass(frozen=True)
class Ingredient:
    """A LoRA to merge. groups: multipliers of the strength, 1 where not named."""

    path: str | Path
    strength: float = 1.0
    groups: Mapping[Group, float] = field(default_factory=dict)

    def at(self, layer: Layer) -> float:
        """Return the strength in a layer."""
        return self.strength * self.groups.get(group_of(layer), 1.0)


def merge(
    ingredients: Sequence[Ingredient],
    target: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    **how: Unpack[WriteOptions],
) -> LoraMade:
    """Write several LoRAs as one, exactly or, with rank or energy, cut by singular values.

    how: see `WriteOptions`; without a dtype it is that of the LoRAs, float32 where they differ. Raises
    WeightsError for LoRAs that cannot be one: DoRA, whose change depends on the weight, those with slot
    embeddings, with different reference factors or HDR transforms, or of models of different sizes.
    """
    target, limit = Path(target), RankLimit(rank, energy)
    dtype, overwrite, on_progress = how.get("dtype"), how.get("overwrite", False), how.get("on_progress")
    check_target(target, overwrite, how.get("names", "comfyui"))
    check_several([(item.path, item.strength) for item in ingredients])
    with ExitStack() as stack:
        shapes = [stack.enter_context(open_lora(item.path, values=False)) for item in ingredients]
        loras = [stack.enter_context(open_lora(item.path)) for item in ingredients]
        for lora in shapes:
            check_known(lora, how.get("drop_unknown", False))
            _check_plain(lora)
            lora.pairs()
        references = _references(shapes)
        largest = _largest(ingredients, shapes)
        dtypes = {pair.factors[0].dtype for lora in shapes for pair in lora.layers.values()}
        kept = dtype or (dtypes.pop() if len(dtypes) == 1 else torch.float32)
        fits: list[LayerFit] = []

        def pairs() -> Iterator[tuple[Layer, LowRank]]:
            for number, layer in enumerate(largest):
                parts = [
                    _scaled(lora, layer, item.at(layer))
                    for item, lora in zip(ingredients, loras, strict=True)
                    if layer in lora.layers and item.at(layer) != 0
                ]
                whole = joined(parts)
                if rank is not None or energy is not None:
                    whole = truncated(whole, limit)
                stored = in_dtype(whole, kept)
                fits.append(fit_of(layer, parts, stored))
                yield layer, stored
                if on_progress is not None:
                    on_progress((number + 1) / len(largest))

        metadata = {**_metadata(ingredients, shapes), **metadata_of(references)}
        num_bytes = write_pairs(
            target,
            pairs(),
            largest,
            names=how.get("names", "comfyui"),
            dtype=kept,
            metadata=metadata,
            overwrite=overwrite,
        )
    return LoraMade(target, num_bytes, tuple(fits))


def _scaled(lora: LoraFile, layer: Layer, strength: float) -> LowRank:
    lora.check_values([layer], training=True)
    pair = lora.layers[layer]
    assert isinstance(pair, LowRank)  # as all layers of the file are
    return replace(pair, scale=pair.scale * strength)


def _check_plain(lora: LoraFile) -> None:
    if any(pair.magnitude is not None for pair in lora.layers.values()):
        raise WeightsError(
            f"{lora.source} is DoRA, whose change depends on the model's weights, so it merges into no other "
            "LoRA; merge it into weights by `soundstage models convert --lora`"
        )
    if (refusal := lora.references.refusal(lora.source)) is not None:
        raise WeightsError(refusal)


def _references(loras: Sequence[LoraFile]) -> LoraReferences:
    """Return what the merged LoRA was trained with. Raises WeightsError where two contradict each other."""
    found: dict[str, set[Any]] = {
        "reference downscale factors": {lora.references.downscale for lora in loras} - {1},
        "temporal reference factors": {lora.references.temporal for lora in loras} - {1},
        "HDR transforms": {lora.references.hdr for lora in loras} - {None},
    }
    for what, values in found.items():
        if len(values) > 1:
            raise WeightsError(
                f"the LoRAs have different {what} ({', '.join(sorted(map(str, values)))}), and one file has "
                "one; merge those of one"
            )
    downscale, temporal, hdr = (next(iter(values), None) for values in found.values())
    return LoraReferences(
        downscale=int(downscale or 1),
        temporal=int(temporal or 1),
        in_context=any(lora.references.in_context for lora in loras),
        hdr=None if hdr is None else str(hdr),
        exchange=strictest(lora.references.exchange for lora in loras),
    )


def _largest(ingredients: Sequence[Ingredient], shapes: Sequence[LoraFile]) -> dict[Layer, LowRank]:
    """Return the layers of the merged LoRA on the meta device, each of the sum of the ranks."""
    found: dict[Layer, LowRank] = {}
    for item, lora in zip(ingredients, shapes, strict=True):
        for layer, pair in lora.pairs().items():
            if item.at(layer) == 0:
                continue
            if layer in found:
                lora.check_shape(layer, found[layer].shape)
            found[layer] = joined([found[layer], pair]) if layer in found else pair
    if not found:
        raise RequestError("every layer has the strength 0, so nothing would be merged", field="loras")
    return found


def _metadata(ingredients: Sequence[Ingredient], loras: Sequence[LoraFile]) -> dict[str, str]:
    """Return what all of them say, their trigger words together, and what was merged."""
    first, *others = [lora.metadata for lora in loras]
    shared = {key: value for key, value in first.items() if all(o.get(key) == value for o in others)}
    triggers = [lora.metadata[key] for lora in loras for key in TRIGGER_NAMES if lora.metadata.get(key)]
    made = [
        {"file": Path(item.path).name, "strength": item.strength, "groups": dict(item.groups)}
        for item in ingredients
    ]
    told = {TRIGGER_NAMES[0]: ", ".join(dict.fromkeys(triggers))} if triggers else {}
    return {**shared, **told, MERGED_FROM: json.dumps(made)}
