"""Requests: what is accepted, what is refused and with which words, and the JSON round trip."""

import math
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import soundstage as ss
from soundstage.errors import RequestError
from soundstage.request.inputs import Lora
from soundstage.request.request import Request
from soundstage.sampling.cache import StepCache


@settings(deadline=None)
@given(
    prompt=st.text(min_size=1).filter(str.strip),
    size=st.one_of(
        st.none(), st.sampled_from(["square"]), st.tuples(st.integers(1, 8192), st.integers(1, 8192))
    ),
    seed=st.integers(0, 2**63 - 1),
    duration_s=st.one_of(st.none(), st.floats(0.01, 1000)),
    guidance=st.one_of(st.none(), st.floats(0, 100)),
    modalities=st.sets(st.sampled_from(["video", "audio"]), min_size=1),
)
def test_json_gives_the_request_back(**fields: Any) -> None:
    request = Request(**fields)
    assert Request.from_json(request.to_json()) == request
    assert Request.from_json(request.to_json()).to_json() == request.to_json()


@pytest.mark.parametrize(
    ("text", "size"),
    [("192x128", (192, 128)), ("192X128", (192, 128)), ("192, 128", (192, 128)), ("portrait", "portrait")],
)
def test_sizes_as_text(text: str, size: object) -> None:
    assert Request(prompt="a", size=text).size == size


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"prompt": ""}, "prompt", "prompt is empty; describe"),
        ({"prompt": " \n"}, "prompt", "prompt is empty; describe"),
        ({"prompt": 3}, "prompt", "prompt is 3; it should be a text"),
        ({"size": "cinema"}, "size", "size is 'cinema'; give WIDTHxHEIGHT"),
        ({"size": (0, 128)}, "size", r"size is \(0, 128\); give width and height"),
        ({"size": (1, 2, 3)}, "size", r"size is \(1, 2, 3\)"),
        ({"size": "99999x128"}, "size", "from 32 to 8192"),
        ({"duration_s": -1}, "duration_s", "duration_s is -1; give a number of seconds above 0"),
        ({"duration_s": 0}, "duration_s", "duration_s is 0"),
        ({"duration_s": math.nan}, "duration_s", "duration_s is nan"),
        ({"duration_s": math.inf}, "duration_s", "duration_s is inf"),
        ({"num_frames": 0}, "num_frames", "num_frames is 0; give a whole number of frames from 1 to"),
        ({"fps": 0}, "fps", "fps is 0; give a number of frames per second from 1 to 240"),
        ({"fps": math.nan}, "fps", "fps is nan"),
        ({"seed": -1}, "seed", "seed is -1; give a whole number"),
        ({"seed": 2**63}, "seed", "seed is 9223372036854775808"),
        ({"steps": 0}, "steps", "steps is 0; give a whole number of steps from 1 to 1000"),
        ({"steps": "many"}, "steps", "steps is 'many'; give a whole number of steps from 1 to 1000"),
        ({"guidance": -1}, "guidance", "guidance is -1; give a number from 0 to 100"),
        ({"rescale": 2}, "rescale", "rescale is 2; give a number from 0 to 1"),
        ({"modalities": []}, "modalities", "modalities is empty; give video, audio, or both"),
        ({"modalities": ["smell"]}, "modalities", "modalities is 'smell'; it should be 'video' or 'audio'"),
        ({"colour": "red"}, "colour", "'colour' is not a field of a request; the fields are prompt,"),
        ({"duration_s": 1.0, "num_frames": 9}, None, r"both duration_s \(1\) and num_frames \(9\)"),
        ({"steps": 4, "sigmas": (1.0, 0.0)}, None, "both steps and sigmas are given; keep one"),
    ],
)
def test_bad_values_are_named(fields: dict[str, Any], field: str | None, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        Request(**{"prompt": "a", **fields})
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"guides": ["a.png", {"image": "b.png", "at": 1e9}]},
            "guides[1].at is 1000000000; give a number of seconds from 0 to 86400, or 'last' or 'before'",
        ),
        (
            {"guides": ["a.png", {"image": "b.png", "at": -1}]},
            "guides[1]: at is -1; give seconds from the start, 'last', or 'before' (the first frame)",
        ),
        ({"guides": ["a.png", ""]}, "guides[1] is ''; give PATH[@TIME][:STRENGTH], such as door.png@1.5:0.8"),
        ({"loras": ["a", "b,audio=x"]}, "loras[1] holds 'x', which is not a number; give one, such as 0.8"),
        (
            {"source": {"video": "a.mp4", "regenerate": ["1-2", "3-2"]}},
            "source.regenerate[1]: the span from 3 to 2 s is empty; end it after it starts",
        ),
        ({"relay": {"epsilon": "x"}}, "relay.epsilon is 'x'; give a number from 1e-06 to 0.99"),
        ({"recipe": 3}, "recipe is 3; it should be a text"),
    ],
)
def test_a_fault_is_told_once_with_the_place_in_its_list(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(prompt="a", **fields)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["schedule", "sampler"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is ''; give one of "):
        Request(prompt="a", **{name: ""})


def test_files_may_be_paths() -> None:
    path: Any = Path("b.safetensors")
    asked = Request(
        prompt="a",
        recipe=Path("mine.yaml"),
        loras=[Lora(path)],
        take={"folder": Path("take")},
    )
    assert (asked.recipe, asked.loras[0].path) == ("mine.yaml", "b.safetensors")
    assert Request.from_json(asked.to_json()) == asked


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(RequestError, match="prompt is missing"):
        Request()


def test_all_bad_fields_are_named_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        Request(prompt="", duration_s=-1, size="big", frame_rate=3)
    assert str(caught.value).count(";") >= 4
    for word in ("prompt is empty", "duration_s is -1", "size is 'big'", "'frame_rate'"):
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', '{"prompt": ""}', '{"nothing": 1}'])
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        Request.from_json(text)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError):
        Request(prompt="a").prompt = "b"  # type: ignore[misc]


def test_a_cache_is_words_or_a_record() -> None:
    asked = Request(prompt="a", cache="first_block:0.1")
    assert asked.cache == StepCache("first-block", 0.1)
    assert Request(prompt="a", cache="teacache").cache == StepCache("teacache")
    record = StepCache("teacache", 0.2, start=0.5)
    assert Request(prompt="a", cache=record).cache == record
    assert Request.from_json(asked.to_json()) == asked


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        (
            "magcache:0.1",
            "cache is 'magcache:0.1'; give teacache or first-block, or with a threshold, such as ",
        ),
        ("first-block:lots", "cache.threshold is 'lots'; give a number from 0 to below 10"),
        ("teacache:11", "cache.threshold is '11'; give a number from 0 to below 10"),
        ({"kind": "teacache", "start": 2}, "cache.start is 2; give a number from 0 to 1"),
    ],
)
def test_a_bad_cache_is_refused(cache: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        Request(prompt="a", cache=cache)
    assert caught.value.field == "cache"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"duration_s": 1e308}, r"duration_s is 1e\+308; give a number of seconds above 0 and up to 86400"),
        ({"duration_s": -0.0}, "duration_s is -0; give a number"),
        (
            {"num_frames": 10**400},
            "num_frames is 1000.*000 .401 letters.; give a number that is not beyond 2.63",
        ),
        ({"num_frames": 2**40}, "num_frames is 1099511627776; give a whole number"),
        ({"num_frames": True}, "num_frames is true; give a number or words"),
        (
            {"guides": [{"image": "a.png", "strength": False}]},
            r"guides\[0\]\.strength is false; give a number",
        ),
        ({"seed": 2**64}, "seed is 18446744073709551616; give a number that is not beyond"),
        ({"steps": 5_000_000}, "steps is 5000000; give a whole number of steps from 1 to 1000"),
        ({"size": (4_000_000, 32)}, r"size is \(4000000, 32\); give width and height in pixels"),
        ({"size": "9" * 5_000}, r"size is '999.*999' \(5002 letters\); give WIDTHxHEIGHT"),
        ({"guides": [{"image": "a.png"}] * 1_000}, "guides has 1000 entries; give at most 256"),
        ({"sigmas": [0.5] * 3_000}, "sigmas has 3000 entries; give at most 2000"),
        ({"guides": [{"image": "a\0b.png"}]}, r"guides\[0\]\.image holds a NUL character"),
        ({"prompt": "a \ud800 ball"}, "prompt holds a letter that is no Unicode character, letter 3 of 8"),
        ({"negative_prompt": "\udcff"}, "negative_prompt holds a letter that is no Unicode"),
        ({"prompt": "a" * 30_000}, "prompt has 30000 letters; give at most 20000"),
        ({"source": {"video": "a.mp4", "extend_after_s": 1e300}}, r"source\.extend_after_s is 1e\+300; give"),
        ({"loras": [{"path": "a", "strength": math.nan}]}, r"loras\[0\]\.strength is nan; give a finite"),
    ],
)
def test_values_at_the_edge_are_one_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        Request(**{"prompt": "a", **fields})
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "JSON of too many levels"),
        ('{"prompt": "a", "seed": ' + "9" * 9_000 + "}", "the request is not JSON"),
        ('{"prompt": "a", "video_scales": ' + '{"a": ' * 50 + "1" + "}" * 51, "is nested more than 16 deep"),
        ('{"prompt": "a", "duration_s": NaN}', "duration_s is nan; give a finite number"),
    ],
)
def test_json_at_the_edge_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Request.from_json(text)


def test_flags_of_guidance_are_taken() -> None:
    assert Request(prompt="a", video_scales={"cfg_star": True}).video_scales == {"cfg_star": True}


def test_records_made_alone_refuse_the_same() -> None:
    with pytest.raises(RequestError, match="strength is true; give a number or words"):
        ss.Guide("a.png", strength=True)
    with pytest.raises(RequestError, match="path holds a NUL"):
        ss.Lora("a\0b")
    assert ss.Source("a.mp4", denoise=0.5, keep_pixels=False).keep_pixels is False


@pytest.mark.parametrize("given", [3, None, 2.5, [], {"prompt": "Rain."}, float("nan")])
def test_json_that_is_no_text_is_refused(given: Any) -> None:
    with pytest.raises(RequestError, match=r"pass the JSON text that Request\.to_json wrote"):
        Request.from_json(given)


@pytest.mark.parametrize("text", ["3", "null", "[]", "NaN", b"\xff", '{"prompt": "a", "seed": NaN}'])
def test_json_that_holds_no_request_is_refused(text: str | bytes) -> None:
    with pytest.raises(RequestError):
        Request.from_json(text)
    assert Request.from_json(b'{"prompt": "Rain."}') == Request(prompt="Rain.")
