"""The recipe of nano's transformer: what it asks at a step, and the file it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from soundstage.nano.training import transformer as recipe
from soundstage.nano.training.latents import LatentSet, shard_scenes, shard_shape
from soundstage.types import VideoShape, audio_latent_length
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.load import builder, load_part, stored_config

WIDTH, STATES = 24, 3


class FixedStates:
    """Stands for Gemma: states that depend on the prompt's letters."""

    width, num_states = WIDTH, STATES

    def hidden_states(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(prompts), recipe.TEXT_TOKENS, dtype=torch.bool)
        states = torch.zeros(len(prompts), recipe.TEXT_TOKENS, WIDTH, STATES)
        for i, prompt in enumerate(prompts):
            codes = torch.tensor([ord(c) for c in prompt[: recipe.TEXT_TOKENS]] or [1])
            mask[i, : len(codes)] = True
            states[i, : len(codes)] = torch.sin(codes.float())[:, None, None]
        return states, mask


@pytest.fixture
def core() -> recipe.NanoCore:
    core = recipe.NanoCore(recipe.header(WIDTH), STATES)
    recipe.initialise(core)
    return core


def latent_set(shape: VideoShape) -> LatentSet:
    scenes = shard_scenes(0)[:8]
    frames, height, width = shape.latent
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(8, 128, frames, height, width, generator=generator)
    audio = torch.randn(8, audio_latent_length(shape.num_frames, 24.0), 128, generator=generator)
    return LatentSet(shape, video, audio, scenes)


def test_a_fresh_core_predicts_nothing_so_its_loss_is_that_of_the_data(core: recipe.NanoCore) -> None:
    """Outputs start at zero; noise and data have unit variance, so each stream's error is about 2."""
    loss = recipe.TransformerLoss(core, [latent_set(VideoShape(9, 64, 64))], FixedStates())  # type: ignore[arg-type]
    values = loss(0)
    assert 1.5 < float(values["video"]) < 2.2
    assert 1.5 < float(values["audio"]) < 2.2


def test_a_step_is_a_function_of_its_number(core: recipe.NanoCore) -> None:
    loss = recipe.TransformerLoss(core, [latent_set(VideoShape(9, 64, 64))], FixedStates())  # type: ignore[arg-type]
    assert torch.equal(loss(3)["loss"], loss(3)["loss"])
    assert not torch.equal(loss(3)["loss"], loss(4)["loss"])


def test_given_tokens_have_no_noise_and_no_loss() -> None:
    x, noise = torch.ones(1, 4, 2), torch.full((1, 4, 2), 5.0)
    mask = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    positions = torch.zeros(1, 1, 4, 2)
    made = recipe._modality(x, noise, torch.tensor([0.5]), mask, positions, torch.zeros(1, 1, 2))
    assert torch.equal(made.latents[0, :, 0], torch.tensor([1.0, 1.0, 3.0, 3.0]))
    assert torch.equal(made.timesteps, mask * 0.5)
    wrong = torch.cat([torch.full((1, 2, 2), 9.0), torch.zeros(1, 2, 2)], dim=1)
    assert float(recipe.masked_loss(wrong, torch.zeros(1, 4, 2), mask)) == 0


def test_noise_levels_follow_the_shifted_law() -> None:
    """At 1024 tokens: the median of a logit-normal of mean 0.95, stretched (0.68), less the uniform tenth."""
    sigma = recipe.draw_sigma(np.random.default_rng(0), 20_000, 1024)
    assert sigma.min() >= 0
    assert sigma.max() <= 1
    assert abs(float(np.median(sigma)) - 0.67) < 0.015
    assert recipe.draw_sigma(np.random.default_rng(0), 20_000, 4096).mean() > sigma.mean()


def test_every_task_is_drawn() -> None:
    draw = recipe.draw_task(np.random.default_rng(1), 400, VideoShape(49, 128, 192), 51)
    frozen_video = (draw.video_mask.sum(dim=1) == 0) & (draw.video_sigma == 0)
    frozen_audio = (draw.audio_mask.sum(dim=1) == 0) & (draw.audio_sigma == 0)
    first_frame = (draw.video_mask[:, :24].sum(dim=1) == 0) & (draw.video_mask[:, 24:].min(dim=1).values == 1)
    for share in (frozen_video, frozen_audio, first_frame):
        assert 0.02 < float(share.float().mean()) < 0.2
    assert not bool((frozen_video & frozen_audio).any())


def test_shares_of_sizes_hold_for_any_number_of_shards() -> None:
    landscape = [shard_shape(s) == VideoShape(49, 128, 192) for s in range(100)]
    assert 0.5 < np.mean(landscape) < 0.62


def test_the_exported_file_loads_as_the_published_parts(core: recipe.NanoCore, tmp_path: Path) -> None:
    recipe.finish(core, tmp_path)
    files = [read_header(tmp_path / "transformer.safetensors")]
    parts = find_parts(files)
    assert set(parts) == {"transformer", "video_connector", "audio_connector", "text_projection"}
    loaded = load_part(
        builder("transformer", parts, stored_config(files)), parts, "transformer", dtype=torch.float32
    )
    for name, value in loaded.state_dict().items():
        expected = core.transformer.state_dict()[name]
        assert torch.allclose(value, expected, atol=1e-2, rtol=1e-2), name
