"""The words that a small model was trained with, and the hint about a prompt's words that it never saw.

A model folder may have a vocabulary.json beside its weights:

    {"words": ["a", "ball", ...], "examples": {"colors": ["red", ...], "actions": ["bounces", ...]}}

Models that read any English have none, and get no hints. Loads no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from soundstage.errors import ConfigError, num_of
from soundstage.prompts.timeline import without_quotations

FILE = "vocabulary.json"
NUM_NAMED = 8  # unknown words in one hint
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_TAG = re.compile(r"\[[^\]]*\]|\b(?:scene|shot|segment|part|beat|chunk)\s+\d+", re.IGNORECASE)
# What any prompt may hold without meaning a thing, a place or a deed.
_COMMON_WORDS = """
a about above across after again against all along also always an and another any are around as at away back
be because been before behind being below beside between both but by can could do does down during each
either else end every film for from front get gets go goes going had has have he her here hers him his how i
if in inside into is it its itself just last like lets make makes many may me more most much my near never
next no none nor not now of off on once one only onto or other our out outside over own part picture quickly
quite rather s same scene second seconds see seen she shot shows slow slowly so some soon still such t than
that the their them then there these they this those through time times to together too toward towards two
under until up upon us very video want was we were what when where which while who why will with within
without would you your
"""
_COMMON = frozenset(_COMMON_WORDS.split())
_ENDINGS = ("'s", "\u2019s", "ing", "ed", "es", "s", "ly")


@dataclass(frozen=True)
class Vocabulary:
    """words: in lower case, as captions had them. examples: a few of them by kind, for the hint."""

    words: frozenset[str]
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)

    @classmethod
    def of_folder(cls, folder: Path) -> Vocabulary | None:
        """Read a model folder's vocabulary; None where it has none.

        Raises ConfigError for a file that is no vocabulary.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            examples = {str(kind): tuple(map(str, words)) for kind, words in data["examples"].items()}
            return cls(frozenset(map(str, data["words"])), examples)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{path} is no vocabulary ({error}); delete it, or reinstall the model"
            ) from error

    def unknown(self, prompt: str) -> list[str]:
        """Return the prompt's words that the model was never trained with, each once, in their order.

        Left out are quotations, numbers, marks of time in brackets, and words that any sentence may have.
        Another form of a known word, such as "bouncing" for "bounces", is known.
        """
        text = _TAG.sub(" ", without_quotations(prompt)).lower()
        found = dict.fromkeys(_WORD.findall(text))
        return [word for word in found if word not in _COMMON and not self._has(word)]

    def hint(self, name: str, prompt: str) -> str | None:
        """Return one sentence on the words that the model `name` does not know, None where it knows all."""
        unknown = self.unknown(prompt)
        if not unknown:
            return None
        shown = ", ".join(f"'{word}'" for word in unknown[:NUM_NAMED])
        more = f" and {num_of(len(unknown) - NUM_NAMED, 'more word')}" if len(unknown) > NUM_NAMED else ""
        known = "; ".join(f"{kind}: {', '.join(words)}" for kind, words in self.examples.items())
        them = "them" if len(unknown) > 1 else "it"
        return (
            f"{name} was never shown {shown}{more}, so do not expect to see or hear {them}; it knows {known}"
        )

    def _has(self, word: str) -> bool:
        return word in self.words or any(_stem(part) in self._stems for part in (word, *_compound(word)))

    @cached_property
    def _stems(self) -> frozenset[str]:
        parts = (part for word in self.words for part in (word, *_compound(word)))
        return frozenset(map(_stem, parts))


def _compound(word: str) -> list[str]:
    """Return the parts of a word with hyphens."""
    parts = re.split(r"-", word)
    return parts if len(parts) > 1 else []


def _stem(word: str) -> str:
    """Return a word without its ending, alike for all forms of a regular verb or noun."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word
