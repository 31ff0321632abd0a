"""Every error a caller may want to catch.

SoundstageError
+-- RequestError      the caller asked for something that cannot be made (a ValueError)
+-- ConfigError       a model's config is missing a key or holds a value we do not build (a ValueError)
+-- WeightsError      a weights file is missing, damaged, or does not fit the model
+-- MediaError        a picture, video or sound file cannot be read or written
+-- NotFiniteError    latents, pixels or samples became not-a-number while a clip was made
+-- MissingExtraError a feature needs a package that is not installed

A message says what was asked, what was found, and what to do. The command line prints it as one
sentence and exits with code 2.
"""

from __future__ import annotations


class SoundstageError(Exception):
    """Base of all errors raised on purpose by Soundstage."""


class RequestError(SoundstageError, ValueError):
    """A request that cannot be carried out. `field` names the offending field, if it is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(SoundstageError, ValueError):
    """A model config is incomplete or describes a model that is not LTX-2.3."""


class WeightsError(SoundstageError):
    """A weights file cannot be used: missing, truncated, or not fitting the model key by key."""


class MediaError(SoundstageError):
    """A media file cannot be read or written."""


class NotFiniteError(SoundstageError):
    """Values stopped being numbers while a clip was made.

    stage: the pass, or what was encoded or decoded. step: of the pass, counted from 1; None outside passes.
    """

    def __init__(self, message: str, *, stage: str, step: int | None = None) -> None:
        super().__init__(message)
        self.stage, self.step = stage, step


class MissingExtraError(SoundstageError, ImportError):
    """An optional package is absent; the message gives the install command."""

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the '{extra}' extra: pip install 'soundstage[{extra}]'")
        self.extra = extra
