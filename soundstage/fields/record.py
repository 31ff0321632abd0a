"""Frozen records whose fields are checked when they are made. Loads no torch.

A field's meaning is the string below it; its range and unit are in its type:

    @record
    class Span:
        start_s: Annotated[float, Field(ge=0), unit("seconds")]
        "Where the span begins, from the start of the clip."

`field_help` (describe.py) reads both.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError

from soundstage.errors import ConfigError, RequestError, shown
from soundstage.fields.bounds import check_fields
from soundstage.fields.messages import request_error

Record = TypeVar("Record", bound=type)
Made = TypeVar("Made")
HELP_WIDTH = 100  # letters of a line
FIELDS = "\n\nFields:\n"  # stands before them in a docstring
Share = Annotated[float, Field(ge=0, le=1)]  # of a whole


def unit(name: str) -> Any:
    """Return the part of a field's type that names its unit, such as "seconds"."""
    return Field(json_schema_extra={"unit": name})


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: Record) -> Record:
    """Make a class a frozen dataclass that raises one RequestError for all values that do not fit."""
    config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        json_schema_extra=describe_once,
    )
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=config)(cls)
    checked: Callable[..., None] = made.__init__

    @functools.wraps(checked)
    def init(self: Any, *args: Any, **fields: Any) -> None:
        names = list(made.__dataclass_fields__)
        check_fields({**dict(zip(names, args, strict=False)), **fields})
        try:
            checked(self, *args, **fields)
        except ValidationError as error:
            raise request_error(error, made) from None

    made.__init__ = init
    return documented(made)  # type: ignore[no-any-return]


def documented(cls: Record) -> Record:
    """Complete a class with what `help` shows: the meaning of each field, and types as they are written."""
    made: Any = cls
    meanings = {name: (f.description or "").split() for name, f in made.__pydantic_fields__.items()}
    lines = [
        textwrap.fill(
            f"{name}: {' '.join(words)}", HELP_WIDTH, subsequent_indent="    ", break_on_hyphens=False
        )
        for name, words in meanings.items()
    ]
    made.__doc__ = inspect.cleandoc(made.__doc__ or "") + FIELDS + "\n".join(lines)
    signature = inspect.signature(made)
    types = made.__annotations__
    made.__signature__ = signature.replace(
        parameters=[p.replace(annotation=types[name]) for name, p in signature.parameters.items()]
    )
    return cls


def describe_once(schema: dict[str, Any]) -> None:
    """Leave the fields out of the description of a record in a JSON schema, which describes each of them."""
    schema["description"] = schema["description"].partition(FIELDS)[0]


def from_file(kind: type[Made], data: Any, where: str) -> Made:
    """Make a record from an object of a YAML or JSON file. where: the file or a place in it, for messages.

    Raises ConfigError for what does not fit.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is {shown(data)}; give its fields")
    try:
        return kind(**{str(key): value for key, value in data.items()})
    except RequestError as error:
        raise ConfigError(f"{where}: {error}") from error
