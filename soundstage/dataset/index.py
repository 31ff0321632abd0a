"""The index of an encoded dataset: its samples and the encoders that made them. No torch.

`encoded.py` reads the samples' tensors. An index that is missing or old is made again from their files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from pydantic import Field

from soundstage.dataset.config import CONFIG
from soundstage.dataset.identity import PART_WORDS, ModelIdentity
from soundstage.dataset.items import sample_file
from soundstage.errors import ConfigError, DatasetError, WeightsError
from soundstage.fields.record import from_file, record, unit
from soundstage.files import whole_file
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
class EncodedIndex:
    """The index of an encoded dataset that was opened."""

    folder: Path  # the one with the index
    identity: ModelIdentity
    samples: tuple[SampleInfo, ...]

    @property
    def fps(self) -> float:
        """Return the rate of all samples."""
        return self.samples[0].fps


def open_index(folder: str | Path, identity: ModelIdentity | None = None) -> EncodedIndex:
    """Open the index of an encoded dataset: its folder, its dataset.yaml, or its folder `encoded`.

    identity: the encoders to expect, see `model_identity`; None checks nothing. Raises DatasetError for a
    folder that is none, for missing files, and for latents or texts of other encoders.
    """
    place = Path(folder)
    encoded = _encoded_folder(place.parent if place.name == CONFIG else place)
    made_by, infos = read_index(encoded)
    if not infos:
        raise DatasetError(f"{encoded} has no samples; add clips and {AGAIN}")
    for info in infos:
        if not (encoded / info.file).is_file():
            raise DatasetError(f"sample '{info.id}' of {encoded} has no file {info.file}; {AGAIN}")
    if identity is not None:
        _check_encoders(encoded, made_by, identity, infos)
    return EncodedIndex(encoded, made_by, tuple(infos))


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


def _encoded_folder(folder: Path) -> Path:
    for candidate in (folder / FOLDER, folder):
        if (candidate / INDEX).is_file():
            return candidate
    raise DatasetError(
        f"there is no encoded dataset in {folder} (no {FOLDER}/{INDEX}); "
        f"run `soundstage dataset encode {quote(str(folder))}`"
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
