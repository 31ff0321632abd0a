"""Price an encoding: disk and memory, from headers, before it begins."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import Any

from soundstage.dataset.config import Dataset
from soundstage.dataset.items import DataItem
from soundstage.dataset.scanning import Scan
from soundstage.engine import Engine
from soundstage.errors import DatasetError
from soundstage.library.sizes import model_sizes
from soundstage.types import (
    AUDIO_LATENT_BINS,
    AUDIO_LATENT_CHANNELS,
    AUDIO_LATENTS_PER_S,
    LATENT_CHANNELS,
    SPACE_SCALE,
    TIME_SCALE,
)
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts

GB = 1e9
WORDS_PER_TOKEN = 0.75  # of English, about
FIRST_STAGE = 128 * 4  # numbers that the encoder holds at once for each 4x4 pixels
WHOLE_BYTES = 4 * 2**30  # at most, since longer clips are encoded in pieces
TEXT_PARTS = ("text_encoder", "text_projection")
VAE_PARTS = ("video_vae", "audio_vae")


@dataclass(frozen=True)
class EncodingPrice:
    """Bytes that an encoding takes. num_tokens: those of the largest sample."""

    num_samples: int
    disk_bytes: int
    memory_bytes: int
    num_tokens: int

    @property
    def summary(self) -> str:
        """Return it in one line."""
        return (
            f"{self.num_samples} samples: about {_gigabytes(self.disk_bytes)} on disk, about "
            f"{_gigabytes(self.memory_bytes)} of memory; the largest has {self.num_tokens} tokens"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def price(dataset: Dataset, found: Scan, engine: Engine) -> EncodingPrice:
    """Return what an encoding takes; reads headers only. Weights are counted where they are all built."""
    item_bytes = engine.number_format.item_bytes
    sizes = model_sizes(engine.model, item_bytes, None)[0]
    disk = sum(_numbers(item, engine) for item in found.items) * item_bytes
    buckets = [item.bucket for item in found.items if item.bucket is not None]
    pixels = max((width * height * frames for width, height, frames in buckets), default=0)
    stage = min(WHOLE_BYTES, pixels // 16 * FIRST_STAGE * item_bytes)
    weights = sum(size for part, size in sizes.parts.items() if part in (*TEXT_PARTS, *VAE_PARTS))
    tokens = max((_cells(item) for item in found.items), default=0)
    return EncodingPrice(len(found.items), disk, weights + stage, tokens)


def check_room(dataset: Dataset, cost: EncodingPrice) -> None:
    """Raise DatasetError if the disk has no room for what will be written."""
    free = shutil.disk_usage(dataset.folder).free
    if cost.disk_bytes > free:
        raise DatasetError(
            f"the encoded dataset takes about {_gigabytes(cost.disk_bytes)}, and {_gigabytes(free)} are free "
            f"at {dataset.folder}; make room, or use fewer or smaller buckets"
        )


def _cells(item: DataItem) -> int:
    """Return how many tokens of video a sample has."""
    if item.bucket is None:
        return 0
    width, height, frames = item.bucket
    return width // SPACE_SCALE * (height // SPACE_SCALE) * ((frames - 1) // TIME_SCALE + 1)


def _numbers(item: DataItem, engine: Engine) -> int:
    """Return how many numbers the file of a sample holds, about."""
    picture = _cells(item) * LATENT_CHANNELS * (2 if item.reference is not None else 1)
    sound = round((item.audio_s or 0) * AUDIO_LATENTS_PER_S) * AUDIO_LATENT_CHANNELS * AUDIO_LATENT_BINS
    words = len(item.caption.split()) / WORDS_PER_TOKEN + 1
    return picture + sound + round(min(words, engine.model.defaults.text_tokens) * _text_width(engine))


def _text_width(engine: Engine) -> int:
    """Return the numbers of a token's features for both streams."""
    parts = find_parts([read_header(path) for path in engine.model.weights_files])
    names = ("video_aggregate_embed.weight", "audio_aggregate_embed.weight")
    return sum(parts["text_projection"][name].entry.shape[0] for name in names)


def _gigabytes(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 1e6:.1f} MB"
