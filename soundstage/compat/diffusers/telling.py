"""Tell a user of diffusers' words what a word becomes: nothing, a notice, or an error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from soundstage.errors import RequestError, nearest, shown

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
            raise RequestError(unknown(name, known, what), field=name)
        if not word.asks(value):
            continue
        if word.fate == "refused":
            raise RequestError(f"{name} is {shown(value)}, and {word.becomes}", field=name)
        if word.fate == "ignored":
            notices.tell(f"{name} has no effect: {word.becomes}")


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """Return the sentence on an unknown word, with those that are near it. what: what it was given to."""
    near = " or ".join(nearest(name, known))
    meant = f"did you mean {near}? " if near else ""
    return f"'{name}' is not a word of {what}; {meant}docs/diffusers.md lists all"


def number(value: Any, name: str) -> float:
    """Return a plain number. Raises RequestError naming the word for anything else."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise RequestError(f"{name} is {shown(value)}; give a number", field=name)
    return float(value)


def whole(value: Any, name: str) -> int:
    """Return a plain whole number. Raises RequestError naming the word for anything else."""
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float) or plain % 1:
        raise RequestError(f"{name} is {shown(value)}; give a whole number", field=name)
    return int(plain)


def numbers(value: Any, name: str) -> list[float]:
    """Return the numbers of a list, an array or a tensor. Raises RequestError naming the word otherwise."""
    try:
        return [number(one, name) for one in entries(_plain(value), name)]
    except RequestError:
        raise RequestError(f"{name} is {shown(value)}; give a list of numbers", field=name) from None


def _plain(value: Any) -> Any:
    """Return the Python value of a number or list of NumPy's or PyTorch's."""
    return value.tolist() if hasattr(value, "tolist") else value


def entries(value: Any, name: str) -> list[Any]:
    """Return the entries of a list, or of an array. Raises RequestError naming the word for anything else."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise RequestError(f"{name} is {shown(value)}; give a list", field=name)
    return list(value)
