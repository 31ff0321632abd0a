"""Find the LoRA that lies between two models: the difference of their weights at a rank.

    extract(["base.safetensors"], ["tuned.safetensors"], "found.safetensors", rank=32)

Both are read tensor by tensor, so memory is that of one weight, twice. What differs and is no weight of a
linear layer (biases, norms, tables) fits into no LoRA and is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from soundstage.errors import WeightsError
from soundstage.lora.asked import FileNames, OnShare, RankLimit, check_groups, check_target
from soundstage.lora.factoring import LayerFit, LoraMade, empty_pair, factored, in_dtype
from soundstage.lora.files import find_layer
from soundstage.lora.layers import Layer, LowRank, group_of
from soundstage.lora.module_names import published_prefix
from soundstage.lora.write import write_pairs
from soundstage.types import GROUPS, Group
from soundstage.weights.header import read_header
from soundstage.weights.layouts import Part, StoredTensor, find_parts, listing
from soundstage.weights.read import TORCH_DTYPES, TensorReader

PARTS: tuple[Part, ...] = ("transformer", "video_connector", "audio_connector", "text_projection")
PLAIN = ("BF16", "F16", "F32", "F64")  # stored without a scale
CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Two:
    """A tensor in both models."""

    layer: Layer | None  # of a weight that a LoRA can change
    name: str
    base: StoredTensor
    tuned: StoredTensor


def extract(
    base: Sequence[str | Path],
    tuned: Sequence[str | Path],
    target: str | Path,
    *,
    rank: int,
    energy: float | None = None,
    groups: Collection[Group] = GROUPS,
    names: FileNames = "comfyui",
    dtype: torch.dtype = torch.bfloat16,
    overwrite: bool = False,
    on_progress: OnShare | None = None,
) -> LoraMade:
    """Write the difference of two models' weights as a LoRA; what it misses is reported layer by layer.

    base, tuned: weights files of one model each, in any layout. rank: at most. energy: the least share of a
    layer's difference that is kept, within that rank. Raises WeightsError for models of different sizes and
    for two whose linear layers are the same.
    """
    target, limit = Path(target), RankLimit(rank, energy)
    check_target(target, overwrite, names)
    check_groups(groups)
    two, notices = _pairs_of(base, tuned)
    wanted = [item for item in two if item.layer is None or group_of(item.layer) in groups]
    fits: list[LayerFit] = []
    others: list[str] = []

    def pairs(files: TensorReader) -> Iterator[tuple[Layer, LowRank]]:
        for number, item in enumerate(wanted):
            difference = _difference(files, item)
            norm = float(torch.linalg.vector_norm(difference, dtype=torch.float64))
            if item.layer is None:
                others.extend([item.name] if norm else [])
            elif norm:
                made = in_dtype(factored(difference, rank, limit), dtype)
                difference.addmm_(made.up.float(), made.down.float(), alpha=-1)
                error = float(torch.linalg.vector_norm(difference, dtype=torch.float64))
                fits.append(LayerFit(".".join(item.layer), made.rank, norm, error))
                yield item.layer, made
            del difference
            if on_progress is not None:
                on_progress((number + 1) / len(wanted))
        if not fits:
            raise WeightsError(
                f"{listing(map(str, base))} and {listing(map(str, tuned))} have the same weights in these "
                "layers; there is nothing to extract"
            )

    with TensorReader() as files:
        num_bytes = write_pairs(
            target,
            pairs(files),
            {
                item.layer: empty_pair(item.base.entry.shape, rank)
                for item in wanted
                if item.layer is not None
            },
            names=names,
            dtype=dtype,
            metadata=_metadata(base, tuned),
            overwrite=overwrite,
        )
    if others:
        notices += (
            f"{len(others)} other tensors differ, which no LoRA holds, and are left out: {listing(others)}",
        )
    return LoraMade(target, num_bytes, tuple(fits), notices)


def _pairs_of(base: Sequence[str | Path], tuned: Sequence[str | Path]) -> tuple[list[_Two], tuple[str, ...]]:
    """Return the tensors of both models, and what the user should know of them."""
    ours, theirs = (find_parts([read_header(path) for path in paths]) for paths in (base, tuned))
    both = [part for part in PARTS if part in ours and part in theirs]
    if not both:
        raise WeightsError(
            f"{listing(map(str, base))} and {listing(map(str, tuned))} have no part in common that a LoRA "
            "can change; give two transformers of LTX-2.3"
        )
    two = []
    for part in both:
        _check_alike(ours[part], theirs[part], part, tuned)
        for key, stored in ours[part].items():
            module = published_prefix(part) + key.removesuffix(".weight")
            is_weight = key.endswith(".weight") and len(stored.entry.shape) == 2
            layer = find_layer(module) if is_weight else None
            two.append(_Two(layer, f"{part}.{key}", stored, theirs[part][key]))
    notices = []
    alone = [part for part in PARTS if (part in ours) != (part in theirs)]
    if alone:
        notices.append(f"only one of the two has {listing(alone)}, which is left out")
    dtypes = sorted({item.base.entry.dtype for item in two} ^ {item.tuned.entry.dtype for item in two})
    if dtypes:
        notices.append(
            f"the two are stored in different formats ({', '.join(dtypes)} in one of them only), so the "
            "rounding of the coarser one is part of the difference"
        )
    return two, tuple(notices)


def _check_alike(
    ours: Mapping[str, StoredTensor],
    theirs: Mapping[str, StoredTensor],
    part: Part,
    tuned: Sequence[str | Path],
) -> None:
    """Refuse parts of different tensors or shapes."""
    told = f"{listing(map(str, tuned))} is not of the same model as the base: "
    if odd := sorted(ours.keys() ^ theirs.keys()):
        raise WeightsError(f"{told}only one of the two has {listing(odd)} in its {part}")
    for key, stored in ours.items():
        if stored.entry.shape != theirs[key].entry.shape:
            raise WeightsError(
                f"{told}'{key}' is {list(theirs[key].entry.shape)} there and {list(stored.entry.shape)} in "
                "the base"
            )


def _difference(files: TensorReader, item: _Two) -> Tensor:
    """Return tuned - base in float32; of the base no float32 copy is made where it is stored plainly."""
    wide = files.value(item.tuned, torch.float32, CPU)
    dtype = item.base.entry.dtype
    return wide.sub_(files.value(item.base, TORCH_DTYPES[dtype] if dtype in PLAIN else torch.float32, CPU))


def _metadata(base: Sequence[str | Path], tuned: Sequence[str | Path]) -> dict[str, str]:
    """Return the base's version, and the names of the files."""
    version = next((v for path in base if (v := read_header(path).metadata.get("model_version"))), None)
    told = {} if version is None else {"model_version": version}
    names = {"extracted_base": base, "extracted_tuned": tuned}
    return {**told, **{key: ", ".join(Path(path).name for path in paths) for key, paths in names.items()}}
