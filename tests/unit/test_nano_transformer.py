"""The recipe of nano's transformer: what it asks at a step, and the file it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from soundstage.model.transformer import ModalityInputs
from soundstage.nano.training import tasks
from soundstage.nano.training import transformer as recipe
from soundstage.nano.training.latents import (
    CLIPS_PER_SHARD,
    PICTURES_PER_CLIP,
    LatentSet,
    load_pictures,
    picture_times,
    shard_path,
    shard_shape,
)
from soundstage.nano.world.motion import Motion, simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import draw_scene
from soundstage.sampling.streams import Stream
from soundstage.training.noising import velocity_loss
from soundstage.types import VideoShape, audio_latent_length
from soundstage.weights.configs import stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.load import builder, load_part

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
    scenes = [draw_scene(i, shape) for i in range(8)]
    frames, height, width = shape.latent
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(8, 128, frames, height, width, generator=generator)
    audio = torch.randn(8, audio_latent_length(shape.num_frames, 24.0), 128, generator=generator)
    return LatentSet(shape, video, audio, scenes)


def test_a_fresh_core_predicts_nothing_so_its_loss_is_that_of_the_data(core: recipe.NanoCore) -> None:
    """Outputs start at zero; noise and data have unit variance, so each stream's error is about 2."""
    loss = recipe.TransformerLoss(core, [latent_set(VideoShape(9, 64, 64))], [], FixedStates())  # type: ignore[arg-type]
    values = loss(0)
    assert 1.5 < float(values["video"]) < 2.2
    assert 1.5 < float(values["audio"]) < 2.2


def test_a_step_is_a_function_of_its_number(core: recipe.NanoCore) -> None:
    loss = recipe.TransformerLoss(core, [latent_set(VideoShape(9, 64, 64))], [], FixedStates())  # type: ignore[arg-type]
    assert torch.equal(loss(3)["loss"], loss(3)["loss"])
    assert not torch.equal(loss(3)["loss"], loss(4)["loss"])


def test_a_picture_of_a_clip_stands_where_its_frame_is() -> None:
    clips = latent_set(VideoShape(17, 64, 64))
    clips.pictures = torch.arange(8 * 3).float().view(8, 3, 1, 1, 1, 1).expand(8, 3, 128, 1, 2, 2)
    clips.picture_times = np.arange(24).reshape(8, 3) % 17
    picture = recipe._picture(np.random.default_rng(0), clips, np.array([0, 3, 5]))
    numbers = picture.clean[:, 0, 0].long()
    assert picture.mask == 0
    assert torch.equal(numbers // 3, torch.tensor([0, 3, 5]))
    assert torch.allclose(picture.positions[:, 0, 0, 0] * 24, (numbers % 17).float())


@pytest.mark.parametrize(("pictured", "referred"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_step_with_tokens_beside_the_clip_has_a_loss_on_the_clip_alone(
    core: recipe.NanoCore, monkeypatch: pytest.MonkeyPatch, pictured: float, referred: float
) -> None:
    clips = latent_set(VideoShape(9, 64, 64))
    clips.pictures, clips.picture_times = torch.zeros(8, 3, 128, 1, 2, 2), np.full((8, 3), 8)
    monkeypatch.setattr(recipe, "PICTURED", pictured)
    monkeypatch.setattr(recipe, "REFERRED", referred)
    seen = []
    forward = core.transformer.forward
    monkeypatch.setattr(core.transformer, "forward", lambda v, a: (seen.append(v), forward(v, a))[1])
    loss = recipe.TransformerLoss(core, [clips], [], FixedStates())  # type: ignore[arg-type]
    values = loss(0)
    assert seen[0].latents.shape[1] == (8 + 4 if pictured else 16)
    assert 1.3 < float(values["video"]) < 2.2


def plain_modality(stream: Stream, noise: Tensor, sigma: Tensor, context: Tensor) -> ModalityInputs:
    """The input written out token by token: x = (1 - l) c + l n at each token's level l."""
    added = stream.clean.shape[1] - noise.shape[1]
    noise = torch.cat([noise, torch.zeros(len(noise), added, noise.shape[2])], dim=1)
    timesteps = stream.mask[..., 0] * sigma[:, None]
    latents = (1 - timesteps[..., None]) * stream.clean + timesteps[..., None] * noise
    return ModalityInputs(latents, sigma, timesteps, stream.positions, context)


def plain_loss(velocity: Tensor, stream: Stream, noise: Tensor, weights: Tensor | None = None) -> Tensor:
    count = noise.shape[1]
    error = (velocity[:, :count].float() - (noise - stream.clean[:, :count])).square().mean(dim=2)
    counted = stream.mask[:, :count, 0] * (1 if weights is None else weights)
    return (error * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


@pytest.mark.parametrize(
    ("kind", "pictured", "referred", "stills", "sounds"),
    [
        ("clips", 0.0, 0.0, 0.0, 0.0),
        ("pictured", 1.0, 0.0, 0.0, 0.0),
        ("referred", 0.0, 1.0, 0.0, 0.0),
        ("stills", 0.0, 0.0, 1.0, 0.0),
        ("sounds", 0.0, 0.0, 0.0, 1.0),
    ],
)
def test_a_loss_is_that_of_the_formula_bit_for_bit(
    core: recipe.NanoCore,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    pictured: float,
    referred: float,
    stills: float,
    sounds: float,
) -> None:
    """In every kind of step a fixed batch, noised by sampling's code, has the loss of the formulas."""
    torch.nn.init.normal_(core.transformer.proj_out.weight, std=0.1)
    torch.nn.init.normal_(core.transformer.audio_proj_out.weight, std=0.1)
    clips = latent_set(VideoShape(9, 64, 64))
    clips.pictures, clips.picture_times = torch.randn(8, 3, 128, 1, 2, 2), np.full((8, 3), 8)
    still = torch.randn(8 * recipe.STILLS_PER_SCENE, 128, 1, 2, 2)
    still_set = LatentSet(VideoShape(1, 64, 64), still, torch.empty(0), clips.scenes)
    for name, value in {
        "PICTURED": pictured,
        "REFERRED": referred,
        "EARLY_STILLS": stills,
        "SOUND_STEPS": sounds,
        "BATCH_TOKENS": 120,
        "STILL_SCENES": 2,
        "SOUNDS": 3,
    }.items():
        monkeypatch.setattr(recipe, name, value)
    loss = recipe.TransformerLoss(core, [clips], [still_set], FixedStates())  # type: ignore[arg-type]
    with torch.no_grad():
        made = [loss(step) for step in range(3)]
        monkeypatch.setattr(recipe, "noised_modality", plain_modality)
        monkeypatch.setattr(recipe, "velocity_loss", plain_loss)
        plain = [loss(step) for step in range(3)]
    for ours, formula in zip(made, plain, strict=True):
        assert {name: float(value) for name, value in ours.items()} == {
            name: float(value) for name, value in formula.items()
        }


def test_cells_of_subjects_are_where_they_are_seen() -> None:
    """All a subject covers is found, in the cells and latent frames it is in; a weight moves the mean."""
    clips = latent_set(VideoShape(17, 64, 64))
    covered = clips.subjects.view(-1, *clips.shape.latent)
    for scene, cells in zip(clips.scenes, covered, strict=True):
        frames = render(scene, simulate(scene)).astype(int)
        empty = render(replace(scene, subjects=()), Motion(simulate(scene).times, [], simulate(scene).camera))
        assert cells.shape == (3, 2, 2)
        assert 0 < cells.mean() < 0.8
        different = (np.abs(frames - empty) > 40).any(axis=3)[0]
        seen = different.reshape(2, 32, 2, 32).mean((1, 3))
        assert np.abs(seen - cells[0].numpy()).mean() < 0.12
    stream = Stream(torch.zeros(1, 2, 4), torch.ones(1, 2, 1), torch.zeros(1, 1, 2, 2))
    velocity, noise = torch.zeros(1, 2, 4), torch.tensor([[[1.0] * 4, [3.0] * 4]])
    assert velocity_loss(velocity, stream, noise).item() == 5
    weights = recipe.subject_weights(torch.tensor([[0.0, 1.0]]), step=0)
    assert weights.tolist() == [[1, recipe.SUBJECT_WEIGHT]]
    assert velocity_loss(velocity, stream, noise, weights).item() == pytest.approx(
        (1 + 9 * recipe.SUBJECT_WEIGHT) / (1 + recipe.SUBJECT_WEIGHT)
    )
    assert recipe.subject_weights(torch.ones(1), recipe.SCHEDULE.steps).item() == 1


def test_a_stretch_leaves_something_given() -> None:
    drawn = [tasks.draw_stretch(np.random.default_rng(i), 7) for i in range(200)]
    assert all(start < end and (start > 0 or end < 7) for start, end in drawn)
    kinds = {(start == 0, end == 7) for start, end in drawn}
    assert kinds == {(True, False), (False, True), (False, False)}


def test_pictures_are_of_the_clips_they_are_given_to(tmp_path: Path) -> None:
    """Shards of another shape between them do not shift them."""
    clips = LatentSet(shard_shape(0), torch.empty(0), torch.empty(0), [])
    for shard in range(6):
        video = torch.full((CLIPS_PER_SHARD * PICTURES_PER_CLIP, 128, 1, 1, 1), float(shard))
        save_file({"video": video}, shard_path(tmp_path, shard))
    load_pictures(tmp_path, 6, [clips])
    shards = [s for s in range(6) if shard_shape(s) == clips.shape]
    assert clips.pictures is not None
    assert clips.pictures[::CLIPS_PER_SHARD, 0, 0, 0, 0, 0].tolist() == shards
    assert np.array_equal(clips.picture_times, np.concatenate([picture_times(s) for s in shards]))
    assert (clips.picture_times[:, 0] == clips.shape.num_frames - 1).all()


def test_noise_levels_are_mostly_where_words_decide() -> None:
    """Four in ten above 0.9, one in seven below 0.5, where detail is made."""
    sigma = tasks.draw_sigma(np.random.default_rng(0), 20_000)
    assert sigma.min() >= 0
    assert sigma.max() <= 1
    assert abs(float((sigma > 0.9).mean()) - 0.38) < 0.03
    assert 0.1 < float((sigma < 0.5).mean()) < 0.2


def test_every_task_is_drawn() -> None:
    draw = tasks.draw_task(np.random.default_rng(1), 400, VideoShape(49, 128, 192), 51)
    video_mask, audio_mask = draw.video_mask[..., 0], draw.audio_mask[..., 0]
    frozen_video = (video_mask.sum(dim=1) == 0) & (draw.video_sigma == 0)
    frozen_audio = (audio_mask.sum(dim=1) == 0) & (draw.audio_sigma == 0)
    first_frame = (video_mask[:, :24].sum(dim=1) == 0) & (video_mask[:, 24:].min(dim=1).values == 1)
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
