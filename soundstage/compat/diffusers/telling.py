"""Tell a user of diffusers' words what a word becomes: nothing, a notice, or an error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np

from soundstage.errors import RequestError, listed, shown

Fate = Literal["mapped", "ignored", "refused"]


@dataclass(frozen=True)
class Word:
    """An argument or a method. becomes: its use here, or the reason why it has none.

    neutral: values besides None that ask for nothing, so that they are neither told nor refused.
    """

    name: str
    fate: Fate
    becomes: str
    neutral: tuple[Any, ...] = ()

    def asks(self, value: Any) -> bool:
        """Return whether a value of the word asks for something."""
        if value is None:
            return False
        plain = isinstance(value, (bool, int, float, str))
        return not (plain and any(value == one for one in self.neutral))


class Notices:
    """Tells each sentence once, as a warning."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            warnings.warn(text, stacklevel=3)


def by_name(*words: Word) -> dict[str, Word]:
    return {word.name: word for word in words}


def check_words(given: Mapping[str, Any], known: Mapping[str, Word], notices: Notices, what: str) -> None:
    """Refuse what is unknown or refused, and tell what is ignored. what: the callable, for messages."""
    for name, value in given.items():
        word = known.get(name)
        if word is None:
            raise RequestError(
                f"'{name}' is not a word of {what}; it knows {listed(name, known)}", field=name
            )
        if not word.asks(value):
            continue
        if word.fate == "refused":
            raise RequestError(f"{name} is {shown(value)}, and {word.becomes}", field=name)
        if word.fate == "ignored":
            notices.tell(f"{name} has no effect: {word.becomes}")


def number(value: Any, name: str) -> float:
    """Return a plain number. Raises RequestError naming the word for anything else."""
    if isinstance(value, bool) or not isinstance(value, (Real, np.number)) or not math.isfinite(value):
        raise RequestError(f"{name} is {shown(value)}; give a number", field=name)
    return float(value)


def entries(value: Any, name: str) -> list[Any]:
    """Return the entries of a list, or of an array. Raises RequestError naming the word for anything else."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise RequestError(f"{name} is {shown(value)}; give a list", field=name)
    return list(value)
