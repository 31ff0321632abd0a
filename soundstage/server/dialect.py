"""A dialect: other services' words for the same jobs, under an address of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter

from soundstage.server.failures import HttpFailure
from soundstage.server.webhooks import WriteLetter

ErrorShape = Callable[[HttpFailure], tuple[int, dict[str, Any], dict[str, str]]]


def native(failure: HttpFailure) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers of a failure in the native API."""
    return failure.status, failure.body, dict(failure.headers)


@dataclass(frozen=True)
class Dialect:
    """Routes under a prefix, and the words of their errors.

    prefix: such as "/fal"; a path that is the prefix, or goes on with a slash, is the dialect's.
    shape: gives status, body and headers of a failure. letters: its webhooks, by the `via` of their jobs.
    files: beginnings of paths whose bodies are files; their routes check who sends before they read.
    """

    prefix: str
    router: APIRouter
    shape: ErrorShape = native
    letters: Mapping[str, WriteLetter] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def shape_of(path: str, dialects: tuple[Dialect, ...]) -> ErrorShape:
    """Return the words for errors at a path."""
    for dialect in dialects:
        if path == dialect.prefix or path.startswith(f"{dialect.prefix}/"):
            return dialect.shape
    return native


def letters_of(dialects: tuple[Dialect, ...]) -> dict[str, WriteLetter]:
    """Return the webhooks of all dialects."""
    return {via: write for dialect in dialects for via, write in dialect.letters.items()}
