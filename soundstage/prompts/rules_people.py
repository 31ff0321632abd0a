"""Rules of people: what is seen of them, how feelings are shown, where they are, what they hand over."""

from __future__ import annotations

import re
from collections.abc import Iterator

from soundstage.prompts.findings import Finding, found, matches, rule
from soundstage.prompts.lexicon import ANCHOR, ANIMAL, EMOTION, EMOTIONS, FEELING_NOUN, PERSON, PRONOUN, TRAIT
from soundstage.prompts.reading import Reading
from soundstage.prompts.verbs import present_of, third_person

_PEOPLE = f"(?:{PERSON.pattern}|{ANIMAL.pattern})"
_ADJECTIVES = r"(?:[,\s]+(?:and\s+)?(?!(?:and|who|with|in|of|to|the|a)\b)[\w'-]+){0,3}?"
_TRAIT_OF = re.compile(
    rf"(?P<trait>{TRAIT.pattern}){_ADJECTIVES}[,\s]+(?:and\s+[\w-]+\s+)?{PERSON.pattern}"
    rf"|(?:{PERSON.pattern}|\bhe|\bshe|\bthey)(?:,?\s+who)?\s+(?:is|are|looks?|seems?"
    rf"|appears?)\s+(?:\w+ly\s+|very\s+"
    rf"|so\s+|a\s+)?(?P<said>{TRAIT.pattern})",
    re.IGNORECASE,
)
_FEELS = re.compile(
    r"\b(?:is|are|looks?|feels?|seems?|appears?|becomes?|gets?|remains?|grows)\s+"
    r"(?:(?:very|so|quite|really|visibly|clearly|a bit|a little|rather|too|deeply|extremely|increasingly"
    r"|both|"
    rf"more and more|\w+ly)\s+)*(?P<feeling>{EMOTION.pattern})(?!\s+(?:of\s+)?(?:street|light|sky|sea))",
    re.IGNORECASE,
)
_FULL_OF = re.compile(
    r"\b(?:feel(?:s|ing)?|filled with|full of|overcome (?:with|by)|overwhelmed (?:with|by)|consumed by"
    r"|radiat\w+|"
    rf"a (?:deep )?(?:sense|feeling) of)\s+(?:a |an |great |deep |pure |his |her |their "
    rf"|\w+ )?(?P<noun>{FEELING_NOUN.pattern})",
    re.IGNORECASE,
)
_FEELING_PERSON = re.compile(
    rf"\b(?:an?|the|this|that|two|three|some)\s+(?:very\s+|deeply\s+"
    rf"|\w+,?\s+)?(?P<feeling>{EMOTION.pattern}),?\s+"
    rf"(?:[\w-]+\s+){{0,2}}?{_PEOPLE}",
    re.IGNORECASE,
)


@rule(
    "observable-character",
    "warning",
    "People by what can be seen: age, build, clothes, position. No traits of character.",
    '"a clever, famous doctor" -> "a doctor in her fifties, in a white coat, glasses on her forehead"',
)
def observable_character(reading: Reading) -> Iterator[Finding]:
    """Find traits that no picture shows."""
    for match in matches(reading, _TRAIT_OF):
        name = "trait" if match["trait"] else "said"
        why = (
            f"'{match[name]}' cannot be seen; tell age, build, clothes or position instead, as in 'a man in "
            "his sixties in a worn coat'"
        )
        span, rewrite = match.span(name), None
        if name == "trait":  # before the person; what is said of them is a whole clause
            span, rewrite = _attribute(reading, *span), ""
        yield found(reading, "observable-character", "warning", *span, why, rewrite)


@rule(
    "shown-emotion",
    "warning",
    "Feelings by what the body does, not by their names.",
    '"she is sad" -> "a single tear trails down her cheek, her shoulders drop"',
)
def shown_emotion(reading: Reading) -> Iterator[Finding]:
    """Find names of feelings."""
    told: set[int] = set()
    for pattern in (_FEELS, _FEELING_PERSON, _FULL_OF):
        for match in matches(reading, pattern):
            feeling = match["noun"] if pattern is _FULL_OF else match["feeling"]
            place = match.start("noun" if pattern is _FULL_OF else "feeling")
            if place in told:
                continue
            told.add(place)
            verb, rest = _shown_as(feeling)
            why = f"'{feeling}' is a feeling; show it, as in '{third_person(verb)} {rest}'"
            (span, rewrite), then = (match.span(), None), ""
            if pattern is _FEELING_PERSON:  # the person stays, without the feeling
                span, rewrite = _attribute(reading, *match.span("feeling")), ""
                then = _sentence_of(match, verb, rest)
            elif pattern is _FEELS and _is_of_person(reading, match.start()):
                many = match[0].split()[0].lower() in (
                    "are",
                    "look",
                    "feel",
                    "seem",
                    "appear",
                    "become",
                    "get",
                )
                rewrite = f"{present_of(verb, many=many)} {rest}"
            yield found(reading, "shown-emotion", "warning", *span, why, rewrite, then=then)


def _sentence_of(match: re.Match[str], verb: str, rest: str) -> str:
    """Return "The old man lowers the head." for "a sad old man"."""
    text, at = match[0], match.start()
    who = re.sub(r"^\s*(?:,\s*|and\s+)*", "", text[match.end("feeling") - at :]).strip()
    number = re.match(r"(two|three|some)\b", text, re.IGNORECASE)
    before = f"{number[1].lower()} " if number is not None and number[1].lower() != "some" else ""
    return f"The {before}{who} {present_of(verb, many=number is not None)} {rest}."


def _shown_as(feeling: str) -> tuple[str, str]:
    """Return what a body does that has a feeling: a verb, and what follows it."""
    for names, shown in EMOTIONS.items():
        if feeling.lower() in names.split():
            return shown
    return "turn", "away, shoulders dropping"


def _is_of_person(reading: Reading, place: int) -> bool:
    """Return whether the words before a verb end with a person, who alone can do what shows a feeling."""
    before = " ".join(reading.prose[max(0, place - 60) : place].split()[-3:])
    return (
        bool(PERSON.search(before) or ANIMAL.search(before) or PRONOUN.search(before))
        and " who" not in f" {before}"
    )


def _attribute(reading: Reading, start: int, end: int) -> tuple[int, int]:
    """Return the span of an adjective with the "and" or comma that joins it to the next."""
    joint = re.match(r"\s*,?\s*and\s+|\s*,\s*", reading.prose[end:])
    return start, end + (joint.end() if joint is not None else 0)


# --- several subjects ---------------------------------------------------------------------------------

_NEW_SUBJECT = re.compile(
    rf"\b(?P<count>an?|another|one|two|three|four|his|her)\s+(?:[\w'-]+,?\s+){{0,4}}?(?P<who>{_PEOPLE})",
    re.IGNORECASE,
)

_RIDES = re.compile(r"\b(?:rides?|riding|on horseback)\b", re.IGNORECASE)  # two that are in one place


@rule(
    "spatial-anchor",
    "info",
    "Two or more subjects have their places: left, right, foreground, behind.",
    '"A man and a woman talk." -> "On the left a man, on the right a woman ..."',
)
def spatial_anchor(reading: Reading) -> Iterator[Finding]:
    """Find several subjects without places."""
    subjects = [m for m in matches(reading, _NEW_SUBJECT) if m["count"].lower() not in ("his", "her")]
    count = sum(2 if m["count"].lower() in ("two", "three", "four") else 1 for m in subjects)
    if count >= 2 and not _RIDES.search(reading.prose) and not ANCHOR.search(reading.prose):
        last = subjects[-1]
        why = f"{count} subjects without places may change sides; say where each is: left, right, foreground"
        yield found(reading, "spatial-anchor", "info", *last.span(), why)


_GIVES = re.compile(
    r"\b(?:hands|passes|gives|tosses|throws|offers|slides|hand|pass|give)\s+(?P<to>(?:him|her|them|it"
    r"|(?:the|a|an) [\w-]+)\s+)?"
    r"(?P<thing>(?:a|an|the|his|her|some)\s+[\w-]+(?:\s+[\w-]+)?)(?P<over>\s+(?:over )?to\b)?",
    re.IGNORECASE,
)
_TAKES = re.compile(
    r"\b(?:takes?|catch(?:es)?|receives?|accepts?|grabs?|grasps?|holds? it|reaches|picks? it|pockets?"
    r"|drinks?|sips?|opens? it|"
    r"arrives?|lands)\b",
    re.IGNORECASE,
)


@rule(
    "handoff",
    "info",
    "A handing over is two actions, one after the other: one gives, then the other takes.",
    '"He gives her a cup." -> "He hands her a cup. She takes it, then ..."',
)
def handoff(reading: Reading) -> Iterator[Finding]:
    """Find things that are given and never taken."""
    for match in matches(reading, _GIVES):
        is_given = match["to"] is not None or match["over"] is not None
        if is_given and not _TAKES.search(reading.prose, match.end()):
            why = "it is given, and nobody takes it; say what the other does then, as in 'she takes it'"
            yield found(reading, "handoff", "info", *match.span(), why)


RULES = (observable_character, shown_emotion, spatial_anchor, handoff)
