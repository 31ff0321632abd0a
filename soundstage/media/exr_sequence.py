"""Sequences of OpenEXR pictures: a folder of them, or a name with the place of a number, as one clip."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundstage.errors import MediaError
from soundstage.files import known_file
from soundstage.media.arrays import Light
from soundstage.media.exr import ExrHeader, is_exr, read_exr, read_header
from soundstage.media.formats import NUMBER
from soundstage.types import JUST_UNDER_HALF

ENDING = ".exr"
PLAIN_FPS = 24.0  # of a sequence that states no rate
LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")


@dataclass(frozen=True)
class ExrClip:
    """The files of a sequence in their order, or a single picture. fps: None for a single one."""

    files: tuple[Path, ...]
    header: ExrHeader
    fps: float | None


def is_exr_clip(path: Path) -> bool:
    """Return whether a path names OpenEXR pictures: a file, a folder, or a name with a number's place."""
    try:
        if path.is_dir():
            return any(_members(path))
        numbered = path.suffix.lower() == ENDING and NUMBER.search(path.name) is not None
        return is_exr(path) or (numbered and not path.exists())
    except (OSError, ValueError):
        return False


def exr_clip(path: Path) -> ExrClip:
    """Return a path's pictures. Raises MediaError for a folder of several sequences, and for gaps."""
    files = _files(path)
    header = _header(files[0], *known_file(files[0]))
    if not (path.is_dir() or NUMBER.search(path.name)):
        return ExrClip(files, header, None)
    return ExrClip(files, header, header.fps or PLAIN_FPS)


def exr_frames(path: Path, times_s: Sequence[float]) -> Iterator[Light]:
    """Yield the light (H, W, 3) of the picture that is shown at each of these seconds; a still at all times.

    Raises MediaError for one past the end, and for pictures of several sizes.
    """
    clip = exr_clip(path)
    before: tuple[int, Light] | None = None
    for time_s in times_s:
        index = 0 if clip.fps is None else max(0, math.floor(time_s * clip.fps + JUST_UNDER_HALF))
        if index >= len(clip.files):
            assert clip.fps is not None
            raise MediaError(
                f"{path} ends at {len(clip.files) / clip.fps:.4g} s, and the picture at {time_s:.4g} s was "
                "asked for; give an earlier one"
            )
        if before is None or before[0] != index:
            light = read_exr(clip.files[index])
            if light.shape[:2] != (clip.header.height, clip.header.width):
                raise MediaError(
                    f"{clip.files[index]} is {light.shape[1]}x{light.shape[0]}, and the first picture of its "
                    f"sequence {clip.header.width}x{clip.header.height}; give pictures of one size"
                )
            before = index, light
        yield before[1]


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_dir():
        return _in_order(path, sorted(_members(path)))
    found = NUMBER.search(path.name)
    if found is None or path.exists():
        return (path,)
    name = re.compile(re.escape(path.name[: found.start()]) + r"\d+" + re.escape(path.name[found.end() :]))
    members = [file for file in _members(path.parent) if name.fullmatch(file.name)]
    if not members:
        raise MediaError(f"{path} names no files that are there; give the name of a sequence, or its folder")
    return _in_order(path, members)


def _members(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (file for file in folder.iterdir() if file.suffix.lower() == ENDING)


def _in_order(path: Path, files: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files of one sequence by their numbers. Raises MediaError for others, and for gaps."""
    numbers: dict[int, Path] = {}
    stems = set()
    for file in files:
        found = LAST_NUMBER.search(file.stem)
        if found is None:
            raise MediaError(f"{file} has no number; give the name of a sequence, such as frame_%05d.exr")
        stems.add(file.stem[: found.start()])
        numbers[int(found[1])] = file
    if len(stems) > 1:
        examples = ", ".join(f"{stem}%05d{ENDING}" for stem in sorted(stems)[:3])
        raise MediaError(f"{path} holds several sequences; give the name of one of them: {examples}")
    first, last = min(numbers), max(numbers)
    gap = next((number for number in range(first, last) if number not in numbers), None)
    if gap is not None:
        raise MediaError(f"{path} has no picture of number {gap} between {first} and {last}; give them all")
    return tuple(numbers[number] for number in range(first, last + 1))


@functools.lru_cache(maxsize=256)
def _header(path: Path, absolute: str, stamp: tuple[int, ...]) -> ExrHeader:
    return read_header(path)
