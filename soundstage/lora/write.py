"""Write a LoRA's layers to a file one by one, so that no more than one of them is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from soundstage.files import whole_file
from soundstage.lora.asked import FileNames
from soundstage.lora.folders import ADAPTER, SETTINGS, is_folder, new_folder, peft_settings
from soundstage.lora.layers import Layer, LowRank
from soundstage.lora.metadata import PEFT_SETTINGS, read_names
from soundstage.lora.spellings import tensors_of
from soundstage.weights.header import read_header
from soundstage.weights.write import TensorWriter, entry_of


def write_pairs(
    path: Path,
    pairs: Iterable[tuple[Layer, LowRank]],
    largest: Mapping[Layer, LowRank],
    *,
    names: FileNames = "comfyui",
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    companions: Mapping[str, Tensor] | None = None,
    overwrite: bool = True,
) -> int:
    """Write layers as they come, and return the file's size. The file gets its name when it is whole.

    largest: the layers there may be, each of the largest rank that it may have; its values are not read.
    dtype: the format of the factors, None for the one they have. companions: tensors beside the pairs,
    written as they are. PEFT's settings are left out of the metadata, since their alpha is in the factors.
    In PEFT's names a path that is no .safetensors is a folder, see folders.py. Raises MediaError for a name
    that is taken, unless it may be overwritten.
    """
    companions = companions or {}
    told = {key: value for key, value in (metadata or {}).items() if key != PEFT_SETTINGS}
    room = {name: entry_of(tensor) for name, tensor in companions.items()}
    for layer, pair in largest.items():
        tensors = tensors_of(layer, _on_meta(pair), names, dtype)
        room |= {name: entry_of(tensor) for name, tensor in tensors.items()}
    folder = path if is_folder(path, names) else None
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(new_folder(folder))
            path = folder / ADAPTER
        unfinished = stack.enter_context(whole_file(path, overwrite=overwrite))
        with TensorWriter(unfinished, room, {**told, "format": "pt"}) as writer:
            for name, tensor in companions.items():
                writer.add(name, tensor)
            for layer, pair in pairs:
                for name, tensor in tensors_of(layer, pair, names, dtype).items():
                    writer.add(name, tensor)
        if folder is not None:
            _write_settings(folder, unfinished)
        return unfinished.stat().st_size


def _write_settings(folder: Path, written: Path) -> None:
    """Write what PEFT reads beside a file of tensors."""
    text = peft_settings(read_names(read_header(written)))
    with whole_file(folder / SETTINGS) as unfinished:
        unfinished.write_text(text)


def _on_meta(pair: LowRank) -> LowRank:
    magnitude = None if pair.magnitude is None else pair.magnitude.to("meta")
    return replace(pair, down=pair.down.to("meta"), up=pair.up.to("meta"), magnitude=magnitude)
