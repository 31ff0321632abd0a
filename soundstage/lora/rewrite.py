"""Make a LoRA file from another one: in other names, without some of its layers, at another rank.

    convert("style.safetensors", "style-diffusers.safetensors", names="diffusers")
    strip("style.safetensors", "silent.safetensors", groups={"audio", "a2v", "v2a"})
    resize("style.safetensors", "small.safetensors", rank=16)
    resize("style.safetensors", "small.safetensors", energy=0.95)

Layers are read, changed and written one at a time. The file gets its name when it is whole, and one that is
there is left alone unless it may be overwritten. What a file holds beside its layers is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch

from soundstage.errors import RequestError, WeightsError
from soundstage.lora.asked import FileNames, RankLimit, WriteOptions, check_strip, check_target
from soundstage.lora.factoring import LayerFit, LoraMade, empty_pair, fit_of_change, in_dtype, truncated
from soundstage.lora.files import LoraFile, open_lora
from soundstage.lora.forms import LayerChange
from soundstage.lora.layers import Layer, LowRank, group_of
from soundstage.lora.metadata import TOKEN_ORDER_NAME, metadata_of
from soundstage.lora.write import write_pairs
from soundstage.types import Group
from soundstage.weights.layouts import listing

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def convert(source: str | Path, target: str | Path, **how: Unpack[WriteOptions]) -> LoraMade:
    """Write a LoRA in the names that another program reads, see spellings.py. how: see `WriteOptions`.

    Raises WeightsError for a file that is no LoRA of LTX-2.3.
    """
    return _rewritten(source, target, lambda layer, pair: pair, **how)


def strip(
    source: str | Path,
    target: str | Path,
    *,
    groups: Collection[Group] = (),
    slots: bool = False,
    **how: Unpack[WriteOptions],
) -> LoraMade:
    """Write a LoRA without the layers of some groups. slots: leave out its slot embeddings too.

    Raises RequestError for a group that does not exist, or of which the LoRA has no layer, and where no layer
    would be left.
    """
    check_strip(groups, slots)
    with open_lora(source, values=False) as lora:
        there = {group_of(layer) for layer in lora.layers}
        has_slots = lora.references.refusal("") is not None
    if not there & set(groups) and not (slots and has_slots):
        asked = [*groups, *(["slot embeddings"] if slots else [])]
        raise RequestError(
            f"{source} has no layers of {listing(asked)}; it has {listing(there)}", field="groups"
        )
    if not there - set(groups):
        raise RequestError(
            f"{source} has layers of {listing(there)} only, so nothing would be left", field="groups"
        )

    def edit(layer: Layer, pair: LayerChange) -> LayerChange | None:
        return None if group_of(layer) in groups else pair

    return _rewritten(source, target, edit, keep_slots=not slots, **how)


def resize(
    source: str | Path,
    target: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    **how: Unpack[WriteOptions],
) -> LoraMade:
    """Write a LoRA at a smaller rank, by singular values in float32; what is off is reported.

    rank: at most so much in each layer. energy: the least share that is kept of the sum of squares of each
    layer's change, whatever rank that takes. Layers that are small enough are written as they are. LoKr, LoHa
    and whole differences become pairs. Of DoRA the pairs are cut and the magnitudes kept.
    """
    limit = RankLimit(rank, energy)
    limit.check_given()
    return _rewritten(source, target, lambda layer, pair: truncated(pair, limit), limit=limit, **how)


def check_known(lora: LoraFile, drop_unknown: bool) -> None:
    """Refuse layers that LTX-2.3 does not have, which would be lost, unless that is wanted."""
    lora.check_matches(lora.layers)
    if lora.unknown and not drop_unknown:
        raise WeightsError(
            f"{lora.source} has {len(lora.unknown)} layers that LTX-2.3 does not have: "
            f"{listing(lora.unknown)}; they would be lost, which drop_unknown (--drop-unknown) allows"
        )


def _rewritten(
    source: str | Path,
    target: str | Path,
    edit: Callable[[Layer, LayerChange], LayerChange | None],
    *,
    keep_slots: bool = True,
    limit: RankLimit | None = None,
    **how: Unpack[WriteOptions],
) -> LoraMade:
    """Write what an edit makes of each layer, None for nothing.

    limit: the edit makes pairs within it of changes of any form; None where it makes none.
    """
    target, fits = Path(target), list[LayerFit]()
    names, dtype, on_progress = how.get("names", "comfyui"), how.get("dtype"), how.get("on_progress")
    overwrite = how.get("overwrite", False)
    check_target(target, overwrite, names)
    with open_lora(source) as lora, open_lora(source, values=False) as shapes:
        check_known(lora, how.get("drop_unknown", False))
        largest = shapes.pairs() if limit is None else _largest(shapes, limit)

        def pairs() -> Iterator[tuple[Layer, LowRank]]:
            for number, layer in enumerate(lora.layers):
                pair = lora.layers[layer]
                lora.check_values([layer], training=True)
                made = edit(layer, pair)
                if made is not None:
                    assert isinstance(made, LowRank)
                    stored = _stored(made, dtype or pair.factors[0].dtype, names)
                    fits.append(fit_of_change(layer, pair, stored))
                    yield layer, stored
                if on_progress is not None:
                    on_progress((number + 1) / len(lora.layers))

        metadata = {**lora.metadata, **metadata_of(lora.references)}
        if not keep_slots:
            metadata.pop(TOKEN_ORDER_NAME, None)
        num_bytes = write_pairs(
            target,
            pairs(),
            largest,
            names=names,
            dtype=dtype,
            metadata=metadata,
            companions=lora.companions if keep_slots else {},
            overwrite=overwrite,
        )
    return LoraMade(target, num_bytes, tuple(fits))


def _largest(shapes: LoraFile, limit: RankLimit) -> dict[Layer, LowRank]:
    """Return pairs on the meta device, of the largest rank that may be left of each change."""
    return {
        layer: change
        if isinstance(change, LowRank)
        else empty_pair(change.shape, min(change.rank, limit.rank or change.rank))
        for layer, change in shapes.layers.items()
    }


def _stored(pair: LowRank, dtype: torch.dtype, names: FileNames) -> LowRank:
    """Return a pair as its file will hold it; only kijai's names keep a scale apart, as an alpha."""
    if names == "kijai":
        return replace(pair, down=pair.down.to(dtype), up=pair.up.to(dtype))
    return in_dtype(pair, dtype)
