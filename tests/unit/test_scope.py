"""Scope's configs: names, defaults, snapping, ranges, sigmas, and the requests they become."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soundstage.compat.scope import ScopeConfig, bfloat16, read_config, scope_frames, scope_side
from soundstage.errors import RequestError
from soundstage.sampling import schedules


def config(**fields: Any) -> ScopeConfig:
    return read_config(fields)


def test_the_defaults_are_scopes() -> None:
    request = config(randomize_seed=False).request()
    assert request.prompt == "a beautiful sunset"
    assert request.size == (320, 384)
    assert (request.num_frames, request.fps, request.seed) == (129, 24.0, 42)
    assert request.guidance == request.modality_guidance == 1
    assert request.stg == 0
    assert config().realtime_pacing_slack == 0.5
    assert config().ffn_chunk_size == 4096


@pytest.mark.parametrize(
    ("asked", "used"), [(1, 32), (16, 32), (48, 64), (80, 64), (528, 512), (560, 576), (384, 384)]
)
def test_sides_snap_as_in_scope(asked: int, used: int) -> None:
    assert scope_side(asked) == used
    assert config(height=asked).height == used


@pytest.mark.parametrize(("asked", "used"), [(1, 9), (13, 17), (125, 129), (260, 257), (129, 129)])
def test_frames_snap_before_their_range_is_checked(asked: int, used: int) -> None:
    assert scope_frames(asked) == used
    assert config(num_frames=asked).num_frames == used
    with pytest.raises(RequestError, match="num_frames is 262, which snaps to 265; give 9 to 257"):
        config(num_frames=262)


def test_the_distilled_list_is_rounded_to_bfloat16() -> None:
    expected = (1, 0.9921875, 0.98828125, 0.98046875, 0.9765625, 0.91015625, 0.7265625, 0.421875, 0)
    assert config().noise_levels() == expected


def test_rounding_is_to_the_nearest_bfloat16() -> None:
    import torch

    values = np.random.default_rng(0).random(1000)
    expected = torch.tensor(values, dtype=torch.float32).bfloat16().tolist()
    assert [bfloat16(x) for x in values] == expected


def test_schedules_are_scopes() -> None:
    assert config(num_steps=4).noise_levels() == (1, 0.75, 0.5, 0.25, 0)  # "distilled" has 8 steps only
    for name in ("linear", "cosine", "linear_quadratic", "beta"):
        for steps in (1, 2, 8, 20):
            levels = config(schedule=name, num_steps=steps).noise_levels()
            assert levels[0] == 1
            assert levels[-1] == 0
            assert len(levels) <= steps + 1
    beta = config(schedule="beta", num_steps=8).noise_levels()
    assert np.allclose(beta, schedules.scope_beta(8), atol=2**-9)
    assert config(sigmas=[1.0, 0.5, 0.0], num_steps=20).noise_levels() == (1, 0.5, 0)


def test_seeds_are_random_unless_told_otherwise() -> None:
    rng = random.Random(0)
    seeds = {config(seed=3).request(rng=rng).seed for _ in range(4)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    fixed = {"randomize_seed": False}
    assert config(**fixed, seed=3, base_seed=5).next_seed() == 3
    assert config(**fixed, base_seed=5).next_seed() == 5
    assert config(**fixed, seed=0).next_seed() == 0


def test_inputs_become_guides_references_and_sound() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    request = config(
        first_frame_image=picture,
        i2v_strength=0.7,
        video=np.zeros((9, 64, 64, 3), np.uint8),
        control_strength=0.6,
        audio_input="voice.wav",
        audio_mode="id_lora",
        identity_guidance_scale=2,
        loras=[{"path": "style.safetensors", "scale": 0.5}],
    ).request()
    (guide,), (reference,), (lora,) = request.guides, request.references, request.loras
    assert (guide.frame, guide.strength, guide.mode, guide.crf, guide.crop) == (
        0,
        0.7,
        "replace",
        0,
        "stretch",
    )
    assert (reference.strength, reference.crop) == (0.6, "stretch")
    assert request.audio is not None
    assert (request.audio.mode, request.audio.guidance) == ("identity", 2)
    assert (lora.path, lora.strength) == ("style.safetensors", 0.5)
    driving = config(audio_input="voice.wav").request().audio
    assert driving is not None
    assert driving.mode == "driving"


@pytest.mark.parametrize(
    "prompts", [[{"text": "a cat", "weight": 100}, {"text": "a dog"}], ["a cat", "b"], "a cat"]
)
def test_the_first_prompt_counts(prompts: Any) -> None:
    assert config(prompts=prompts).request().prompt == "a cat"
    assert config(prompts=prompts).request(prompt="a dog").prompt == "a dog"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_step": 4}, "'num_step' is not a field of a Scope config"),
        ({"num_steps": 21}, "num_steps is 21; give a whole number of steps from 1 to 20"),
        ({"schedule": "karras"}, "schedule is 'karras'"),
        ({"i2v_strength": 1.5}, "i2v_strength is 1.5"),
        ({"identity_guidance_scale": 21}, "identity_guidance_scale is 21"),
        ({"sigmas": [1.0]}, "sigmas"),
        ({"lora_merge_strategy": "runtime"}, "lora_merge_strategy is 'runtime'"),
        ({"i2v_image": "a.png", "first_frame_image": "b.png"}, "both i2v_image and first_frame_image"),
        ({"realtime_pacing_slack": -1}, "realtime_pacing_slack is -1"),
    ],
)
def test_what_scope_would_not_take_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        config(**fields)


def test_a_file_of_json_is_read_and_null_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "scope.json"
    path.write_text(json.dumps({"height": 512, "sigmas": None, "ffn_chunk_size": None}))
    read = read_config(path)
    assert (read.height, read.sigmas, read.ffn_chunk_size) == (512, None, None)
    path.write_text("[1]")
    with pytest.raises(RequestError, match="holds a JSON list"):
        read_config(path)
    with pytest.raises(RequestError, match="is not a JSON file that can be read"):
        read_config(tmp_path / "none.json")


@pytest.mark.parametrize("given", [3, None, ["a"], {1: 2}])
def test_a_config_of_another_kind_is_refused(given: Any) -> None:
    with pytest.raises(RequestError):
        read_config(given)
