"""A prompt taken apart for the rules: its language, parts, sentences, words, and what is said within it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from soundstage.prompts.channels import TAG
from soundstage.prompts.languages import ENGLISH, language_of
from soundstage.prompts.lexicon import ANIMAL, CAMERA, PERSON, PRONOUN, WRITING
from soundstage.prompts.timeline import part_marks, quotations
from soundstage.prompts.verbs import DEEDS, HAPPENINGS, STATES, VERBS, base_of_third, word_set

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
# A full stop after a single capital letter or a title ends no sentence.
_SENTENCE = re.compile(r"(?:[^.!?\n]|(?<=\b[A-Z])\.|(?<=\bMr|\bDr|\bSt)\.|(?<=\bMrs)\.|\.(?=\d))+[.!?\n]*")
_NEAR = 40  # letters before a quotation in which a word shows that it is written, not said


class PromptWord(NamedTuple):
    """A word in small letters. deed: the verb it is a present form of, if somebody does it."""

    text: str
    start: int
    end: int


class TextSpan(NamedTuple):
    """A place in a prompt."""

    start: int
    end: int


@dataclass(frozen=True)
class Reading:
    """A prompt and what its letters show.

    kind: image where a picture shows the first frame, else text. seconds: length of the clip, None where
    it is not known. sounds: the clip has sound. small: the model knows a small world alone.
    """

    prompt: str
    kind: str = "text"
    seconds: float | None = None
    sounds: bool = True
    small: bool = False

    @cached_property
    def marks(self) -> list[tuple[int, int]]:
        """The places of the marks of parts."""
        return part_marks(self.prompt)

    @cached_property
    def tags(self) -> list[re.Match[str]]:
        """The channel tags."""
        return list(TAG.finditer(self.prompt))

    @cached_property
    def speech(self) -> list[TextSpan]:
        """Speech: quotations that are not written on something, and the channel of speech."""
        said = [TextSpan(*span) for span in quotations(self.prompt) if not self._is_written(*span)]
        ends = [*(tag.start() for tag in self.tags[1:]), len(self.prompt)]
        for tag, end in zip(self.tags, ends, strict=False):
            if tag[1].upper() == "SPEECH" and not any(tag.end() <= s.start < end for s in said):
                said.append(TextSpan(tag.end(), end))
        return sorted(said)

    def _is_written(self, start: int, end: int) -> bool:
        before = self.prompt[max(0, start - _NEAR) : start].rpartition(".")[2]
        after = self.prompt[end : end + _NEAR // 2].partition(".")[0]
        short = len(self.prompt[start:end].split()) <= 6
        return short and bool(WRITING.search(before) or re.match(r"\s*(?:sign|in \w+ letters|logo)\b", after))

    @cached_property
    def prose(self) -> str:
        """The prompt with quotations, speech, marks and tags blank; places are those of the prompt."""
        letters = list(self.prompt)
        spans = [*quotations(self.prompt), *self.marks, *(tag.span() for tag in self.tags), *self.speech]
        for start, end in spans:
            letters[start:end] = [" " if letter != "\n" else letter for letter in letters[start:end]]
        return "".join(letters).replace("\u2019", "'")

    @cached_property
    def language(self) -> str:
        """Name of the language. What is said may be in another."""
        prose = re.sub(r"\s+", " ", self.prose).strip()
        return language_of(prose or self.prompt)

    @property
    def is_english(self) -> bool:
        return self.language == ENGLISH

    @cached_property
    def words(self) -> list[PromptWord]:
        """The words of the prose."""
        return [PromptWord(m[0].lower(), m.start(), m.end()) for m in _WORD.finditer(self.prose)]

    @cached_property
    def parts(self) -> list[TextSpan]:
        """The stretches between marks and tags; without marks the whole prompt."""
        edges = [(0, 0), *sorted([*self.marks, *(tag.span() for tag in self.tags)])]
        ends = [*(start for start, _ in edges[1:]), len(self.prompt)]
        found = [TextSpan(start, end) for (_, start), end in zip(edges, ends, strict=True)]
        return [part for part in found if self.prompt[part.start : part.end].strip()]

    @cached_property
    def segments(self) -> list[TextSpan]:
        """The stretches between marks of time, channel tags left aside; without marks the whole prompt."""
        edges = [(0, 0), *self.marks]
        ends = [*(start for start, _ in self.marks), len(self.prompt)]
        found = [TextSpan(start, end) for (_, start), end in zip(edges, ends, strict=True)]
        return [part for part in found if self.prompt[part.start : part.end].strip()]

    @cached_property
    def sentences(self) -> list[TextSpan]:
        """The sentences of the prose, none across a mark. Quotations within them are blank."""
        found = []
        for part in self.parts:
            for match in _SENTENCE.finditer(self.prose, part.start, part.end):
                lead = len(match[0]) - len(match[0].lstrip())
                if _WORD.search(match[0]):
                    found.append(TextSpan(match.start() + lead, match.start() + len(match[0].rstrip())))
        return found

    def words_in(self, where: TextSpan) -> list[PromptWord]:
        """Return the words of a stretch."""
        return [word for word in self.words if where.start <= word.start < where.end]

    def deeds(self, where: TextSpan, *, happenings: bool = False) -> Iterator[PromptWord]:
        """Yield the verbs in the present of what somebody does in a stretch; not those of the camera.

        happenings: what goes on by itself too.
        """
        for sentence in self.sentences:
            if sentence.end <= where.start or sentence.start >= where.end:
                continue
            words = self.words_in(sentence)
            for index, word in enumerate(words):
                verb = self._verb_at(words, index)
                if verb is None or _is_noun(words, index) or self._of_camera(words, index):
                    continue
                is_deed = verb in DEEDS - STATES and (verb not in HAPPENINGS or self._has_doer(words, index))
                if is_deed or (happenings and verb in HAPPENINGS):
                    yield word

    def _verb_at(self, words: list[PromptWord], index: int) -> str | None:
        """Return the verb of which a word is a form of the simple present, None where it is none."""
        text = words[index].text
        verb = None if text in _NOUNS else base_of_third(text)
        if verb is None and index and text in VERBS:
            before = words[index - 1]
            plural = (
                re.fullmatch(r"[a-z'-]{2,}(?<![sui'])s", before.text)
                and base_of_third(before.text) not in STATES
            )
            in_one = words[index].start - before.end == 1  # no comma between
            verb = text if before.text in _MANY or (plural and in_one) else None
        return verb

    def _has_doer(self, words: list[PromptWord], index: int) -> bool:
        """Return whether one of the words before a verb is a person or an animal."""
        before = self.prose[words[max(0, index - 5)].start : words[index].start]
        return any(pattern.search(before) for pattern in (PERSON, ANIMAL, PRONOUN))

    def _of_camera(self, words: list[PromptWord], index: int) -> bool:
        """Return whether a verb's subject is the camera, as far as the words before it show."""
        clause = self.prose[words[0].start : words[index].start]
        clause = re.split(r"[,;]|\b(?:as|while|when|and then|then|before|after|until)\b", clause, flags=re.I)[
            -1
        ]
        return bool(re.search(r"\b(?:camera|shot|lens|view|frame|focus)\b", clause, re.I)) or bool(
            CAMERA.match(self.prose, words[index].start)
        )


_BEFORE_NOUNS = word_set(
    """
    a an the his her its their our my your this that these those of with in on at from by for two three
    four five several many some few no each every distant soft low loud rhythmic gentle heavy more
    """
)


# Plurals that are hardly ever verbs in a prompt.
_NOUNS = word_set("lights drums sounds clouds notes shots sparks rests")
_MANY = word_set("they we you people children men women")


def _is_noun(words: list[PromptWord], index: int) -> bool:
    """Return whether a form that may be a plural noun stands where a noun does: "the waves", "of drums"."""
    if index == 0:
        return len(words) > 1 and words[1].text not in (
            "the",
            "a",
            "his",
            "her",
            "its",
            "their",
            "up",
            "down",
        )
    after = words[index + 1].text if index + 1 < len(words) else ""
    return words[index - 1].text in _BEFORE_NOUNS or (words[index].text.endswith("s") and after in VERBS)
