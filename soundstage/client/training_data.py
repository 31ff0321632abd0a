"""The clips of a training as a server takes them: one zip, with what dataset.yaml and captions.jsonl say.

What a folder says that a server cannot take, such as tables and scenes, is refused and never left out.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soundstage.dataset.config import CONFIG, DatasetConfig, open_dataset
from soundstage.dataset.kept import CAPTIONS, SCENES, read_captions
from soundstage.dataset.sources import MEDIA, OWN, TEXTS
from soundstage.dataset.starting import METADATA
from soundstage.errors import DatasetError, RequestError, SoundstageError, shown
from soundstage.training.tuning.zips import FIELDS, NUM_FRAMES

DATED = (1980, 1, 1, 0, 0, 0)  # of all entries, so that the same clips make the same zip, which is sent once


def dataset_words(data: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how samples are made of a folder's clips: what is given, above what its dataset.yaml says.

    Raises RequestError for a folder that says what a server does not take.
    """
    if not data.is_dir():
        return dict(given)
    config = _config(data)
    if config is None:
        table = next((data / name for name in METADATA if (data / name).is_file()), None)
        if table is not None:
            raise _not_sent(f"{table} is a table", "write its captions as .txt files beside the clips")
        return dict(given)
    for name in ("references", "masks"):
        if getattr(config, name) is not None:
            why = f"put files that `soundstage dataset {name}` makes beside the clips, and take {name} out"
            raise _not_sent(f"{data / CONFIG} sets {name}", why)
    if (data / SCENES).is_file():
        raise _not_sent(f"{data / SCENES} has scenes", "cut the clips, or remove it")
    own = {name: getattr(config, name) for name in FIELDS if name != NUM_FRAMES}
    if NUM_FRAMES in given:
        del own["buckets"]
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
    return {**plain, **given}


def zip_of(data: Path, folder: Path) -> Path:
    """Return the zip of a training's clips: that which is given, or a new one in a folder.

    Captions of captions.jsonl go as texts beside the clips. Raises RequestError for a folder without clips.
    """
    if data.is_file():
        return data
    found = {path.relative_to(os.path.abspath(data)).as_posix(): path for path in _files(data)}
    if not any(path.suffix.lower() in MEDIA for path in found.values()):
        raise RequestError(f"data is {data}, which holds no clip, picture or sound", field="data")
    texts = _written(data, found)
    target = folder / f"{data.resolve().name}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted({*found, *texts}):
            entry = zipfile.ZipInfo(name, DATED)
            if name in texts:
                archive.writestr(entry, texts[name])
                continue
            entry.file_size = found[name].stat().st_size
            with found[name].open("rb") as source, archive.open(entry, "w") as written:
                while piece := source.read(2**20):
                    written.write(piece)
    return target


def _config(data: Path) -> DatasetConfig | None:
    """Return what the dataset.yaml of a folder says; None where there is none."""
    if not (data / CONFIG).is_file():
        return None
    try:
        return open_dataset(data).config
    except SoundstageError as error:
        raise RequestError(f"data: {error}", field="data") from error


def _not_sent(what: str, hint: str) -> RequestError:
    return RequestError(
        f"data: {what}, and a server takes clips with the files of their names alone; {hint}", field="data"
    )


def _files(data: Path) -> Iterator[Path]:
    """Yield the media and texts of a folder's sources, which are the folder itself or are within it."""
    config, root = _config(data), Path(os.path.abspath(data))
    for source in (".",) if config is None else config.sources:
        place = Path(os.path.abspath(root / source))
        if not place.is_dir() or not place.is_relative_to(root):
            what = f"{data / CONFIG} has the source {shown(source)}, which is no folder within {data}"
            raise _not_sent(what, "put the clips there, with .txt files for their captions")
        for here, names, files in os.walk(place):
            left_out = OWN if Path(here) == root else ()
            names[:] = sorted(name for name in names if not name.startswith(".") and name not in left_out)
            paths = (Path(here) / name for name in sorted(files) if not name.startswith("."))
            yield from (path for path in paths if path.suffix.lower() in (*MEDIA, *TEXTS))


def _written(data: Path, found: dict[str, Path]) -> dict[str, str]:
    """Return the texts that captions.jsonl makes, by name, and take those that they replace out of found."""
    try:
        captions = read_captions(data)
    except DatasetError as error:
        raise RequestError(f"data: {error}", field="data") from error
    texts = {}
    for id, caption in captions.items():
        clip, part, _ = id.partition("@")
        if part and id not in found and clip in found:
            raise _not_sent(f"{data / CAPTIONS} has a caption of a part, {shown(id)}", "cut the clips")
        if id in found:
            for ending in TEXTS:
                found.pop(Path(id).with_suffix(ending).as_posix(), None)
            texts[Path(id).with_suffix(TEXTS[0]).as_posix()] = caption
    return texts
