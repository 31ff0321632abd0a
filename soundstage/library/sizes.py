"""Bytes of a model's parts as they would be held in memory, counted from headers before any weight is read.

for sizes in model_sizes(find_model("nano"), item_bytes=4):   # one for each way to hold the transformer
    print(sizes.storage, sizes.total_bytes)
ModelSizes.published("bfloat16")                              # LTX-2.3 22B, which need not be here
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from soundstage.files import file_stamp
from soundstage.library.model_files import ModelSet
from soundstage.text.source import gemma_tensors
from soundstage.weights.header import read_header
from soundstage.weights.layouts import PartTensors, find_parts
from soundstage.weights.storage import FORMAT_BYTES, Storage, candidates, check_storage, eight_bit

Weights = Literal["bfloat16", "float32", "fp8", "nf4"]

TRANSFORMER = "transformer"


@dataclass(frozen=True)
class ModelSizes:
    """Bytes of a model's parts as they are held, and the dimensions that work is counted from.

    parts: bytes by part. blocks: bytes of each block's matrices, which stream; the rest of the transformer
    stays on the device. width, audio_width: numbers in a token. item_bytes: bytes of one number of an
    activation. text_features: numbers per token that the text encoder hands on, all its states together.
    text_layers: bytes of each of its layers; none if it is not streamed. vae_channels: those of the video
    decoder's last stage. storage: how the
    transformer is held.
    """

    name: str
    parts: Mapping[str, int]
    blocks: tuple[int, ...]
    width: int
    audio_width: int
    item_bytes: int = 2
    text_features: int = 0
    text_layers: tuple[int, ...] = ()
    vae_channels: int = 128
    storage: Storage = "full"

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())

    @classmethod
    def of(
        cls,
        parts: Mapping[str, PartTensors],
        *,
        name: str = "model",
        item_bytes: int = 2,
        storage: Storage = "full",
        text: PartTensors | None = None,
    ) -> ModelSizes:
        """Count a model's bytes from its headers.

        item_bytes: bytes of one number in the dtype that weights are loaded in; tables and sound parts are
        float32. storage: how the transformer is held. text: the text encoder's tensors.
        """
        transformer = parts.get(TRANSFORMER, {})

        def held(part: str, key: str) -> int:
            entry = parts[part][key].entry
            small = eight_bit(storage, key, entry.dtype) if part == TRANSFORMER else None
            if small is not None:
                return int(entry.num_params * FORMAT_BYTES[small.format])
            wide = part in ("audio_vae", "vocoder") or "scale_shift_table" in key
            return entry.num_params * (4 if wide else item_bytes)

        sizes = {part: sum(held(part, key) for key in tensors) for part, tensors in parts.items()}
        layers: dict[int, int] = {}
        for key, stored in (text or {}).items():
            if key.startswith("layers."):
                number = int(key.split(".")[1])
                layers[number] = layers.get(number, 0) + stored.entry.num_params * item_bytes
        if text:
            sizes["text_encoder"] = sum(stored.entry.num_params for stored in text.values()) * item_bytes
        blocks: dict[int, int] = {}
        for key, stored in transformer.items():
            names, shape = key.split("."), stored.entry.shape
            if names[0] == "transformer_blocks" and len(shape) == 2 and _streams(key, shape):
                blocks[int(names[1])] = blocks.get(int(names[1]), 0) + held(TRANSFORMER, key)
        return cls(
            name=name,
            parts=sizes,
            blocks=tuple(blocks[number] for number in sorted(blocks)),
            width=_rows(transformer, "patchify_proj.weight"),
            audio_width=_rows(transformer, "audio_patchify_proj.weight"),
            item_bytes=item_bytes,
            text_features=_columns(parts.get("text_projection", {}), "video_aggregate_embed.weight"),
            text_layers=tuple(layers[number] for number in sorted(layers)),
            vae_channels=_columns(parts.get("video_vae", {}), "decoder.conv_out.conv.weight") or 128,
            storage=storage,
        )

    @classmethod
    def published(cls, weights: Weights = "bfloat16", item_bytes: int = 2) -> ModelSizes:
        """Return the sizes of LTX-2.3 22B and Gemma 3 12B.

        weights: how the transformer's blocks and the text encoder are held; nf4: the blocks, and the text
        encoder in 8 bits. item_bytes: beside fp8 and nf4, bytes of one number of activations and other
        weights; the sound's are always float32.
        """
        large = {"float32": 4, "bfloat16": 2, "fp8": 1, "nf4": 1}[weights]
        item_bytes = item_bytes if large == 1 else large
        in_block = FORMAT_BYTES["nf4"] if weights == "nf4" else large
        gemma = PUBLISHED_PARAMS["text_encoder"]
        matrices = int(BLOCK_MATRICES * in_block)
        blocks = NUM_BLOCKS * (matrices + (BLOCK_PARAMS - BLOCK_MATRICES) * item_bytes)
        others = PUBLISHED_PARAMS[TRANSFORMER] - NUM_BLOCKS * BLOCK_PARAMS
        return cls(
            name=f"LTX-2.3 22B, {weights}",
            parts={
                TRANSFORMER: blocks + others * item_bytes,
                **{
                    part: count * (4 if part in ("audio_vae", "vocoder") else item_bytes)
                    for part, count in PUBLISHED_PARAMS.items()
                    if part not in (TRANSFORMER, "text_encoder")
                },
                "text_encoder": gemma * large + GEMMA_EMBEDDING * (item_bytes - large),
            },
            blocks=(matrices,) * NUM_BLOCKS,
            width=4096,
            audio_width=2048,
            item_bytes=item_bytes,
            text_features=3840 * 49,
            text_layers=((gemma - GEMMA_EMBEDDING) // 48 * large,) * 48,
            storage=weights if weights in ("fp8", "nf4") else "full",
        )


# Parameters of the published model; tests count them again on the meta device.
NUM_BLOCKS = 48
BLOCK_PARAMS = 386_695_360
BLOCK_MATRICES = 386_465_792
GEMMA_EMBEDDING = 262_208 * 3840
PUBLISHED_PARAMS: dict[str, int] = {
    TRANSFORMER: 18_988_838_144,
    "video_connector": 1_612_546_304,
    "audio_connector": 403_620_096,
    "text_projection": 1_156_061_184,
    "text_encoder": 11_766_034_176,
    "video_vae": 726_106_225,
    "audio_vae": 53_248_146,
    "vocoder": 129_085_075,
}


def _streams(key: str, shape: Sequence[int]) -> bool:
    """Return whether a matrix streams, by the rule of memory/stream.py, from its name and shape."""
    return math.prod(shape) >= 4096 and shape[-1] > 1 and "scale_shift_table" not in key


def _rows(tensors: PartTensors, key: str) -> int:
    return tensors[key].entry.shape[0] if key in tensors else 0


def _columns(tensors: PartTensors, key: str) -> int:
    return tensors[key].entry.shape[1] if key in tensors else 0


# --- a model on disk -------------------------------------------------------------------------------------


def model_sizes(model: ModelSet, item_bytes: int, storage: Storage | None = None) -> tuple[ModelSizes, ...]:
    """Return the sizes of a model's parts; for storage None, one for each way to hold the transformer.

    item_bytes: bytes of one number in the format it runs in. Raises RequestError for "stored" with files that
    are not 8-bit.
    """
    stamps = tuple(file_stamp(file.path) for file in model.files() if file.num_bytes is not None)
    return _sizes(model.weights_files, model.text_path, model.name, item_bytes, storage, stamps)


@cache
def _sizes(
    files: tuple[Path, ...],
    text: Path,
    name: str,
    item_bytes: int,
    storage: Storage | None,
    stamps: tuple[tuple[int, ...], ...],  # another file under a name has other sizes
) -> tuple[ModelSizes, ...]:
    parts = {str(part): held for part, held in find_parts([read_header(path) for path in files]).items()}
    transformer = parts.get(TRANSFORMER, {})
    if storage is not None:
        check_storage(transformer, storage)
    ways = candidates(transformer) if storage is None else (storage,)
    fixed: dict[str, Any] = {"name": name, "item_bytes": item_bytes, "text": gemma_tensors(text)}
    return tuple(ModelSizes.of(parts, storage=way, **fixed) for way in ways)
