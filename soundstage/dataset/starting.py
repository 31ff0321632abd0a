"""Begin a dataset: look at a folder, a table or a zip, and write a dataset.yaml that fits it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from soundstage.dataset.archives import unpack
from soundstage.dataset.buckets import proposed
from soundstage.dataset.config import CONFIG, Dataset, DatasetConfig, open_dataset
from soundstage.dataset.findings import ShowShare
from soundstage.dataset.scanning import Scan, scan
from soundstage.dataset.tables import SUFFIXES
from soundstage.errors import DatasetError
from soundstage.fields.describe import field_help
from soundstage.files import whole_file
from soundstage.planning.grid import frames_at

ZipLayout = Literal["auto", "plain", "hosted"]
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.json")  # the table of a folder, as hubs have it
USUAL_FPS = (24.0, 25.0, 30.0)
# The fields that a new file has as remarks, with an example of each.
EXAMPLES = {
    "trigger": '"ohwx ball"',
    "references": "{kind: canny, downscale: 2}",
    "masks": "{kind: boxes, share: [0.1, 0.5]}",
    "split": "{detector: content, min_s: 2}",
    "captions": "{url: http://localhost:8000/v1, model: qwen}",
}


@dataclass(frozen=True)
class Begun:
    """A dataset that was begun. found: its first scan. left_out: files of a zip that are none of it."""

    path: Path
    dataset: Dataset
    found: Scan
    left_out: tuple[str, ...] = ()


def begin(
    source: Path,
    folder: Path | None = None,
    *,
    most_pixels: int = 768 * 448,
    layout: ZipLayout = "auto",
    overwrite: bool = False,
    fields: Mapping[str, Any] | None = None,
    num_frames: int | None = None,
    report: ShowShare = lambda _: None,
) -> Begun:
    """Write dataset.yaml for a folder, a table or a zip, and return it with its first scan.

    folder: where the dataset is to be; left out, the folder itself, that of the table, or one beside the zip
    by its name. most_pixels: the area of a frame at most. layout: "hosted" takes white in
    masks for what is made anew, as hosted trainers do; "auto" does so for a zip. fields, num_frames: see
    `proposed_config`.

    Raises DatasetError for a source that is not there or holds nothing, and for a file that is there already.
    """
    left_out: list[str] = []
    if source.suffix.lower() == ".zip" and source.is_file():
        target = folder or source.with_suffix("")
        left_out = unpack(source, target, report)
        sources, hosted = ".", layout != "plain"
    else:
        target, sources = _place(source, folder)
        hosted = layout == "hosted"
    path = target / CONFIG
    if path.exists() and not overwrite:
        raise DatasetError(f"{path} is there already; edit it, or replace it by --force")
    target.mkdir(parents=True, exist_ok=True)
    config, found = proposed_config(
        target,
        sources,
        most_pixels=most_pixels,
        white="made" if hosted else "given",
        fields=fields or {},
        num_frames=num_frames,
        report=report,
    )
    with whole_file(path) as part:
        part.write_text(_yaml(config, found))
    dataset = open_dataset(path)
    return Begun(path, dataset, scan(dataset), tuple(left_out))


def proposed_config(
    folder: Path,
    sources: str = ".",
    *,
    most_pixels: int = 768 * 448,
    white: Literal["made", "given"] = "made",
    fields: Mapping[str, Any],
    num_frames: int | None = None,
    report: ShowShare = lambda _: None,
) -> tuple[DatasetConfig, Scan]:
    """Return a config that fits the clips of a folder, and the scan that it was made from. Writes nothing.

    fields: fields of the config that are asked for. num_frames: the length of clips, in place of their own;
    buckets among the fields count before it. Raises RequestError for fields that do not fit.
    """
    first = Dataset(folder.absolute(), DatasetConfig(sources=(sources,), buckets=("32x32x9",)))
    found = scan(first, report)
    config = _fitting(found, sources, most_pixels, white)
    asked: dict[str, Any] = dict(fields)
    if num_frames is not None and "buckets" not in asked:
        sizes = [re.sub(r"x\d+$", f"x{num_frames}", bucket) for bucket in config.buckets]
        asked["buckets"] = list(dict.fromkeys(sizes))
    made = {name: getattr(config, name) for name in ("sources", "buckets", "fps", "mask_white")}
    return DatasetConfig(**{**made, **asked}), found


def _place(source: Path, folder: Path | None) -> tuple[Path, str]:
    """Return the dataset's folder, and its source as dataset.yaml names it."""
    if source.is_dir():
        own = source
        source = next((source / name for name in METADATA if (source / name).is_file()), source)
    elif source.is_file() and source.suffix.lower() in SUFFIXES:
        own = source.parent
    elif source.exists():
        raise DatasetError(
            f"{source} is no folder, table ({', '.join(SUFFIXES)}) or zip of clips; give one, such as "
            "the folder that the clip is in"
        )
    else:
        raise DatasetError(
            f"there is no folder, table ({', '.join(SUFFIXES)}) or zip at {source}; give one that is there"
        )
    target = folder or own
    relative = os.path.relpath(source.absolute(), target.absolute())
    return target, Path(relative).as_posix()


def _fitting(found: Scan, sources: str, most_pixels: int, white: Literal["made", "given"]) -> DatasetConfig:
    """Return a config whose rate and buckets fit what is there."""
    infos = [info for info in found.infos.values() if info.num_frames]
    rates = Counter(round(info.fps, 2) for info in infos if info.fps is not None and info.num_frames > 1)
    common = rates.most_common(1)[0][0] if rates else USUAL_FPS[0]
    fps = next((rate for rate in USUAL_FPS if abs(rate - common) < 0.05), USUAL_FPS[0])
    clips = [(info.width, info.height, frames_at(info, fps, fps)) for info in infos]
    films = [clip for clip in clips if clip[2] > 1]
    buckets = proposed(films or clips, most_pixels)
    words = tuple(map(str, buckets)) or DatasetConfig().buckets
    return DatasetConfig(sources=(sources,), buckets=words, fps=fps, mask_white=white)


def _yaml(config: DatasetConfig, found: Scan) -> str:
    """Return the file: every field with its meaning; those that are off as remarks."""
    counts = Counter("picture" if i.image else "clip" if i.video else "sound" for i in found.items)
    told = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in sorted(counts.items()))
    lines = [f"# A dataset of {told or 'nothing yet'}. `soundstage dataset scan` says what becomes of them."]
    plain = DatasetConfig()
    for name in DatasetConfig.__dataclass_fields__:
        value = getattr(config, name)
        asked = field_help(DatasetConfig, name)
        lines += ["", *(f"# {line}" for line in _wrapped(f"{asked.meaning} {asked.takes}".strip()))]
        if name in EXAMPLES and value == getattr(plain, name):
            lines.append(f"# {name}: {EXAMPLES[name]}")
        else:
            shown = list(value) if isinstance(value, tuple) else value
            lines.append(f"{name}: {json.dumps(shown, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 100)
