"""Subtitles from spoken lines: cues that can be read, and the files SRT and WebVTT.

A cue has at most two lines of 42 letters, lasts 1 to 7 s where the next one leaves time, and never overlaps
another; long lines become several cues, each as long as its share of the letters. These are the usual limits
of subtitling for film and streaming.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace

from soundstage.editing.timeline import Caption
from soundstage.prompts.languages import STOPS

MAX_LINE = 42  # letters
MAX_LINES = 2
MIN_S, MAX_S = 1.0, 7.0
GAP_S = 2 / 24  # between two cues, so that the change is seen
LETTERS_PER_S = 17  # that are read comfortably
SHORT_WORDS = frozenset(
    (
        "a",
        "an",
        "the",
        "of",
        "to",
        "in",
        "on",
        "at",
        "and",
        "or",
        "but",
        "for",
        "with",
        "by",
        "from",
        "as",
        "is",
    )
)


@dataclass(frozen=True)
class Cue:
    """Lines that are read at once. speaker: who says them, empty if nobody is named."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    speaker: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def cues(captions: Sequence[Caption], duration_s: float) -> list[Cue]:
    """Return the cues of spoken lines, in their order, none after the film's end."""
    ordered = sorted(captions, key=lambda caption: caption.start_s)
    made = [cue for caption in ordered if caption.start_s < duration_s for cue in _cues(caption)]
    return _apart(made, duration_s)


def _cues(caption: Caption) -> list[Cue]:
    """Return a line in parts that fit, each with its share of the time."""
    parts = _parts(" ".join(caption.text.split()))
    total = sum(map(len, parts))
    length_s, at = caption.end_s - caption.start_s, 0
    made = []
    for part in parts:
        start_s = caption.start_s + length_s * at / total
        at += len(part)
        end_s = caption.start_s + length_s * at / total
        made.append(Cue(start_s, end_s, tuple(_lines(part)), caption.speaker))
    return made


def _apart(made: Sequence[Cue], duration_s: float) -> list[Cue]:
    """Return cues of readable length that do not overlap."""
    found: list[Cue] = []
    for cue, following in zip(made, [*made[1:], None], strict=True):
        start_s = max(cue.start_s, found[-1].end_s + GAP_S) if found else cue.start_s
        wanted_s = max(MIN_S, len(cue.text) / LETTERS_PER_S)
        end_s = min(max(cue.end_s, start_s + wanted_s), start_s + MAX_S, duration_s)
        if following is not None and following.start_s > start_s:
            # The next one waits where this one could not be read at all otherwise.
            room_s = max(following.start_s - GAP_S, start_s + MIN_S / 2)
            end_s = min(end_s, room_s)
        if end_s > start_s:
            found.append(replace(cue, start_s=start_s, end_s=end_s))
    return found


def _parts(text: str) -> list[str]:
    """Return a text in parts that fit on two lines, broken behind sentences, else commas, else words."""
    if _fits(text):
        return [text]
    words = text.split(" ")
    best, cost = 1, float("inf")
    for index in range(1, len(words)):
        head = " ".join(words[:index])
        if not _fits(head) and index > 1:
            break
        last = words[index - 1]
        penalty = 0 if last[-1:] in STOPS else 15 if last[-1:] in ",;:" else 40
        penalty += 20 if last.lower() in SHORT_WORDS else 0
        rest = len(text) - len(head)
        own = penalty + max(0, rest - len(head)) / 2 + (30 if len(head) < MAX_LINE / 2 else 0)
        if own <= cost:
            best, cost = index, own
    return [" ".join(words[:best]), *_parts(" ".join(words[best:]))] if best < len(words) else [text]


def _fits(text: str) -> bool:
    return all(len(line) <= MAX_LINE for line in _lines(text))


def _lines(text: str) -> list[str]:
    """Return a text on one line, or on two of like length, the second not shorter where it can be."""
    if len(text) <= MAX_LINE:
        return [text]
    words = text.split(" ")
    if len(words) == 1:
        return [text]

    def cost(index: int) -> float:
        first, second = " ".join(words[:index]), " ".join(words[index:])
        last = words[index - 1]
        over = max(0, len(first) - MAX_LINE) + max(0, len(second) - MAX_LINE)
        penalty = (0 if last[-1:] in ".,;:!?" else 6) + (12 if last.lower() in SHORT_WORDS else 0)
        return 100 * over + abs(len(first) - len(second)) + penalty + (3 if len(first) > len(second) else 0)

    index = min(range(1, len(words)), key=cost)
    return [" ".join(words[:index]), " ".join(words[index:])]


# --- Files ------------------------------------------------------------------------------------------


def srt(found: Sequence[Cue]) -> str:
    """Return cues as a SubRip file."""
    blocks = [
        f"{number}\n{_time(cue.start_s, ',')} --> {_time(cue.end_s, ',')}\n{cue.text}\n"
        for number, cue in enumerate(found, 1)
    ]
    return "\n".join(blocks)


def vtt(found: Sequence[Cue]) -> str:
    """Return cues as a WebVTT file, with who speaks."""
    blocks = ["WEBVTT\n"]
    for cue in found:
        text = html.escape(cue.text, quote=False)
        name = " ".join(html.escape(cue.speaker, quote=False).split())
        voiced = f"<v {name}>{text}" if name else text
        blocks.append(f"{_time(cue.start_s, '.')} --> {_time(cue.end_s, '.')}\n{voiced}\n")
    return "\n".join(blocks)


def _time(seconds: float, mark: str) -> str:
    whole = round(seconds * 1000)
    minutes, ms = divmod(whole, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{mark}{ms % 1000:03}"
