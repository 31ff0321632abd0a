"""Guidance that changes with the noise level, from the words of a request or recipe to the latents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import soundstage as ss
from soundstage.compat.diffusers.calls import call_fields
from soundstage.engine import Engine
from soundstage.errors import ConfigError, RequestError
from soundstage.library.model_files import find_model
from soundstage.rendering.events import Done
from soundstage.request.recipe import Recipe
from soundstage.sampling.denoise import denoise
from soundstage.sampling.guidance import Contexts, Guider
from soundstage.sampling.scales import NEUTRAL, Guidance, Scales, with_words, words_of
from soundstage.sampling.streams import Stream
from tests.tiny_model import QuickSound, write_tiny_model

SIGMAS = (1.0, 0.9, 0.6, 0.3, 0.0)
PLAIN: dict[str, Any] = {"sigmas": SIGMAS, "stg": 0, "modality_guidance": 1, "rescale": 0}


class Quick(QuickSound):
    """A stand-in for the picture's decoder too."""

    def decode_pieces(self, latents: Tensor) -> Any:
        yield torch.zeros(1, 3, 8 * (latents.shape[2] - 1) + 1, 32 * latents.shape[3], 32 * latents.shape[4])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Engine(model, parts=Quick(model, torch.device("cpu"), torch.float32))


def asked(**fields: Any) -> ss.Request:
    return ss.Request(**{"prompt": "a red ball", "seed": 3, **PLAIN, **fields})


def both(**scales: Any) -> dict[str, Any]:
    return {"video_scales": scales, "audio_scales": scales}


def split(level: float, before: dict[Any, Any], after: dict[Any, Any]) -> dict[str, Any]:
    words = {**before, level: after}
    return {"video_scales": words, "audio_scales": words}


def made(stage: Engine, request: ss.Request) -> tuple[Tensor, Tensor]:
    *_, done = stage.run(request)
    assert isinstance(done, Done)
    assert done.video_latents is not None
    assert done.audio_latents is not None
    return done.video_latents, done.audio_latents


def equal(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


# --- latents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "res2s"])
def test_the_same_scales_on_both_sides_are_the_unsplit_run(stage: Engine, sampler: str) -> None:
    scales = {"cfg": 3.0, "rescale": 0.5, "apg_eta": 0.5, "apg_momentum": -0.5}
    whole = made(stage, asked(sampler=sampler, **both(**scales)))
    assert equal(made(stage, asked(sampler=sampler, **split(0.6, scales, scales))), whole)


@pytest.mark.parametrize("sampler", ["euler", "er-sde"])
def test_a_split_at_the_top_is_the_second_scales_alone(stage: Engine, sampler: str) -> None:
    second = made(stage, asked(sampler=sampler, **both(cfg=1.5)))
    assert equal(made(stage, asked(sampler=sampler, **split(1.0, {"cfg": 4}, {"cfg": 1.5}))), second)


def test_a_split_is_neither_side_and_moves_with_its_level(stage: Engine) -> None:
    runs = [made(stage, asked(**both(cfg=cfg))) for cfg in (4, 1)]
    runs += [made(stage, asked(**split(level, {"cfg": 4}, {"cfg": 1}))) for level in (0.9, 0.6)]
    assert not any(equal(a, b) for i, a in enumerate(runs) for b in runs[:i])
    between = made(stage, asked(**split(0.75, {"cfg": 4}, {"cfg": 1})))
    assert equal(between, runs[3])  # the first step from 0.75 down is the one from 0.6


def test_every_step_is_made_with_the_scales_of_its_level(stage: Engine) -> None:
    """Each prediction of a split run is, bit for bit, that of an unsplit guider for the same latents."""
    parts = stage._parts
    assert parts is not None
    parts.load(("video", "audio"))
    texts = [Contexts(text.video, None) for text in parts.encode(["a red ball", "blurry"])]
    edges = torch.stack([torch.arange(4.0), torch.arange(1, 5.0)], dim=-1)
    stream = Stream.fresh(edges.expand(1, 3, 4, 2), width=128, dtype=torch.float32)

    def guider(scales: Guidance) -> Guider:
        return Guider(lambda: parts.transformer, (stream, None), (scales, None), *texts)

    split_guider = guider(with_words(NEUTRAL, {"cfg": 4, 0.6: {"cfg": 1}}, "video"))
    before, after = guider(Scales(cfg=4)), guider(NEUTRAL)
    seen: list[float] = []

    def denoiser(video: Tensor | None, audio: Tensor | None, sigma: Tensor, step: int) -> Any:
        made = split_guider(video, audio, sigma, step)
        wanted, other = (g(video, audio, sigma, step)[0] for g in sides[:: 1 if sigma > 0.7 else -1])
        assert made[0] is not None
        assert wanted is not None
        assert other is not None
        assert torch.equal(made[0], wanted)
        assert not torch.equal(made[0], other)
        seen.append(float(sigma))
        return made

    sides = (before, after)
    list(denoise(denoiser, stream, None, SIGMAS, torch.Generator().manual_seed(3)))
    assert len(seen) == 4


# --- counts ------------------------------------------------------------------------------------------


@contextmanager
def counted(stage: Engine) -> Iterator[list[int]]:
    """Guidance passes of every call of the transformer; a pass is one sample here."""
    assert stage._parts is not None
    stage._parts.load(("video", "audio"))
    counts: list[int] = []
    transformer = stage._parts.transformer
    assert isinstance(transformer, torch.nn.Module)
    hook = transformer.register_forward_hook(
        lambda _module, _args, kwargs, _out: counts.append(len(kwargs["perturbation"])), with_kwargs=True
    )
    try:
        yield counts
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("fields", "forwards"),
    [
        (both(cfg=3), 8),
        (split(0.6, {"cfg": 3}, {"cfg": 1}), 6),
        (split(0.6, {"cfg": 3}, {"cfg": 1, "stg": 1, "stg_blocks": [1]}), 8),
        (split(1.0, {"cfg": 3}, {"cfg": 1}), 4),
        ({"video_scales": {"cfg": 3, "0.6": {"cfg": 1}}, "audio_scales": {"cfg": 1}}, 6),
        (both(cfg=3, skip_step=1), 4),
        ({**split(0.6, {"cfg": 3}, {"cfg": 1}), "sampler": "res2s"}, 13),
        ({**split(0.6, {"cfg": 3}, {"cfg": 1}), "sampler": "euler-cfg-pp"}, 8),
    ],
)
def test_the_plan_counts_the_forwards_that_are_made(
    stage: Engine, fields: dict[str, Any], forwards: int
) -> None:
    plan = stage.plan(asked(**fields))
    with counted(stage) as counts:
        list(stage.run(plan))
    assert sum(counts) == plan.num_forwards == plan.to_dict()["passes"][0]["num_forwards"] == forwards


# --- recipes, plans and words ------------------------------------------------------------------------

OWN = """
name: own
summary: strong first
passes:
  - name: only
    sigmas: [1, 0.9, 0.6, 0.3, 0]
    video: {cfg: 4, 0.6: {cfg: 2, rescale: 0.5}, 0.3: {cfg: 1}}
    audio: {cfg: 4, 0.6: {cfg: 2, rescale: 0.5}, 0.3: {cfg: 1}}
"""
LEVELS = {1.0: Scales(cfg=4), 0.6: Scales(cfg=2, rescale=0.5), 0.3: Scales(rescale=0.5)}


def test_a_recipe_splits_as_a_request_does_and_round_trips(stage: Engine, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    recipe = Recipe.from_dict(yaml.safe_load(OWN), "own.yaml")
    assert recipe.passes[0].video == LEVELS
    assert Recipe.from_dict(yaml.safe_load(yaml.safe_dump(recipe.to_dict())), "own.yaml") == recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())), "own.yaml") == recipe
    words = {"cfg": 4, 0.6: {"cfg": 2, "rescale": 0.5}, 0.3: {"cfg": 1}}
    by_request = made(stage, asked(video_scales=words, audio_scales=words))
    assert equal(made(stage, ss.Request(prompt="a red ball", seed=3, recipe=str(path))), by_request)


def test_a_request_changes_every_level_of_a_recipe_or_those_below_its_own(tmp_path: Path) -> None:
    assert with_words(LEVELS, {"rescale": 0}, "x") == {
        1.0: Scales(cfg=4),
        0.6: Scales(cfg=2),
        0.3: NEUTRAL,
    }
    assert with_words(LEVELS, {"0.5": {"stg": 1}}, "x") == {
        1.0: Scales(cfg=4),
        0.6: Scales(cfg=2, rescale=0.5),
        0.5: Scales(cfg=2, rescale=0.5, stg=1),
        0.3: Scales(rescale=0.5, stg=1),
    }


@pytest.mark.parametrize("scales", [NEUTRAL, Scales(cfg=2, stg=1, stg_blocks=(3, 4)), LEVELS])
def test_words_and_scales_are_the_same(scales: Any) -> None:
    words = words_of(scales)
    assert with_words(NEUTRAL, words, "x") == scales
    assert with_words(NEUTRAL, json.loads(json.dumps(words)), "x") == scales


def test_a_plan_shows_each_stretch(stage: Engine) -> None:
    plan = stage.plan(asked(**split(0.6, {"cfg": 3}, {"cfg": 1})))
    text = str(plan)
    assert "4 euler steps with 6 forwards in all (cond, uncond)" in text
    assert "  video   from level 1 down, 2 of 4 predictions: guidance 3, stg 0" in text
    assert "  audio   from level 0.6 down, 2 of 4 predictions: no guidance" in text
    video = json.loads(plan.to_json())["passes"][0]["video"]
    assert {level: scales["cfg"] for level, scales in video.items()} == {"1.0": 3, "0.6": 1}
    assert "x 2 forward(s)" in str(stage.plan(asked(**both(cfg=3))))


def test_levels_survive_json_and_the_pipeline() -> None:
    request = asked(video_scales={"cfg": 2, 0.6: {"cfg": 1}})
    assert request.video_scales == {"cfg": 2, "0.6": {"cfg": 1}}
    assert ss.Request.from_json(request.to_json()) == request
    given = {"cfg": 2, 0.6: {"cfg": 1}}
    assert call_fields({"video_scales": given, "stg_scale": 0.5}) == {
        "video_scales": {"cfg": 2, 0.6: {"cfg": 1}, "stg": 0.5}
    }
    assert given == {"cfg": 2, 0.6: {"cfg": 1}}


@pytest.mark.parametrize(
    ("scales", "says"),
    [
        ({1.5: {"cfg": 1}}, "video_scales has the noise level 1.5; give one above 0 and up to 1"),
        ({0: {"cfg": 1}}, "video_scales has the noise level 0; give one above 0"),
        ({"nan": {"cfg": 1}}, "video_scales has the noise level nan"),
        ({0.6: 1}, "video_scales has 1 from noise level 0.6 down; give fields, such as cfg: 1"),
        ({0.6: {"power": 1}}, "video_scales has no 'power'; it has apg_eta"),
        ({0.6: {"cfg": 200}}, "video_scales: cfg is 200; give a number from 0 to 100"),
        ({0.6: {"cfg": "much"}}, "video_scales: cfg is 'much'; give a number from 0 to 100"),
        ({0.6: {"stg": 1, "stg_blocks": 3}}, "video_scales: stg_blocks is 3; it should be a list"),
        ({0.2: {"cfg": 1}}, "from noise level 0.2 down, but no step would use it; .* 1, 0.9, 0.6, 0.3"),
        ({0.8: {"cfg": 2}, 0.7: {"cfg": 1}}, "from noise level 0.8 down, but no step would use it"),
        ({0.6: {"cfg": 1}}, "only sound is made"),
    ],
)
def test_what_does_not_fit_is_refused(stage: Engine, scales: dict[Any, Any], says: str) -> None:
    fields: dict[str, Any] = {"video_scales": scales}
    if "only sound" in says:
        fields |= {"modalities": {"audio"}, "modality_guidance": None}
    with pytest.raises(RequestError, match=says):
        stage.plan(asked(**fields))


def test_a_recipe_that_does_not_fit_is_refused_with_its_pass() -> None:
    with pytest.raises(ConfigError, match=r"own.yaml, pass 1: video has the noise level 2; give"):
        Recipe.from_dict(yaml.safe_load(OWN.replace("0.6:", "2:")), "own.yaml")
    with pytest.raises(ConfigError, match=r"own.yaml, pass 1: video has no 'power'"):
        Recipe.from_dict(yaml.safe_load(OWN.replace("rescale", "power")), "own.yaml")
