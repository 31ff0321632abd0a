"""Pieces of a scene as structure: subjects in their places, things handed over, lines that are spoken.

Each may also be written in a line:

    left: a girl draws on a notepad               a place and who is there
    a man > a cup > the woman > turns away        who gives, what, who takes it, and then
    The reporter (energetic): Thank you, Sylvia.  who, how, and the words
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from soundstage.errors import shown
from soundstage.fields.record import record
from soundstage.prompts.languages import QUOTES, STOPS

# Short names of places, and the words for them at the beginning of a sentence.
PLACES = {
    "left": "on the left side of the frame",
    "right": "on the right side of the frame",
    "center": "in the center of the frame",
    "foreground": "in the foreground",
    "background": "in the background",
}
PAUSE = "A beat passes."
# First words of a sentence that are small within one.
_SMALL_WORDS = """
a an the this that these those he she it they we his her its their our my your one two three four both
each every some several another all no camera slow slowly slight soft softly quick quickly gentle gently
static handheld wide medium close low high as then while when after before on in at by from with behind
beside above below under over through across along around into onto outside inside near far start pull
push pan tilt dolly track tracking zoom crane orbit warm cold cool pale dim bright golden blue red black
white grey dark sunlight moonlight rain wind fog mist smoke dust light shadows music
"""
_SMALL = frozenset(_SMALL_WORDS.split())
_LINE = re.compile(r"\s*(?P<who>[^:(\"]+?)\s*(?:\((?P<how>[^)]*)\))?\s*:\s*(?P<says>.+)", re.DOTALL)
_QUOTES = '"\u201c\u201d\u201e\u00ab\u00bb'

SomeWords = Annotated[str, Field(min_length=1)]


@record
class Anchor:
    """A subject that is held to its place in the frame."""

    place: SomeWords
    """left, right, center, foreground, background, or words such as "behind the counter"."""

    subject: SomeWords
    """Who or what is there, with what it does: "a girl draws on a notepad"."""

    def sentence(self) -> str:
        """Return the subject in its place."""
        place = PLACES.get(self.place.lower().strip(), self.place)
        return sentence(f"{place}, {small(self.subject)}")


@record
class Handoff:
    """A thing that goes from one subject to another, told as actions one after the other."""

    giver: SomeWords
    """Who gives."""

    thing: SomeWords
    """What is given."""

    taker: SomeWords
    """Who takes it."""

    then: str = ""
    """What the taker does then: "turns to face the camera"."""

    def sentence(self) -> str:
        """Return the handing over, then the taking."""
        taker = small(self.taker)
        after = f", then {self.then.strip()}" if self.then.strip() else ""
        return f"{sentence(f'{self.giver} hands {small(self.thing)} to {taker}')} Then " + sentence(
            f"{taker} takes it{after}", first=False
        )


@record
class SpokenLine:
    """A line of dialogue."""

    who: SomeWords
    """Who speaks."""

    says: SomeWords
    """The words that are said, without quotation marks."""

    how: str = ""
    """How it is said: "calm", "softly", "whispers", "in a low voice with a Scottish accent"."""

    language: str = ""
    """Language or accent, such as Italian."""

    @property
    def words(self) -> str:
        """The words in quotation marks."""
        return '"' + " ".join(self.says.split()).strip(_QUOTES).replace('"', "'") + '"'

    def sentence(self) -> str:
        """Return who speaks, how, and the words."""
        return f"{self.told('says')}: {self.words}"

    def told(self, verb: str) -> str:
        """Return who speaks and how. verb: such as "says", where the manner is no verb itself: "whispers"."""
        manner = manner_of(self.how)
        language = f"in {self.language.strip()}" if self.language.strip() else ""
        told = " ".join(f"{self.who} {'' if _is_verb(manner) else verb} {manner} {language}".split())
        return f"{told[:1].upper()}{told[1:]}"


def manner_of(how: str) -> str:
    """Return how a line is said as words that follow "says": "calm" becomes "in a calm voice"."""
    how = " ".join(how.split())
    first = how.partition(" ")[0].strip(",")  # of "slowly, with a smile"
    if not how or re.match(r"(in|with|at|under)\b", how) or _is_verb(how) or first.endswith(("ly", "ing")):
        return how
    if re.search(r"\b(voice|tone|accent|whisper)\b", how):
        return f"in {how}" if re.match(r"(a|an|the|his|her|their)\b", how) else f"in {_article(how)} {how}"
    return f"in {_article(how)} {how} voice"


def _is_verb(how: str) -> bool:
    first = how.split()[0] if how else ""
    return bool(re.fullmatch(r"[a-z]+(?<!s)s", first)) and first not in ("always", "perhaps")


def _article(words: str) -> str:
    return "an" if words[:1].lower() in "aeiou" else "a"


def sentence(words: str, *, first: bool = True) -> str:
    """Return words in one line with a full stop, and a capital letter unless they follow others."""
    words = " ".join(words.split()).strip(" ,;")
    if not words:
        return ""
    if words[-1] not in f"{STOPS}{QUOTES}:":
        words += "."
    return words[:1].upper() + words[1:] if first else words


def small(words: str) -> str:
    """Return words as they stand within a sentence; names keep their capital letter."""
    words = words.strip()
    first = re.match(r"[^\W\d_]+", words)
    if first is not None and first[0].lower() in _SMALL:
        return words[:1].lower() + words[1:]
    return words


def dialogue(lines: Sequence[SpokenLine]) -> str:
    """Return lines one after the other, with a pause between them."""
    told = [line.sentence() for line in lines]
    return " ".join(told[:1] + [f"{PAUSE} Then {small(line)}" for line in told[1:]])


# --- lines as people write them -----------------------------------------------------------------------


def _in_a_line(value: Any, fields: Sequence[str]) -> Any:
    """Return what YAML reads of `- left: a girl draws` as the line that it was."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((key, words),) = value.items()
        if key not in fields and isinstance(words, str):
            return f"{key}: {words}"
    return value


def anchor_fields(text: Any) -> Any:
    """Read PLACE: SUBJECT into the fields of an Anchor; what is no text stays."""
    text = _in_a_line(text, ("place", "subject"))
    if not isinstance(text, str):
        return text
    place, colon, subject = text.partition(":")
    if not colon or not place.strip() or not subject.strip():
        raise ValueError(f"{shown(text)} names no place; write PLACE: SUBJECT, such as left: a girl draws")
    return {"place": place.strip(), "subject": subject.strip()}


def handoff_fields(text: Any) -> Any:
    """Read GIVER > THING > TAKER [> THEN] into the fields of a Handoff; what is no text stays."""
    if not isinstance(text, str):
        return text
    parts = [part.strip() for part in text.split(">")]
    if len(parts) not in (3, 4) or not all(parts):
        raise ValueError(
            f"{shown(text)} is no handoff; write GIVER > THING > TAKER, such as he > a cup > her"
        )
    return dict(zip(("giver", "thing", "taker", "then"), parts, strict=False))


def line_fields(text: Any) -> Any:
    """Read WHO (HOW): WORDS into the fields of a SpokenLine; what is no text stays."""
    text = _in_a_line(text, ("who", "says"))
    if not isinstance(text, str):
        return text
    match = _LINE.fullmatch(text)
    if match is None or not match["says"].strip():
        raise ValueError(
            f"{shown(text)} names no speaker; write WHO (HOW): WORDS, such as Ann (calm): Hello."
        )
    return {"who": match["who"], "how": match["how"] or "", "says": match["says"].strip()}


AnchorWords = Annotated[Anchor, BeforeValidator(anchor_fields)]
HandoffWords = Annotated[Handoff, BeforeValidator(handoff_fields)]
LineWords = Annotated[SpokenLine, BeforeValidator(line_fields)]
