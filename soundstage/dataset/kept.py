"""Files that commands keep beside dataset.yaml: scenes.jsonl and captions.jsonl, one line a clip.

Both may be edited by hand. captions.jsonl goes before captions of tables and texts beside the clips.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import DatasetError
from soundstage.files import whole_file

SCENES, CAPTIONS = "scenes.jsonl", "captions.jsonl"


@dataclass(frozen=True)
class Scenes:
    """The scenes of a clip, in seconds, as the detector found them.

    stamp: size and time of the file then. short: scenes that were left out.
    """

    video: str
    detector: str
    stamp: tuple[int, int]
    parts: tuple[tuple[float, float], ...]
    short: tuple[tuple[float, float], ...] = ()

    def is_of(self, path: Path) -> bool:
        """Return whether the file is still the one that was looked at."""
        return stamp_of(path) == self.stamp


def stamp_of(path: Path) -> tuple[int, int]:
    """Return size and time of change of a file, which tell without reading it that it is the same."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def read_scenes(folder: Path) -> dict[str, Scenes]:
    """Return the scenes of the clips that were split, by clip. Raises DatasetError naming a bad line."""
    found = {}
    for place, line in _lines(folder / SCENES):
        try:
            parts, short = (tuple((float(a), float(b)) for a, b in line[name]) for name in ("parts", "short"))
            if any(not 0 <= a < b for a, b in parts):
                raise ValueError("a scene ends before it begins")
            stamp = (int(line["stamp"][0]), int(line["stamp"][1]))
            found[str(line["video"])] = Scenes(line["video"], line["detector"], stamp, parts, short)
        except (LookupError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{place}: these are no scenes ({error}); run `soundstage dataset split`"
            ) from error
    return found


def write_scenes(folder: Path, scenes: Iterable[Scenes]) -> None:
    """Write scenes.jsonl."""
    _write(folder / SCENES, (vars(one) for one in scenes))


def read_captions(folder: Path) -> dict[str, str]:
    """Return the captions that were written by a model or by hand, by item. Raises DatasetError."""
    found = {}
    for place, line in _lines(folder / CAPTIONS):
        if not isinstance(line.get("id"), str) or not isinstance(line.get("caption"), str):
            raise DatasetError(f'{place}: write {{"id": "ball.mp4", "caption": "A ball."}}')
        found[line["id"]] = " ".join(line["caption"].split())
    return found


def write_captions(folder: Path, captions: Mapping[str, str]) -> None:
    """Write captions.jsonl."""
    _write(folder / CAPTIONS, ({"id": name, "caption": text} for name, text in captions.items()))


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with whole_file(path) as part:
        part.write_text("".join(f"{json.dumps(dict(line), ensure_ascii=False)}\n" for line in lines))


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of a file and where each stands; nothing where there is no file."""
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}, line {number}: it is not JSON ({error}); correct it") from error
        if not isinstance(value, dict):
            raise DatasetError(f"{path}, line {number}: it is no object; write one on each line")
        found.append((f"{path}, line {number}", value))
    return found
