"""The description of the API: OpenAPI, and the fields of a request with their help.

Both come from the docstrings of the fields, as the command line's help does.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from soundstage.fields.describe import field_help, field_names
from soundstage.request.recipes import all_recipes
from soundstage.request.request import Request

TITLE = "Soundstage"
ABOUT = "Film with synchronized sound from words, pictures, clips and sounds, as jobs over HTTP."
_NAMES = "Request{model}"  # of the request's own records among the API's


@functools.cache
def _request_schema() -> dict[str, Any]:
    schema = Request.model_json_schema()
    for name in field_names(Request):
        help = field_help(Request, name)
        node = schema["properties"][name]
        node["x-help"] = help.text
        node |= {f"x-{key}": value for key, value in _facts(help).items() if value}
    return schema


def _facts(help: Any) -> dict[str, Any]:
    return {"unit": help.unit, "range": help.range, "choices": list(help.choices)}


def request_schema() -> dict[str, Any]:
    """Return the JSON schema of a request; "x-help" of a field is its line of help."""
    return copy.deepcopy(_request_schema())


def recipes() -> list[dict[str, Any]]:
    """Return the recipes, with what each is for and its passes."""
    return [
        {
            "name": recipe.name,
            "summary": recipe.summary,
            "best_for": recipe.best_for,
            "resolution": recipe.resolution,
            "fps": recipe.fps,
            "passes": [{**asdict(pass_), "freeze": sorted(pass_.freeze)} for pass_ in recipe.passes],
        }
        for recipe in all_recipes()
    ]


def describe(app: FastAPI, version: str) -> None:
    """Let an app describe its API with the fields of a request in it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=TITLE, version=version, description=ABOUT, routes=app.routes)
            app.openapi_schema = _with_request(made)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_request(api: dict[str, Any]) -> dict[str, Any]:
    """Return the description in which a job's request is not any object, but has its fields."""
    schemas = api["components"]["schemas"]
    own = Request.model_json_schema(ref_template=f"#/components/schemas/{_NAMES}")
    for name, schema in own.pop("$defs").items():
        schemas[_NAMES.format(model=name)] = schema
    schemas["Request"] = own
    asked = schemas["JobRequest"]["properties"]["request"]
    for key in ("type", "additionalProperties"):
        asked.pop(key, None)
    asked["anyOf"] = [{"$ref": "#/components/schemas/Request"}, {"type": "object", "maxProperties": 0}]
    return api
