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

import torch

from soundstage.errors import RequestError, WeightsError, listed
from soundstage.files import check_writable
from soundstage.lora.factoring import LayerFit, LoraMade, RankLimit, fit_of, in_dtype, truncated
from soundstage.lora.files import LoraFile, open_lora
from soundstage.lora.layers import Layer, LowRank, group_of
from soundstage.lora.metadata import TOKEN_ORDER_NAME, metadata_of
from soundstage.lora.spellings import FileNames
from soundstage.lora.write import write_pairs
from soundstage.types import GROUPS, Group
from soundstage.weights.layouts import listing

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
OnShare = Callable[[float], None]  # the share that is done, 0 to 1


def convert(
    source: str | Path,
    target: str | Path,
    *,
    names: FileNames,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    drop_unknown: bool = False,
    on_progress: OnShare | None = None,
) -> LoraMade:
    """Write a LoRA in the names that another program reads, see spellings.py.

    dtype: the format of the factors, None for the one they have. drop_unknown: leave out layers that LTX-2.3
    does not have, which are refused otherwise. Raises WeightsError for a file that is no LoRA of LTX-2.3.
    """
    return _rewritten(
        source,
        target,
        lambda layer, pair: pair,
        names=names,
        dtype=dtype,
        overwrite=overwrite,
        drop_unknown=drop_unknown,
        on_progress=on_progress,
    )


def strip(
    source: str | Path,
    target: str | Path,
    *,
    groups: Collection[Group] = (),
    slots: bool = False,
    names: FileNames = "comfyui",
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    drop_unknown: bool = False,
    on_progress: OnShare | None = None,
) -> LoraMade:
    """Write a LoRA without the layers of some groups. slots: leave out its slot embeddings too.

    Raises RequestError for a group that does not exist, or of which the LoRA has no layer, and where no layer
    would be left.
    """
    unknown = next((group for group in groups if group not in GROUPS), None)
    if unknown is not None:
        raise RequestError(
            f"groups has '{unknown}', which is no group; give {listed(unknown, GROUPS)}", field="groups"
        )
    if not groups and not slots:
        raise RequestError("nothing is to be left out; give groups, or slots", field="groups")
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
    return _rewritten(
        source,
        target,
        lambda layer, pair: None if group_of(layer) in groups else pair,
        keep_slots=not slots,
        names=names,
        dtype=dtype,
        overwrite=overwrite,
        drop_unknown=drop_unknown,
        on_progress=on_progress,
    )


def resize(
    source: str | Path,
    target: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    names: FileNames = "comfyui",
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    drop_unknown: bool = False,
    on_progress: OnShare | None = None,
) -> LoraMade:
    """Write a LoRA at a smaller rank, by singular values in float32; what is off is reported.

    rank: at most so much in each layer. energy: the least share that is kept of the sum of squares of each
    layer's change, whatever rank that takes. Layers that are small enough are written as they are. Of DoRA
    the pairs are cut and the magnitudes kept.
    """
    limit = RankLimit(rank, energy)
    if rank is None and energy is None:
        raise RequestError("neither rank nor energy is given; give one, such as rank 16", field="rank")
    return _rewritten(
        source,
        target,
        lambda layer, pair: truncated(pair, limit),
        names=names,
        dtype=dtype,
        overwrite=overwrite,
        drop_unknown=drop_unknown,
        on_progress=on_progress,
    )


def check_target(target: Path, overwrite: bool) -> None:
    """Raise now what would keep a LoRA from being written later. Raises MediaError."""
    check_writable(target, (".safetensors",), overwrite=overwrite)


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
    edit: Callable[[Layer, LowRank], LowRank | None],
    *,
    keep_slots: bool = True,
    names: FileNames,
    dtype: torch.dtype | None = None,
    overwrite: bool,
    drop_unknown: bool,
    on_progress: OnShare | None,
) -> LoraMade:
    """Write what an edit makes of each layer, None for nothing."""
    target, fits = Path(target), list[LayerFit]()
    check_target(target, overwrite)
    with open_lora(source) as lora, open_lora(source, values=False) as shapes:
        check_known(lora, drop_unknown)

        def pairs() -> Iterator[tuple[Layer, LowRank]]:
            for number, layer in enumerate(lora.layers):
                pair = lora.layers[layer]
                lora.check_values([layer], training=True)
                made = edit(layer, pair)
                if made is not None:
                    stored = _stored(made, dtype or pair.down.dtype, names)
                    fits.append(fit_of(layer, [pair], stored))
                    yield layer, stored
                if on_progress is not None:
                    on_progress((number + 1) / len(lora.layers))

        metadata = {**lora.metadata, **metadata_of(lora.references)}
        if not keep_slots:
            metadata.pop(TOKEN_ORDER_NAME, None)
        num_bytes = write_pairs(
            target,
            pairs(),
            shapes.layers,
            names=names,
            dtype=dtype,
            metadata=metadata,
            companions=lora.companions if keep_slots else {},
            overwrite=overwrite,
        )
    return LoraMade(target, num_bytes, tuple(fits))


def _stored(pair: LowRank, dtype: torch.dtype, names: FileNames) -> LowRank:
    """Return a pair as its file will hold it; only kijai's names keep a scale apart, as an alpha."""
    if names == "kijai":
        return replace(pair, down=pair.down.to(dtype), up=pair.up.to(dtype))
    return in_dtype(pair, dtype)
