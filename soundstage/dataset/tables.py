"""Tables of a dataset: CSV, JSONL and JSON, each row with its place for messages.

Columns have the names of an item's fields; other programs' names for them are known, and columns that mean
nothing here are named in a notice.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import DatasetError, nearest, shown

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
MAX_BYTES = 2**28
# Names of other programs, and what they are here.
ALIASES = {
    "media_path": "video", "video_path": "video", "file_name": "file", "file_path": "file", "path": "file",
    "media": "file", "image_path": "image", "audio_path": "audio", "text": "caption", "prompt": "caption",
    "reference_video": "reference", "reference_path": "reference", "control": "reference",
    "control_path": "reference", "mask": "video_mask", "start": "start_s", "end": "end_s",
    "num_repeats": "repeats",
}  # fmt: skip
PATHS = ("file", "video", "image", "audio", "reference", "reference_audio", "video_mask", "audio_mask")
NUMBERS = ("start_s", "end_s", "repeats")
COLUMNS = (*PATHS, *NUMBERS, "caption", "speaker")


@dataclass(frozen=True)
class TableRow:
    """One row: its fields by our names, and where it stands."""

    fields: dict[str, Any]
    place: str


def text_of(path: Path) -> str:
    """Return a file's text. Raises DatasetError for one that cannot be read, is too large or not in UTF-8."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DatasetError(f"{path} is larger than {MAX_BYTES >> 20} MB; split it")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} is no text in UTF-8, from byte {error.start} on; save it again as UTF-8"
        ) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); see to it") from error


def read_table(path: Path) -> tuple[list[TableRow], tuple[str, ...]]:
    """Return the rows of a table, and its columns that mean nothing here.

    Raises DatasetError naming the row for what cannot be read.
    """
    text = text_of(path)
    read = {".csv": _csv, ".tsv": _csv, ".jsonl": _lines, ".json": _json}[path.suffix.lower()]
    rows: list[TableRow] = []
    unknown: dict[str, None] = {}
    for place, found in read(path, text):
        fields = _renamed(found, place)
        unknown.update({name: None for name in fields if name not in COLUMNS})
        rows.append(TableRow({name: fields[name] for name in fields if name in COLUMNS}, place))
    if not rows:
        raise DatasetError(f"{path} has no rows; give each clip one, with the columns video and caption")
    if not any(set(row.fields) & {"file", "video", "image", "audio"} for row in rows):
        near = [(name, nearest(name, COLUMNS, 1)) for name in unknown]
        told = "".join(f"; did '{name}' mean {found[0]}?" for name, found in near if found)
        raise DatasetError(f"{path} has no column video, image or audio{told or '; add one'}")
    return rows, tuple(unknown)


def _csv(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row:
                raise DatasetError(
                    f"{place}: it has more cells than the {len(reader.fieldnames or ())} columns; put text "
                    "with commas within quotation marks"
                )
            yield place, {str(name): value for name, value in row.items() if value not in (None, "")}
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: it is not CSV ({error}); correct it") from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", _object(line, f"{path}, line {number}")


def _json(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read a list of objects, or one object of file names with their captions or fields."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON ({error}); correct it") from error
    if isinstance(data, dict):
        named: Iterable[Any] = (
            {"file": name, **(value if isinstance(value, dict) else {"caption": value})}
            for name, value in data.items()
        )
    else:
        named = data if isinstance(data, list) else [data]
    for number, value in enumerate(named, 1):
        place = f"{path}, entry {number}"
        if not isinstance(value, dict):
            raise DatasetError(f"{place} is {shown(value)}; give an object with the fields of a clip")
        yield place, value


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{place}: it is not JSON ({error}); correct it") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{place} is {shown(value)}; give an object with the fields of a clip")
    return value


def _renamed(found: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return fields by our names, numbers as numbers."""
    fields: dict[str, Any] = {}
    for key, value in found.items():
        name = str(key).strip().lower()
        name = ALIASES.get(name, name)
        if value is None or value == "":
            continue
        if name in fields:
            raise DatasetError(f"{place}: {name} is given twice; keep one")
        fields[name] = _value(name, value, place)
    return fields


def _value(name: str, value: Any, place: str) -> Any:
    if name in NUMBERS:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise DatasetError(f"{place}: {name} is {shown(value)}; give a number") from None
        whole = name == "repeats"
        if not 0 <= number < 1e6 or (whole and (number < 1 or number != int(number))):
            wanted = "a whole number from 1 on" if whole else "seconds from 0 on"
            raise DatasetError(f"{place}: {name} is {shown(value)}; give {wanted}")
        return int(number) if whole else number
    if name in COLUMNS and not isinstance(value, str):
        raise DatasetError(f"{place}: {name} is {shown(value)}; give text")
    return value.strip() if isinstance(value, str) else value
