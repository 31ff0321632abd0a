"""Show a dataset on one page: frames, waveform, caption and bucket of each sample, as encoded."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from soundstage.dataset.config import Dataset
from soundstage.dataset.findings import ShowShare
from soundstage.dataset.items import DataItem
from soundstage.dataset.pixels import Framing, frames_of
from soundstage.dataset.prepared import is_prepared
from soundstage.media.arrays import Pixels, Waveform
from soundstage.media.image import page_of, shown_frames, titled_row
from soundstage.media.load import load_sound
from soundstage.media.picture_files import save_picture

if TYPE_CHECKING:
    from PIL import Image

LETTERS = 250  # of a line
CAPTION_LINES = 2
ROLES = ("reference", "video_mask")


def write_sheet(
    dataset: Dataset, items: Sequence[DataItem], path: Path, report: ShowShare = lambda _: None
) -> Path:
    """Write the page as PNG, and return its path. Raises MediaError for a clip that cannot be read."""
    rows = []
    for number, item in enumerate(items, 1):
        rows += _rows(dataset, item)
        report(number / len(items))
    save_picture(path, page_of(rows))
    return path


def chosen(items: Sequence[DataItem], count: int) -> list[DataItem]:
    """Return at most so many samples, evenly over all of them."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _rows(dataset: Dataset, item: DataItem) -> list[Pixels]:
    """Return the rows of a sample: itself, its reference, its mask."""
    config = dataset.config
    facts = [item.id, item.bucket_name if item.bucket else f"{item.audio_s or 0:g} s of sound"]
    facts += [f"x{item.repeats}"] if item.repeats > 1 else []
    facts += [f"speaker {item.speaker}"] if item.speaker else []
    facts += [] if item.audio_s is not None else ["no sound"]
    caption = f"{config.trigger} {item.caption}".strip() or "(no caption)"
    lines = textwrap.wrap(caption, LETTERS, max_lines=CAPTION_LINES, placeholder=" ...")
    found = [
        titled_row([", ".join(facts), *lines], _pictures(dataset, item, item.main), _wave(dataset, item))
    ]
    for role in ROLES if item.bucket is not None else ():
        name = getattr(item, role)
        if name is not None:
            found.append(titled_row([f"{role} {name}"], _pictures(dataset, item, name), None))
    return found


def _pictures(dataset: Dataset, item: DataItem, name: str) -> list[tuple[float, Pixels]]:
    """Return the frames of a file that are shown, cut as they will be encoded, with their times."""
    if item.bucket is None:
        return []
    from PIL import Image

    width, height, count = item.bucket
    prepared = is_prepared(name)
    crop = "stretch" if prepared else dataset.config.crop
    start_s = 0.0 if prepared else item.start_s
    framing = Framing(width, height, crop, item.id)
    frames = frames_of(dataset.path(name), start_s, count, dataset.config.fps, framing, hold=True)
    wanted = set(shown_frames(count))
    found = []
    for index, frame in enumerate(frames):
        if index in wanted:
            picture = Image.fromarray(frame)
            found.append((index / dataset.config.fps, _cropped(picture, width, height, framing.fit_crop)))
    return found


def _cropped(picture: Image.Image, width: int, height: int, crop: str) -> Pixels:
    import numpy as np
    from PIL import Image, ImageOps

    if crop == "center":
        return np.asarray(ImageOps.fit(picture, (width, height)))
    if crop == "pad":
        return np.asarray(ImageOps.pad(picture, (width, height)))
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def _wave(dataset: Dataset, item: DataItem) -> Waveform | None:
    if item.audio_s is None:
        return None
    samples, _ = load_sound(str(dataset.path(item.audio or item.main)), item.start_s, item.audio_s)
    return samples
