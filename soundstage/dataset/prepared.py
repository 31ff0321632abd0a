"""References and masks that are made for the samples of a dataset, as files to look at and to change.

They lie in `prepared/`, lossless, and carry what they were made from; one that was made from something else
is made again. A file that was put there by hand stays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from soundstage.clip import known_provenance, write_clip
from soundstage.dataset.config import Dataset, MaskMaking, ReferenceMaking
from soundstage.dataset.items import DataItem, sample_file
from soundstage.dataset.kept import stamp_of
from soundstage.media import formats
from soundstage.media.arrays import Pixels
from soundstage.media.clip_pieces import ClipPieces

FOLDER = "prepared"
KEY = "dataset"  # of what such a file was made from, in its provenance
Role = Literal["reference", "video_mask"]
SETTINGS: dict[Role, str] = {"reference": "references", "video_mask": "masks"}


def making_of(dataset: Dataset, role: Role) -> ReferenceMaking | MaskMaking | None:
    """Return how files of a role are made, None where they are not."""
    found: ReferenceMaking | MaskMaking | None = getattr(dataset.config, SETTINGS[role])
    return found


def attached(dataset: Dataset, item: DataItem) -> tuple[DataItem, list[Role]]:
    """Return an item with its prepared files, and the roles whose file is yet to be made."""
    missing: list[Role] = []
    for role in SETTINGS:
        if making_of(dataset, role) is None or getattr(item, role) is not None or item.bucket is None:
            continue
        path = prepared_path(dataset, item, role)
        if path.is_file() and _is_current(dataset, item, role, path):
            item = replace(item, **{role: path.relative_to(dataset.folder).as_posix()})  # type: ignore[arg-type]
        else:
            missing.append(role)
    return item, missing


def is_prepared(name: str) -> bool:
    """Return whether a file of an item is a prepared one, which has the item's size, part and crop."""
    return name.startswith(f"{FOLDER}/")


def prepared_path(dataset: Dataset, item: DataItem, role: Role) -> Path:
    """Return where an item's prepared file is: a film, or a picture where it is the same all the time."""
    still = item.bucket is not None and item.bucket[2] == 1
    if role == "video_mask" and dataset.config.masks is not None:
        still = still or dataset.config.masks.kind != "time"
    stem = Path(sample_file(item.id)).stem
    return dataset.folder / FOLDER / SETTINGS[role] / f"{stem}{'.png' if still else '.mkv'}"


def prepare(dataset: Dataset, item: DataItem, role: Role) -> Path:
    """Make an item's reference or mask. Raises RequestError for a kind or setting that does not exist."""
    path = prepared_path(dataset, item, role)
    frames = _reference(dataset, item) if role == "reference" else _mask(dataset, item)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = next(frames)
    count = 1 if path.suffix == ".png" else _num_frames(item)
    size = (first.shape[1], first.shape[0])
    fps = dataset.config.fps
    pieces = ClipPieces(_again(first, frames), count, size, fps, None, 48_000, count / fps)
    output = formats.output(path, count, codec=None if count == 1 else "ffv1")
    write_clip(output, pieces, {KEY: _made_from(dataset, item, role)})
    return path


def _again(first: Pixels, frames: Iterator[Pixels]) -> Iterator[Pixels]:
    yield first
    yield from frames


def _num_frames(item: DataItem) -> int:
    assert item.bucket is not None
    return item.bucket[2]


def _reference(dataset: Dataset, item: DataItem) -> Iterator[Pixels]:
    from soundstage.conditioning.pixels import fit, to_uint8
    from soundstage.control.kinds import FILES, training_kind
    from soundstage.dataset.pixels import Framing, drawing_seed, frames_of

    making, config = dataset.config.references, dataset.config
    assert making is not None
    assert item.bucket is not None
    width, height, count = item.bucket
    framing = Framing(width, height, config.crop, item.id)
    path = dataset.path(item.main)
    frames = frames_of(path, item.start_s, count, config.fps, framing)
    sized = (to_uint8(fit(iter([frame]), width, height, framing.fit_crop))[0] for frame in frames)
    kind, options = training_kind(making.kind), dict(making.options)
    options |= {name: str(dataset.path(options[name])) for name in FILES if options.get(name) is not None}
    if "seed" in kind.settings:  # each clip is drawn anew
        options.setdefault("seed", drawing_seed(item.id))
    return kind.prepare(sized, config.fps, options, count)


def _mask(dataset: Dataset, item: DataItem) -> Iterator[Pixels]:
    from soundstage.dataset.masks import drawn, mask_frames

    making = dataset.config.masks
    assert making is not None
    assert item.bucket is not None
    return mask_frames(drawn(making, item.id, item.bucket, dataset.config.mask_white))


def _is_current(dataset: Dataset, item: DataItem, role: Role, path: Path) -> bool:
    """Return whether a file was made from what it would be made from now, or by hand."""
    stored = known_provenance(path).get(KEY)
    return stored is None or stored == _made_from(dataset, item, role)


def _made_from(dataset: Dataset, item: DataItem, role: Role) -> str:
    """Return a hash of what a prepared file depends on."""
    making = making_of(dataset, role)
    config = dataset.config
    content: dict[str, Any] = {
        "making": asdict(making),  # type: ignore[arg-type]
        "item": [item.id, item.start_s, item.bucket],
        "file": stamp_of(dataset.path(item.main)) if role == "reference" else None,
        "how": [config.fps, config.crop, config.mask_white],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
