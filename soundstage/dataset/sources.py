"""Sources of a dataset: folders, tables and single files, as items that have not been looked into yet.

In a folder, files belong together by their names. Beside `ball.mp4`:

    ball.txt              its caption
    ball_mask.png         its mask, a picture or a clip
    ball_ref.mp4          what an in-context adapter follows; also _reference, _control
    ball_audio.wav        its sound, in place of its own; also ball.wav
    ball_voice.wav        a voice sample
    ball_audio_mask.wav   what of its sound is given, where it is loud

The layouts of hosted trainers are read too: `7_end.mp4` is a clip whose `7_start.mp4` is its reference; a
picture `7_start.png` is no more than its first frame, and is left out.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soundstage.dataset.config import CONFIG, Dataset
from soundstage.dataset.items import ITEMS, DataItem
from soundstage.dataset.kept import CAPTIONS, SCENES
from soundstage.dataset.tables import PATHS, SUFFIXES, TableRow, read_table, text_of
from soundstage.errors import DatasetError, RequestError

FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv")
CLIPS = frozenset((*FILMS, ".gif", ".mxf", ".ogv"))
PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"))
SOUNDS = frozenset((".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac", ".aiff", ".aif"))
MEDIA = CLIPS | PICTURES | SOUNDS
TEXTS = (".txt", ".caption")
# Endings of stems, the longest first, and what such a file is for the one without it.
COMPANIONS = {
    "_audio_mask": "audio_mask", "_mask": "video_mask", "_reference": "reference", "_control": "reference",
    "_ref": "reference", "_voice": "reference_audio", "_audio": "audio", "_start": "start", "_end": "end",
}  # fmt: skip
SHEET = "dataset.png"
OWN = ("encoded", "prepared")  # folders that the commands write
OWN_FILES = (CONFIG, ITEMS, SCENES, CAPTIONS, SHEET)
MAX_CAPTION_BYTES = 2**16


@dataclass
class Gathered:
    """The items of all sources, and what users should know of them."""

    items: list[DataItem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)  # (place, message)


def gather(dataset: Dataset) -> Gathered:
    """Return the items of a dataset's sources. Raises DatasetError for sources that are not there."""
    found = Gathered()
    for name in dataset.config.sources:
        path = dataset.path(name)
        if path.is_dir():
            _folder(dataset, path, found)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            _table(dataset, path, found)
        elif path.is_file():
            found.items.append(_named(dataset, _item(str(path), caption=_caption(path)), path))
        else:
            raise DatasetError(
                f"sources of {dataset.folder / CONFIG} has '{name}', and there is no {path}; correct it"
            )
    found.items = _distinct(found.items)
    if not found.items and not found.problems:
        named = ", ".join(dataset.config.sources)
        raise DatasetError(
            f"{dataset.folder} has no clip, picture or sound in its sources ({named}); put some there"
        )
    return found


def kind_of_name(path: Path) -> str:
    """Return "video", "image" or "audio" by a file's ending."""
    ending = path.suffix.lower()
    return "audio" if ending in SOUNDS else "image" if ending in PICTURES else "video"


# --- folders ------------------------------------------------------------------------------------------


def _folder(dataset: Dataset, folder: Path, found: Gathered) -> None:
    """Add the items of a folder and those below it, in the order of their names."""
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for place, names, files in os.walk(folder, followlinks=True):
        here = Path(place)
        own = os.path.samefile(here, dataset.folder)
        if os.path.realpath(here) in seen:  # by a link that leads up
            names.clear()
            continue
        seen.add(os.path.realpath(here))
        names[:] = sorted(n for n in names if not n.startswith(".") and not (own and n in OWN))
        files = [name for name in files if not name.startswith(".") and not (own and name in OWN_FILES)]
        paths = [here / name for name in sorted(files)]
        media = [path for path in paths if path.suffix.lower() in MEDIA]
        known = (*MEDIA, *TEXTS)
        rest = (path for path in paths if path.suffix.lower() not in known)
        others.update(path.suffix.lower() or path.name for path in rest)
        _together(dataset, media, found)
    if others:
        told = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        found.notices.append(f"{folder}: files that are neither media nor captions are left out: {told}")


def _together(dataset: Dataset, media: list[Path], found: Gathered) -> None:
    """Add the items of one folder: files whose names begin alike are one."""
    stems = {path.stem for path in media}
    groups: dict[str, dict[str, Path]] = {}
    mains: list[Path] = []
    for path in media:
        base, role = _role(path.stem)
        belongs = base in stems or f"{base}_end" in stems
        if role and belongs and not (role == "end" and base in stems):
            groups.setdefault(base, {})[role] = path
        else:
            mains.append(path)
    by_stem: dict[str, list[Path]] = {}
    for path in mains:
        by_stem.setdefault(path.stem, []).append(path)
    for base, roles in groups.items():
        if "end" in roles:
            by_stem.setdefault(base, []).append(roles["end"])
    for base in sorted(by_stem):
        _group(dataset, base, by_stem[base], groups.get(base, {}), found)


def _role(stem: str) -> tuple[str, str]:
    """Return (stem of the main file, what it is for it), "" for a file of its own."""
    for ending, role in COMPANIONS.items():
        if stem.endswith(ending) and len(stem) > len(ending):
            return stem.removesuffix(ending), role
    return stem, ""


def _group(dataset: Dataset, base: str, mains: list[Path], roles: dict[str, Path], found: Gathered) -> None:
    """Add the items of one stem: each clip and picture of it; a sound of it belongs to the clip."""
    clips = [path for path in mains if kind_of_name(path) != "audio"]
    sounds = [path for path in mains if kind_of_name(path) == "audio"]
    fields = {name: _relative(dataset, path) for name, path in roles.items() if name not in ("start", "end")}
    start = roles.get("start")
    if start is not None and kind_of_name(start) == "video":
        fields["reference"] = _relative(dataset, start)
    elif start is not None:
        found.notices.append(f"{start} is left out: a clip's own first frame is what training starts from")
    has_film = any(kind_of_name(path) == "video" for path in clips)
    if has_film and sounds:
        fields.setdefault("audio", _relative(dataset, sounds.pop()))
    for path in (*clips, *sounds):
        try:
            caption = _caption(path.with_name(f"{base}{path.suffix}"))
        except DatasetError as error:  # of one item: the others are listed all the same
            found.problems.append((_relative(dataset, path), str(error)))
            continue
        own = dict(fields)
        if kind_of_name(path) != "video":
            own.pop("audio", None)
        item = _item(str(path), caption=caption, **own)
        found.items.append(_named(dataset, item, path))


def _caption(path: Path) -> str:
    """Return the text beside a file, in one line; empty where there is none."""
    for ending in TEXTS:
        file = path.with_suffix(ending)
        if file.is_file():
            text = text_of(file)
            if len(text) > MAX_CAPTION_BYTES:
                raise DatasetError(f"{file} is longer than {MAX_CAPTION_BYTES} letters; write a caption")
            return " ".join(text.split())
    return ""


# --- tables -------------------------------------------------------------------------------------------


def _table(dataset: Dataset, path: Path, found: Gathered) -> None:
    rows, unknown = read_table(path)
    if unknown:
        found.notices.append(f"{path}: columns that mean nothing here are left out: {', '.join(unknown)}")
    for row in rows:
        try:
            found.items.append(_of_row(dataset, path.parent, row))
        except DatasetError as error:
            found.problems.append((row.place, str(error)))


def _of_row(dataset: Dataset, folder: Path, row: TableRow) -> DataItem:
    """Return the item of a row. Raises DatasetError for files that are not there."""
    fields = dict(row.fields)
    paths = {name: folder / fields.pop(name) for name in PATHS if name in fields}
    for name, path in paths.items():
        if not path.is_file():
            raise DatasetError(f"{row.place}: {name} is {path}, and there is no such file; correct it")
    main = next((paths.pop(name) for name in ("video", "file", "image", "audio") if name in paths), None)
    if main is None:
        raise DatasetError(f"{row.place}: it names no video, image or audio; give one")
    kind = next((name for name in ("video", "image", "audio") if name in row.fields), kind_of_name(main))
    files = {name: _relative(dataset, path) for name, path in paths.items()}
    start, end = fields.get("start_s", 0.0), fields.get("end_s")
    if end is not None and end <= start:
        raise DatasetError(
            f"{row.place}: end_s is {end:g}, not after start_s, which is {start:g}; correct it"
        )
    fields.setdefault("caption", _caption(main))
    fields["caption"] = " ".join(fields["caption"].split())
    item = _item(row.place, **files, **fields)
    return _named(dataset, item, main, kind)


def _item(place: str, **fields: Any) -> DataItem:
    """Return an item without a name. Raises DatasetError, with its place, for values that no item takes."""
    try:
        return DataItem(id="", row=place, **fields)
    except RequestError as error:
        raise DatasetError(f"{place}: {error}") from error


# --- names --------------------------------------------------------------------------------------------


def _named(dataset: Dataset, item: DataItem, main: Path, kind: str | None = None) -> DataItem:
    """Return an item with its main file and the id that follows from it."""
    name = _relative(dataset, main)
    within = not Path(name).is_absolute()
    named = name if within else Path(*main.parts[-3:]).as_posix().lstrip("/")
    part = "" if not item.start_s and item.end_s is None else f"@{item.start_s:.2f}"
    part += "" if item.end_s is None else f"-{item.end_s:.2f}"
    return replace(item, id=f"{named}{part}", **{kind or kind_of_name(main): name})  # type: ignore[arg-type]


def _relative(dataset: Dataset, path: Path) -> str:
    """Return a path relative to the dataset's folder if it is within, so that the folder can be moved."""
    whole = Path(os.path.normpath(path.absolute()))
    try:
        return whole.relative_to(os.path.normpath(dataset.folder)).as_posix()
    except ValueError:
        return str(whole)


def _distinct(items: list[DataItem]) -> list[DataItem]:
    """Return items with ids that differ: those of files that are listed several times are numbered."""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        seen[item.id] += 1
        found.append(item if seen[item.id] == 1 else replace(item, id=f"{item.id}#{seen[item.id]}"))
    return found
