"""Every error a caller may want to catch.

SoundstageError
+-- RequestError      the caller asked for something that cannot be made (a ValueError)
+-- ConfigError       a config of a model or a user's lacks a key or holds what does not fit (a ValueError)
+-- WeightsError      a weights file is missing, damaged, or does not fit the model
+-- MediaError        a picture, video or sound file cannot be read or written
+-- DatasetError      data to train on cannot be read, or was encoded for something else
+-- NotFiniteError    latents, pixels or samples became not-a-number while a clip was made
+-- ServerError       a server cannot be reached, or refuses a call
+-- MissingExtraError a feature needs a package that is not installed

A message says what was asked, what was found, and what to do. The command line prints it as one
sentence and exits with code 2. Below the tree stands how a message shows a value, and the known names for an
unknown one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

SHOWN_LETTERS = 100
CUTOFF = 0.6  # of difflib's ratio, from which on a name is near
NUM_NEAR = 4


class SoundstageError(Exception):
    """Base of all errors raised on purpose by Soundstage.

    in_file: the message names fields as a file has them, such as a line of JSON, not what is typed.
    sentences: one for each thing that is wrong, where the message holds several.
    """

    in_file: bool = False
    sentences: tuple[str, ...] = ()


class RequestError(SoundstageError, ValueError):
    """A request that cannot be carried out. `field` names the offending field, if it is one.

    unused: fields or options that nothing would read, where that is all that is wrong.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        unused: Iterable[str] = (),
        sentences: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.field = field
        self.unused = frozenset(unused)
        self.sentences = tuple(sentences)


class ConfigError(SoundstageError, ValueError):
    """A config of a model, a recipe, a script or defaults is incomplete, or holds what does not fit."""

    def __init__(self, message: str, *, sentences: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.sentences = tuple(sentences)


class WeightsError(SoundstageError):
    """A weights file cannot be used: missing, truncated, or not fitting the model key by key."""


class MediaError(SoundstageError):
    """A media file cannot be read or written."""


class DatasetError(SoundstageError):
    """Data to train on cannot be read or used: a table, a clip, a config, or what was encoded from them."""


class NotFiniteError(SoundstageError):
    """Values stopped being numbers while a clip was made.

    stage: the pass, or what was encoded or decoded.
    step: the denoising step, counted from 1; None outside passes.
    """

    def __init__(self, message: str, *, stage: str, step: int | None = None) -> None:
        super().__init__(message)
        self.stage, self.step = stage, step


class ServerError(SoundstageError):
    """A server cannot be reached, or refuses a call for a reason that is not in the request.

    status: the answer's number; None where no answer came. code: the server's word for programs.
    retry_after_s: when to try again, where the server says it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s


class MissingExtraError(SoundstageError, ImportError):
    """An optional package is absent; the message gives the install command."""

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the '{extra}' extra: pip install 'soundstage[{extra}]'")
        self.extra = extra


def shown(value: Any, limit: int = SHOWN_LETTERS) -> str:
    """Return a value as messages show it: its repr in one line, cut in the middle where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of too many digits, an object within itself
        return f"a {type(value).__name__} that is too large to show"
    text = " ".join(text.split()) if "\n" in text else text  # the repr of an array
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]} ({len(text)} letters)"


def num_of(count: int, noun: str) -> str:
    """Return "1 shot", "2 shots"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def nearest(name: str, known: Iterable[str], count: int = NUM_NEAR) -> list[str]:
    """Return the known names that are near a mistyped one, the nearest first; case does not count."""
    by_key: dict[str, str] = {}
    for known_name in known:
        by_key.setdefault(known_name.lower(), known_name)
    key = name.lower()
    found = difflib.get_close_matches(key, by_key, n=count, cutoff=CUTOFF)
    begins = [k for k in by_key if len(key) > 1 and k.startswith(key) and k not in found]
    return [by_key[k] for k in (*found, *begins)][:count]


def near_first(name: str, known: Iterable[str]) -> list[str]:
    """Return all known names once, those near a mistyped one before the others, which keep their order."""
    names = list(dict.fromkeys(known))
    near = nearest(name, names)
    return [*near, *(other for other in names if other not in near)]


def listed(name: str, known: Iterable[str]) -> str:
    """Return the known names for a message, "fast, pro, hq", those near the mistyped one first."""
    return ", ".join(near_first(name, known))
