"""The description of the API: OpenAPI, and the fields of a request with their help.

Both come from the docstrings of the fields, as the command line's help does.
"""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

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


@functools.cache
def _training_schema() -> dict[str, Any]:
    """Return the schema of a job's training and dataset, without the fields that are the server's."""
    from soundstage.dataset.config import DatasetConfig
    from soundstage.jobs.training import OWN, RECIPE
    from soundstage.training.tuning import zips
    from soundstage.training.tuning.config import TrainConfig, recipe_names

    training = TypeAdapter(TrainConfig).json_schema()
    data = TypeAdapter(DatasetConfig).json_schema()
    training["properties"] = {
        RECIPE: {
            "enum": recipe_names(),
            "description": "A recipe, whose fields hold where others are not given.",
        },
        **{name: node for name, node in training["properties"].items() if name not in OWN},
    }
    frames = {"type": "integer", "description": "Length of the clips, 8k + 1, where buckets does not say it."}
    fields = {name: data["properties"].get(name, frames) for name in zips.FIELDS}
    defs = {**training.pop("$defs", {}), **data.pop("$defs", {})}
    for node in (training, data):
        node.pop("required", None)
        node.pop("additionalProperties", None)  # names with dots, such as optimizer.rate
    properties = {"training": training, "dataset": {**data, "properties": fields}}
    return {"title": "Training", "type": "object", "properties": properties, "$defs": defs}


def training_schema() -> dict[str, Any]:
    """Return the JSON schema of what a job of kind train has: training and dataset."""
    return copy.deepcopy(_training_schema())


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
    _put_training(schemas)
    return api


def _put_training(schemas: dict[str, Any]) -> None:
    """Give the fields of a job's training and dataset their schemas."""
    text = json.dumps(training_schema()).replace("#/$defs/", "#/components/schemas/Training.")
    own = json.loads(text)
    for name, schema in own["$defs"].items():
        schemas[f"Training.{name}"] = schema
    for name, schema in own["properties"].items():
        field = schemas["JobRequest"]["properties"][name]
        field.pop("additionalProperties", None)
        schemas["JobRequest"]["properties"][name] = {**schema, **field}
