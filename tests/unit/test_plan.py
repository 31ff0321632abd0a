"""Plans: snapping, token counts, passes, and all problems at once; without torch or weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from soundstage.errors import ConfigError, RequestError, WeightsError
from soundstage.model_set import ModelSet, find_model
from soundstage.plan import Plan, make_plan, snap_frames, snap_side
from soundstage.recipes import Defaults
from soundstage.request import Request
from soundstage.sampling import schedules
from soundstage.sampling.scales import NEUTRAL, Scales


def plan(defaults: Defaults | None = None, **fields: Any) -> Plan:
    model = ModelSet("test", Path("nowhere"), defaults or Defaults())
    return make_plan(Request(**{"prompt": "a", **fields}), model)


@pytest.mark.parametrize(
    ("asked", "used"), [(1, 32), (32, 32), (47, 32), (48, 64), (130, 128), (200, 192), (720, 736)]
)
def test_sides_snap_to_the_nearest_multiple_of_32(asked: int, used: int) -> None:
    assert snap_side(asked) == used


@pytest.mark.parametrize(("asked", "used"), [(1, 1), (4, 1), (5, 9), (9, 9), (48, 49), (49, 49), (120, 121)])
def test_frames_snap_to_the_nearest_8k_plus_1(asked: int, used: int) -> None:
    assert snap_frames(asked) == used


def test_snapping_is_announced_and_only_then() -> None:
    snapped = plan(size=(200, 130), duration_s=2.0)
    assert (snapped.width, snapped.height, snapped.num_frames) == (192, 128, 49)
    assert [str(snap) for snap in snapped.snaps] == [
        "size: 200x130 -> 192x128 (multiples of 32)",
        "duration: 2 s -> 2.042 s (49 frames at 24 fps, 8k+1)",
    ]
    assert plan(size=(192, 128), num_frames=49).snaps == ()
    assert [snap.field for snap in plan(num_frames=50).snaps] == ["frames"]


def test_token_counts_are_the_published_ones() -> None:
    assert plan(size=(768, 512), num_frames=121).passes[0].video_tokens == 6144
    assert plan(size=(384, 320), num_frames=129).passes[0].video_tokens == 2040
    assert plan(num_frames=121, fps=24).passes[0].audio_tokens == 126


def test_the_dev_model_runs_thirty_steps_of_four_forwards() -> None:
    made = plan()
    assert made.passes[0].kinds == ("cond", "uncond", "perturbed", "isolated")
    assert made.num_forwards == 120
    assert made.passes[0].sigmas == schedules.ltx2(30)
    assert (made.passes[0].video.cfg, made.passes[0].audio.cfg) == (3, 7)
    assert made.negative_prompt == Defaults().negative_prompt


def test_one_guidance_sets_both_modalities_and_one_of_its_own_wins() -> None:
    p = plan(guidance=2, audio_guidance=5, stg=0, modality_guidance=1).passes[0]
    assert (p.video.cfg, p.audio.cfg) == (2, 5)
    assert p.kinds == ("cond", "uncond")


def test_without_guidance_there_is_no_negative_prompt() -> None:
    made = plan(Defaults(video=NEUTRAL, audio=NEUTRAL, schedule="distilled", steps=8), negative_prompt="x")
    assert made.passes[0].kinds == ("cond",)
    assert made.passes[0].sigmas == schedules.DISTILLED
    assert made.negative_prompt is None
    assert plan(negative_prompt="x").negative_prompt == "x"


def test_one_modality_alone_has_no_isolated_pass() -> None:
    p = plan(modalities={"video"}).passes[0]
    assert p.audio is None
    assert p.audio_tokens == 0
    assert p.kinds == ("cond", "uncond", "perturbed")


def test_presets_are_the_models_own() -> None:
    nano = Defaults(size=(192, 128), presets={"landscape": (192, 128), "portrait": (128, 192)})
    assert (plan(nano, size="portrait").width, plan(nano, size="portrait").height) == (128, 192)
    with pytest.raises(RequestError, match="no size 'square'; it has landscape, portrait"):
        plan(nano, size="square")


def test_all_problems_come_together() -> None:
    nano = Defaults(presets={}, video=Scales(), audio=Scales())
    with pytest.raises(RequestError) as caught:
        plan(nano, size="square", duration_s=60, recipe="pro", stg=1)
    message = str(caught.value)
    assert "no size 'square'" in message
    assert "at most 20 s" in message
    assert "recipe is 'pro'; the recipes are single" in message
    nothing = {"sigmas": (0.5, 0.7), "stg": 0, "modality_guidance": 1}
    with pytest.raises(RequestError, match=r"last 60.04 s.*; sigmas must fall"):
        plan(nano, duration_s=60, **nothing)


def test_stg_needs_a_model_that_names_its_blocks() -> None:
    with pytest.raises(RequestError, match="names no blocks"):
        plan(Defaults(video=Scales(), audio=Scales()), stg=1)


def test_a_plan_prints_and_serialises() -> None:
    made = plan(size=(200, 130), duration_s=2.0)
    text = str(made)
    for word in ("192x128", "49 frames", "168 video, 51 audio", "snapped", "guidance 7", "missing"):
        assert word in text
    data = json.loads(made.to_json())
    assert data["passes"][0]["video_tokens"] == 168
    assert Request(**data["request"]) == made.request


def test_defaults_round_trip_and_reject_unknown_keys() -> None:
    defaults = Defaults(size=(192, 128), video=Scales(cfg=2, stg_blocks=(1,)), audio=NEUTRAL)
    data = json.loads(json.dumps(defaults.to_dict()))
    assert Defaults.from_dict(data, "bundle.json") == defaults
    with pytest.raises(ConfigError, match=r"bundle\.json has an unknown default 'colour'"):
        Defaults.from_dict({"colour": 1}, "bundle.json")
    with pytest.raises(ConfigError, match="do not fit"):
        Defaults.from_dict({"size": [1, 2, 3]}, "bundle.json")
    with pytest.raises(ConfigError, match="do not fit"):
        Defaults.from_dict({"video": {"power": 9000}}, "bundle.json")


def test_a_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lacks .*transformer\.safetensors.*tokenizer\.json"):
        find_model(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(WeightsError, match=r"bundle\.json is not JSON"):
        find_model(tmp_path)
