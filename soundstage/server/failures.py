"""Errors as answers: a status, and a body that every client reads.

    {"error": {"code": "invalid_request", "message": "steps is 0; ...", "field": "steps", "advice": null},
     "detail": [{"loc": ["body", "request", "steps"], "msg": "...", "type": "invalid_request"}]}

Each dialect has a body of its own for them: `Dialect.shape` in dialect.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from soundstage.errors import MissingExtraError, SoundstageError
from soundstage.jobs import errors as jobs_errors

MAX_FINDINGS = 12  # of one answer
BESIDE = ("kind", "data", "dataset", "training")  # fields of a job that are not within its request
DEFECT = "the server met a fault of its own; it is logged under this id: "


class Unauthorized(SoundstageError):
    """No key where one is needed, or one that is not known."""

    code = "unauthorized"


class BadCall(SoundstageError):
    """A call that cannot be read: JSON that is none, a NUL in an address."""

    code = "malformed"


class WrongType(SoundstageError):
    """A body in a form that the server does not read."""

    code = "wrong_type"


class SlowBody(SoundstageError):
    """A body that does not come in time."""

    code = "too_slow"


class StaleTicket(SoundstageError):
    """A ticket that has run out, or that is for something else."""

    code = "stale_ticket"


# Statuses of classes of errors; the first that fits counts.
STATUSES: tuple[tuple[type[SoundstageError], int], ...] = (
    (Unauthorized, 401),
    (StaleTicket, 403),
    (BadCall, 400),
    (SlowBody, 408),
    (WrongType, 415),
    (jobs_errors.Forbidden, 403),
    (jobs_errors.NotFound, 404),
    (jobs_errors.Conflict, 409),
    (jobs_errors.Gone, 410),
    (jobs_errors.TooLarge, 413),
    (jobs_errors.TooMany, 429),
    (jobs_errors.Draining, 503),
    (jobs_errors.NoWorker, 503),
    (jobs_errors.Unavailable, 503),
    (MissingExtraError, 501),
    (SoundstageError, 422),
)


@dataclass(frozen=True)
class HttpFailure:
    """An answer to a call that failed, before it is put into a client's words.

    detail: findings of a body that does not fit, as FastAPI lists them. advice: values that would do.
    """

    status: int
    code: str
    message: str
    field: str | None = None
    advice: dict[str, Any] | None = None
    detail: tuple[dict[str, Any], ...] = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """Return the native body."""
        told = {"code": self.code, "message": self.message, "field": self.field, "advice": self.advice}
        return {"error": told, "detail": list(self.detail)}


def failure_of(error: Exception) -> HttpFailure | None:
    """Return the answer to an error; None for one that is a fault of the program."""
    if isinstance(error, RequestValidationError):
        return _unfit(error)
    if isinstance(error, HTTPException):
        cause = error.__cause__  # the framework hides what reading a body has raised behind its own
        return failure_of(cause) if isinstance(cause, SoundstageError) else _of_http(error)
    if not isinstance(error, SoundstageError):
        return None
    status = next(status for kind, status in STATUSES if isinstance(error, kind))
    return _of_soundstage(error, status, jobs_errors.code_of(error))


def defect(id: str) -> HttpFailure:
    """Return the answer to a call that met a fault of the program. id: what the log has it under."""
    return HttpFailure(500, "defect", f"{DEFECT}{id}")


def _of_soundstage(error: Exception, status: int, code: str) -> HttpFailure:
    message, name = str(error), getattr(error, "field", None)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if (retry_s := getattr(error, "retry_after_s", None)) is not None:
        headers["Retry-After"] = str(max(1, round(retry_s)))
    detail: tuple[dict[str, Any], ...] = ()
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        loc = ["body", *_body_places(name or "")]
        detail = ({"loc": loc, "msg": message, "type": code},)
    return HttpFailure(status, code, message, name, getattr(error, "advice", None), detail, headers)


def _of_http(error: HTTPException) -> HttpFailure:
    """Return the answer to what the framework itself refuses: an unknown route, a method, a body."""
    codes = {400: "malformed", 404: "not_found", 405: "wrong_method", 413: "too_large", 415: "wrong_type"}
    code = codes.get(error.status_code, "refused")
    messages = {
        "malformed": "the body cannot be read; send JSON",
        "not_found": "there is no such address; GET /openapi.json lists those that exist",
        "wrong_method": "this address does not take that method; the header Allow has those it takes",
    }
    message = messages.get(code) or str(error.detail)
    return HttpFailure(error.status_code, code, message, headers=dict(error.headers or {}))


def _unfit(error: RequestValidationError) -> HttpFailure:
    """Return the answer to a body, a query or a header that does not fit."""
    findings = error.errors()
    if any(item["type"] == "json_invalid" for item in findings):
        told = findings[0].get("ctx", {}).get("error", "")
        return HttpFailure(400, "malformed", f"the body is not JSON ({told}); send a JSON object")
    detail = tuple(
        {"loc": list(item["loc"]), "msg": _sentence(item), "type": item["type"]}
        for item in findings[:MAX_FINDINGS]
    )
    more = len(findings) - len(detail)
    message = "; ".join([item["msg"] for item in detail] + ([f"and {more} more"] if more else []))
    name = _name(findings[0]["loc"]) or None
    return HttpFailure(422, "invalid_request", message, name, detail=detail)


def _sentence(item: Mapping[str, Any]) -> str:
    """Return one finding of pydantic's in a sentence that names the field."""
    name = _name(item["loc"]) or "the body"
    if item["type"] == "missing":
        return f"{name} is missing; give it"
    if item["type"] == "extra_forbidden":
        return f"{name} is not a field here{_where_it_belongs(item['loc'])}"
    if item["type"] == "model_attributes_type" and len(item["loc"]) == 1:
        return "the body is not a JSON object; send one, with the header Content-Type: application/json"
    if item["type"] == "value_error":
        return f"{name}: {item['ctx']['error']}"
    wanted = str(item["msg"])
    return f"{name}: {wanted[:1].lower()}{wanted[1:]}"


def _where_it_belongs(loc: Any) -> str:
    """Return a hint where a field of a request stands beside the request."""
    from soundstage.request.request import Request

    stands_beside = len(loc) == 2 and loc[0] == "body" and loc[1] in Request.model_fields
    return f'; give it inside "request": {{"request": {{"{loc[1]}": ...}}}}' if stands_beside else ""


def _name(loc: Any) -> str:
    """Return "request.steps" for ("body", "request", "steps")."""
    return ".".join(str(part) for part in loc[1:])


def _body_places(name: str) -> list[str | int]:
    """Return where a field is in the body of a job: within its request, or beside it."""
    places = _places(name)
    is_beside = bool(places) and places[0] in BESIDE
    return places if is_beside or not places else ["request", *places]


def _places(name: str) -> list[str | int]:
    """Return ["guides", 0, "image"] for "guides[0].image"."""
    found = re.findall(r"[^.\[\]]+", name)
    return [int(part) if part.isdecimal() and len(part) < 10 else part for part in found]
