"""Inputs of a request: what is accepted, what is refused with which words, what has a JSON form."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import soundstage as ss
from soundstage.errors import RequestError
from soundstage.media.in_memory import InMemory
from soundstage.request.request import Request


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ss.Guide(), "image is missing; give one"),
        (lambda: ss.Guide(""), "the path is empty"),
        (lambda: ss.Guide("a.png", strength=2), "strength is 2; give a number from 0 to 1"),
        (lambda: ss.Guide("a.png", -1.0), "at is -1; give seconds from the start, 'last', or 'before'"),
        (lambda: ss.Guide("a.png", 1.0, frame=3), r"both at \(1.0\) and frame \(3\) are given"),
        (lambda: ss.Guide("a.png", "before", mode="replace"), "before the first frame nothing can be"),
        (lambda: ss.Guide("a.png", attention=0.5, mode="replace"), "attention is for guide tokens"),
        (lambda: ss.Guide("a.png", crf=60), "crf is 60; give a whole number from 0 to 51"),
        (lambda: ss.Guide("a.png", colour=1), "'colour' is not a field of Guide; the fields are image, at,"),
        (lambda: ss.Guide(np.zeros((4, 4), np.int32)), r"an array of int32 \(4, 4\) is no picture"),
        (lambda: ss.Guide(object()), "is no media; pass a file's path, an array"),
        (lambda: ss.Guide(np.zeros((9, 0, 4, 3), np.uint8)), r"uint8 \(9, 0, 4, 3\) holds nothing; pass at"),
        (lambda: ss.Guide(np.zeros((0, 4, 4, 3), np.uint8)), "holds nothing"),
        (lambda: ss.Audio(np.zeros((2, 0), np.float32)), "holds nothing"),
        (lambda: ss.Audio(np.zeros((0, 9), np.float32)), "holds nothing"),
        (lambda: ss.Audio(np.zeros((900, 2), np.float32)), r"pass \(channels, samples\), .* transpose"),
        (lambda: ss.Audio(np.full((2, 9), np.nan)), r"18 of the sound's 18 values are not numbers"),
        (lambda: ss.Guide(np.full((4, 4, 3), np.nan)), r"the picture has values that are not numbers \(NaN"),
        (lambda: ss.Guide(memoryview(b"ab")), "^[^\n]* is no media; pass a file's path, an array"),
        (lambda: ss.Reference("a.mp4", downscale=0), "downscale is 0"),
        (lambda: ss.Span(2, 1), "the span from 2 to 1 s is empty"),
        (lambda: ss.Canvas(), "the canvas adds nothing"),
        (
            lambda: ss.Source("a.mp4"),
            "nothing of the source would be kept; give source.regenerate, source.mask",
        ),
        (lambda: ss.Source(audio="a.wav"), "give source.regenerate, source.denoise or an"),
        (lambda: ss.Source(), "the source has neither video nor audio"),
        (lambda: ss.Source("a.mp4", denoise=0.5, extend_after_s=1), "denoise changes the whole clip"),
        (lambda: ss.Source("a.mp4", denoise=0), "denoise is 0; give a number above 0 and up to 1"),
        (lambda: ss.Source("a.mp4", extend_after_s=1, modalities={"audio"}), "makes both picture and sound"),
        (lambda: ss.Source(audio="a.wav", mask="m.png"), "source.mask and source.canvas are for a picture"),
        (lambda: ss.Audio("a.wav", mode="loud"), "mode is 'loud'; it should be 'driving' or 'identity'"),
        (lambda: ss.Lora("a.safetensors", 11), "strength is 11"),
        (
            lambda: ss.Lora("a", groups={"sound": 0.5}),
            "^groups has 'sound'; it should be 'video', 'audio', 'a2v', 'v2a' or 'text'$",
        ),
        (lambda: ss.Lora("a", groups={"audio": -11}), "groups.audio is -11; give a number from -10 to 10"),
        (lambda: ss.Lora("a", groups={"audio": float("nan")}), "groups.audio is nan; .* finite"),
        (lambda: ss.Lora("a", groups=0.5), "groups is 0.5; it should be a valid dictionary"),
        (
            lambda: ss.Lora("a", 1, ss.Span(0, 1), groups={"text": 0.5}),
            "groups has text 0.5, but a LoRA with",
        ),
    ],
)
def test_bad_inputs_are_named(make: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        make()


def test_all_bad_inputs_of_a_request_are_named_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        Request(
            prompt="",
            guides=[{"image": "a.png", "strength": 3}, {"at": 1}],
            source={"video": "a.mp4"},
            loras=[{"path": "x", "span": {"start_s": 2, "end_s": 1}}, {"path": "y", "groups": {"sound": 1}}],
        )
    for words in (
        "prompt is empty",
        "guides[0].strength is 3",
        "guides[1].image is missing",
        "nothing of the source would be kept",
        "loras[0].span: the span from 2 to 1 s is empty",
        "loras[1].groups has 'sound'; it should be 'video', 'audio', 'a2v', 'v2a' or 'text'",
    ):
        assert words in str(caught.value)


def test_json_gives_every_input_back() -> None:
    request = Request(
        prompt="a",
        guides=[ss.Guide("a.png", "last", strength=0.5), ss.Guide("b.mp4", frame=9, mode="replace")],
        references=[ss.Reference("c.mp4", 0.8, downscale=2, mask="m.png")],
        source=ss.Source("d.mp4", regenerate=[ss.Span(1, 2)], modalities={"video"}),
        audio=ss.Audio("e.wav", "identity", guidance=2),
        loras=[
            ss.Lora("f.safetensors", 0.7, ss.Span(0, 1), passes=("draft",), groups={"v2a": 0, "audio": -0.5})
        ],
        video_scales={"stg": 1.0, "stg_blocks": [1]},
    )
    again = Request.from_json(request.to_json())
    assert again == request
    assert again.to_json() == request.to_json()


def test_loras_with_other_groups_are_others() -> None:
    plain, quiet = ss.Lora("a"), ss.Lora("a", groups={"audio": 0.5})
    assert plain != quiet
    assert quiet == ss.Lora("a", groups={"audio": 0.5})
    assert len({plain, quiet, ss.Lora("a", groups={"audio": 0.5})}) == 2


def test_arrays_have_no_json_form() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    request = Request(prompt="a", guides=[ss.Guide(pixels)], audio=ss.Audio(np.zeros((2, 9), np.float32)))
    with pytest.raises(RequestError, match=r"guides\[0\]\.image, audio\.file is an array in memory"):
        request.to_json()
    told = request.describe()["guides"][0]["image"]
    assert told["array"] == "uint8 (1, 4, 6, 3)"
    with pytest.raises(RequestError, match="only a description was kept; pass the array again"):
        Request(**request.describe())
    assert request == request
    assert request != Request(prompt="a", guides=[ss.Guide(pixels.copy())])


def test_pictures_come_in_as_arrays_images_and_clips() -> None:
    pixels = np.full((4, 6, 3), 9, np.uint8)
    clip = ss.Clip(pixels[None], None, 24.0)
    for given in (pixels, pixels[None], Image.fromarray(pixels), clip):
        held = ss.Guide(given).image
        assert isinstance(held, InMemory)
        assert np.array_equal(held.frames, pixels[None])
    assert ss.Source(clip, denoise=0.5).video.fps == 24
    assert ss.Audio(np.zeros(5)).file.waveform.shape == (1, 5)


def test_the_page_names_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "conditioning.md").read_text()
    for record in (ss.Guide, ss.Reference, ss.Source, ss.Audio, ss.Lora):
        section = page.split(f"## {record.__name__}\n")[1].split("\n## ")[0]
        for name in record.__dataclass_fields__:
            assert f"`{name}`" in section, f"{record.__name__}.{name}"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"frames": np.zeros((2, 8, 8, 3), np.float32)}, r"frames are float32 \(2, 8, 8, 3\); .* uint8"),
        ({"frames": np.zeros((2, 8, 8, 4), np.uint8)}, r"frames are uint8 \(2, 8, 8, 4\); .* RGB"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, r"uint8 \(0, 8, 8, 3\) holds nothing"),
        ({"frames": np.zeros((8, 8, 3), np.uint8)}, r"frames are uint8 \(8, 8, 3\)"),
        ({"frames": [1, 2]}, "frames are a list"),
        ({"fps": 0.0}, "fps is 0.0; give"),
        ({"fps": float("nan")}, "fps is nan; give"),
        ({"fps": float("inf")}, "fps is inf; give"),
        ({"waveform": np.zeros((2, 9), np.int16)}, r"waveform is int16 \(2, 9\); .* float"),
        ({"waveform": np.full((2, 9), np.nan, np.float32)}, "18 of the sound's 18 values are not numbers"),
        (
            {"waveform": np.full((2, 9), 32767.0, np.float32)},
            "values reach 32767; samples lie between -1 and 1",
        ),
        ({"sample_rate_hz": 0, "waveform": np.zeros((2, 9), np.float32)}, "sample_rate_hz is 0; give"),
    ],
)
def test_a_clip_that_is_handed_over_is_looked_at(values: dict[str, Any], sentence: str) -> None:
    right: dict[str, Any] = {"frames": np.zeros((2, 8, 8, 3), np.uint8), "waveform": None, "fps": 24.0}
    ss.Guide(ss.Clip(**right))
    with pytest.raises(RequestError, match=sentence):
        ss.Guide(ss.Clip(**{**right, **values}))


@pytest.mark.parametrize("largest", [1e300, 32767.0])
def test_samples_far_beyond_full_scale_are_refused(largest: float) -> None:
    ss.Audio(np.full((2, 9), 4.0))
    with pytest.raises(RequestError, match=r"the sound's values reach .*; samples lie between -1 and 1"):
        ss.Audio(np.full((2, 9), largest))


# --- Plain values -----------------------------------------------------------------------------------

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
FLOATS = RGB.astype(np.float32) / 255


def asked(**fields: Any) -> Any:
    return getattr(Request(prompt="a", **fields), next(iter(fields)))


@pytest.mark.parametrize(
    ("name", "plain", "record"),
    [
        ("guides", "a.png", ss.Guide("a.png")),
        ("guides", "a.png@last:0.8", ss.Guide("a.png", "last", strength=0.8)),
        ("guides", "a.png@f-9", ss.Guide("a.png", frame=-9)),
        ("guides", Path("a.png@last:0.8"), ss.Guide("a.png@last:0.8")),
        ("guides", {"image": Path("a.png")}, ss.Guide("a.png")),
        ("references", "a.mp4:0.5", ss.Reference("a.mp4", 0.5)),
        ("loras", "a.safetensors:0.8", ss.Lora("a.safetensors", 0.8)),
        ("loras", "a:-1@1-2s,audio=.5", ss.Lora("a", -1, ss.Span(1, 2), groups={"audio": 0.5})),
        ("loras", Path("a:1"), ss.Lora("a:1")),
    ],
)
def test_a_plain_value_is_its_record_alone_and_in_a_list(name: str, plain: Any, record: Any) -> None:
    assert asked(**{name: plain}) == asked(**{name: [plain]}) == asked(**{name: record}) == (record,)
    assert asked(**{name: [record, plain]}) == (record, record)


def test_plain_values_of_single_inputs_and_within_records() -> None:
    assert asked(audio="a.wav") == asked(audio=Path("a.wav")) == ss.Audio("a.wav")
    assert asked(audio=np.zeros((2, 9), np.float32)).file.waveform.shape == (2, 9)
    assert asked(modalities="audio") == {"audio"}
    assert ss.Lora("a", span="1-2s").span == ss.Span(1, 2)
    assert ss.Source("a", regenerate="1:05-1:00:10.5").regenerate == (ss.Span(65, 3610.5),)
    source = asked(
        source={"video": "a.mp4", "regenerate": "1-2", "canvas": "64,0,64,0", "modalities": "video"}
    )
    assert source.regenerate == (ss.Span(1, 2),)
    assert source.canvas == ss.Canvas(left=64, right=64)
    assert ss.Source("a.mp4", regenerate=["1-2", ss.Span(3, 4)]).regenerate[1] == ss.Span(3, 4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"guides": ""}, "guides[0] is ''; give PATH[@TIME][:STRENGTH], such as door.png@1.5:0.8"),
        ({"guides": "a" * 5_000}, "(5002 letters); give PATH[@TIME]"),
        ({"guides": ("a.png", 0.5)}, "guides[1].image: 0.5 is no media; pass a file's path, an array"),
        ({"guides": "a.png:2"}, "guides[0].strength is 2; give a number from 0 to 1"),
        ({"guides": 3}, "guides is 3; it should be a list"),
        ({"source": "a.mp4"}, "nothing of the source would be kept; give source.regenerate"),
        ({"audio": ["a.wav"]}, "audio.file: ['a.wav'] is no media"),
        ({"loras": [3]}, "loras[0] has 3; give the path of each, such as 'style.safetensors:0.8', or a Lora"),
        ({"loras": "a.safetensors,audio=half"}, "loras[0] holds 'half', which is not a number"),
        ({"loras": {"path": "a", "span": "1"}}, "loras[0].span: the part is '1'; give START-END"),
        ({"source": {"video": "a", "canvas": "9"}}, "source.canvas: the canvas is '9'; give LEFT,TOP,"),
        ({"modalities": "picture"}, "modalities is 'picture'; it should be 'video' or 'audio'"),
    ],
)
def test_plain_values_that_do_not_fit_are_one_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(prompt="a", **fields)
    assert says in str(caught.value)
    assert caught.value.field == next(iter(fields))


def test_words_of_many_letters_are_refused_soon() -> None:
    start = time.perf_counter()
    for words in ("a,b=" * 1_000 + ",", "a" * 4_000 + "@", "a:" * 2_000, ",a=.safetensors" * 200 + ","):
        Request(prompt="a", loras=words, guides=words)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "given",
    [
        FLOATS,
        FLOATS.transpose(2, 0, 1),
        FLOATS * 2 - 1,
        RGB.transpose(2, 0, 1),
        np.stack([RGB.transpose(2, 0, 1)]),
        torch.from_numpy(RGB),
        torch.from_numpy(FLOATS).permute(2, 0, 1).requires_grad_(),
        torch.from_numpy(FLOATS.astype(np.float64))[None] * 2 - 1,
    ],
)
def test_pixels_come_in_as_floats_with_channels_first_and_as_tensors(given: Any) -> None:
    frames = asked(guides=given)[0].image.frames
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, RGB[None])


def test_tensors_in_half_precision_and_of_sound() -> None:
    half = asked(guides=torch.from_numpy(FLOATS).bfloat16())[0].image.frames
    assert np.abs(half.astype(int) - RGB).max() <= 1
    assert np.array_equal(asked(audio=torch.full((2, 9), 0.5)).file.waveform, np.full((2, 9), 0.5))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (FLOATS * 255, r"values go from 0 to 71; pass uint8, or float from 0 to 1 or from -1 to 1"),
        (FLOATS - 0.02, r"values go from -0.02 to"),
        (np.zeros((3, 6, 3), np.uint8), r"\(3, 6, 3\) may have its channels first or last"),
        (torch.zeros(4, 6, 6), r"float32 \(4, 6, 6\) is no picture, clip or sound; pass uint8 or float"),
        (torch.zeros(3, 4, 6, dtype=torch.int64), r"int64 \(3, 4, 6\) is no picture"),
        (torch.zeros(3, 4, 6, device="meta"), "a Tensor cannot be read as an array"),
        (torch.zeros(3, 0, 6), "holds nothing"),
    ],
)
def test_pixels_that_may_mean_two_things_are_refused(given: Any, says: str) -> None:
    with pytest.raises(RequestError, match=rf"^guides\[0\]\.image: [^\n]*{says}"):
        asked(guides=given)


def test_the_schema_has_the_plain_forms() -> None:
    schema = Request.model_json_schema()["properties"]
    many, one, text = schema["guides"]["anyOf"]
    assert many["items"]["anyOf"] == [one, text] == [{"$ref": "#/$defs/Guide"}, text]
    assert text == {"type": "string", "description": "PATH[@TIME][:STRENGTH]."}
    assert {"type": "string", "description": "PATH."} in schema["audio"]["anyOf"]
    assert "string" not in str(schema["source"])
    assert schema["modalities"]["anyOf"][1] == {"type": "string", "enum": ["video", "audio"]}
