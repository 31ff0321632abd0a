"""Rules of form: one paragraph, no list, no marks, cuts and times that the model does not read, no length."""

from __future__ import annotations

import re
from collections.abc import Iterator

from soundstage.prompts.findings import Finding, found, matches, missing, rule
from soundstage.prompts.languages import QUOTES, STOPS
from soundstage.prompts.openings import OPENING
from soundstage.prompts.reading import Reading

BULLET = re.compile(r"^[^\S\n]*(?:[-*+\u2022\u2023\u25aa]|\d{1,2}[.)])[^\S\n]+", re.MULTILINE)
SHORT_S, MANY_WORDS = 10.0, 200
_LEADING = re.compile(r"\s*[^\w\s\"'\u2018\u201c\u201e\u00ab\u300c\[\\]+\s*")
_CUT = re.compile(
    r"\b(?:(?:jump|smash|match|hard|quick|cross)[ -]?cuts?\b|(?<!hair )cuts? (?:back )?to\b(?! (?:her|his"
    r"|the) "
    r"(?:shoulder|waist|size))|cut(?:s|ting)? away\b|fad(?:es|e|ing) (?:to (?:black|white)|in from|out to)"
    r"|dissolv(?:es|e|ing) (?:in)?to (?:a |the )?(?:\w+ )?(?:shot|scene|view|close-up)|montage\b"
    r"|split[ -]screen|(?:next|new|second|another|following|final) (?:scene|shot)\b|scene (?:changes"
    r"|shifts|cuts)"
    r"|intercut\w*)",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"[\[(]?\b\d{1,2}:\d{2}(?::\d{2})?(?:\s*[-\u2013]\s*\d{1,2}:\d{2})?\b[\])]?(?!\s*(?:a\.?m|p\.?m"
    r"|o'clock))\s*:?"
    r"|[\[(]\s*\d+(?:\.\d+)?\s*s?\s*[-\u2013]\s*\d+(?:\.\d+)?\s*(?:s|sec|seconds)\s*[\])]\s*:?"
    r"|\b\d+(?:\.\d+)?\s*[-\u2013]\s*\d+(?:\.\d+)?\s*(?:s|sec|secs|seconds)\b\s*:?"
    r"|\b(?:from )?seconds? \d+(?:\.\d+)?\s*(?:-|\u2013|to)\s*\d+(?:\.\d+)?\s*:?"
    r"|\bfrom \d+(?:\.\d+)? to \d+(?:\.\d+)? seconds\b|\b\d+(?:\.\d+)?\s*(?:s|sec)\s*:|\bframes? \d+\b"
    r"|\bat \d+(?:\.\d+)?s\b",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\b(?:clock|watch|timer|display|screen|countdown|alarm)\b", re.IGNORECASE)


@rule(
    "one-paragraph",
    "warning",
    "One flowing paragraph. Lines of their own only for channel tags, parts of a timed prompt and scenes.",
    "a list of three bullets -> the same words in one line",
    words=False,
    small=True,
)
def one_paragraph(reading: Reading) -> Iterator[Finding]:
    """Find parts of several lines, and lists."""
    for part in reading.parts:
        text = reading.prompt[part.start : part.end]
        lines = [line for line in text.splitlines() if line.strip()]
        bulleted = any(BULLET.match(line) for line in lines) and (len(lines) > 1 or reading.marks)
        if len(lines) > 1 or bulleted:
            what = "a list" if bulleted else f"{len(lines)} lines"
            why = f"{what}; the model was trained on one flowing paragraph, write it as one"
            yield found(reading, "one-paragraph", "warning", part.start, part.end, why, joined(lines))


def joined(lines: list[str]) -> str:
    """Return lines as one paragraph: bullets and labels of headings taken away, a full stop after each."""
    told = []
    for line in lines:
        words = BULLET.sub("", line).strip().strip("*#").strip()
        if words:
            ends = words[-1] in f"{STOPS}{QUOTES}:,;\uff0c\u3001"
            told.append(words[:1].upper() + words[1:] + ("" if ends else "."))
    return " ".join(told)


@rule(
    "leading-punctuation",
    "warning",
    "The prompt begins with a word.",
    '"- A fox" -> "A fox"',
    words=False,
    small=True,
)
def leading_punctuation(reading: Reading) -> Iterator[Finding]:
    """Find marks before the first word."""
    match = _LEADING.match(reading.prompt)
    if match is not None and not any(start < match.end() for start, _ in reading.marks):
        why = "the prompt begins with a mark; begin with a word"
        yield found(reading, "leading-punctuation", "warning", 0, match.end(), why, "")


@rule(
    "opening",
    "warning",
    "No opening that says nothing of the picture.",
    '"The scene opens with a fox" -> "A fox"',
    small=True,
)
def opening(reading: Reading) -> Iterator[Finding]:
    """Find "The scene opens with" and the like, at the beginning of a part."""
    for part in reading.parts:
        text = reading.prose[part.start : part.end]
        lead = len(text) - len(text.lstrip(" \n\t.,;:*-"))
        match = OPENING.match(text[lead:])
        if match is not None:
            start = part.start + lead
            why = f"'{match[0].strip()}' says nothing of what is seen; begin with the subject or the camera"
            yield found(reading, "opening", "warning", start, start + match.end(), why, "")


@rule(
    "invented-cut",
    "warning",
    "One shot: no cuts, fades and montages.",
    '"cut to a close-up" -> "the camera pushes in to a close-up", or a prompt of parts',
)
def invented_cut(reading: Reading) -> Iterator[Finding]:
    """Find words of editing."""
    for match in matches(reading, _CUT):
        why = (
            f"'{match[0]}' asks for a cut, and the model makes one shot; let the camera move there, or write "
            "parts with | between them"
        )
        yield found(reading, "invented-cut", "warning", *match.span(), why)


@rule(
    "timestamp",
    "warning",
    "No times in numbers outside timed prompts; the order is told in words.",
    '"0:03 he turns" -> "then he turns", "after three seconds he turns", or "[0-3s] ... [3-5s] ..."',
    words=False,
    small=True,
)
def timestamp(reading: Reading) -> Iterator[Finding]:
    """Find times that are no marks of parts."""
    for match in matches(reading, _TIME):
        around = reading.prose[max(0, match.start() - 40) : match.end() + 25]
        if not _CLOCK.search(around):
            why = (
                f"'{match[0].strip()}' is read as words, not as a time; say 'then' or 'after three seconds', "
                "or write a timed prompt: [0-3s] ... [3-5s] ..."
            )
            yield found(reading, "timestamp", "warning", *match.span(), why)


@rule(
    "length",
    "info",
    f"At most {MANY_WORDS} words for a clip of up to {SHORT_S:g} s.",
    "260 words for 5 s -> the main action",
    words=False,
)
def length(reading: Reading) -> Iterator[Finding]:
    """Find prompts with more words than a short clip can show."""
    if reading.seconds is not None and reading.seconds > SHORT_S:
        return
    for segment in reading.segments:
        count = len(reading.prompt[segment.start : segment.end].split())
        if count > MANY_WORDS:
            why = (
                f"{count} words for a short clip; above {MANY_WORDS} some are left out, keep the main action"
            )
            yield found(reading, "length", "info", *segment, why)


# --- what is not there --------------------------------------------------------------------------------

_SENSES = re.compile(
    r"\b(?:smell(?:s|ing)? (?:of|like|faintly|strongly|wonderful|delicious|sweet)|(?:the|a|an|its|her|his)? ?"
    r"(?:\w+ )?(?:smell|scent|aroma|fragrance|odou?r|stench)s?\b|fragrant|smelly|aromatic|tast(?:e|es|ing) "
    r"(?:like|of|sweet|bitter|salty|delicious|sour|good)|(?:sweet|bitter|salty|sour|rich"
    r"|delicious) (?:taste|flavou?r)"
    r"|(?:the|a) taste of|tasty|delicious(?:ly)?|flavou?rful|(?:soft|rough|warm|cold|smooth|hot) to the touch"
    r"|feels (?:soft|rough|smooth|warm|cold|hot|cool|silky|sticky) (?:against|under|on|in|beneath)"
    r"|(?:can|could) (?:almost )?(?:smell|taste|feel))\b",
    re.IGNORECASE,
)
_NOT_DONE = {
    "move": ("stays still", "stay still"),
    "speak": ("stays silent", "stay silent"),
    "talk": ("stays silent", "stay silent"),
    "blink": ("keeps looking", "keep looking"),
    "stop": ("goes on", "go on"),
    "react": ("stays still", "stay still"),
}
_NOUNS = r"(?:[\w'-]+(?: (?:or|and|,) ?[\w'-]+| [\w'-]+)?)"
_NEGATION = re.compile(
    r"(?P<not>\b(?P<aux>does|do|is|are|has|have|can|will|should|must)(?:n't| not| never)\s+(?P<verb>[\w-]+))"
    r"|(?P<without>,?\s*\bwithout\s+(?!(?:a )?\w+ing\b)(?:(?:any|a|an|the)\s+)?(?P<lacking>[^,.;!?\n]+))"
    r"|(?P<no>,?\s*(?:\b(?:there (?:is|are)|with|has|have|and|but)\s+)?\bno\s+(?!longer|one\b|sooner"
    r"|more than)"
    r"(?P<none>[^,.;!?\n]+))"
    r"|(?P<nobody>\b(?:no one|nobody|nothing(?! but)|none|never|neither|nor|devoid of|free of|absence of)\b"
    r"[^,.;!?\n]*)"
    r"|(?P<avoid>\b(?:avoid|don't|do not|exclude|never)\s+(?P<unwanted>[^.;!?\n]+))"
    r"|(?P<bare>\bnot\b(?! only| quite| yet| far)[^,.;!?\n]*)",
    re.IGNORECASE,
)


@rule(
    "negation",
    "warning",
    "Only what is there. What is not wanted belongs in the negative prompt.",
    '"no people" -> the negative prompt "people"; "does not move" -> "stays still"',
)
def negation(reading: Reading) -> Iterator[Finding]:
    """Find what a prompt says is not there."""
    for match in matches(reading, _NEGATION):
        rewrite, negative = _affirmed(reading, match)
        moved = f"; put '{negative}' in the negative prompt" if negative else "; say what is there instead"
        why = f"'{match[0].strip(' ,')}' names what should not be there, which calls it up{moved}"
        start, end = match.span()
        if rewrite == "":
            start, end = _with_stop(reading, start, end)
        yield found(reading, "negation", "warning", start, end, why, rewrite, negative)


def _affirmed(reading: Reading, match: re.Match[str]) -> tuple[str | None, str]:
    """Return what could stand in place of a negation, and the words for the negative prompt."""
    if match["not"] is not None:
        many = match["aux"].lower() in ("do", "are", "have")
        return _NOT_DONE.get(match["verb"].lower(), (None, None))[many], ""
    lacking = match["lacking"] or match["none"] or match["unwanted"]
    if lacking is None or len(lacking.split()) > 6:
        return None, ""
    words = re.sub(r"\b(?:or|and)(?: no| any)?\b", ",", lacking.strip())
    words = re.sub(r"\s+(?:is|are) (?:heard|seen|visible|present|shown|allowed)$", "", words)
    words = re.sub(r"\s*(?:at all|whatsoever|please|anywhere|in sight|around|visible)$", "", words)
    cut = ", ".join(filter(None, (w.strip() for w in words.split(","))))
    if match["no"] is not None and _clause_goes_on(reading, match):
        return None, cut
    return "", cut


def _clause_goes_on(reading: Reading, match: re.Match[str]) -> bool:
    """Return whether "no" stands within a clause that would not hold without it: "she finds no key"."""
    before = reading.prose[: match.start()].rstrip()
    begins = not before or before[-1] in ".!?;,:" or match[0].lstrip().startswith((",", "with", "and", "but"))
    return not begins


def _with_stop(reading: Reading, start: int, end: int) -> tuple[int, int]:
    """Return a span that is a whole sentence with its full stop, so that none is left when it is cut."""
    before = reading.prompt[:start].rstrip()
    if (not before or before[-1] in ".!?") and reading.prompt[end : end + 1] in tuple(".!?"):
        return start, end + 1
    if not before and reading.prompt[end : end + 1] == ",":
        return start, end + 1
    return start, end


@rule(
    "other-senses",
    "warning",
    "What is seen and heard: no smell, taste or touch.",
    '"the smell of coffee" -> "steam curls from the cup"',
)
def other_senses(reading: Reading) -> Iterator[Finding]:
    """Find smell, taste and touch."""
    for match in matches(reading, _SENSES):
        why = f"'{match[0].strip()}' can be neither seen nor heard; show what it does"
        yield found(reading, "other-senses", "warning", *match.span(), why)


@rule(
    "language",
    "info",
    "English: the model was trained on it, and rules about words read no other language.",
    '"Un chat court." -> "A cat runs."; what is said may be in any language',
    words=False,
)
def language(reading: Reading) -> Iterator[Finding]:
    """Tell that a prompt is in another language."""
    if not reading.is_english:
        why = (
            f"the prompt looks like {reading.language}, so rules about words are left out; the model was "
            "trained on English descriptions, what is said may be in any language"
        )
        yield missing(reading, "language", "info", why)


RULES = (
    one_paragraph,
    leading_punctuation,
    opening,
    invented_cut,
    timestamp,
    negation,
    other_senses,
    length,
    language,
)
