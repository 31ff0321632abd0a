"""Parts that routes share: answers as JSON, and their errors in the API's description."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Header, Path, Query
from pydantic import BaseModel
from starlette.responses import Response

from soundstage.server.bodies import ErrorBody

Described = dict[int | str, dict[str, Any]]
Id = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
After = Annotated[str | None, Query(max_length=64, description="Continue behind this id: last_id of a page.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A word of the client's own: the same call with the same key makes one job.",
    ),
]


def failures(*statuses: int) -> Described:
    """Return the description of the errors of a route, besides those that every route has."""
    every = (400, 401, 403, 422, 429, *statuses)
    return {status: {"model": ErrorBody, "description": HTTPStatus(status).phrase} for status in every}


def as_json(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a body as it is: what the jobs give is checked already."""
    return Response(body.model_dump_json(), status, headers, "application/json")
