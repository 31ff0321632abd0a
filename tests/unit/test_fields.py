"""Meaning, unit, range and default stand beside each field, and everything else reads them there."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter

import soundstage as ss
from soundstage.errors import RequestError
from soundstage.fields.describe import field_help, field_names
from soundstage.fields.record import record, unit
from soundstage.prompts.timeline import Relay
from soundstage.request.defaults import Defaults
from soundstage.request.take import Take
from soundstage.sampling.cache import StepCache
from soundstage.sampling.scales import Scales

RECORDS = (
    ss.Request, ss.Guide, ss.Reference, ss.Source, ss.Canvas, ss.Audio, ss.Lora, ss.Span,
    ss.Recipe, ss.Pass, Defaults,
    Take, Relay, StepCache, Scales,
)  # fmt: skip
# Numbers that any value fits.
OPEN = {"StepCache.coefficients", "Scales.stg_blocks", "Request.lengths"}


@record
class Ball:
    """A ball of a test."""

    radius: Annotated[float, Field(gt=0, le=9, examples=[2.5]), unit("pixels")]
    """How far the ball
    reaches."""
    bounces: Annotated[int, Field(ge=0)] = 3
    """How often it bounces."""


def properties(owner: type) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every property of a record's JSON schema, those of the records in it too."""
    schema = TypeAdapter(owner).json_schema()
    for name, node in {owner.__name__: schema, **schema.get("$defs", {})}.items():
        yield from ((f"{name}.{key}", value) for key, value in node.get("properties", {}).items())


@pytest.mark.parametrize("owner", RECORDS, ids=lambda owner: owner.__name__)
def test_every_property_of_a_schema_says_what_it_means(owner: type) -> None:
    found = dict(properties(owner))
    assert found
    for name, node in found.items():
        assert node.get("description", "").endswith((".", "}.")), name


@pytest.mark.parametrize("owner", RECORDS, ids=lambda owner: owner.__name__)
def test_numbers_have_ranges_and_optional_fields_defaults(owner: type) -> None:
    for name, node in properties(owner):
        told = str(node)
        if ("'number'" in told or "'integer'" in told) and name not in OPEN:
            assert "minimum" in told.lower(), name
    required = TypeAdapter(owner).json_schema().get("required", [])
    for name in field_names(owner):
        assert field_help(owner, name).required == (name in required), name


def test_help_has_the_meaning_the_range_the_unit_and_the_default() -> None:
    assert field_help(Ball, "radius").text == "How far the ball reaches. Above 0 and up to 9 pixels."
    assert field_help(Ball, "bounces").text == "How often it bounces. 0 or more. [default: 3]"
    strength = field_help(ss.Request, "guides.strength")
    assert (strength.range, strength.default, strength.required) == ("from 0 to 1", 1.0, False)
    assert field_help(ss.Request, "guides.image").required
    assert field_help(ss.Request, "source.start_s").takes == "from 0 to 86400 seconds"
    assert field_help(ss.Request, "audio.mode").choices == ("driving", "identity")
    assert field_help(ss.Request, "sampler").takes.startswith("one of euler, euler-ancestral, ")
    assert field_help(ss.Request, "modalities").default_text == "audio and video"
    assert field_help(ss.Request, "loras.groups.audio").range == "from -10 to 10"
    assert field_names(ss.Request, "source.canvas") == ("left", "top", "right", "bottom")
    with pytest.raises(KeyError, match=r"Request has no field guides\.power"):
        field_help(ss.Request, "guides.power")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"radius": 0}, "radius is 0; give a number of pixels above 0 and up to 9, such as 2.5"),
        ({"radius": 1, "bounces": -1}, "bounces is -1; give a whole number 0 or more"),
        ({"radius": True}, "radius is true; give a number or words"),
        ({"radius": 1, "colour": "red"}, "'colour' is not a field of Ball; the fields are radius, bounces"),
        ({}, "radius is missing; give one"),
    ],
)
def test_a_record_refuses_in_one_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        Ball(**fields)
    assert str(caught.value) == says


@pytest.mark.parametrize("owner", RECORDS, ids=lambda owner: owner.__name__)
def test_python_help_has_each_field_and_the_schema_says_it_once(owner: type) -> None:
    told = owner.__doc__ or ""
    assert [name for name in field_names(owner) if f"\n{name}: " not in told] == []
    assert "Fields:" not in str(TypeAdapter(owner).json_schema())
    assert "FieldInfo" not in str(inspect.signature(owner))


@pytest.mark.parametrize(
    ("passes", "says"),
    [
        ([], "passes has 0 entries; give at least 1"),
        ([1], "passes is 1; it should be a dictionary or an instance of Pass"),
        (iter([1]), "passes is 1; it should be a dictionary or an instance of Pass"),
        (iter([]), "passes has 0 entries; give at least 1"),
    ],
)
def test_entries_that_do_not_fit_are_not_called_too_few(passes: Any, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        ss.Recipe(name="mine", summary="A test.", passes=passes)
    assert str(caught.value) == says


def test_an_iterator_of_too_many_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^guides has more entries; give at most 256$"):
        ss.Request(prompt="a", guides=(ss.Guide("a.png") for _ in range(300)))


def test_a_take_keeps_a_path_as_text() -> None:
    assert Take(folder=Path("windows")) == Take(folder="windows")  # type: ignore[arg-type]
    request = ss.Request(prompt="a", take=Take(folder=Path("windows")))  # type: ignore[arg-type]
    assert ss.Request.from_json(request.to_json()) == request


def test_a_record_is_checked_again_when_fields_are_replaced() -> None:
    assert replace(Scales(cfg=2), stg=1) == Scales(cfg=2, stg=1)
    with pytest.raises(RequestError, match="cfg is 101; give a number from 0 to 100"):
        replace(Scales(), cfg=101)
    assert len({Scales(), Scales(cfg=2), Scales(cfg=2.0)}) == 2
