"""The encoded dataset: latents and text features on disk, as `soundstage dataset encode` leaves them.

    encoded = open_encoded("my-data", model_identity(engine.model))
    for info in encoded.samples:
        sample = encoded.load(info)          # video (128, F, H, W), audio (8, T, 16), text, ...

A folder `encoded` holds `index.json` and one safetensors file a sample, which carries its own line of the
index: an index that is missing or old is made again from the files. Every file carries a checksum.

    video             (128, F, H, W)   normalised latents, as the transformer takes them
    audio             (8, T, 16)       normalised latents, 25 a second
    video_text        (n, Dv)          features of the caption's n tokens, projected, before the connectors
    audio_text        (n, Da)
    reference         (128, F', H', W')
    reference_audio   (8, T', 16)      a sound to follow, or a voice sample
    video_mask        (F, H, W) uint8  1 = given (kept clean), 0 = made
    audio_mask        (T,) uint8

Text features are those of TextEncoder.encode_features without the padding, begin token included; the
connectors run frozen when training reads them, so training needs no text encoder. `Sample.features` fills
them up to the model's context as a batch of one, with the mask that the connectors take.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from soundstage.dataset.identity import ModelIdentity
from soundstage.dataset.index import AGAIN, INDEX, VERSION, EncodedIndex, SampleInfo, open_index, read_info
from soundstage.errors import DatasetError, WeightsError
from soundstage.files import whole_file
from soundstage.rendering.sealed import sealed, unsealed
from soundstage.text.encoder import PromptFeatures
from soundstage.weights.header import read_header


@dataclass(frozen=True)
class Sample:
    """The tensors of a sample, without a batch; see the top of this file. None where a sample has none."""

    video_text: Tensor
    audio_text: Tensor
    video: Tensor | None = None
    audio: Tensor | None = None
    reference: Tensor | None = None
    reference_audio: Tensor | None = None
    video_mask: Tensor | None = None
    audio_mask: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def features(self, num_tokens: int) -> PromptFeatures:
        """Return the caption's features as a batch of one, filled up for the connectors. num_tokens: S."""
        video, audio = (F.pad(x, (0, 0, 0, num_tokens - len(x)))[None] for x in self._text)
        mask = torch.arange(num_tokens, device=video.device)[None] < len(self.video_text)
        return PromptFeatures(video, audio, mask)

    @property
    def _text(self) -> tuple[Tensor, Tensor]:
        return self.video_text, self.audio_text


class EncodedDataset(EncodedIndex):
    """An encoded dataset that was opened: its samples, and the encoders that made them."""

    def load(self, info: SampleInfo) -> Sample:
        """Read a sample's tensors. Raises DatasetError for a file that is missing or damaged."""
        path = self.folder / info.file
        found, sample = read_sample(path)
        if found != info:
            raise DatasetError(f"{path} is not the sample that {INDEX} describes; {AGAIN}")
        return sample


def open_encoded(folder: str | Path, identity: ModelIdentity | None = None) -> EncodedDataset:
    """Open an encoded dataset, see `open_index`."""
    found = open_index(folder, identity)
    return EncodedDataset(found.folder, found.identity, found.samples)


def write_sample(folder: Path, info: SampleInfo, sample: Sample) -> None:
    """Write a sample into the folder `encoded`, whole or not at all. info.has must name its tensors."""
    tensors = sample.tensors()
    assert set(tensors) == set(info.has)
    line = json.dumps(asdict(info), ensure_ascii=False)  # type: ignore[call-overload]
    data = sealed(tensors, {"soundstage_sample": line, "version": str(VERSION)})
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / info.file) as part:
        part.write_bytes(data)


def read_sample(path: Path) -> tuple[SampleInfo, Sample]:
    """Return a sample's file. Raises DatasetError for a damaged or foreign one."""
    info = read_info(path)
    try:
        metadata = {name: text for name, text in read_header(path).metadata.items() if name != "sha256"}
        return info, Sample(**unsealed(path.read_bytes(), metadata))
    except (OSError, ValueError, TypeError, WeightsError) as error:
        raise DatasetError(f"{path} is damaged: it {error}; remove it and {AGAIN}") from error
