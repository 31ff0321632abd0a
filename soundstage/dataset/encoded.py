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
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from soundstage.dataset.identity import PART_WORDS, ModelIdentity
from soundstage.dataset.items import sample_file
from soundstage.errors import ConfigError, DatasetError, WeightsError
from soundstage.fields.record import from_file, record, unit
from soundstage.files import whole_file
from soundstage.rendering.sealed import sealed, unsealed
from soundstage.text.encoder import PromptFeatures
from soundstage.weights.header import read_header

VERSION = 1
FOLDER, INDEX = "encoded", "index.json"
AGAIN = "run `soundstage dataset encode` again"


@record
class SampleInfo:
    """One sample of an encoded dataset: what can be known without reading its tensors."""

    id: str
    "The item's name: the path of its source within the dataset, and the part of it that is used."

    fps: Annotated[float, Field(gt=0), unit("frames per second")]
    "Rate of the latents' frames, which gives tokens their seconds."

    has: tuple[str, ...]
    "Names of the tensors in the file."

    size: tuple[int, int, int] | None = None
    "Width, height and frames of the picture in pixels (the bucket); None for sound alone."

    num_audio: int | None = None
    "Length of the sound in latents, 25 a second; None without sound."

    caption: str = ""
    "What was encoded, trigger word included."

    repeats: Annotated[int, Field(ge=1)] = 1
    "How often the sample counts in an epoch."

    speaker: str | None = None
    "Who speaks, where voices are told apart."

    reference_downscale: Annotated[int, Field(ge=1)] = 1
    "How many times smaller the reference is on each side than the picture."

    reference_temporal: Annotated[int, Field(ge=1)] = 1
    "How many frames of the picture one frame of the reference stands for."

    fingerprint: str = ""
    "Hash of everything that the file was made from: sources, caption, settings and encoders."

    made_with: Mapping[str, str] = Field(default_factory=dict)
    "What the fingerprint was made of, by name, to say what changed."

    @property
    def file(self) -> str:
        """Return the name of the file with the tensors."""
        return sample_file(self.id)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Return what samples of one batch have in common: size, length of sound, tensors, reference."""
        return (self.size, self.num_audio, self.has, self.reference_downscale, self.reference_temporal)


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


@dataclass(frozen=True)
class EncodedDataset:
    """An encoded dataset that was opened: its samples, and the encoders that made them."""

    folder: Path  # the one with the index
    identity: ModelIdentity
    samples: tuple[SampleInfo, ...]

    @property
    def fps(self) -> float:
        """Return the rate of all samples."""
        return self.samples[0].fps

    def load(self, info: SampleInfo) -> Sample:
        """Read a sample's tensors. Raises DatasetError for a file that is missing or damaged."""
        path = self.folder / info.file
        found, sample = read_sample(path)
        if found != info:
            raise DatasetError(f"{path} is not the sample that {INDEX} describes; {AGAIN}")
        return sample


def open_encoded(folder: str | Path, identity: ModelIdentity | None = None) -> EncodedDataset:
    """Open an encoded dataset: the folder of its dataset.yaml, or its folder `encoded`.

    identity: the encoders to expect, see `model_identity`; None checks nothing. Raises DatasetError for a
    folder that is none, for missing files, and for latents or texts of other encoders.
    """
    encoded = _encoded_folder(Path(folder))
    made_by, infos = read_index(encoded)
    if not infos:
        raise DatasetError(f"{encoded} has no samples; add clips and {AGAIN}")
    for info in infos:
        if not (encoded / info.file).is_file():
            raise DatasetError(f"sample '{info.id}' of {encoded} has no file {info.file}; {AGAIN}")
    if identity is not None:
        _check_encoders(encoded, made_by, identity, infos)
    return EncodedDataset(encoded, made_by, tuple(infos))


def write_sample(folder: Path, info: SampleInfo, sample: Sample) -> None:
    """Write a sample into the folder `encoded`, whole or not at all. info.has must name its tensors."""
    tensors = sample.tensors()
    assert set(tensors) == set(info.has)
    line = json.dumps(asdict(info), ensure_ascii=False)  # type: ignore[call-overload]
    data = sealed(tensors, {"soundstage_sample": line, "version": str(VERSION)})
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / info.file) as part:
        part.write_bytes(data)


def write_index(folder: Path, identity: ModelIdentity, infos: Iterable[SampleInfo]) -> None:
    """Write the index of samples whose files are in the folder `encoded`."""
    content = {
        "version": VERSION,
        "model": asdict(identity),  # type: ignore[call-overload]
        "samples": [asdict(info) for info in infos],  # type: ignore[call-overload]
    }
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / INDEX) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_index(folder: Path) -> tuple[ModelIdentity, list[SampleInfo]]:
    """Return the encoders and samples of an index. Raises DatasetError for one that cannot be read."""
    path = folder / INDEX
    try:
        content = json.loads(path.read_text())
        if content["version"] != VERSION:
            raise DatasetError(f"{path} has version {content['version']}, and {VERSION} is known; {AGAIN}")
        identity = from_file(ModelIdentity, content["model"], f"{path}, model")
        samples = [
            from_file(SampleInfo, line, f"{path}, sample {number}")
            for number, line in enumerate(content["samples"], 1)
        ]
    except ConfigError as error:
        raise DatasetError(f"{error}; {AGAIN}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); {AGAIN}") from error
    return identity, samples


def read_info(path: Path) -> SampleInfo:
    """Return what a sample's file says of itself. Raises DatasetError for a damaged or foreign file."""
    try:
        line = read_header(path).metadata["soundstage_sample"]
        return from_file(SampleInfo, json.loads(line), str(path))
    except (WeightsError, ConfigError, KeyError, ValueError) as error:
        raise DatasetError(f"{path} is not an encoded sample ({error}); {AGAIN}") from error


def read_sample(path: Path) -> tuple[SampleInfo, Sample]:
    """Return a sample's file. Raises DatasetError for a damaged or foreign one."""
    info = read_info(path)
    try:
        metadata = {name: text for name, text in read_header(path).metadata.items() if name != "sha256"}
        return info, Sample(**unsealed(path.read_bytes(), metadata))
    except (OSError, ValueError, TypeError, WeightsError) as error:
        raise DatasetError(f"{path} is damaged: it {error}; remove it and {AGAIN}") from error


def _encoded_folder(folder: Path) -> Path:
    for candidate in (folder / FOLDER, folder):
        if (candidate / INDEX).is_file():
            return candidate
    raise DatasetError(
        f"there is no encoded dataset in {folder} (no {FOLDER}/{INDEX}); "
        f"run `soundstage dataset encode {folder}`"
    )


def _check_encoders(
    folder: Path, made_by: ModelIdentity, wanted: ModelIdentity, infos: Iterable[SampleInfo]
) -> None:
    """Raise DatasetError naming the encoders that are not those of the model to train."""
    has = {name for info in infos for name in info.has}
    used = {"text"}
    used |= {"video_vae"} if has & {"video", "reference"} else set()
    used |= {"audio_vae"} if has & {"audio", "reference_audio"} else set()
    other = [part for part in PART_WORDS if part in used and getattr(made_by, part) != getattr(wanted, part)]
    if other:
        words = " and ".join(PART_WORDS[part] for part in other)
        raise DatasetError(
            f"{folder} was encoded with another {words} (model '{made_by.name}') than that of "
            f"'{wanted.name}'; run `soundstage dataset encode --model {wanted.name}`"
        )
    if made_by.text_tokens != wanted.text_tokens:
        raise DatasetError(
            f"{folder} was encoded for prompts of {made_by.text_tokens} tokens, and '{wanted.name}' reads "
            f"{wanted.text_tokens}; {AGAIN}"
        )
