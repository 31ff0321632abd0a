"""Faults of a timeline that stands in a file: by line, and with its cuts and titles counted from 1."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from soundstage.errors import ConfigError, MediaError
from soundstage.fields.yaml_record import line_in, read_fields

# Lists of a timeline, and what one of their entries is called.
ENTRIES = {
    "cuts": "cut",
    "titles": "title",
    "music": "music",
    "voice_over": "voice-over",
    "captions": "caption",
}
_ENTRY = re.compile(rf"\b({'|'.join(ENTRIES)})\[(\d+)\]")
_FIRST = re.compile(rf"^({'|'.join(ENTRIES)})\[(\d+)\][.:] ?")


def counted(sentence: str) -> str:
    """Return "cut 2: start_s is 5" for "cuts[1].start_s is 5"."""

    def name(found: re.Match[str]) -> str:
        return f"{ENTRIES[found[1]]} {int(found[2]) + 1}"

    return _ENTRY.sub(name, _FIRST.sub(lambda found: f"{name(found)}: ", sentence))


def by_line(sentences: list[str], path: Path, lines: Mapping[str, int]) -> list[str]:
    """Return sentences with the file and the line of the fields that they begin with, in the order of lines.

    lines: as `read_fields` gives them. What is about no field stays as it is.
    """
    placed = []
    for sentence in sentences:
        line = line_in(sentence, lines)
        told = counted(sentence)
        placed.append((line, f"{path}, line {line}: {told}" if line else told))
    return [told for _, told in sorted(placed, key=lambda one: one[0])]


@contextmanager
def told_by_line(timeline: object) -> Iterator[None]:
    """Tell faults of the block by line, where the timeline is the name of a file."""
    try:
        yield
    except MediaError as error:
        if not isinstance(timeline, str | Path):
            raise
        path = Path(timeline)
        sentences = list(error.sentences or (str(error),))
        _, lines = read_fields(path)
        told = by_line(sentences, path, lines)
        if told == sentences:  # about what is written, not about the timeline
            raise
        raise faults(told, like=error) from error


def faults(sentences: list[str], like: MediaError | None = None) -> MediaError:
    """Return one error with several sentences. like: one that it replaces, whose kind it keeps."""
    error = type(like or MediaError(""))("; ".join(sentences))
    error.sentences = tuple(sentences)
    error.in_file = True
    return error


def gathered(checks: list[Callable[[], object]]) -> list[str]:
    """Return the sentences of all checks that fail."""
    found: list[str] = []
    for check in checks:
        try:
            check()
        except (MediaError, ConfigError) as error:
            found += error.sentences or (str(error),)
    return found
