"""The prompt of a shot: what the script says of it, in words that a model can see and hear.

A model knows no names, so the first mention of one of the cast in a prompt is their description, and later
ones are short. A model with a vocabulary of its own, such as nano, is told that a voice speaks, in the form
of its captions, and not what is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from soundstage.production.script import CastMember, FilmPlace, Script, ScriptLine, Shot
from soundstage.prompts.beats import SpokenLine, manner_of, sentence, small
from soundstage.prompts.compose import compose, heading_words

# A description that begins so is an adverbial: "in a meadow", before what happens there.
_WHERE = re.compile(
    r"(in|on|at|under|inside|outside|outdoors|indoors|against|near|by|beside|within|behind|between|before)\b",
    re.IGNORECASE,
)
_ENDS_SHORT = re.compile(
    r",|\s(?:with|in|wearing|who|that|whose|on|from|of|holding|carrying)\s", re.IGNORECASE
)
_ARTICLE = re.compile(r"(an?|the|one|some)\s+", re.IGNORECASE)
_AT_START = re.compile(r"(?:^|[.!?]['\"\u201d]?\s+)$")


def prompt_of(script: Script, shot: Shot, place: FilmPlace | None, *, captions: bool) -> str:
    """Return the prompt of a shot.

    place: where it is; None where the script says only its heading, or nothing.
    captions: the model reads captions of its own world alone, and no quotations.
    """
    names = CastNames(script.cast)
    action = names.put_in(shot.action)
    camera = names.put_in(shot.camera)
    unseen = [line.who for line in shot.lines if not line.off_screen and line.who not in names.told]
    where = place.description if place is not None else heading_words(shot.heading)
    heard = (names.put_in(shot.sounds), "" if place is None else place.sounds)
    sounds = " ".join(filter(None, map(sentence, heard)))
    base = _placed(where, action)
    if captions:
        told = [sentence(words) for words in (script.look.style, *base, camera)]
        told += [_voices(script, shot), sounds, sentence(script.look.grade)]
        return " ".join(filter(None, told))
    base += [f"{names.now(who)} is there" for who in dict.fromkeys(unseen)]
    return compose(
        "shot",
        style=script.look.style,
        action=" ".join(map(sentence, base)),
        lighting=script.look.grade,
        camera=camera,
        dialogue=[_spoken(script, line, names) for line in shot.lines],
        sounds=sounds,
        tagged=hears_clip(script, shot) is not None,
    )


def hears_clip(script: Script, shot: Shot) -> CastMember | None:
    """Return the first speaker of a shot with a clip of their voice, which the shot is made with."""
    speakers = (script.cast[line.who] for line in shot.lines if line.who in script.cast)
    return next((member for member in speakers if member.voice_clip is not None), None)


def seen_in(script: Script, shot: Shot) -> tuple[str, ...]:
    """Return the names of the cast who are seen in a shot: those in its words, and those who speak there."""
    text = f"{shot.action} {shot.camera}"
    speak = {line.who for line in shot.lines if not line.off_screen}
    return tuple(name for name in script.cast if name in speak or _named(name).search(text))


def heard_in(script: Script, shot: Shot) -> tuple[str, ...]:
    """Return the names of the cast who speak in a shot."""
    return tuple(name for name in script.cast if any(line.who == name for line in shot.lines))


class CastNames:
    """Puts descriptions in place of names; each in full once."""

    def __init__(self, cast: Mapping[str, CastMember]) -> None:
        self.cast = cast
        self.told: set[str] = set()
        shorts = [short_of(member) for member in cast.values()]
        # Two women are told apart by all that is said of them.
        self._alike = {short for short in shorts if shorts.count(short) > 1}

    def put_in(self, text: str) -> str:
        """Return words with the names of the cast replaced."""
        if not self.cast or not text:
            return text
        longest = sorted(self.cast, key=len, reverse=True)
        spelled = {spelling: name for name in longest for spelling in (name, name.upper())}
        pattern = re.compile("|".join(_named(name).pattern for name in longest))

        def put(found: re.Match[str]) -> str:
            words = self.now(spelled[found[0]])
            first = _AT_START.search(text[: found.start()]) is not None
            return words[:1].upper() + words[1:] if first else words

        return pattern.sub(put, text)

    def now(self, name: str) -> str:
        """Return the words for one of the cast at this point."""
        member = self.cast[name]
        if name not in self.told:
            self.told.add(name)
            return member.description.strip().rstrip(".")
        short = short_of(member)
        return definite(member.description) if short in self._alike else short


def short_of(member: CastMember) -> str:
    """Return the words for later mentions: "the tall woman" for "a tall woman in a red coat"."""
    if member.short:
        return member.short
    return definite(_ENDS_SHORT.split(member.description, maxsplit=1)[0])


def definite(words: str) -> str:
    """Return "the red ball" for "a red ball"."""
    words = words.strip().rstrip(".")
    found = _ARTICLE.match(words)
    return f"the {words[found.end() :]}" if found else words


def _named(name: str) -> re.Pattern[str]:
    spelled = "|".join(re.escape(one) for one in dict.fromkeys((name, name.upper())))
    return re.compile(rf"(?<!\w)(?:{spelled})(?!\w)")


def _placed(where: str, action: str) -> list[str]:
    """Return what happens with where it does, as sentences."""
    if not where.strip():
        return [action]
    if not _WHERE.match(where.strip()):
        return [where, action]
    lowered = small(action)
    # What begins with a name keeps its capital letter and cannot follow a comma.
    return (
        [f"{where.strip().rstrip('.')}, {lowered}"]
        if lowered != action or action[:1].islower()
        else [where, action]
    )


def _spoken(script: Script, line: ScriptLine, names: CastNames) -> SpokenLine:
    """Return a line with its speaker as the model sees them, and their voice."""
    member = script.cast[line.who]
    voice = voice_words(member.voice)
    how = manner_of(line.how)
    if voice and how.endswith(" voice"):
        how = f"{how.removesuffix(' voice')}, {_ARTICLE.sub('', voice, count=1)}"  # in a calm, deep voice
    elif voice:
        how = f"{how} in {voice}".strip()
    who = f"{voice or 'a voice'} off screen" if line.off_screen else names.now(line.who)
    return SpokenLine(who=who, says=line.says, how=line.how if line.off_screen else how)


def voice_words(voice: str) -> str:
    """Return "a deep voice" for "deep"; what names a voice itself as it is, with an article."""
    voice = voice.strip().rstrip(".")
    if not voice:
        return ""
    words = voice if re.search(r"\b(voice|accent|tone)\b", voice) else f"{voice} voice"
    return words if _ARTICLE.match(words) else f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def _voices(script: Script, shot: Shot) -> str:
    """Return the voices of a shot as captions have them; the model knows one at a time."""
    speakers = [script.cast[name] for name in dict.fromkeys(line.who for line in shot.lines)]
    told = [sentence(f"{voice_words(member.voice) or 'a voice'} speaks") for member in speakers]
    return f"[SPEECH]: {' '.join(told)}" if told else ""


def words_said(lines: Sequence[ScriptLine]) -> int:
    """Return the number of words that are spoken."""
    return sum(len(line.says.split()) for line in lines)
