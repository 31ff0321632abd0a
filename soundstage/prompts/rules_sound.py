"""Rules of sound and speech: told exactly and throughout, with speaker and voice, and as long as it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from soundstage.prompts.findings import Finding, Severity, found, matches, missing, rule
from soundstage.prompts.lexicon import BEAT, PERSON, PRONOUN, SOUND, SPEECH_VERB, VAGUE_SOUND, VOICE
from soundstage.prompts.reading import Reading, TextSpan

WORDS_PER_S = 2.5  # of speech at an easy pace; our own figure
HASTE = 1.6  # times as many words are cut off
LONG = 60  # words of a prompt in which sound should not stand at the end alone
_NEAR = 120  # letters around speech in which its speaker is looked for
_CLOSED = re.compile(
    r"\b(?:(?:his|her|its|their|the)?\s*(?:mouths?|lips)\s+(?:is |are |stays? |remains? |kept |firmly "
    r"|tightly )*"
    r"(?:closed|shut|sealed|pressed together|unmoving|still)|(?:closed|shut|sealed) (?:mouth|lips)"
    r"|tight-lipped)\b",
    re.IGNORECASE,
)


@rule(
    "sound",
    "info",
    "Sounds by their source, where they happen: no bare music or noise.",
    '"ambient sounds" -> "gravel crunches under her boots"',
)
def sound(reading: Reading) -> Iterator[Finding]:
    """Find prompts without sound, and sounds without a source."""
    if not reading.sounds:
        return
    for match in matches(reading, VAGUE_SOUND):
        why = f"'{match[0]}' could be anything; name what makes the sound"
        yield found(reading, "sound", "info", *match.span(), why)
    if not SOUND.search(reading.prose) and not reading.speech:
        why = "no sound is told, so any may come; say what is heard, as in 'gravel crunches under her boots'"
        yield missing(reading, "sound", "info", why)


@rule(
    "sound-throughout",
    "info",
    "Sounds beside what makes them, through the whole text.",
    'all sounds in the last sentence -> "the door creaks as she opens it. ..."',
)
def sound_throughout(reading: Reading) -> Iterator[Finding]:
    """Find long prompts whose sounds all stand at the end."""
    if not reading.sounds or len(reading.words) <= LONG or reading.speech or reading.tags:
        return
    heard = [s for s in reading.sentences if SOUND.search(reading.prose[s.start : s.end])]
    if len(reading.sentences) >= 4 and heard == reading.sentences[-1:]:
        why = "every sound stands in the last sentence; tell each beside what makes it"
        yield found(reading, "sound-throughout", "info", *heard[0], why)


@rule(
    "speaker",
    "warning",
    "Quoted speech has a speaker.",
    '"Hello." alone -> The woman on the left says: "Hello."',
)
def speaker(reading: Reading) -> Iterator[Finding]:
    """Find speech that nobody says."""
    for number, said in enumerate(reading.speech):
        around = _around(reading, said)
        if number and reading.prose[: said.start].rstrip().endswith(
            ":"
        ):  # the same speaker goes on: "Then: ..."
            continue
        names = re.search(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]+\b|^[A-Z]\w+\s*(?:\([^)]*\))?:", around.strip())
        who = PERSON.search(around) or PRONOUN.search(around) or names or re.search(r"\bvoice", around, re.I)
        if not SPEECH_VERB.search(around) or not (who or reading.tags):
            why = f"nobody says {_short(reading, said)}; put the speaker before it, as in 'The woman says:'"
            yield found(reading, "speaker", "warning", *said, why)


@rule(
    "voice",
    "info",
    "Speech has a voice or language.",
    'She says: "..." -> She says in a low voice, in Italian: "..."',
)
def voice(reading: Reading) -> Iterator[Finding]:
    """Find speech without a voice."""
    if reading.speech and not VOICE.search(reading.prose):
        why = "no voice is told; say how it sounds, as in 'in a low, calm voice'"
        yield found(reading, "voice", "info", *reading.speech[0], why)


@rule(
    "dialogue-beats",
    "info",
    "Lines of dialogue have something between them: a look, a movement, a beat.",
    '"Yes?" "No." -> "Yes?" A beat passes. She looks up: "No."',
)
def dialogue_beats(reading: Reading) -> Iterator[Finding]:
    """Find lines that follow each other at once."""
    for first, second in zip(reading.speech, reading.speech[1:], strict=False):
        between = TextSpan(first.end, second.start)
        text = reading.prose[between.start : between.end]
        acts = [word for word in reading.deeds(between) if not SPEECH_VERB.fullmatch(word.text)]
        is_one_line = re.fullmatch(r"[\s,]*(?:he|she|\w+) (?:says|adds|continues)[,.]?\s*", text)
        if not BEAT.search(text) and not acts and not is_one_line:
            why = "this line follows the one before at once; put a beat between, as in 'A beat passes.'"
            yield found(reading, "dialogue-beats", "info", *second, why)


@rule(
    "speech-length",
    "info",
    f"Speech fits the clip: about {WORDS_PER_S:g} words a second; a warning from {WORDS_PER_S * HASTE:g}.",
    "40 words for 5 s -> 12 words, or 16 s",
    words=False,
)
def speech_length(reading: Reading) -> Iterator[Finding]:
    """Find more speech than the clip has time for."""
    if reading.seconds is None or not reading.speech:
        return
    count = sum(
        len(re.findall(r"\w+(?:['\u2019]\w+)*", reading.prompt[s.start : s.end])) for s in reading.speech
    )
    needed_s = count / WORDS_PER_S
    if needed_s > reading.seconds:
        haste = needed_s > reading.seconds * HASTE
        why = (
            f"{count} words of speech take {needed_s:.0f} s, and the clip lasts {reading.seconds:.3g} s; say "
            f"at most {int(reading.seconds * WORDS_PER_S)} words, or make it longer"
        )
        severity: Severity = "warning" if haste else "info"
        yield found(reading, "speech-length", severity, *reading.speech[0], why)


@rule(
    "closed-mouth",
    "warning",
    "A mouth that speaks is not told to be closed.",
    '"her mouth closed, she says" -> "she says"',
)
def closed_mouth(reading: Reading) -> Iterator[Finding]:
    """Find closed mouths beside speech."""
    for match in matches(reading, _CLOSED):
        if reading.speech:
            why = f"'{match[0].strip()}' goes against the speech, whose lips have to move; take one out"
            yield found(reading, "closed-mouth", "warning", *match.span(), why)


def _around(reading: Reading, said: TextSpan) -> str:
    """Return the words near a line, up to the lines around it; for the channel of speech all that is told."""
    if reading.tags:
        return reading.prose
    before = max((other.end for other in reading.speech if other.end <= said.start), default=0)
    after = min(
        (other.start for other in reading.speech if other.start >= said.end), default=len(reading.prompt)
    )
    return reading.prose[max(before, said.start - _NEAR) : min(after, said.end + _NEAR)]


def _short(reading: Reading, said: TextSpan) -> str:
    text = " ".join(reading.prompt[said.start : said.end].split())
    return text if len(text) <= 40 else f"{text[:37]}..."


RULES = (sound, sound_throughout, speaker, voice, dialogue_beats, speech_length, closed_mouth)
