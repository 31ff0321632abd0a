"""Words of the command line -> fields of a request."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import soundstage as ss
from soundstage.cli.main import app
from soundstage.cli.options import GROUPS, OUTPUTS, TABLE
from soundstage.cli.request_fields import request_fields
from soundstage.errors import RequestError
from soundstage.fields.describe import field_help


def fields(**values: Any) -> dict[str, Any]:
    return request_fields(values)


def test_a_picture_says_when_and_how_strongly() -> None:
    guides = fields(image=["a.png", "b c.png@1.5:0.8", "C:/d.png@f-1", "e.png@last:.5"], crf=18)["guides"]
    assert guides == [
        {"image": "a.png", "crf": 18},
        {"image": "b c.png", "strength": 0.8, "at": 1.5, "crf": 18},
        {"image": "C:/d.png", "frame": -1, "crf": 18},
        {"image": "e.png", "strength": 0.5, "at": "last", "crf": 18},
    ]


def test_last_image_comes_last() -> None:
    made = fields(image=["a.png"], last_image="b.png:0.7", image_mode="guide")
    assert made["guides"][1] == {"image": "b.png", "strength": 0.7, "at": "last", "mode": "guide"}


def test_a_source_is_gathered_from_its_options() -> None:
    made = fields(video="a.mp4", span=["1-2.5", "3s - 4s"], remake="video", crop="pad")["source"]
    assert made == {
        "video": "a.mp4",
        "modalities": {"video"},
        "regenerate": [{"start_s": 1.0, "end_s": 2.5}, {"start_s": 3.0, "end_s": 4.0}],
        "crop": "pad",
    }


def test_adapters_voices_and_guidance() -> None:
    made = fields(
        lora=["a.safetensors", "b.safetensors:0.5@1-2"],
        audio="v.wav",
        audio_mode="identity",
        identity_guidance=4.0,
        video_scale=["stg=1", "stg_blocks=14,19", "skip_step=1", "cfg=1@0.9875", "stg_blocks=3@.9875"],
        sigmas="1, 0.5, 0",
        cache="teacache:0.2",
        only="video",
    )
    assert made == {
        "loras": [
            {"path": "a.safetensors"},
            {"path": "b.safetensors", "strength": 0.5, "span": {"start_s": 1.0, "end_s": 2.0}},
        ],
        "audio": {"file": "v.wav", "mode": "identity", "guidance": 4.0},
        "video_scales": {
            "stg": 1.0,
            "stg_blocks": [14, 19],
            "skip_step": 1,
            "0.9875": {"cfg": 1.0, "stg_blocks": [3]},
        },
        "sigmas": [1.0, 0.5, 0.0],
        "cache": "teacache:0.2",
        "modalities": {"video"},
    }


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("a.safetensors,audio=0", {"path": "a.safetensors", "groups": {"audio": 0.0}}),
        (
            "a,rank=32.safetensors:-0.5@1-2s,audio=.5,v2a=-1",
            {
                "path": "a,rank=32.safetensors",
                "strength": -0.5,
                "span": {"start_s": 1.0, "end_s": 2.0},
                "groups": {"audio": 0.5, "v2a": -1.0},
            },
        ),
        ("a,b=1.safetensors", {"path": "a,b=1.safetensors"}),
        ("r,audio=1/a.safetensors:2", {"path": "r,audio=1/a.safetensors", "strength": 2.0}),
    ],
)
def test_an_adapters_groups_follow_all_else(text: str, lora: dict[str, Any]) -> None:
    assert fields(lora=[text])["loras"] == [lora]
    assert ss.Request(prompt="a", loras=[lora]).loras == (ss.Lora(**lora),)


def test_groups_that_do_not_exist_are_the_requests_to_refuse() -> None:
    made = fields(lora=["a.safetensors:0.5,sound=1"])
    with pytest.raises(RequestError, match=r"^loras\[0\]\.groups has 'sound'; it should be 'video', 'audio'"):
        ss.Request(prompt="a", **made)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"span": ["1-2"]}, "--span is about a clip to start from; give it by --video"),
        ({"audio_start": 1.0}, "give it by --audio"),
        ({"crop": "pad"}, "--crop is about a picture or a clip; give one by --image or --video"),
        ({"crf": 20, "video": "a.mp4", "denoise": 0.5}, "--crf is about a picture; give one by --image"),
        (
            {"reference_attention": 0.5},
            "--reference-attention is about a clip beside",
        ),
        ({"video": "a.mp4", "span": ["1 to 2"]}, "START-END in seconds"),
        ({"video": "a.mp4", "span": ["1-"]}, "START-END in seconds, such as 1.5-3 or 1:05-1:10"),
        ({"video": "a.mp4", "canvas": "64"}, "LEFT,TOP,RIGHT,BOTTOM"),
        ({"only": "picture"}, "--only is 'picture'; give one of video, audio"),
        ({"sigmas": "1,half"}, "--sigmas is '1,half'; give numbers, such as 1,0.7,0.4,0"),
        ({"video_scale": ["stg"]}, "give NAME=VALUE"),
        ({"video_scale": ["cfg=1@half"]}, "--video-scale holds 'half', which is not a number"),
        ({"lora": ["a.safetensors,audio=half"]}, "--lora holds 'half', which is not a number"),
        ({"lora": ["a.safetensors,audio=0.5:0.8"]}, "--lora holds '0.5:0.8', which is not a number"),
        ({"lora": ["a.safetensors,audio=1,audio=2"]}, "--lora has audio twice, 'audio=2' too; give one"),
    ],
)
def test_what_does_not_fit_is_told_by_its_option(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words.replace("(", r"\(")):
        request_fields(values)


def test_options_show_the_descriptions_of_the_fields_that_they_fill() -> None:
    for option in TABLE:
        if option.field is not None:
            assert option.text == field_help(ss.Request, option.field).text
        elif option.fields and option.fields[0] in ss.Request.model_fields:
            own = option.name in ("video_scale", "audio_scale")  # a form of their own
            assert own or field_help(ss.Request, option.fields[0]).text in option.text
    shown = CliRunner().invoke(app, ["generate", "--help"], terminal_width=2000).stdout
    for option in TABLE:
        assert option.text in shown


def test_a_request_is_built_from_words(tmp_path: Path) -> None:
    made = ss.Request(prompt="A ball.", **fields(image=["a.png:0.5"], video="b.mp4", denoise=0.5))
    assert made.guides[0].strength == 0.5
    assert made.source is not None
    assert made.source.denoise == 0.5


def test_help_has_the_options_in_groups_those_of_the_command_first() -> None:
    names = [option.name for options in GROUPS.values() for option in options]
    assert sorted(names) == sorted(option.name for option in TABLE + OUTPUTS)
    text = CliRunner().invoke(app, ["extend", "--help"]).stdout
    titles = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Positional arguments", "Options", *GROUPS]
    assert text.index("--after") < text.index("--size") < text.index("--steps") < text.index("--model")


def test_sound_alone_is_offered_no_options_of_pictures() -> None:
    from soundstage.cli.making import t2a

    flags = {flag for param in t2a.params for flag in param.opts}
    assert {"--duration", "--audio-guidance", "--seed"} <= flags
    assert not flags & {"--crf", "--crop", "--image", "--thin", "--mask", "--video-guidance", "--canvas"}
