"""Items: what a dataset's sources hold, one record each, and the file items.jsonl that lists them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from soundstage.dataset.buckets import Bucket
from soundstage.dataset.config import DataSeconds
from soundstage.fields.record import record
from soundstage.files import whole_file

ITEMS = "items.jsonl"
SUFFIX = ".safetensors"  # of encoded samples
SLUG_LETTERS = 48


@record
class DataItem:
    """One sample to be: its files, relative to the dataset's folder, and what is known of it."""

    id: str
    """Its name: the path of its main file, and the part that is used."""

    video: str | None = None
    """A clip."""

    image: str | None = None
    """A still picture."""

    audio: str | None = None
    """A sound: alone, or in place of the clip's own."""

    start_s: DataSeconds = 0.0
    """Where the part begins in the main file."""

    end_s: DataSeconds | None = None
    """Where it ends; left out, at the end of the file."""

    caption: str = ""
    """What it shows, without the trigger word."""

    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often it counts in an epoch."""

    reference: str | None = None
    """A clip or picture that an in-context adapter follows."""

    reference_audio: str | None = None
    """A sound to follow, or a voice sample."""

    video_mask: str | None = None
    """A picture or clip that says what of the picture is given."""

    audio_mask: str | None = None
    """A sound whose loudness says what of the sound is given."""

    speaker: str | None = None
    """Who speaks."""

    bucket: tuple[int, int, int] | None = None
    """Width, height and frames that it is brought to."""

    audio_s: DataSeconds | None = None
    """DataSeconds of its sound; left out without one."""

    row: str = ""
    """Where it was found, for messages: a file, or a line of a table."""

    @property
    def main(self) -> str:
        """Return the file that the item is about."""
        return self.video or self.image or self.audio or ""

    @property
    def files(self) -> dict[str, str]:
        """Return all files by what they are."""
        names = ("video", "image", "audio", "reference", "reference_audio", "video_mask", "audio_mask")
        found = {name: getattr(self, name) for name in names}
        return {name: path for name, path in found.items() if path is not None}

    @property
    def bucket_name(self) -> str:
        """Return the bucket in words: 768x448x89, or 4 s of sound."""
        return f"{self.audio_s or 0:g} s of sound" if self.bucket is None else str(Bucket(*self.bucket))


def sample_file(item_id: str) -> str:
    """Return the file name of a sample: readable, and its own even where names of two folders are alike."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", item_id).strip("-")[-SLUG_LETTERS:]
    return f"{slug}-{hashlib.sha256(item_id.encode()).hexdigest()[:12]}{SUFFIX}"


def fields_of(item: DataItem) -> dict[str, Any]:
    """Return the fields that differ from their defaults, as JSON has them."""
    plain = asdict(DataItem(id=""))  # type: ignore[call-overload]
    fields = asdict(item)  # type: ignore[call-overload]
    return {name: value for name, value in fields.items() if value != plain[name]}


def write_items(folder: Path, items: Iterable[DataItem]) -> Path:
    """Write items.jsonl, and return its path."""
    path = folder / ITEMS
    with whole_file(path) as part:
        lines = (json.dumps(fields_of(item), ensure_ascii=False) for item in items)
        part.write_text("".join(f"{line}\n" for line in lines))
    return path
