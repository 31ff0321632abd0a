"""Routers whose JSON is read strictly: what no store or answer can hold is refused at the door."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from soundstage.server.failures import BadCall

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
MAX_DEPTH = 40  # objects and lists within each other


class StrictRequest(Request):
    """A call whose JSON has neither NaN nor infinity, no NUL and no half characters, and few levels."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            text = body.decode()
            value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        except json.JSONDecodeError:
            raise  # told with its place
        except UnicodeDecodeError:
            raise BadCall("the body is not UTF-8; send JSON in UTF-8") from None
        except RecursionError:
            raise BadCall("the body is JSON of too many levels; send plain fields") from None
        except ValueError:  # a whole number of thousands of digits
            raise BadCall("the body holds a number of too many digits") from None
        _check(value, check_text="\\u" in text)
        return value


def _no_number(name: str) -> NoReturn:
    raise BadCall(f"the body holds {name}, which is no JSON; leave the field out")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadCall(f"the body holds the number {text[:30]}, which is too large")
    return value


def _check(value: Any, *, check_text: bool, depth: int = 0) -> None:
    """Raise BadCall for too many levels, and for text that cannot be stored. check_text: it may hold some."""
    if depth > MAX_DEPTH:
        raise BadCall(f"the body is JSON of more than {MAX_DEPTH} levels; send plain fields")
    if isinstance(value, dict):
        for key, item in value.items():
            if check_text:
                _check_text(key)
            _check(item, check_text=check_text, depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, check_text=check_text, depth=depth + 1)
    elif check_text and isinstance(value, str):
        _check_text(value)


def _check_text(text: str) -> None:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadCall("the body holds text with a NUL or half a character; send whole characters")


class StrictRoute(APIRoute):
    """A route that reads its body by StrictRequest."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


class Router(APIRouter):
    """A router of such routes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=StrictRoute, **options)
