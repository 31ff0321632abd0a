"""Questions to a language model, and the form of whatever answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from soundstage.media.arrays import Pixels

SEEN_PIXELS = 768  # of a picture's longer side at most


@dataclass(frozen=True)
class Question:
    """A question to a language model. pictures: (H, W, 3) uint8, which it sees before the text.

    system: how it should answer. max_tokens: longest answer. temperature: 0 takes the most likely words;
    above it the words are drawn by `seed`.
    """

    text: str
    system: str = ""
    pictures: Sequence[Pixels] = ()
    max_tokens: int = 300
    temperature: float = 0.0
    seed: int = 0


class Writer(Protocol):
    """Answers questions."""

    @property
    def sees(self) -> bool:
        """Return whether it sees pictures."""

    def write(self, question: Question) -> str:
        """Return the answer, which has words.

        Raises ServerError, ConfigError or WeightsError where there is none.
        """


def smaller(picture: Pixels) -> Pixels:
    """Return a picture whose longer side is at most SEEN_PIXELS."""
    import numpy as np
    from PIL import Image

    shrunk = Image.fromarray(np.ascontiguousarray(picture))
    shrunk.thumbnail((SEEN_PIXELS, SEEN_PIXELS))
    return np.asarray(shrunk)
