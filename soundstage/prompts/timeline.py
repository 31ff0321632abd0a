r"""Prompts whose words hold for a part of the clip: read into segments with times in seconds.

Three ways to write the same thing; they do not mix in one prompt:

    a red ball rolls | it stops | it jumps              equal shares of the clip
    a red ball rolls [2] | it stops [1]                 shares by weight; [0-48] weighs its length, 48
    [0-2s] a red ball rolls [2-5s] it stops             times; [25%:50%] shares of the clip; [2s-] to its end
    Scene 1: a red ball rolls                           a line each, equal shares
    Scene 2: it stops

Bars and brackets within quotation marks are words, and so are those written \| \[ \] anywhere.

Words that hold throughout stand before "||", before the first time, or before the first heading. They are
put in front of every segment's words, so that each is a whole description on its own.

Shares are cut at latent frames, where the picture can change; times are kept as they are. Pure data.
Source of the syntax and of the sharing: docs/model/conditioning.md, "Timed prompts".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from soundstage.errors import RequestError
from soundstage.fields.record import record
from soundstage.types import TIME_SCALE

NEARLY_S = 1e-6  # times closer than this are the same

_NUMBER = r"(\d+(?:\.\d+)?)"
# A span needs a unit; without one it is the weight of a share: "[0-50]".
_SPAN = re.compile(rf"\[\s*{_NUMBER}\s*(s|%)?\s*[-:\u2013]\s*(?:{_NUMBER}|end)?\s*(s|%)?\s*\]", re.IGNORECASE)
_WEIGHT = re.compile(rf"\[\s*{_NUMBER}\s*(?:-\s*{_NUMBER})?\s*\]\s*$")
# What may mark a part, and is a word within quotation marks or after a backslash.
_MARKS = "|[]:"
_ESCAPED = re.compile(r"\\([|\[\]])")
# Words that begin with an apostrophe, which opens no quotation: "'til dawn", "the '90s".
_ELISION = r"(?:\d0s|tis|twas|til|em|cause|round|bout)\b"
_QUOTED = re.compile(
    "|".join(
        [
            r'(?<!\d)"[^"]*"(?!(?<=\s")\w)',  # 5" is five inches; a mark that opens cannot close
            rf"(?<!\w)'(?!\s|{_ELISION})(?:[^']|(?<=\w)'(?=\w))*(?<!\s)'(?!\w)",
            rf"\u2018(?!{_ELISION})(?:[^\u2018\u2019]|(?<=\w)\u2019(?=\w))*\u2019(?!\w)",
            r"\u201a[^\u2018\u2019]*\u2018",
            r"\u201c[^\u201d]*\u201d",
            r"\u201d[^\u201d]*\u201d",
            r"\u201e[^\u201c\u201d]*[\u201c\u201d]",
            r"\u00ab[^\u00bb]*\u00bb",
            r"\u00bb[^\u00ab]*\u00ab",
            r"\u2039[^\u203a]*\u203a",
            r"\u300c[^\u300d]*\u300d",
            r"\u300e[^\u300f]*\u300f",
        ]
    ),
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[^\S\n]*(?:scene|shot|segment|part|beat|chunk)\s+\d+(?:\s*-\s*\d+)?\s*:", re.I | re.M
)


@dataclass(frozen=True)
class Segment:
    """Words that hold from start_s up to end_s, in seconds from the start of the clip."""

    text: str
    start_s: float
    end_s: float


Bleed = Annotated[float, Field(ge=1e-6, le=0.99)]
Hold = Annotated[float, Field(ge=0, le=10)]
WindowScale = Annotated[float, Field(ge=0, le=4)]


@record
class Relay:
    """Sharpness of the change from one part of a prompt to the next."""

    epsilon: Bleed = 1e-3
    """How much neighbouring parts bleed into each other: up to 0.1 is a cut, from 0.5 on a soft blend."""
    strength: Hold = 1.0
    """How strongly words are held to their part; 0 has no effect."""
    window_scale: WindowScale = 1.0
    """Length of the time in which a part is heard in full, as a multiple of the usual."""
    audio_epsilon: Bleed | None = None
    """How much neighbouring parts bleed into each other in the sound. Left out, as in the picture."""
    audio_strength: Hold | None = None
    """How strongly words are held to their part in the sound. Left out, as in the picture."""
    audio_window_scale: WindowScale | None = None
    """Length of the time in which a part is heard in full in the sound. Left out, as in the picture."""

    def of_audio(self) -> Relay:
        """Return the values for the sound, as those of a Relay."""
        own = (self.audio_epsilon, self.audio_strength, self.audio_window_scale)
        pictures = (self.epsilon, self.strength, self.window_scale)
        return Relay(*(p if a is None else a for a, p in zip(own, pictures, strict=True)))


@dataclass(frozen=True)
class PromptTimeline:
    """A prompt over a clip: segments follow each other from 0 to duration_s without a gap.

    shared: words that hold throughout, "" if there are none. One segment is an ordinary prompt.
    """

    segments: tuple[Segment, ...]
    shared: str = ""
    relay: Relay = field(default_factory=Relay)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the prompts to encode, one per segment."""
        return tuple(f"{self.shared} {segment.text}".strip() for segment in self.segments)

    @property
    def duration_s(self) -> float:
        return self.segments[-1].end_s

    def cut(self, start_s: float, end_s: float) -> PromptTimeline:
        """Return the part between two times, counted from its own start."""
        inside = [s for s in self.segments if s.start_s < end_s - NEARLY_S and s.end_s > start_s + NEARLY_S]
        moved = (
            Segment(s.text, max(s.start_s, start_s) - start_s, min(s.end_s, end_s) - start_s) for s in inside
        )
        return PromptTimeline(tuple(moved), self.shared, self.relay)

    def prompt(self) -> str:
        """Return a prompt that is read as this timeline, over a clip of its length."""
        if len(self.segments) == 1 and not _HEADING.search(self.texts[0]):
            return _escaped(self.texts[0])
        spans = [f"[{s.start_s:.9f}s-{s.end_s:.9f}s] {_escaped(s.text)}" for s in self.segments[:-1]]
        last = self.segments[-1]
        ending = f"[{last.start_s:.9f}s-end] {_escaped(last.text)}"
        return " ".join([_escaped(self.shared), *spans, ending]).strip()


def parse_timeline(
    prompt: str,
    *,
    num_frames: int,
    fps: float,
    lengths: Sequence[float] | None = None,
    relay: Relay | None = None,
) -> PromptTimeline:
    """Read a prompt for a clip of num_frames (8k + 1) at fps.

    lengths: a weight per segment of a prompt with "|" or headings, in frames or any unit. A prompt without
    marks is one segment. The first time may only start at 0 and the last must end with the clip, give or
    take a latent frame, to which it is moved. Raises RequestError in one sentence.
    """
    words = _Words(prompt)
    try:
        shared, segments = _read(words.marked, num_frames, fps, lengths)
    except RequestError as problem:
        raise RequestError(words.restored(str(problem)), field=problem.field) from None
    parts = tuple(Segment(words.restored(s.text), s.start_s, s.end_s) for s in segments)
    return PromptTimeline(parts, words.restored(shared), relay or Relay())


def has_plain_bars(prompt: str) -> bool:
    """Return whether a prompt has bars that mark parts, and nothing else that shows they were meant to."""
    marked = _Words(prompt).marked
    return "|" in marked and "||" not in marked and "[" not in marked


def with_shared(prompt: str, sentence: str) -> str | None:
    """Return a prompt of parts with a sentence that holds throughout; None for a prompt of one part."""
    marked = _Words(prompt).marked
    if "|" in marked and "||" not in marked and not _has_spans(marked):
        return f"{sentence} || {prompt.lstrip()}"
    if "||" in marked or _has_spans(marked):
        return f"{sentence} {prompt.lstrip()}"
    return f"{sentence}\n{prompt}" if len(_HEADING.findall(marked)) > 1 else None


class _Words:
    """A prompt in which only the characters that mark parts are left; the others have stand-ins.

    marked: the prompt with the stand-ins, single characters that the prompt does not have.
    """

    def __init__(self, prompt: str) -> None:
        spare = [c for c in map(chr, range(0xE000, 0xF900)) if c not in prompt][: len(_MARKS)]
        self._hide = str.maketrans(_MARKS, "".join(spare))
        self._show = str.maketrans("".join(spare), _MARKS)
        unescaped = _ESCAPED.sub(lambda match: match[1].translate(self._hide), prompt)
        self.marked = _QUOTED.sub(lambda match: match[0].translate(self._hide), unescaped)

    def restored(self, text: str) -> str:
        """Return a piece of `marked` with the words as they were written."""
        return text.translate(self._show)


def _escaped(text: str) -> str:
    """Return words so written that none of their bars and brackets marks a part."""
    return re.sub(r"([|\[\]])", r"\\\1", text)


def _read(
    prompt: str, num_frames: int, fps: float, lengths: Sequence[float] | None
) -> tuple[str, Sequence[Segment]]:
    """Return the shared words and the segments of a prompt whose every mark counts."""
    duration_s = num_frames / fps
    if _has_spans(prompt):
        if lengths is not None:
            raise RequestError(
                "lengths are given for a prompt that has times of its own; keep one", field="lengths"
            )
        shared, spans = _timed(prompt, duration_s)
        return shared, _whole(spans, duration_s, TIME_SCALE / fps)
    shared, texts, weights = _shared_out(prompt)
    if lengths is not None:
        weights = _checked_lengths(lengths, len(texts), tagged=weights is not None)
    edges = _edges(weights or [1.0] * len(texts), num_frames, fps)
    return shared, [Segment(t, a, b) for t, (a, b) in zip(texts, itertools.pairwise(edges), strict=True)]


def latent_edge_s(index: int, fps: float) -> float:
    """Return when latent frame `index` starts, in seconds; the index one past the last gives the clip's end.

    The first latent frame is one frame of the picture, every later one eight.
    """
    return max(0, TIME_SCALE * (index - 1) + 1) / fps if index > 0 else 0.0


def share(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to `total`, each at least 1, in proportion by largest remainder.

    Of equal remainders the first gets more. Raises RequestError for more weights than `total`.
    """
    if len(weights) > total:
        raise RequestError(
            f"the prompt has {len(weights)} segments, but the clip has only {total} latent frames "
            "to share; make it longer or write fewer segments",
            field="prompt",
        )
    ideal = [total * weight / sum(weights) for weight in weights]
    counts = [max(1, int(x)) for x in ideal]
    by_need = sorted(range(len(weights)), key=lambda i: counts[i] - ideal[i])
    for i in by_need[: max(0, total - sum(counts))]:
        counts[i] += 1
    while sum(counts) > total:  # raising small shares to 1 took from the whole
        counts[max(range(len(counts)), key=lambda i: (counts[i] > 1, counts[i] - ideal[i]))] -= 1
    return counts


def _has_spans(prompt: str) -> bool:
    return any(match[2] or match[4] for match in _SPAN.finditer(prompt))


def _timed(prompt: str, duration_s: float) -> tuple[str, list[Segment]]:
    """Shared words, and segments as they are written."""
    marks = [match for match in _SPAN.finditer(prompt) if match[2] or match[4]]
    shared = _one_style(prompt[: marks[0].start()])
    ends = [mark.start() for mark in marks[1:]] + [len(prompt)]
    segments = []
    for number, (mark, end) in enumerate(zip(marks, ends, strict=True), 1):
        unit = (mark[2] or mark[4]).lower()
        if mark[2] and mark[4] and mark[2].lower() != mark[4].lower():
            raise RequestError(f"the time {mark[0]} mixes seconds and percent; use one", field="prompt")
        scale = duration_s / 100 if unit == "%" else 1.0
        start_s = float(mark[1]) * scale
        end_s = duration_s if mark[3] is None else float(mark[3]) * scale
        if end_s <= start_s:
            raise RequestError(f"the time {mark[0]} ends before it starts; swap the two", field="prompt")
        text = _one_style(prompt[mark.end() : end])
        segments.append(Segment(_not_empty(text, number), start_s, end_s))
    return shared, segments


def _one_style(text: str) -> str:
    """Stripped of a bar at either end; a bar within is another way of writing segments."""
    text = text.strip().strip("|").strip()
    if "|" in text:
        raise RequestError(
            f"the prompt has times and also '|' within '{text}'; write segments in one way", field="prompt"
        )
    return text


def _whole(segments: list[Segment], duration_s: float, slack_s: float) -> tuple[Segment, ...]:
    """Check that segments follow each other and fill the clip; the ends are moved to the clip's."""
    for before, after in itertools.pairwise(segments):
        if after.start_s < before.start_s:
            raise RequestError(
                f"the prompt's times are out of order: {_span(after)} comes after {_span(before)}; "
                "write them from first to last",
                field="prompt",
            )
        if after.start_s < before.end_s - NEARLY_S:
            raise RequestError(
                f"the prompt's times {_span(before)} and {_span(after)} overlap; "
                "let one end where the next starts",
                field="prompt",
            )
        if after.start_s > before.end_s + NEARLY_S:
            raise RequestError(
                f"the prompt has nothing between {before.end_s:g} s and {after.start_s:g} s; "
                "let one time end where the next starts",
                field="prompt",
            )
    if segments[0].start_s > NEARLY_S:
        raise RequestError(
            f"the prompt has nothing before {segments[0].start_s:g} s; let the first time start at 0",
            field="prompt",
        )
    first, last = segments[0], segments[-1]
    if last.end_s > duration_s + slack_s or last.start_s >= duration_s:
        raise RequestError(
            f"the prompt's time {_span(last)} is beyond the clip, which lasts {duration_s:.4g} s; "
            "make the clip longer or end earlier",
            field="prompt",
        )
    if last.end_s < duration_s - slack_s:
        raise RequestError(
            f"the prompt has nothing after {last.end_s:g} s, but the clip lasts {duration_s:.4g} s; "
            f"end the last time with the clip, as in [{last.start_s:g}s-]",
            field="prompt",
        )
    segments[0] = Segment(first.text, 0.0, first.end_s)
    segments[-1] = Segment(last.text, segments[-1].start_s, duration_s)
    return tuple(segments)


def _span(segment: Segment) -> str:
    return f"{segment.start_s:g}-{segment.end_s:g} s"


def _shared_out(prompt: str) -> tuple[str, list[str], list[float] | None]:
    """Shared words, segments, and their weights if they are written."""
    if "|" in prompt:
        shared, bars, rest = prompt.partition("||")
        if not bars:
            shared, rest = "", prompt
        pieces = [piece.strip() for piece in rest.split("|")]
    else:
        headings = list(_HEADING.finditer(prompt))
        if len(headings) < 2:
            return "", [prompt.strip()], None
        shared = prompt[: headings[0].start()]
        ends = [heading.start() for heading in headings[1:]] + [len(prompt)]
        pieces = [prompt[h.end() : end].strip() for h, end in zip(headings, ends, strict=True)]
    tags = [_WEIGHT.search(piece) for piece in pieces]
    texts = [
        _not_empty(piece[: tag.start()].strip() if tag else piece, number)
        for number, (piece, tag) in enumerate(zip(pieces, tags, strict=True), 1)
    ]
    if not any(tags):
        return shared.strip(), texts, None
    return shared.strip(), texts, [_weight(tag, number) for number, tag in enumerate(tags, 1)]


def _weight(tag: re.Match[str] | None, number: int) -> float:
    if tag is None:
        raise RequestError(
            f"segment {number} of the prompt has no length in brackets, but others have; "
            "give one to all or to none",
            field="prompt",
        )
    weight = float(tag[1]) if tag[2] is None else float(tag[2]) - float(tag[1])
    if weight <= 0:
        raise RequestError(
            f"segment {number} of the prompt has the length {tag[0].strip()}; give one above 0",
            field="prompt",
        )
    return weight


def _not_empty(text: str, number: int) -> str:
    if not text:
        raise RequestError(
            f"segment {number} of the prompt is empty; describe what it shows or take it out", field="prompt"
        )
    return text


def _checked_lengths(lengths: Sequence[float], num_segments: int, *, tagged: bool) -> list[float]:
    if tagged:
        raise RequestError(
            "lengths are given and the prompt has lengths in brackets; keep one", field="lengths"
        )
    if len(lengths) != num_segments:
        raise RequestError(
            f"{len(lengths)} lengths are given for a prompt of {num_segments} segments; give one for each",
            field="lengths",
        )
    if not all(0 < length < float("inf") for length in lengths):
        raise RequestError(f"lengths are {list(lengths)}; give numbers above 0", field="lengths")
    return list(lengths)


def _edges(weights: Sequence[float], num_frames: int, fps: float) -> list[float]:
    """Times between segments, from 0 to the end of the clip."""
    if len(weights) == 1:
        return [0.0, num_frames / fps]
    latent_frames = (num_frames - 1) // TIME_SCALE + 1
    edges, index = [0.0], 0
    for count in share(weights, latent_frames):
        index += count
        edges.append(latent_edge_s(index, fps))
    return edges


def without_quotations(text: str) -> str:
    """Return a prompt without what stands in quotation marks, which is speech or writing."""
    return _QUOTED.sub(" ", text)


def quotations(text: str) -> list[tuple[int, int]]:
    """Return where quotations begin and end, with their marks."""
    return [match.span() for match in _QUOTED.finditer(text)]


def part_marks(text: str) -> list[tuple[int, int]]:
    """Return where the marks of a prompt's parts begin and end: bars, brackets of time, headings.

    It need not be a prompt that `parse_timeline` can read.
    """
    blank = _QUOTED.sub(lambda match: " " * len(match[0]), text)
    blank = _ESCAPED.sub(lambda match: " " * len(match[0]), blank)
    if _has_spans(blank):
        return [match.span() for match in re.finditer(rf"\|+|{_SPAN.pattern}", blank, re.IGNORECASE)]
    if "|" in blank:
        weights = re.compile(rf"\[\s*{_NUMBER}\s*(?:-\s*{_NUMBER})?\s*\](?=\s*(?:\||$))|\|+")
        return [match.span() for match in weights.finditer(blank)]
    headings = [match.span() for match in _HEADING.finditer(blank)]
    return headings if len(headings) > 1 else []
