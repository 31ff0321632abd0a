"""A dialect: other services' words for the same jobs, under an address of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from soundstage.server.failures import HttpFailure

ErrorShape = Callable[[HttpFailure], tuple[int, dict[str, Any], dict[str, str]]]


def native(failure: HttpFailure) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers of a failure in the native API."""
    return failure.status, failure.body, dict(failure.headers)


@dataclass(frozen=True)
class Dialect:
    """Routes under a prefix, and the words of their errors.

    prefix: such as "/fal"; a path that is the prefix, or goes on with a slash, is the dialect's.
    shape: gives status, body and headers of a failure.
    """

    prefix: str
    router: APIRouter
    shape: ErrorShape = native


def shape_of(path: str, dialects: tuple[Dialect, ...]) -> ErrorShape:
    """Return the words for errors at a path."""
    for dialect in dialects:
        if path == dialect.prefix or path.startswith(f"{dialect.prefix}/"):
            return dialect.shape
    return native
