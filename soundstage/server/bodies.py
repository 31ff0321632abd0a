"""Bodies of the native API that are no views of the jobs: errors, tickets, keys, lists."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from soundstage.jobs.views import Key, Scope


class Body(BaseModel):
    """Base of them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ErrorTold(Body):
    """An error in words."""

    code: str
    """A word for programs, such as not_found."""
    message: str
    """One sentence: what was asked, what was found, what would do."""
    field: str | None = None
    """The field that is wrong, if it is one."""
    advice: dict[str, Any] | None = None
    """Values that would do, such as sizes that fit."""


class BodyFinding(Body):
    """One thing that does not fit."""

    loc: list[str | int]
    """Where it is: ["body", "request", "steps"]."""
    msg: str
    """One sentence."""
    type: str
    """A word for programs."""


class ErrorBody(Body):
    """The body of every answer from 400 on."""

    error: ErrorTold
    detail: list[BodyFinding] = []
    """What does not fit, for status 422."""


class Ticket(Body):
    """An address of a file that needs no key, for a player or a link."""

    url: str
    expires_at: float
    """Unix seconds after which the address answers 403."""


class Deleted(Body):
    """An answer to a deletion."""

    id: str
    object: str
    deleted: Literal[True] = True


class KeyAsked(Body):
    """A key to make."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """What it is for."""
    owner: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Whose jobs and files it sees. Left out, an owner of its own, named as the key."""
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=4)] = ["read", "submit"]
    """What it may do: read, submit, admin, worker."""


class KeyMade(Key):
    """A new key with its secret, which is shown this once."""

    secret: str


class LoraAsked(Body):
    """A LoRA to register under a name."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Used in requests as lora:NAME."""
    asset: str
    """The uploaded .safetensors file, by the id of its asset."""


class PullAsked(Body):
    """A published model to download."""

    model: str
    """A name of `soundstage models list`."""


class Records(Body):
    """A short list, whole."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class WaveformPeaks(Body):
    """The sound of a file, as a picture of it needs it."""

    object: Literal["waveform"] = "waveform"
    duration_s: float
    channels: list[list[tuple[float, float]]]
    """For each channel the lowest and highest sample of each part, from -1 to 1."""


class FileMetadata(Body):
    """The words of a file about how it was made."""

    object: Literal["metadata"] = "metadata"
    request: dict[str, Any] | None
    """The fields of the request; null in a file that Soundstage did not make."""
    provenance: dict[str, Any]
    """All that the file holds of it."""


class Me(Body):
    """The owner of the key that a call has."""

    object: Literal["owner"] = "owner"
    id: str
    name: str
    scopes: list[Scope]
    is_local: bool


class WebhookSecret(Body):
    """The secret that signs the caller's webhooks, in the form that libraries for Standard Webhooks take."""

    secret: str
