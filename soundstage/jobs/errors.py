"""Errors of jobs, besides those of requests and media, and the words for programs that all of them have.

The same word stands in the answer to a call and in the error of a job that failed.
"""

from __future__ import annotations

from typing import ClassVar

from soundstage.errors import (
    ConfigError,
    DatasetError,
    MediaError,
    MissingExtraError,
    NotFiniteError,
    RequestError,
    SoundstageError,
    WeightsError,
)


class JobsError(SoundstageError):
    """Base of the errors below. code: a word for programs."""

    code: ClassVar[str] = "error"


class NotFound(JobsError):
    """Nothing of that name is there, or it belongs to another owner."""

    code = "not_found"


class Conflict(JobsError):
    """The state of a job or file does not allow it, or an idempotency key was used for another request."""

    code = "conflict"


class Forbidden(JobsError):
    """The key has no scope for this."""

    code = "forbidden"


class Gone(JobsError):
    """A job or file was deleted, or its time is over."""

    code = "gone"


class TooLarge(JobsError):
    """A file is larger than the server takes."""

    code = "too_large"


class TooMany(JobsError):
    """A queue is full or a quota is used up. retry_after_s: when to try again."""

    code = "too_many"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(JobsError):
    """The server takes no more work, since it is about to stop."""

    code = "draining"


class NoWorker(JobsError):
    """No worker is there that could make a job; jobs wait until one is."""

    code = "no_worker"


class Unavailable(JobsError):
    """Something that a call needs cannot be had now."""

    code = "unavailable"


class LeaseLost(Conflict):
    """A worker reports on a job that is no longer its own: the lease ran out, or the job has ended."""

    code = "lease_lost"


# Words for the errors of other rooms; the first class that fits counts.
CODES: tuple[tuple[type[SoundstageError], str], ...] = (
    (NotFiniteError, "not_finite"),
    (MediaError, "unreadable_media"),
    (DatasetError, "unusable_data"),
    (RequestError, "invalid_request"),
    (ConfigError, "invalid_config"),
    (WeightsError, "unusable_weights"),
    (MissingExtraError, "missing_extra"),
    (SoundstageError, "refused"),
)


def code_of(error: SoundstageError) -> str:
    """Return the word for programs of an error."""
    own: str | None = getattr(error, "code", None)
    return own or next(code for kind, code in CODES if isinstance(error, kind))
