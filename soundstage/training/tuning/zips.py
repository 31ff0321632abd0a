"""Data that came as one zip: looked into before a training waits, and unpacked and encoded where it is made.

Its fields are those of dataset.yaml that say how samples are made of clips, and num_frames. Which clips
belong together follows from their names alone; paths of its own a zip cannot name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.dataset.config import CONFIG, Dataset, DatasetConfig, open_dataset
from soundstage.dataset.findings import told
from soundstage.dataset.index import SampleInfo
from soundstage.dataset.items import DataItem
from soundstage.dataset.scanning import Scan, scan
from soundstage.dataset.starting import begin, proposed_config
from soundstage.errors import DatasetError, RequestError, listed, shown
from soundstage.types import AUDIO_LATENTS_PER_S, audio_latent_length

if TYPE_CHECKING:
    from soundstage.engine import Engine

NUM_FRAMES = "num_frames"
# Fields of dataset.yaml that a zip's sender may set. The others name files, programs and services.
FIELDS = (
    NUM_FRAMES, "buckets", "audio_buckets", "fps", "sound", "voices", "crop", "take", "trigger", "caption",
    "repeats", "mask_white",
)  # fmt: skip
MAX_FRAMES = 1001
FEWEST, USUAL = 2, 10  # samples


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raise RequestError for fields of the data that are unknown, not a sender's to set, or do not fit."""
    for name in fields:
        if name not in FIELDS:
            raise RequestError(
                f"dataset has the field {shown(name)}, which a zip's sender cannot set; the fields are "
                f"{listed(str(name), FIELDS)}",
                field="dataset",
            )
    frames = fields.get(NUM_FRAMES, 1)
    if isinstance(frames, bool) or not isinstance(frames, int) or frames % 8 != 1 or frames > MAX_FRAMES:
        raise RequestError(
            f"dataset.num_frames is {shown(frames)}; give 8k + 1 frames up to {MAX_FRAMES}, such as 49",
            field="dataset",
        )
    try:
        DatasetConfig(**_config_fields(fields))
    except RequestError as error:
        raise RequestError(f"dataset: {error}", field="dataset") from error


def _config_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != NUM_FRAMES}


def is_unpacked(folder: Path) -> bool:
    """Return whether the data of a zip are in a folder, whole."""
    return (folder / CONFIG).exists()


def unpacked(path: Path, folder: Path, fields: Mapping[str, Any]) -> Dataset:
    """Unpack a zip into a folder, unless that is done, and return the dataset."""
    if not is_unpacked(folder):
        begin(path, folder, fields=_config_fields(fields), num_frames=fields.get(NUM_FRAMES))
    return open_dataset(folder)


def encoded(dataset: Dataset, engine: Engine, report: Callable[[float], None] = lambda _: None) -> None:
    """Encode a dataset; what is done already stays."""
    from soundstage.dataset.encoding import encode

    encode(dataset, scan(dataset), engine, report=report)


# --- before it waits ----------------------------------------------------------------------------------


def looked_into(folder: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the samples that a folder of an unpacked zip gives, and notes on it, as JSON has them.

    Reads headers of the media and writes nothing. Raises DatasetError or RequestError for clips that cannot
    be read, that are too few, or that are mixed with pictures.
    """
    asked, frames = _config_fields(fields), fields.get(NUM_FRAMES)
    config, _ = proposed_config(Path(folder), fields=asked, num_frames=frames)
    found = scan(Dataset(Path(folder).absolute(), config))
    if found.errors:
        raise DatasetError(told(found.errors))
    _check_kinds(found)
    notes = [finding.message for finding in found.findings]
    if len(found.items) < FEWEST:
        why = f": {told(found.findings)}" if found.findings else ""
        raise DatasetError(
            f"the zip gives {len(found.items)} samples, and {FEWEST} are the fewest to learn from{why}"
        )
    if len(found.items) < USUAL:
        notes.append(f"the zip gives {len(found.items)} samples; {USUAL} or more are usual")
    infos = [asdict(_info(item, config)) for item in found.items]  # type: ignore[call-overload]
    return {"samples": infos, "notes": notes}


def _check_kinds(found: Scan) -> None:
    """Raise DatasetError where clips and pictures are mixed."""
    kinds = Counter("picture" if item.image else "clip" for item in found.items if item.bucket is not None)
    if len(kinds) > 1:
        counts = " and ".join(f"{count} {kind}s" for kind, count in sorted(kinds.items()))
        raise DatasetError(f"the zip holds {counts}; give clips alone, or pictures alone")


def _info(item: DataItem, config: DatasetConfig) -> SampleInfo:
    """Return a sample as it will be once it is encoded."""
    audio = None
    if item.audio_s is not None:
        alone = max(1, round(item.audio_s * AUDIO_LATENTS_PER_S))
        audio = alone if item.bucket is None else audio_latent_length(item.bucket[2], config.fps)
    pictured = item.bucket is not None
    has = {
        "video": pictured,
        "reference": pictured and item.reference is not None,
        "video_mask": pictured and item.video_mask is not None,
        "audio": audio is not None,
        "reference_audio": item.reference_audio is not None,
        "audio_mask": audio is not None and item.audio_mask is not None,
    }
    names = tuple(name for name, is_there in has.items() if is_there)
    return SampleInfo(id=item.id, fps=config.fps, has=names, size=item.bucket, num_audio=audio)
