"""dataset.yaml: the sources of a dataset and how its samples are made of them, as a checked record.

Paths are relative to the file. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from soundstage.dataset.buckets import WANTED, Bucket, parse_bucket
from soundstage.errors import DatasetError, RequestError
from soundstage.fields.record import Share, record, unit
from soundstage.fields.yaml_record import read_record
from soundstage.types import SPACE_SCALE

CONFIG = "dataset.yaml"
Detector = Literal["content", "adaptive", "threshold", "histogram", "hash"]
MaskKind = Literal["boxes", "strokes", "border", "time"]
DataSeconds = Annotated[float, Field(ge=0, le=86_400), unit("seconds")]


def _many(value: Any) -> Any:
    """Return one word as a list, and words with semicolons between them as several."""
    return [part.strip() for part in value.split(";") if part.strip()] if isinstance(value, str) else value


def _numbers(value: Any) -> Any:
    return [value] if isinstance(value, int | float) else _many(value)


Words = Annotated[tuple[str, ...], BeforeValidator(_many)]


@record
class SceneSplitting:
    """Cutting of long films into scenes."""

    detector: Detector = "content"
    """How a cut is found: content (colours change), adaptive (more than around it), threshold (fades to
    black), histogram, hash."""

    threshold: Annotated[float, Field(gt=0)] | None = None
    """The detector's own figure; smaller finds more cuts. Left out, its usual one."""

    min_s: DataSeconds = 2.0
    """Scenes that are shorter are left out, and reported."""


@record
class ReferenceMaking:
    """References for in-context adapters, made from the clips themselves."""

    kind: str = "clip"
    """A kind of `soundstage control`, such as canny, cartoon or blur."""

    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of the kind, and its files beside dataset.yaml: mask, image, model, detector, paths."""

    downscale: Annotated[int, Field(ge=1, le=8)] = 1
    """How many times smaller references are on each side: 2 for structure, 1 where pixels matter."""

    temporal: Annotated[int, Field(ge=1, le=16)] = 1
    """References keep the first frame and one of so many after it."""


@record
class MaskMaking:
    """Masks for inpainting, drawn for the clips that have none."""

    kind: MaskKind = "boxes"
    """What is made anew: boxes, strokes of a brush, a border around the picture, or a stretch of time."""

    share: tuple[Share, Share] = (0.1, 0.5)
    """The smallest and largest share of the picture that is made anew."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the drawing; each clip has its own mask."""


@record
class CaptionMaking:
    """The model that writes captions."""

    url: str | None = None
    """Address of an OpenAI-compatible server, such as http://localhost:8000/v1."""

    model: str | None = None
    """Its name on that server; without a url, the folder of a vision model for `transformers`."""

    prompt: str = (
        "Describe this clip in one paragraph for a text-to-video model: the subject, what happens and in "
        "which order, the place, light, camera and style. Begin with the subject itself."
    )
    """What the model is asked."""

    frames: Annotated[int, Field(ge=1, le=32)] = 4
    """Frames of a clip that the model sees, evenly over its length."""

    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 300
    """Longest answer."""

    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key, if it wants one."""

    timeout_s: Annotated[float, Field(gt=0, le=3600), unit("seconds")] = 120.0
    """How long to wait for an answer."""

    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """How often a call that failed in passing is made again, after longer and longer pauses."""


@record
class DatasetConfig:
    """The file dataset.yaml."""

    sources: Words = ("clips",)
    """Folders of clips, pictures and sounds, tables (.csv, .jsonl, .json) and single files."""

    buckets: Words = ("768x448x89",)
    """Sizes and lengths that clips are brought to, WIDTHxHEIGHTxFRAMES; the nearest shape that is no longer
    than the clip is taken. Pictures take the sizes alone."""

    audio_buckets: Annotated[tuple[DataSeconds, ...], BeforeValidator(_numbers)] = (2.0, 4.0, 8.0)
    """Lengths of sounds without a picture."""

    fps: Annotated[float, Field(gt=0, le=120), unit("frames per second")] = 24.0
    """Rate of all clips; others are sampled by time."""

    sound: Literal["auto", "all", "none"] = "auto"
    """Whether clips bring their sound: those that have one (auto), all or the clip is refused, none."""

    voices: Literal["own", "speaker"] = "own"
    """Voice samples: those that items bring (own), or for the others another clip of the same speaker."""

    crop: Literal["center", "random", "stretch", "pad"] = "center"
    """How a clip of another shape fills a bucket. random is drawn once for each clip."""

    take: Literal["first", "middle", "every"] = "first"
    """Which frames of a longer clip: the first, the middle ones, or all, one bucket after the other."""

    trigger: str = ""
    """Trigger word or sentence, put before every caption when it is encoded."""

    caption: str = ""
    """Caption of what has no other."""

    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often a sample counts in an epoch, where its table does not say."""

    mask_white: Literal["given", "made"] = "given"
    """What is white in a mask file: what stays as given, or what is made anew as at inference."""

    references: ReferenceMaking | None = None
    """Make a reference of every clip that brings none."""

    masks: MaskMaking | None = None
    """Draw a mask for every clip that brings none."""

    split: SceneSplitting = SceneSplitting()
    """How `soundstage dataset split` finds scenes."""

    captions: CaptionMaking = CaptionMaking()
    """How `soundstage dataset caption` writes captions."""

    @field_validator("buckets")
    @classmethod
    def _buckets_fit(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"buckets is empty; give {WANTED}")
        for text in value:
            parse_bucket(text)
        return value

    @field_validator("audio_buckets")
    @classmethod
    def _lengths_fit(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) <= 0:
            raise ValueError("audio_buckets needs lengths above 0, such as [2, 4, 8]")
        return value

    @field_validator("references")
    @classmethod
    def _kind_is_known(cls, value: ReferenceMaking | None) -> ReferenceMaking | None:
        if value is not None:
            from soundstage.control.kinds import training_kind

            try:
                kind = training_kind(value.kind)
                kind.checked(value.options)
                if kind.sound is not None:
                    raise ValueError(f"references is {value.kind}, which makes a sound; give one of pictures")
            except RequestError as error:
                raise ValueError(f"references is {value.kind}: {error}") from error
        return value

    @model_validator(mode="after")
    def _references_fit(self) -> DatasetConfig:
        step = SPACE_SCALE * (1 if self.references is None else self.references.downscale)
        for bucket in self.all_buckets:
            if bucket.width % step or bucket.height % step:
                raise ValueError(
                    f"buckets has {bucket}, and references.downscale needs sides that are multiples of {step}"
                )
        return self

    @property
    def all_buckets(self) -> tuple[Bucket, ...]:
        """Return the buckets."""
        return tuple(map(parse_bucket, self.buckets))


@dataclass(frozen=True)
class Dataset:
    """A folder with its dataset.yaml. name: the file's, for messages."""

    folder: Path
    config: DatasetConfig

    def path(self, name: str) -> Path:
        """Return the file of a name that is relative to the folder."""
        return self.folder / name


def open_dataset(path: str | Path) -> Dataset:
    """Open the dataset of a folder, or of its dataset.yaml.

    Raises DatasetError where there is none, ConfigError with the line for a file that does not fit.
    """
    file = Path(path)
    file = file / CONFIG if file.is_dir() else file
    if not file.is_file():
        raise DatasetError(f"there is no {file}; `soundstage dataset new {quote(str(path))}` writes one")
    return Dataset(file.absolute().parent, read_record(DatasetConfig, file))
