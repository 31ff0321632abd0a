"""Rules of the picture: tense, camera, movement, light, order, style, and what a first picture shows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from soundstage.prompts.beats import small
from soundstage.prompts.findings import Finding, found, matches, missing, rule
from soundstage.prompts.lexicon import (
    ATMOSPHERE,
    BODY,
    CAMERA,
    CAMERA_DETAIL,
    CONNECTOR,
    GENRE,
    MATERIAL,
    SPEECH_VERB,
)
from soundstage.prompts.reading import PromptWord, Reading, TextSpan
from soundstage.prompts.verbs import (
    UNSURE_PAST,
    base_of_past,
    base_of_progressive,
    base_of_third,
    present_of,
    word_set,
)

PAST_SHARE = 0.2  # of the verbs, above which a prompt is told in the past
# After these a form in -ed is a participle, not the past: "is lit", "a broken door".
_BEFORE_PARTICIPLE = word_set(
    """
    a an the his her its their my our is are was were be been being has have had with in by of at from
    half freshly newly well dimly softly brightly old small large big two three some many very and
    tightly heavily beautifully perfectly partially fully neatly sharply barely to on over under into
    onto through behind across
    """
)
# After a form in -ed these show a participle: "dressed in red", "a table covered with".
_AFTER_PARTICIPLE = word_set("in by with of")
_SUBJECTS = word_set("he she it they we you i who that which")
_PROGRESSIVE = re.compile(
    r"\b(?P<be>is|are|am|'s|'re) (?P<adverb>(?:slowly|quickly|softly|gently|quietly|calmly|now|still|just"
    r"|also|"
    r"carefully|happily|silently|suddenly|gradually|steadily|currently|\w+ly) )?(?P<ing>\w{2,}ing)\b",
    re.IGNORECASE,
)
_NOT_PROGRESSIVE = word_set(
    """
    nothing something everything anything morning evening ring king string thing spring wing ceiling
    building wedding missing interesting charming exciting surprising striking stunning amazing boring
    tiring breathtaking inviting willing outstanding everlasting
    """
)


@rule(
    "present-tense",
    "info",
    'The simple present: "walks", not "walked" or "is walking".',
    '"is walking" -> "walks"; "opened the door" -> "opens the door"',
)
def present_tense(reading: Reading) -> Iterator[Finding]:
    """Find verbs of the past, where they are many, and verbs in the progressive."""
    past, others = [], 0
    for index, word in enumerate(reading.words):
        if _is_past(reading.words, index):
            past.append(index)
        elif base_of_third(word.text) is not None or word.text in ("is", "are"):
            others += 1
    if past and len(past) > PAST_SHARE * (len(past) + others):
        for index in past:
            word, verb = reading.words[index], base_of_past(reading.words[index].text)
            many = _has_many_subjects(reading.words, index)
            rewrite = present_of(verb, many=many) if verb else None
            rewrite = {"was": "is", "were": "are", "had": "have" if many else "has"}.get(word.text, rewrite)
            why = f"'{word.text}' tells the past; a clip shows what happens now"
            yield found(reading, "present-tense", "info", word.start, word.end, why, rewrite)
    for match in matches(reading, _PROGRESSIVE):
        if match["ing"].lower() in _NOT_PROGRESSIVE:
            continue
        verb = base_of_progressive(match["ing"].lower())
        many = match["be"].lower() in ("are", "am", "'re")
        rewrite = None if verb is None else f"{match['adverb'] or ''}{present_of(verb, many=many)}"
        if rewrite is not None and match["be"].startswith("'"):
            rewrite = f" {rewrite}"
        why = f"'{match[0]}' is in the progressive; the simple present is plainer"
        yield found(reading, "present-tense", "info", *match.span(), why, rewrite)


def _is_past(words: list[PromptWord], index: int) -> bool:
    """Return whether a word is a finite verb of the past."""
    text = words[index].text
    if text in ("was", "were", "had"):
        return True
    before = words[index - 1].text if index else ""
    after = words[index + 1].text if index + 1 < len(words) else ""
    if text in UNSURE_PAST:
        return before in _SUBJECTS
    if base_of_past(text) is None and not (text.endswith("ed") and before in _SUBJECTS):
        return False
    if before in _SUBJECTS:
        return True
    if before in _BEFORE_PARTICIPLE and not (before == "and" and _told_before(words, index)):
        return False
    if BODY.fullmatch(before) and index + 1 < len(words) and words[index + 1].start - words[index].end > 1:
        return False  # "one paw lifted, it waits"
    has_object = index + 2 < len(words) and words[index + 2].start - words[index + 1].end == 1
    return bool(before) and not (text.endswith("ed") and after in _AFTER_PARTICIPLE and has_object)


def _told_before(words: list[PromptWord], index: int) -> bool:
    """Return whether "and" before a form joins it to another verb of the past: "sat down and looked"."""
    return any(_is_past(words, i) for i in range(max(0, index - 8), index - 1))


def _has_many_subjects(words: list[PromptWord], index: int) -> bool:
    """Return whether a verb's subject is a plural, by the nearest word before it that could be one."""
    for word in reversed(words[max(0, index - 4) : index]):
        if word.text in ("they", "we", "you", "people", "children", "men", "women"):
            return True
        if word.text in ("he", "she", "it", "who", "and", "then", "that"):
            return False
        if word.text.endswith("ly"):
            continue
        return word.text.endswith("s") and not word.text.endswith(("ss", "us", "is", "'s"))
    return False


# --- camera, light, style -----------------------------------------------------------------------------


@rule(
    "camera",
    "warning",
    "What the camera does. Without it, the picture often only zooms.",
    '"A fox crosses the snow." -> "... The camera pans with it."',
)
def camera(reading: Reading) -> Iterator[Finding]:
    """Find that no word tells of the camera."""
    if CAMERA.search(reading.prose) is None:
        why = (
            "nothing says what the camera does, and the picture may only zoom; say so, as in 'The camera "
            "slowly pushes in' or 'A static wide shot'"
        )
        yield missing(reading, "camera", "warning", why)


@rule(
    "camera-detail",
    "info",
    "How the camera does it: size of the shot, angle, speed.",
    '"The camera moves." -> "The camera moves slowly along the wall at eye level."',
)
def camera_detail(reading: Reading) -> Iterator[Finding]:
    """Find a camera without angle or speed."""
    match = CAMERA.search(reading.prose)
    if match is not None and not CAMERA_DETAIL.search(reading.prose):
        why = "the camera has neither speed nor angle; say how, as in 'slowly' or 'at eye level'"
        yield found(reading, "camera-detail", "info", *match.span(), why)


@rule(
    "physical-detail",
    "info",
    "Small movements that could be measured: a part of the body or a material, and what it does.",
    '"She listens." -> "Her eyebrows lift, and the knife stops mid-air."',
)
def physical_detail(reading: Reading) -> Iterator[Finding]:
    """Find that no sentence moves a part of a body or a thing."""
    for sentence in reading.sentences:
        text = reading.prose[sentence.start : sentence.end]
        has_thing = BODY.search(text) or MATERIAL.search(text)
        if has_thing and (
            next(reading.deeds(sentence, happenings=True), None) or _participle(reading, sentence)
        ):
            return
    why = "no part of a body and no material moves; add a small movement, as in 'his fingers tap the glass'"
    yield missing(reading, "physical-detail", "info", why)


def _participle(reading: Reading, where: TextSpan) -> bool:
    """Return whether a stretch has a verb in another form than the present."""
    words = reading.words_in(where)
    return any(base_of_progressive(w.text) is not None or _is_past(words, i) for i, w in enumerate(words))


@rule(
    "atmosphere",
    "info",
    "Light, air and textures.",
    '"A man sits in a room." -> "... Dust drifts through a shaft of late sun."',
)
def atmosphere(reading: Reading) -> Iterator[Finding]:
    """Find that no word tells of light or air."""
    if reading.kind == "text" and ATMOSPHERE.search(reading.prose) is None:
        why = "neither light nor air is told; add one, as in 'in low golden light' or 'fog rolls in'"
        yield missing(reading, "atmosphere", "info", why)


@rule(
    "genre",
    "info",
    "Words of the genre or look.",
    '"A man walks in an alley." -> "Style: film noir. ..."',
)
def genre(reading: Reading) -> Iterator[Finding]:
    """Find that no word tells of a style."""
    if reading.kind == "text" and GENRE.search(reading.prose) is None:
        why = "no word tells the style; begin with one, as in 'Style: documentary' or 'film noir'"
        yield missing(reading, "genre", "info", why)


@rule(
    "connectors",
    "warning",
    "Actions that follow each other are joined: as, then, while, when, after, before.",
    '"He opens the door. He steps in." -> "He opens the door, then steps in."',
)
def connectors(reading: Reading) -> Iterator[Finding]:
    """Find parts with two or more actions and no word for their order."""
    for segment in reading.segments:
        deeds = [word for word in reading.deeds(segment) if not _is_joined(reading, word)]
        text = reading.prose[segment.start : segment.end]
        if len(deeds) < 2 or CONNECTOR.search(text) or _placed_apart(reading, segment, deeds):
            continue
        first, second = deeds[0], deeds[1]
        both = f"'{first.text}' and '{second.text}'"
        why = f"{both} have no word for their order; join them by 'then', 'as' or 'while'"
        start, end = _place_of_then(reading, first, second)
        rewrite = f"then {reading.prompt[start:end]}"
        if start != second.start:
            rewrite = f"Then {small(reading.prompt[start:end])}"
        yield found(reading, "connectors", "warning", start, end, why, rewrite)


def _place_of_then(reading: Reading, first: PromptWord, second: PromptWord) -> tuple[int, int]:
    """Return the word that "then" goes before: the second verb, or the first word of its own sentence."""
    sentence = next(s for s in reading.sentences if s.start <= second.start < s.end)
    if first.start >= sentence.start:
        return second.start, second.end
    word = reading.words_in(sentence)[0]
    return word.start, word.end


def _is_joined(reading: Reading, deed: PromptWord) -> bool:
    """Return whether an action is joined to the one before by "and", or is speech."""
    before = reading.prose[: deed.start].rstrip()
    return before.endswith((" and", " or")) or SPEECH_VERB.fullmatch(deed.text) is not None


_PLACES = re.compile(
    r"\b(?:on the (?:far )?(?:left|right)|in the (?:foreground|background|cent(?:er|re)|middle)"
    r"|behind (?:him|her|them|it)"
    r"|beside (?:him|her|them|it)|opposite|across from)\b",
    re.IGNORECASE,
)


def _placed_apart(reading: Reading, segment: TextSpan, deeds: list[PromptWord]) -> bool:
    """Return whether actions are of subjects in places of their own, which act at once."""
    sentences = [s for s in reading.sentences if any(s.start <= deed.start < s.end for deed in deeds)]
    placed = [s for s in sentences if _PLACES.search(reading.prose[s.start : s.end])]
    return len(sentences) > 1 and len(placed) >= len(sentences) - 1 and len(sentences) == len(deeds)


# --- a first picture ----------------------------------------------------------------------------------

_STILL = re.compile(
    r"\b(?:is|are|has|have|wears?|there (?:is|are)|stands?|sits?|lies|features?|consists?|contains?|seen"
    r"|visible)\b",
    re.IGNORECASE,
)
_PICTURE = re.compile(
    r"\b(?:the|this|in the|an?) (?:image|picture|photo|photograph|first frame|still) (?:shows?|depicts?"
    r"|features?|of|is)\b"
    r"|\b(?:image|photo|picture) of\b",
    re.IGNORECASE,
)


@rule(
    "still-description",
    "warning",
    "With a first picture: only what changes after it, not what it shows.",
    '"A woman with red hair in a blue room." -> "She turns her head, and the camera pushes in."',
)
def still_description(reading: Reading) -> Iterator[Finding]:
    """Find prompts for a picture that describe what the picture shows."""
    if reading.kind != "image":
        return
    for match in matches(reading, _PICTURE):
        why = f"'{match[0]}' describes the picture that is given; say what changes after it"
        yield found(reading, "still-description", "warning", *match.span(), why)
        return
    still = [s for s in reading.sentences if not _changes(reading, s)]
    if len(still) > len(reading.sentences) / 2:
        why = "it describes what the picture shows already; say what moves, changes and is heard after it"
        yield found(reading, "still-description", "warning", *still[0], why)


_MOVES = re.compile(
    r"\b(?:camera (?!(?:is|remains|stays|holds)\b)|pan|tilt|zoom|dolly|push|pull|orbit|track)\w*"
    r"|\b(?:begin|start|continu|turn|"
    r"become|grow|brighten|darken|fade|open|close|emerge|appear|slow|quicken)\w*",
    re.IGNORECASE,
)


def _changes(reading: Reading, sentence: TextSpan) -> bool:
    """Return whether something happens in a sentence, or is said or heard."""
    text = reading.prose[sentence.start : sentence.end]
    if next(reading.deeds(sentence, happenings=True), None) is not None or _MOVES.search(text):
        return True
    if any(sentence.start <= said.start < sentence.end for said in reading.speech):
        return True
    return _STILL.search(text) is None and _participle(reading, sentence)


RULES = (
    present_tense,
    camera,
    camera_detail,
    physical_detail,
    atmosphere,
    connectors,
    genre,
    still_description,
)
